//! What a segment holds of its group's chain: how far without a gap (SCL), and what lies beyond.
//!
//! ```text
//!   0 ......... floor ............ scl      gap      island          gap    recent parts
//!   |  settled   | recent parts     |                 (settled)
//! ```
//!
//! A part carries the end of the part before it (`base`), so `base <= held < end` extends what is
//! held. Parts known durable (at or below the VDL) can never be voided: they are *settled*, kept as
//! intervals only. Memory is thus bounded by what the writer may run ahead of the VDL, plus one
//! interval a gap.
//!
//! Invariants: `floor <= scl`; every recent part ends above the floor; the SCL is the end of a part.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use types::{Epoch, History, Lsn};
use wire::{Batch, PartMeta};

/// A part as a store remembers it: enough to rebuild the chain at a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPart {
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// End of the group's part before it: the batch's `base` for a batch's first part, else the end
    /// of the part before it in the batch.
    pub base: Lsn,
    /// Position, links and sharers.
    pub meta: PartMeta,
}

impl HeldPart {
    /// The parts of a batch.
    pub fn of(batch: &Batch) -> impl Iterator<Item = HeldPart> {
        let bases = std::iter::once(batch.header.base)
            .chain(batch.parts.iter().map(|part| part.meta.span.end));
        let epoch = batch.header.epoch;
        let held = move |(base, meta): (Lsn, PartMeta)| HeldPart { epoch, base, meta };
        bases.zip(batch.parts.iter().map(|part| part.meta.clone())).map(held)
    }
}

/// Parts of a group from a known point on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TailOf {
    /// End of the last live part at or below the point.
    pub base: Lsn,
    /// Metas of the live parts above it, without a gap.
    pub parts: Vec<PartMeta>,
}

/// One segment's part of the chain.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Complete, and known durable, to here.
    floor: Lsn,
    /// Complete to here.
    scl: Lsn,
    /// Parts at or below here are known durable.
    durable: Lsn,
    /// Settled runs above a gap: base to last end.
    islands: BTreeMap<Lsn, Lsn>,
    /// Parts that may yet be voided, by end.
    recent: BTreeMap<Lsn, HeldPart>,
}

impl Chain {
    /// A chain complete to `floor`, the end of a part (or zero).
    #[must_use]
    pub fn new(floor: Lsn) -> Chain {
        Chain { floor, scl: floor, durable: floor, ..Chain::default() }
    }

    /// Every part up to here is held.
    #[must_use]
    pub fn scl(&self) -> Lsn {
        self.scl
    }

    /// Parts that are held beyond a gap, or may yet be voided: what memory is spent on.
    #[must_use]
    pub fn loose(&self) -> usize {
        self.recent.len() + self.islands.len()
    }

    /// Whether the live part that ends at `end` is held.
    #[must_use]
    pub fn holds(&self, end: Lsn) -> bool {
        end <= self.scl
            || self.recent.contains_key(&end)
            || self.islands.range(..end).next_back().is_some_and(|(_, last)| *last >= end)
    }

    /// The runs of `batch` that are live under `history` and not held, as far as that is known:
    /// with `trusted` false, what is held may be about to be voided and does not count.
    #[must_use]
    pub fn missing(&self, batch: Batch, history: &History, trusted: bool) -> Vec<Batch> {
        let epoch = batch.header.epoch;
        let wanted = |meta: &PartMeta| {
            history.is_live(epoch, meta.span.start) && !(trusted && self.holds(meta.span.end))
        };
        if batch.parts.iter().all(|part| wanted(&part.meta)) {
            return if batch.parts.is_empty() { Vec::new() } else { vec![batch] };
        }
        let mut runs: Vec<Batch> = Vec::new();
        let mut base = batch.header.base;
        for part in batch.parts {
            let end = part.meta.span.end;
            if wanted(&part.meta) {
                match runs.last_mut().filter(|run| run.header.last == base) {
                    Some(run) => {
                        run.header.last = end;
                        run.parts.push(part);
                    }
                    None => {
                        let header = wire::BatchHeader { base, last: end, ..batch.header.clone() };
                        runs.push(Batch { header, parts: vec![part] });
                    }
                }
            }
            base = end;
        }
        runs
    }

