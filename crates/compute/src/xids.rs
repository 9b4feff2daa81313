//! Transaction ids seen in the log: which are still running, and what the next one must exceed.
//!
//! Two rules rest on this. R4d: a block may leave the local cache only if it is older than the
//! first record of every running transaction. R6: whoever opens the volume next must hand out ids
//! above every one in the log, so each batch carries [`Xids::next`] as its watermark.

use std::collections::BTreeMap;

use pgwal::Effects;
use pgwal::effects::CheckpointKind;
use types::{Lsn, Span};

/// First id of a normal transaction.
const FIRST_NORMAL: u32 = 3;

/// See the module's description.
#[derive(Debug, Clone)]
pub struct Xids {
    /// 64-bit id above every one seen.
    next: u64,
    /// First record of every (sub)transaction that has not ended.
    running: BTreeMap<u32, Lsn>,
    /// After re-attaching to a living server: transactions below this id may be running unseen,
    /// since records we never read.
    unseen_below: Option<u64>,
}

impl Xids {
    /// No transaction is running; ids from `next` on are free.
    #[must_use]
    pub fn new(next: u64) -> Xids {
        Xids {
            next: next.max(u64::from(FIRST_NORMAL)),
            running: BTreeMap::new(),
            unseen_below: None,
        }
    }

    /// The server was alive before us: what it runs is unknown until it says so.
    #[must_use]
    pub fn reattached(next: u64) -> Xids {
        let xids = Xids::new(next);
        Xids { unseen_below: Some(xids.next), ..xids }
    }

    /// The 64-bit id above every one seen.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Position of the first record of the oldest running transaction: blocks changed at or above
    /// it stay in the cache. [`Lsn::MAX`] when none is running, [`Lsn::ZERO`] when unknown.
    #[must_use]
    pub fn oldest_running(&self) -> Lsn {
        match self.unseen_below {
            Some(_) => Lsn::ZERO,
            None => self.running.values().min().copied().unwrap_or(Lsn::MAX),
        }
    }

    /// Takes note of one record.
    pub fn note(&mut self, span: Span, xid: u32, effects: &Effects) {
        if xid >= FIRST_NORMAL {
            self.running.entry(xid).or_insert(span.start);
            self.advance(xid);
        }
        if let Some(latest) = effects.latest_xid {
            self.advance(latest);
        }
        if let Some(xact) = &effects.xact
            && xact.kind.is_end()
        {
            self.running.remove(&xid);
            self.running.remove(&xact.xid);
            for subxact in &xact.subxacts {
                self.running.remove(subxact);
            }
        }
        if let Some(running) = &effects.running {
            // Also forgets those that a crash restart of the server ended without a record.
            let oldest = running.oldest_running;
            self.running.retain(|xid, _| !precedes(*xid, oldest));
            self.advance(running.next_xid.wrapping_sub(1));
            if self.unseen_below.is_some_and(|below| !precedes(oldest, below as u32)) {
                self.unseen_below = None;
            }
        }
        if effects.checkpoint == Some(CheckpointKind::Shutdown) {
            self.running.clear(); // prepared ones run no more commands: nothing of theirs is re-read
            self.unseen_below = None;
        }
    }

    fn advance(&mut self, xid: u32) {
        let ahead = xid.wrapping_sub(self.next as u32).cast_signed();
        if xid >= FIRST_NORMAL && ahead >= 0 {
            self.next += u64::from(ahead.unsigned_abs()) + 1;
            if (self.next as u32) < FIRST_NORMAL {
                self.next = (self.next & !0xffff_ffff) | u64::from(FIRST_NORMAL);
            }
        }
    }
}

/// PostgreSQL's circular order of normal transaction ids.
fn precedes(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgwal::effects::{RunningXacts, Xact, XactKind};

    fn at(start: u64) -> Span {
        Span { start: Lsn(start), end: Lsn(start + 8) }
    }

    fn end(kind: XactKind, xid: u32, subxacts: Vec<u32>) -> Effects {
        let xact = Xact { kind, xid, subxacts, time: 0, commit_time: 0, origin: 0, gid: None };
        Effects { xact: Some(Box::new(xact)), ..Effects::default() }
    }

    fn snapshot(next_xid: u32, oldest_running: u32) -> Effects {
        let running = RunningXacts {
            next_xid,
            oldest_running,
            latest_completed: 0,
            count: 0,
            overflowed: false,
        };
        Effects { running: Some(running), ..Effects::default() }
    }

    #[test]
    fn a_transaction_runs_from_its_first_record_to_its_end_with_its_subtransactions() {
        let mut xids = Xids::new(700);
        xids.note(at(100), 700, &Effects::default());
        xids.note(at(200), 701, &Effects::default());
        xids.note(at(300), 700, &Effects::default());
        assert_eq!(xids.oldest_running(), Lsn(100));
        xids.note(at(400), 700, &end(XactKind::Abort, 700, vec![]));
        assert_eq!(xids.oldest_running(), Lsn(200));
        xids.note(at(500), 702, &end(XactKind::Commit, 702, vec![701]));
        assert_eq!(xids.oldest_running(), Lsn::MAX);
        assert_eq!(xids.next(), 703);
    }

    #[test]
    fn a_prepared_transaction_stays_until_it_ends_under_another_id() {
        let mut xids = Xids::new(10);
        xids.note(at(100), 10, &end(XactKind::Prepare, 10, vec![]));
        assert_eq!(xids.oldest_running(), Lsn(100));
        xids.note(at(200), 0, &end(XactKind::CommitPrepared, 10, vec![]));
        assert_eq!(xids.oldest_running(), Lsn::MAX);
    }

    #[test]
    fn the_watermark_crosses_the_32_bit_wrap_and_skips_special_ids() {
        let mut xids = Xids::new(u64::from(u32::MAX) - 1);
        xids.note(at(8), u32::MAX, &Effects::default());
        assert_eq!(xids.next(), (1 << 32) + 3);
        xids.note(at(16), u32::MAX - 5, &Effects::default());
        assert_eq!(xids.next(), (1 << 32) + 3, "an older id does not move it");
        xids.note(at(24), 3, &Effects::default());
        assert_eq!(xids.next(), (1 << 32) + 4);
    }

    #[test]
    fn after_reattaching_everything_is_pinned_until_the_old_transactions_are_gone() {
        let mut xids = Xids::reattached(50);
        assert_eq!(xids.oldest_running(), Lsn::ZERO);
        xids.note(at(8), 60, &Effects::default());
        xids.note(at(16), 0, &snapshot(61, 49));
        assert_eq!(xids.oldest_running(), Lsn::ZERO);
        xids.note(at(24), 0, &snapshot(61, 60));
        assert_eq!(xids.oldest_running(), Lsn(8));
    }
}
