//! When each segment takes its next gossip turn: often while it is behind, seldom when nothing is
//! missing, since every turn wakes two processes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use types::SegmentId;

/// Between turns of a segment that knows of a gap or was just told a new history.
const HURRIED: Duration = Duration::from_millis(40);
/// Between turns at first; doubles while nothing is found.
const STEADY: Duration = Duration::from_millis(200);
/// Longest between turns: bounds how long a loss that nobody noticed stays.
const LONGEST: Duration = Duration::from_secs(1);

struct Turn {
    at: Instant,
    interval: Duration,
}

/// The turns of all segments.
#[derive(Default)]
pub(crate) struct Pace {
    turns: BTreeMap<SegmentId, Turn>,
    queue: BTreeSet<(Instant, SegmentId)>,
}

impl Pace {
    /// When the next turn is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// The segment takes its next turn soon, and the following ones quickly.
    pub(crate) fn hurry(&mut self, segment: SegmentId, now: Instant) {
        let sooner = now + HURRIED;
        if self.turns.get(&segment).is_some_and(|turn| turn.at <= sooner) {
            if let Some(turn) = self.turns.get_mut(&segment) {
                turn.interval = HURRIED;
            }
            return;
        }
        self.set(segment, sooner, HURRIED);
    }

    /// The segments whose turn it is; their next one is set.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<SegmentId> {
        let mut due = Vec::new();
        while let Some((_, segment)) = self.queue.first().copied().filter(|(at, _)| *at <= now) {
            let before = self.turns.get(&segment).map_or(HURRIED, |turn| turn.interval);
            let interval = if before < STEADY { STEADY } else { (before * 2).min(LONGEST) };
            self.set(segment, now + before, interval);
            due.push(segment);
        }
        due
    }

    /// The segment is gone.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        if let Some(turn) = self.turns.remove(&segment) {
            self.queue.remove(&(turn.at, segment));
        }
    }

    fn set(&mut self, segment: SegmentId, at: Instant, interval: Duration) {
        self.forget(segment);
        self.queue.insert((at, segment));
        self.turns.insert(segment, Turn { at, interval });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{GroupId, VolumeId};

    #[test]
    fn turns_slow_down_until_something_is_found_missing() {
        let segment = SegmentId { volume: VolumeId(1), group: GroupId(0) };
        let mut pace = Pace::default();
        let mut now = Instant::now();
        pace.hurry(segment, now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let at = pace.next().expect("scheduled");
            waits.push(at - now);
            now = at;
            assert_eq!(pace.due(now), vec![segment]);
            assert_eq!(pace.due(now), Vec::new());
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!((waits[0], waits[6]), (HURRIED, LONGEST));
        pace.hurry(segment, now);
        assert_eq!(pace.next(), Some(now + HURRIED));
        pace.forget(segment);
        assert_eq!(pace.next(), None);
    }
}