    /// Adds live parts; those held already are ignored.
    pub fn insert(&mut self, parts: impl IntoIterator<Item = HeldPart>) {
        for part in parts {
            if !self.holds(part.meta.span.end) {
                self.recent.insert(part.meta.span.end, part);
            }
        }
        self.extend();
        self.settle(self.durable);
    }

    /// Everything at or below `durable` is durable at the quorum, and never voided again.
    pub fn settle(&mut self, durable: Lsn) {
        self.durable = self.durable.max(durable);
        self.floor = self.floor.max(self.scl.min(self.durable_end()));
        while let Some(first) = self.recent.first_entry() {
            let part = first.get();
            if part.meta.span.end > self.durable {
                break;
            }
            if part.meta.span.end > self.scl {
                let (base, end) = (part.base, part.meta.span.end);
                match self.islands.range_mut(..=base).next_back().filter(|i| *i.1 >= base) {
                    Some((_, last)) => *last = end.max(*last),
                    None => drop(self.islands.insert(base, end)),
                }
            }
            first.remove();
        }
        while let Some(first) =
            self.islands.first_entry().filter(|island| *island.get() <= self.scl)
        {
            first.remove();
        }
    }

    /// End of the last held part without a gap that is known durable.
    fn durable_end(&self) -> Lsn {
        if self.scl <= self.durable {
            return self.scl;
        }
        // The part that crosses the durable point names the end of the one before it.
        let crossing = self.recent.range((Excluded(self.durable), Unbounded)).next();
        crossing.map_or(self.floor, |(_, part)| part.base)
    }

    /// The segment's files hold every part up to `end`, the end of a durable part.
    pub fn raise_floor(&mut self, end: Lsn) {
        self.durable = self.durable.max(end);
        self.floor = self.floor.max(end);
        self.scl = self.scl.max(end);
        self.recent.retain(|last, _| *last > end);
        self.extend();
        self.settle(self.durable);
    }

    /// Drops what `history` voids.
    pub fn void(&mut self, history: &History) {
        self.recent.retain(|_, part| history.is_live(part.epoch, part.meta.span.start));
        self.scl = self.floor;
        self.extend();
    }

    fn extend(&mut self) {
        while let Some(end) = self.next_after(self.scl) {
            self.scl = end;
        }
    }

    /// How far one recent part or island extends a chain complete to `at`.
    fn next_after(&self, at: Lsn) -> Option<Lsn> {
        let recent = self.recent.range((Excluded(at), Unbounded)).next();
        let linked = recent.filter(|(_, part)| part.base <= at).map(|(end, _)| *end);
        linked.or_else(|| {
            self.islands.range(..=at).next_back().map(|(_, last)| *last).filter(|last| *last > at)
        })
    }

    /// The parts live under `history` that end above `after`; the error is how far parts are no
    /// longer listed one by one.
    pub(crate) fn tail(&self, history: &History, after: Lsn) -> Result<TailOf, Lsn> {
        if after < self.floor {
            return Err(self.floor);
        }
        let mut tail = TailOf { base: self.floor, parts: Vec::new() };
        let mut at = self.floor;
        while let Some(end) = self.next_after(at) {
            match self.recent.get(&end) {
                Some(part) if !history.is_live(part.epoch, part.meta.span.start) => break,
                Some(part) if end > after => tail.parts.push(part.meta.clone()),
                None if end > after => return Err(end),
                _ => tail.base = end,
            }
            at = end;
        }
        Ok(tail)
    }

    /// Checks the chain against itself; for tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn invariants(&self) {
        assert!(self.floor <= self.scl);
        for (end, part) in &self.recent {
            assert!(*end > self.floor && *end > self.durable && *end == part.meta.span.end);
            assert!(part.base <= part.meta.span.start && part.meta.span.start < *end);
        }
        for (base, last) in &self.islands {
            assert!(base < last && *last <= self.durable && *last > self.scl);
        }
        assert_eq!(self.next_after(self.scl), None, "the SCL stops at a gap");
    }
}
