//! A node's disk for one segment: a log whose unsynced end is lost in a crash, and files.
//!
//! Like the real store it keeps, beside the files, the state they were written under, and folds the
//! log's entries over it at a restart.

use std::collections::BTreeMap;

use protocol::{HeldPart, LogEntry, SegmentState};
use types::{Epoch, History, Lsn};
use wire::{Batch, BatchHeader, Part, SegmentReport};

use crate::rng::Rng;

/// A part with its links, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The header of the batch that brought it.
    header: BatchHeader,
    /// End of the group's part before it.
    base: Lsn,
    /// The part.
    pub part: Part,
}

impl Stored {
    /// The epoch that wrote it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.header.epoch
    }
}

/// One segment's stored bytes.
#[derive(Clone, Debug)]
pub struct SegmentDisk {
    /// State that the files were written under.
    state: SegmentState,
    /// End of the last part in the files.
    flushed: Lsn,
    files: BTreeMap<Lsn, Stored>,
    log: Vec<(u64, LogEntry)>,
    synced: usize,
}

impl SegmentDisk {
    /// The disk of a new segment.
    #[must_use]
    pub fn new(state: SegmentState) -> SegmentDisk {
        SegmentDisk {
            state,
            flushed: Lsn::ZERO,
            files: BTreeMap::new(),
            log: Vec::new(),
            synced: 0,
        }
    }

    /// End of the last part in the files.
    #[must_use]
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// Writes an entry; it is durable after a sync.
    pub fn append(&mut self, seq: u64, entry: LogEntry) {
        self.log.push((seq, entry));
    }

    /// Number of the last entry, if it is not durable yet.
    #[must_use]
    pub fn unsynced(&self) -> Option<u64> {
        self.log.get(self.synced..)?.last().map(|(seq, _)| *seq)
    }

    /// Everything up to entry `seq` is durable.
    pub fn sync(&mut self, seq: u64) {
        self.synced = self.synced.max(self.log.partition_point(|(number, _)| *number <= seq));
    }

    /// Power is lost: of what was not synced, a random beginning survives.
    pub fn crash(&mut self, rng: &mut Rng) {
        let unsynced = self.log.len() - self.synced;
        let kept = if rng.chance(500) { 0 } else { rng.below(unsynced as u64 + 1) as usize };
        self.log.truncate(self.synced + kept);
        self.synced = self.log.len();
        // A new life numbers its entries from one again.
        self.log.iter_mut().for_each(|(seq, _)| *seq = 0);
    }

    /// What a restart finds.
    #[must_use]
    pub fn restore(&self) -> (SegmentState, Vec<HeldPart>) {
        let mut state = self.state.clone();
        let mut held = Vec::new();
        for (_, entry) in &self.log {
            match entry {
                LogEntry::State(entry) => {
                    let heard = state;
                    state = entry.clone();
                    state.vdl = state.vdl.max(heard.vdl);
                    state.low_water = state.low_water.max(heard.low_water);
                    state.watermark = state.watermark.max(heard.watermark);
                }
                LogEntry::Batch(batch) => {
                    state.vdl = state.vdl.max(batch.header.vdl);
                    state.low_water = state.low_water.max(batch.header.low_water);
                    state.watermark = state.watermark.max(batch.header.watermark);
                    held.extend(HeldPart::of(batch));
                }
            }
        }
        (state, held)
    }

    /// The parts live under `history`, by end, files and log.
    #[must_use]
    pub fn parts(&self, history: &History) -> BTreeMap<Lsn, Stored> {
        let mut parts = self.files.clone();
        for (_, entry) in &self.log {
            let LogEntry::Batch(batch) = entry else { continue };
            for (held, part) in HeldPart::of(batch).zip(&batch.parts) {
                let span = part.meta.span;
                if span.end > self.flushed && history.is_live(held.epoch, span.start) {
                    let header = batch.header.clone();
                    parts.insert(span.end, Stored { header, base: held.base, part: part.clone() });
                }
            }
        }
        parts
    }

    /// The live chain in `(after, upto]` as batches, about `parts_max` parts of it; none when some of
    /// it has left the log.
    #[must_use]
    pub fn read(
        &self,
        history: &History,
        after: Lsn,
        upto: Lsn,
        parts_max: usize,
    ) -> Option<Vec<Batch>> {
        if after < self.flushed {
            return None;
        }
        let mut batches: Vec<Batch> = Vec::new();
        for (end, stored) in
            self.parts(history).range(..=upto).filter(|(end, _)| **end > after).take(parts_max)
        {
            match batches.last_mut() {
                Some(batch)
                    if batch.header.last == stored.base && batch.header.epoch == stored.epoch() =>
                {
                    batch.header.last = *end;
                    batch.header.watermark = batch.header.watermark.max(stored.header.watermark);
                    batch.parts.push(stored.part.clone());
                }
                _ => {
                    let header = stored.header.clone();
                    let header = BatchHeader { base: stored.base, last: *end, ..header };
                    batches.push(Batch { header, parts: vec![stored.part.clone()] });
                }
            }
        }
        Some(batches)
    }

    /// Moves what is durable at the quorum from the log into files, under the segment's state.
    pub fn flush(&mut self, state: &SegmentState, scl: Lsn) {
        if self.synced < self.log.len() {
            return;
        }
        let upto = state.vdl.end.min(scl);
        let parts = self.parts(&state.history);
        let moved: BTreeMap<Lsn, Stored> =
            parts.range(..=upto).map(|(e, s)| (*e, s.clone())).collect();
        let Some(last) = moved.last_key_value().map(|(end, _)| *end) else { return };
        self.state = state.clone();
        self.flushed = last;
        self.files = moved;
        self.log.retain(|(_, entry)| match entry {
            LogEntry::Batch(batch) => batch.header.last > last,
            LogEntry::State(_) => false,
        });
        self.synced = self.log.len();
    }

    /// Installs a copy of a peer's files.
    pub fn install(&mut self, peer: &SegmentDisk, report: &SegmentReport) {
        if peer.flushed > self.flushed {
            self.flushed = peer.flushed;
            self.files = peer.files.clone();
        }
        self.state.vdl = self.state.vdl.max(report.vdl);
        self.state.low_water = self.state.low_water.max(report.low_water);
        self.state.watermark = self.state.watermark.max(report.watermark);
    }
}
