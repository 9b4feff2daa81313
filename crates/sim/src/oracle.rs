//! What must hold whatever happens: one checker a promise, fed by what clients could see.
//!
//! - acknowledged records survive: every durable point ever declared is a prefix of every later one;
//! - the durable point never moves back;
//! - one writer: once a newer epoch has decided its durable point, no older writer gets beyond it;
//! - truncated records never return: what an opened epoch left out is in no later log;
//! - a page served, at any read point, is what the promised log makes it: nothing else is ever returned;
//! - the engine watermark found at an open is above that of every surviving record (rule R6).

use std::collections::{BTreeMap, BTreeSet};

use protocol::{Opened, Record};
use segstore::{Chain, Store, StoreError};
use types::{Epoch, GroupId, History, Lsn, PageKey, SegmentId, Span};
use wire::{PageAnswer, Part, PartMeta, Refusal};

use crate::pages::Pages;

/// A record as its writer made it.
#[derive(Clone, Debug)]
pub struct Made {
    /// The record.
    pub record: Record,
    /// The engine's watermark when it was submitted.
    pub watermark: u64,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// The checkers' memory.
#[derive(Default)]
pub struct Oracle {
    made: BTreeMap<(Lsn, Epoch), Made>,
    /// The log as promised so far.
    promised: Vec<(Epoch, Span)>,
    /// What each epoch's recovery decided on.
    decided: BTreeMap<Epoch, Lsn>,
    /// What each epoch's writer has said to be durable.
    acknowledged: BTreeMap<Epoch, Lsn>,
    history: History,
    truncated: BTreeSet<(Epoch, Lsn)>,
    pages: Pages,
    /// End of each group's last promised part.
    tails: BTreeMap<GroupId, Lsn>,
    /// Highest low-water mark that any writer told.
    low_water: Lsn,
    /// Opens that completed.
    pub opens: u64,
    /// Pages served that were right.
    pub served: u64,
}

type Checked = Result<(), Violation>;

fn broken(what: impl Into<String>) -> Violation {
    Violation(what.into())
}

impl Oracle {
    /// A writer submitted a record.
    pub fn submitted(&mut self, epoch: Epoch, record: &Record, watermark: u64) {
        let made = Made { record: record.clone(), watermark };
        self.made.insert((record.span.start, epoch), made);
    }

    /// The last record promised.
    #[must_use]
    pub fn declared(&self) -> Span {
        self.promised.last().map_or(Span::ZERO, |(_, span)| *span)
    }

    /// How many records were promised.
    #[must_use]
    pub fn promised(&self) -> usize {
        self.promised.len()
    }

    /// A recovery decided on a durable point. It may be one that slept while others opened the volume,
    /// but no older writer can have said more to be durable.
    ///
    /// # Errors
    /// When it leaves out what an older writer promised.
    pub fn decided(&mut self, epoch: Epoch, vdl: Span) -> Checked {
        self.decided.insert(epoch, vdl.end);
        for (older, end) in self.acknowledged.range(..epoch) {
            if *end > vdl.end {
                return Err(broken(format!(
                    "epoch {epoch} decides on {vdl}, below {end} that epoch {older} promised"
                )));
            }
        }
        Ok(())
    }

    /// A writer says that the log is durable to `end`: no later recovery can have decided otherwise.
    fn acknowledge(&mut self, epoch: Epoch, end: Lsn) -> Checked {
        self.acknowledged.insert(epoch, end);
        let later = (std::ops::Bound::Excluded(epoch), std::ops::Bound::Unbounded);
        match self.decided.range(later).find(|(_, limit)| end > **limit) {
            Some((later, limit)) => Err(broken(format!(
                "fenced epoch {epoch} gets to {end}, though epoch {later} decided on {limit}"
            ))),
            None => Ok(()),
        }
    }

