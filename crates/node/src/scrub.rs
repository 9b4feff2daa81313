//! The scrubbing thread: reads everything that is stored once in an interval, a little at a time, and
//! has what is found damaged mended at once, whether it found it, a read did, or a merge (N13): by blocks, or,
//! when no peer has those as of then any more, by a copy of all files.
//!
//! It sleeps between steps; whoever meets damage wakes it ([`Shared::damage_met`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use segstore::{Damage, Scrub};
use types::SegmentId;

use crate::background::yield_to_everybody;
use crate::check::{Check, Desk};
use crate::mail::{LOG_LOOP, Mail, Post};
use crate::mend::{self, Forgotten};
use crate::shared::Shared;

/// Bytes read in a step, about.
const STEP_BYTES: u64 = 256 << 10;
/// Shortest and longest sleep between steps; damage that nobody called about waits no longer.
const PAUSE_SHORTEST: Duration = Duration::from_millis(5);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// A mend that failed, for want of a peer or of room, is tried again after so long.
const AGAIN: Duration = Duration::from_secs(2);

/// Scrubs until the node stops; an error when the store is stopped for good.
pub(crate) fn run(
    shared: &Arc<Shared>,
    post: &Post,
    desk: &Desk,
    interval: Duration,
) -> anyhow::Result<()> {
    yield_to_everybody();
    shared.scrubber_is(thread::current());
    let mut pass = Pass::begin(shared, interval);
    let mut medic = Medic::default();
    let mut check = Check::default();
    while !shared.stopping() {
        pass.step(shared)?;
        let more = check.step(shared, desk)?;
        desk.tell_damage(medic.look(shared, post)?);
        if !more {
            thread::park_timeout(pass.pause());
        }
    }
    Ok(())
}

/// One pass over the store.
struct Pass {
    scrub: Option<Scrub>,
    began: Instant,
    interval: Duration,
}

impl Pass {
    fn begin(shared: &Shared, interval: Duration) -> Pass {
        Pass { scrub: Some(shared.store.begin_scrub(None)), began: Instant::now(), interval }
    }

    /// Checks a step's worth when that is due.
    fn step(&mut self, shared: &Shared) -> anyhow::Result<()> {
        if self.scrub.is_none() && self.began.elapsed() >= self.interval {
            *self = Pass::begin(shared, self.interval);
        }
        if self.due().is_some_and(|left| !left.is_zero()) {
            return Ok(());
        }
        let Some(scrub) = &mut self.scrub else { return Ok(()) };
        let before = scrub.bytes_checked;
        let more = match shared.store.scrub(scrub, STEP_BYTES) {
            Err(error) if shared.store.poisoned().is_none() => {
                tracing::warn!(%error, "scrubbing stopped short; it begins anew");
                false
            }
            more => more.context("scrub")?,
        };
        shared.metrics.scrubbed_bytes.inc_by(scrub.bytes_checked - before);
        if !more {
            shared.metrics.scrubs.inc();
            self.scrub = None;
        }
        Ok(())
    }

    /// How long the next step has time; none between passes.
    fn due(&self) -> Option<Duration> {
        let scrub = self.scrub.as_ref()?;
        let share = scrub.bytes_checked as f64 / scrub.bytes_planned.max(1) as f64;
        Some(self.interval.mul_f64(share.min(1.0)).saturating_sub(self.began.elapsed()))
    }

    fn pause(&self) -> Duration {
        let next = || self.interval.saturating_sub(self.began.elapsed());
        self.due().unwrap_or_else(next).clamp(PAUSE_SHORTEST, PAUSE_LONGEST)
    }
}

/// Knows what is damaged, and has it mended.
#[derive(Default)]
struct Medic {
    known: Damage,
    /// When to try again what could not be mended.
    again: BTreeMap<SegmentId, Instant>,
    /// Damaged segments that have been read through, once, for what else is damaged.
    surveyed: BTreeSet<SegmentId>,
}

impl Medic {
    /// Tells what is newly damaged, and mends what can be mended block by block. What is lost as a whole
    /// is rebuilt by gossip.
    fn look(&mut self, shared: &Shared, post: &Post) -> anyhow::Result<&Damage> {
        let damage = shared.store.damage();
        if damage != self.known {
            tell(&self.known, &damage);
        }
        self.surveyed.retain(|known| damage.segments.iter().any(|found| found.segment == *known));
        let now = Instant::now();
        for damaged in damage.segments.iter().filter(|damaged| !damaged.lost) {
            let segment = damaged.segment;
            if self.again.get(&segment).is_some_and(|again| now < *again) {
                continue;
            }
            self.again.remove(&segment);
            let surveyed = match self.surveyed.insert(segment) {
                true => mend::survey(shared, segment),
                false => Ok(()),
            };
            if let Err(error) = surveyed.and_then(|()| mend::mend(shared, segment)) {
                if shared.store.poisoned().is_some() {
                    return Err(error).context("mend a segment");
                }
                shared.metrics.mend_failures.inc();
                tracing::warn!(%segment, error = format!("{error:#}"), "not mended; will try again");
                self.again.insert(segment, now + AGAIN);
                if let Some(Forgotten { peer }) = error.downcast_ref() {
                    // Should the letter be lost, the next attempt comes to the same.
                    post.post(LOG_LOOP, Mail::CopyWhole { segment, peer: *peer });
                }
            }
        }
        self.known = damage;
        Ok(&self.known)
    }
}

fn tell(before: &Damage, now: &Damage) {
    for found in &now.segments {
        let known = before.segments.iter().find(|known| known.segment == found.segment);
        if known.is_none_or(|known| known.places < found.places) {
            let (segment, places, lost) = (found.segment, found.places, found.lost);
            tracing::warn!(%segment, places, lost, why = found.why, "damage found");
        }
    }
    for known in &before.segments {
        if !now.segments.iter().any(|found| found.segment == known.segment) {
            tracing::info!(segment = %known.segment, "no damage is left");
        }
    }
    for why in now.log.iter().filter(|why| !before.log.contains(why)) {
        tracing::warn!(why, "damage found in the log; it is written again from memory");
    }
}
