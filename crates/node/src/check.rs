//! A check that an operator asks for: everything stored, or some segments of it, at once and not spread
//! over the interval of the scrub. The scrubbing thread does it; `POST /check` asks, `GET /check` tells.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use registry::{CheckProgress, CheckWish, CheckedLog, CheckedSegment, SegmentDamage};
use segstore::{Damage, DamagedSegment, Scrub};
use types::SegmentId;

use crate::shared::Shared;

/// Bytes read in a step.
const STEP_BYTES: u64 = 4 << 20;

/// Where a check is asked for and told of.
#[derive(Default)]
pub(crate) struct Desk(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// What is to be checked, from when it is asked for.
    wish: CheckWish,
    waiting: bool,
    /// Everything has been read; what of it is damaged is still to be told.
    read: bool,
    progress: CheckProgress,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, wish: CheckWish) -> CheckProgress {
        let mut told = self.lock();
        let id = told.progress.id + 1;
        let progress = CheckProgress { id, ..CheckProgress::default() };
        *told = Told { wish, waiting: true, read: false, progress: progress.clone() };
        progress
    }

    /// Tells what is damaged now.
    pub(crate) fn tell_damage(&self, damage: &Damage) {
        let mut told = self.lock();
        let wanted = |found: &&DamagedSegment| is_wanted(&told.wish, found.segment);
        let segments = damage.segments.iter().filter(wanted).map(|found| SegmentDamage {
            volume: found.segment.volume,
            group: found.segment.group.0,
            places: found.places,
            lost: found.lost,
            why: found.why.clone(),
        });
        let segments = segments.collect();
        let done = told.read;
        let progress = &mut told.progress;
        (progress.damage, progress.log_damage) = (segments, damage.log.clone());
        progress.done |= done;
    }
}

/// The routes for the node's HTTP server.
pub(crate) fn routes(desk: Arc<Desk>) -> Router {
    let ask =
        async |State(desk): State<Arc<Desk>>, Json(wish): Json<CheckWish>| Json(desk.ask(wish));
    let tell = async |State(desk): State<Arc<Desk>>| Json(desk.lock().progress.clone());
    Router::new().route("/check", get(tell).post(ask)).with_state(desk)
}

/// The check under way.
#[derive(Default)]
pub(crate) struct Check(Option<Scrub>);

impl Check {
    /// Takes the check on by a step, beginning one that was asked for; whether there is more to do.
    pub(crate) fn step(&mut self, shared: &Shared, desk: &Desk) -> anyhow::Result<bool> {
        let wanted = {
            let mut told = desk.lock();
            std::mem::take(&mut told.waiting).then(|| told.wish.clone())
        };
        if let Some(wish) = wanted {
            self.0 = Some(shared.store.begin_scrub(Some(&|segment| is_wanted(&wish, segment))));
        }
        let Some(scrub) = &mut self.0 else { return Ok(false) };
        let more = shared.store.scrub(scrub, STEP_BYTES);
        if shared.store.poisoned().is_some() {
            return more.context("check the store");
        }
        let mut told = desk.lock();
        if told.waiting {
            return Ok(true); // for another one
        }
        note(&mut told.progress, scrub);
        told.progress.failed = more.as_ref().err().map(ToString::to_string);
        let more = more.unwrap_or(false);
        told.read = !more;
        if !more {
            self.0 = None;
        }
        Ok(more)
    }
}

fn note(progress: &mut CheckProgress, scrub: &Scrub) {
    (progress.bytes_planned, progress.bytes_checked) = (scrub.bytes_planned, scrub.bytes_checked);
    let row = |row: &segstore::ScrubbedSegment| CheckedSegment {
        volume: row.segment.volume,
        group: row.segment.group.0,
        files: row.files,
        blocks: row.blocks,
        bytes: row.bytes,
        damaged: row.damaged,
    };
    progress.segments = scrub.segments.iter().map(row).collect();
    let segstore::ScrubbedLog { files, units, bytes, damaged } = scrub.log;
    progress.log = CheckedLog { files, units, bytes, damaged };
}

fn is_wanted(wish: &CheckWish, segment: SegmentId) -> bool {
    wish.volume.is_none_or(|volume| volume == segment.volume)
        && wish.group.is_none_or(|group| group == segment.group.0)
}