    /// The log up to `vdl` under a history.
    fn log(&self, history: &History, vdl: Span) -> Result<Vec<(Epoch, Span)>, Violation> {
        let known = |epoch: Epoch| history.entries().iter().any(|entry| entry.epoch == epoch);
        let mut log = Vec::new();
        let mut last = Span::ZERO;
        for ((start, epoch), made) in self.made.range(..(vdl.end, Epoch(0))) {
            if !known(*epoch) || !history.is_live(*epoch, *start) {
                continue;
            }
            let record = &made.record;
            if record.prev != last.start || record.span.start < last.end {
                return Err(broken(format!(
                    "record {} of epoch {epoch} is not linked",
                    record.span
                )));
            }
            last = record.span;
            log.push((*epoch, last));
        }
        if last == vdl {
            Ok(log)
        } else {
            Err(broken(format!("the log under {history:?} ends at {last}, not at {vdl}")))
        }
    }

    /// A recovery opened the volume.
    ///
    /// # Errors
    /// When a promise is broken by it.
    pub fn opened(&mut self, opened: &Opened) -> Checked {
        self.opens += 1;
        let epoch = opened.epoch();
        let log = self.log(&opened.history, opened.vdl)?;
        self.acknowledge(epoch, opened.vdl.end)?;
        if epoch < self.history.last_epoch() {
            // It slept since its last answer, and will be fenced at its first batch.
            return match self.promised.starts_with(&log) {
                true => Ok(()),
                false => Err(broken(format!("epoch {epoch} opens beside the promised log"))),
            };
        }
        if log.get(..self.promised.len()) != Some(self.promised.as_slice()) {
            return Err(broken(format!(
                "epoch {epoch} opens at {} without the promised {}",
                opened.vdl,
                self.declared()
            )));
        }
        let survives: BTreeSet<(Epoch, Lsn)> =
            log.iter().map(|(epoch, span)| (*epoch, span.start)).collect();
        if let Some(back) = survives.intersection(&self.truncated).next() {
            return Err(broken(format!("record {back:?} had been truncated and is back")));
        }
        let old = self.made.keys().filter(|(_, of)| *of < epoch).map(|(start, of)| (*of, *start));
        self.truncated.extend(old.filter(|record| !survives.contains(record)));
        let highest = log
            .iter()
            .filter_map(|(epoch, span)| Some(self.made.get(&(span.start, *epoch))?.watermark))
            .max()
            .unwrap_or(0);
        if opened.watermark < highest {
            return Err(broken(format!(
                "epoch {epoch} finds watermark {}, but {highest} survives",
                opened.watermark
            )));
        }
        self.history = opened.history.clone();
        log[self.promised.len()..].iter().for_each(|(of, span)| self.promise(*of, *span));
        Ok(())
    }

    /// One more record is promised.
    fn promise(&mut self, epoch: Epoch, span: Span) {
        self.promised.push((epoch, span));
        let Some(made) = self.made.get(&(span.start, epoch)) else { return };
        self.pages.promised(&made.record);
        self.tails.extend(made.record.parts.iter().map(|(group, ..)| (*group, span.end)));
    }

    /// End of a group's last promised part.
    #[must_use]
    pub fn tail(&self, group: GroupId) -> Lsn {
        self.tails.get(&group).copied().unwrap_or_default()
    }

    /// A writer says that nobody reads below this any more.
    pub fn raised(&mut self, low_water: Lsn) {
        self.low_water = self.low_water.max(low_water);
    }

    /// A node served a page at a read point that was durable when it was asked.
    ///
    /// # Errors
    /// When it is not what the promised log makes it.
    pub fn check_page(
        &mut self,
        group: GroupId,
        key: &PageKey,
        read_point: Lsn,
        answer: &PageAnswer,
    ) -> Checked {
        let expected = self.pages.page(group, key, read_point);
        let expected = expected.map_err(|error| broken(error.to_string()))?;
        let right = match (answer, &expected) {
            (PageAnswer::Absent, None) => true,
            (PageAnswer::Page { version, bytes }, Some((last, content))) => {
                version == last && bytes == content
            }
            (PageAnswer::Failed(Refusal::Forgotten { .. }), _) => read_point < self.low_water,
            _ => false,
        };
        self.served += u64::from(right);
        match right {
            true => Ok(()),
            false => Err(broken(format!(
                "page {key} at {read_point} is served as {answer:?}, promised as {expected:?}"
            ))),
        }
    }

