//! What is known to be damaged in a store, told and counted: each place once when it is found and once
//! when it has been mended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use types::SegmentId;

use crate::stats::Counters;
use crate::store::{Store, lock};

/// A segment with damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Damaged places: blocks, indexes.
    pub places: u64,
    /// It begins again, not full: its peers rebuild it, and [`Store::begin_mend`] has nothing to do.
    pub lost: bool,
    /// The first of them, for people.
    pub why: String,
}

/// Everything known to be damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Segments.
    pub segments: Vec<DamagedSegment>,
    /// Log files that background work is emptying: which and where.
    pub log: Vec<String>,
}

/// A damaged place, by which it is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    Lost,
    Block { file: u64, offset: u64 },
}

/// Places counted as found and not yet as mended.
#[derive(Default)]
pub(crate) struct Known {
    segments: BTreeMap<SegmentId, BTreeSet<Place>>,
    lives: BTreeSet<u64>,
}

impl Counters {
    fn count<T: Ord>(&self, before: &BTreeSet<T>, now: &BTreeSet<T>) {
        let found = now.difference(before).count() as u64;
        let mended = before.difference(now).count() as u64;
        self.damage_found.fetch_add(found, Ordering::Relaxed);
        self.damage_mended.fetch_add(mended, Ordering::Relaxed);
    }

    /// Counts something that was found damaged and written again from memory at once.
    pub(crate) fn count_rewritten(&self) {
        self.damage_found.fetch_add(1, Ordering::Relaxed);
        self.damage_mended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store {
    /// Looks at everything that is known to be damaged now, and counts what is new and what is gone.
    pub(crate) fn survey_damage(&self) -> Damage {
        let mut known = lock(&self.known_damage);
        let mut told = Damage::default();
        let mut segments = BTreeMap::new();
        for segment in self.all_segments() {
            let index = segment.read();
            let mut places: BTreeSet<Place> = index.lost.iter().map(|_| Place::Lost).collect();
            for file in index.files.iter() {
                let number = file.meta.number;
                let blocks = file.damaged_places().into_iter();
                places.extend(blocks.map(|offset| Place::Block { file: number, offset }));
            }
            if let Some(why) = index.damage() {
                let (lost, count) = (index.lost.is_some(), places.len() as u64);
                told.segments.push(DamagedSegment {
                    segment: segment.id,
                    places: count,
                    lost,
                    why,
                });
            }
            self.counters
                .count(known.segments.get(&segment.id).unwrap_or(&BTreeSet::new()), &places);
            segments.insert(segment.id, places);
        }
        // Of a segment that was dropped nothing is counted any more.
        known.segments = segments;
        let oldest = lock(&self.log).oldest_durable();
        let lives = self.lives.damaged_from(oldest);
        let numbers = lives.iter().map(|(life, _)| *life).collect();
        self.counters.count(&known.lives, &numbers);
        known.lives = numbers;
        told.log = lives.into_iter().map(|(_, why)| why).collect();
        told
    }
}
