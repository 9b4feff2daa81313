//! From every group's GCL to the volume's VCL and VDL.
//!
//! The ledger is on the commit path: recording a record and advancing a group cost amortised
//! constant time (plus a logarithm of the number of groups), never a scan of what is outstanding.
//!
//! Invariants: outstanding records and part ends ascend; the VDL never moves back; a group without
//! unquorate parts does not hold the VCL back (rule Q3).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use types::{GroupId, Lsn, Span};

/// One group's parts above the durable points.
#[derive(Clone, Debug)]
struct Parts {
    /// Largest position known quorate.
    gcl: Lsn,
    /// Ends of the parts above the GCL, ascending.
    unquorate: VecDeque<Lsn>,
    /// Ends of the parts above the VDL, ascending.
    undurable: VecDeque<Lsn>,
    /// End of the last part at or below the VDL.
    tail: Lsn,
    /// End of the last part recorded.
    last: Lsn,
}

/// What is sent and not yet durable, for one volume.
#[derive(Clone, Debug)]
pub struct Ledger {
    vdl: Span,
    last: Span,
    records: VecDeque<Span>,
    groups: BTreeMap<GroupId, Parts>,
    /// End of each group's first unquorate part: the smallest holds the VCL.
    held_back: BTreeSet<(Lsn, GroupId)>,
}

impl Ledger {
    /// A ledger of a volume that is durable to `vdl`, without groups.
    #[must_use]
    pub fn new(vdl: Span) -> Ledger {
        Ledger {
            vdl,
            last: vdl,
            records: VecDeque::new(),
            groups: BTreeMap::new(),
            held_back: BTreeSet::new(),
        }
    }

    /// Adds a group whose last part ends at `tail`, at or below the VDL.
    ///
    /// # Panics
    /// When the group exists already, or its tail is above the VDL.
    pub fn add_group(&mut self, group: GroupId, tail: Lsn) {
        assert!(tail <= self.vdl.end, "a group's tail {tail} is above the durable {}", self.vdl);
        let parts = Parts {
            gcl: tail,
            unquorate: VecDeque::new(),
            undurable: VecDeque::new(),
            tail,
            last: tail,
        };
        let before = self.groups.insert(group, parts);
        assert!(before.is_none(), "group {group} is added twice");
    }

    /// Notes a record that has a part in each of `groups`.
    ///
    /// # Panics
    /// When the record does not follow the last one, or names no group or an unknown one.
    pub fn record(&mut self, span: Span, groups: impl IntoIterator<Item = GroupId>) {
        assert!(
            span.start >= self.last.end && span.end > span.start,
            "record {span} does not follow {}",
            self.last
        );
        let before = self.last;
        for group in groups {
            let parts = self.groups.get_mut(&group).expect("a part's group is known");
            assert!(parts.last < span.end, "group {group} has two parts of record {span}");
            if parts.unquorate.is_empty() {
                self.held_back.insert((span.end, group));
            }
            parts.unquorate.push_back(span.end);
            parts.undurable.push_back(span.end);
            parts.last = span.end;
            self.last = span;
        }
        assert!(self.last != before, "record {span} has no part");
        self.records.push_back(span);
    }

    /// A group's members have reached `gcl`; older news are ignored. True when the VDL moved.
    pub fn advance(&mut self, group: GroupId, gcl: Lsn) -> bool {
        let Some(parts) = self.groups.get_mut(&group) else { return false };
        if gcl <= parts.gcl {
            return false;
        }
        parts.gcl = gcl;
        let Some(first) = parts.unquorate.front().copied().filter(|end| *end <= gcl) else {
            return false;
        };
        while parts.unquorate.front().is_some_and(|end| *end <= gcl) {
            parts.unquorate.pop_front();
        }
        self.held_back.remove(&(first, group));
        if let Some(end) = parts.unquorate.front() {
            self.held_back.insert((*end, group));
        }
        self.settle()
    }

    /// Moves the VDL over every record that nothing holds back.
    fn settle(&mut self) -> bool {
        let limit = self.held_back.first().map_or(Lsn::MAX, |(end, _)| *end);
        let before = self.vdl;
        while let Some(record) = self.records.front().filter(|record| record.end < limit) {
            self.vdl = *record;
            self.records.pop_front();
        }
        if self.vdl == before {
            return false;
        }
        for parts in self.groups.values_mut() {
            while let Some(end) = parts.undurable.front().filter(|end| **end <= self.vdl.end) {
                parts.tail = *end;
                parts.undurable.pop_front();
            }
        }
        true
    }

    /// The volume durable point: the last record of which, and of all before it, every part is
    /// quorate.
    #[must_use]
    pub fn vdl(&self) -> Span {
        self.vdl
    }

    /// The volume complete LSN. Every record boundary is a consistency point here, so it is where
    /// the VDL ends.
    #[must_use]
    pub fn vcl(&self) -> Lsn {
        self.vdl.end
    }

    /// The last record noted.
    #[must_use]
    pub fn last(&self) -> Span {
        self.last
    }

    /// A group's GCL; zero for an unknown group.
    #[must_use]
    pub fn gcl(&self, group: GroupId) -> Lsn {
        self.groups.get(&group).map_or(Lsn::ZERO, |parts| parts.gcl)
    }

    /// End of a group's last part at or below the VDL; zero for an unknown group.
    #[must_use]
    pub fn tail(&self, group: GroupId) -> Lsn {
        self.groups.get(&group).map_or(Lsn::ZERO, |parts| parts.tail)
    }

    /// End of a group's last part noted; zero for an unknown group.
    #[must_use]
    pub fn last_part(&self, group: GroupId) -> Lsn {
        self.groups.get(&group).map_or(Lsn::ZERO, |parts| parts.last)
    }

    /// End of a group's last part at or below `read_point`. Exact from the VDL on; below it the
    /// group's tail at the VDL or the read point, whichever is lower, which is never too low.
    #[must_use]
    pub fn tail_at(&self, group: GroupId, read_point: Lsn) -> Lsn {
        let Some(parts) = self.groups.get(&group) else { return Lsn::ZERO };
        let above = parts.undurable.partition_point(|end| *end <= read_point);
        match above.checked_sub(1).and_then(|last| parts.undurable.get(last)) {
            Some(end) => *end,
            None => parts.tail.min(read_point),
        }
    }

    /// Checks the ledger against itself; for tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn invariants(&self) {
        assert!(self.vdl.end <= self.last.end);
        assert!(self.records.iter().is_sorted() && self.records.iter().all(|r| *r > self.vdl));
        let fronts: BTreeSet<_> = self
            .groups
            .iter()
            .filter_map(|(group, parts)| parts.unquorate.front().map(|end| (*end, *group)))
            .collect();
        assert_eq!(fronts, self.held_back);
        for parts in self.groups.values() {
            assert!(parts.unquorate.iter().all(|end| *end > parts.gcl));
            assert!(parts.undurable.iter().all(|end| *end > self.vdl.end));
            assert!(parts.tail <= self.vdl.end && parts.tail <= parts.last);
        }
    }
}