    /// A complete copy in the end: its pages, and the parts that its log still holds.
    ///
    /// # Errors
    /// When one of them is not what was promised.
    pub fn same(&self, store: &Store, segment: SegmentId) -> Checked {
        let (group, upto) = (segment.group, self.declared().end);
        let failed = |error: StoreError| broken(error.to_string());
        let (from, to) = (PageKey::MIN, PageKey::MAX);
        let (stored, _) = store.scan(segment, &from, &to, upto, usize::MAX).map_err(failed)?;
        let stored = stored.into_iter().map(|(key, end, bytes)| (key, (end, bytes.to_vec())));
        let stored: Vec<_> = stored.collect();
        let expected = self.pages.all(group, upto).map_err(|error| broken(error.to_string()))?;
        if stored != expected {
            let wrong: Vec<_> = stored.iter().filter(|page| !expected.contains(page)).collect();
            let lacking: Vec<_> = expected.iter().filter(|page| !stored.contains(page)).collect();
            return Err(broken(format!("pages {wrong:?}, promised {lacking:?}")));
        }
        let mut expected = self.expected(group);
        let last = self.tail(group);
        let mut chain = store.read_chain(segment, Lsn::ZERO, last, usize::MAX).map_err(failed)?;
        if let Chain::Forgotten(floor) = chain {
            expected = expected.split_off(&floor.plus(1));
            chain = store.read_chain(segment, floor, last, usize::MAX).map_err(failed)?;
        }
        let Chain::Batches(batches) = chain else {
            return Err(broken(format!("no chain: {chain:?}")));
        };
        let mut held = BTreeMap::new();
        for batch in batches {
            let epoch = batch.header.epoch;
            held.extend(batch.parts.into_iter().map(|part| (part.meta.span.end, (epoch, part))));
        }
        let floor = expected.keys().next().copied().unwrap_or_default();
        held.retain(|end, _| *end >= floor);
        match held == expected {
            true => Ok(()),
            false => Err(broken(format!("parts {held:?}, promised {expected:?}"))),
        }
    }

    /// A writer declared a new durable point; `before` was its last one.
    ///
    /// # Errors
    /// When a promise is broken by it.
    pub fn advanced(&mut self, epoch: Epoch, before: Span, vdl: Span) -> Checked {
        if vdl.end < before.end {
            return Err(broken(format!("epoch {epoch} moves back from {before} to {vdl}")));
        }
        self.acknowledge(epoch, vdl.end)?;
        let own = self.made.range((before.end, Epoch(0))..(vdl.end, Epoch(0)));
        let own: Vec<Span> =
            own.filter(|((_, of), _)| *of == epoch).map(|(_, made)| made.record.span).collect();
        for span in own {
            let declared = self.declared();
            if span.start >= declared.end {
                self.promise(epoch, span);
            } else if self.promised.binary_search_by_key(&span.start, |(_, s)| s.start).is_err() {
                return Err(broken(format!("epoch {epoch} promises {span} beside the log")));
            }
        }
        Ok(())
    }

    /// A group's parts as promised: by end, the epoch and the part.
    #[must_use]
    pub fn expected(&self, group: GroupId) -> BTreeMap<Lsn, (Epoch, Part)> {
        let mut expected = BTreeMap::new();
        for (epoch, span) in &self.promised {
            let Some(made) = self.made.get(&(span.start, *epoch)) else { continue };
            let parts = &made.record.parts;
            let Some((_, changes, body)) = parts.iter().find(|(of, ..)| *of == group) else {
                continue;
            };
            let shared = parts.iter().map(|(of, ..)| *of).filter(|of| *of != group).collect();
            let meta = PartMeta { span: *span, prev: made.record.prev, shared };
            let part = Part { meta, changes: changes.clone(), body: body.clone() };
            expected.insert(span.end, (*epoch, part));
        }
        expected
    }
}
