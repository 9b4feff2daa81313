//! One group of a writer: its batches on their way to six members.
//!
//! Batches are numbered; each member has the number of the next one to send. So six sends share one
//! encoding, and a member that is slow or gone costs a number, not a queue.
//!
//! Invariant: a batch that is not quorate is kept.

use std::collections::VecDeque;

use bytes::Bytes;
use quorum::Scls;
use types::{COPIES, Epoch, GroupId, Lsn, NodeId, SegmentId, Span, VolumeId};
use wire::{Batch, BatchHeader, Part};

use super::{BATCH_BYTES_TARGET, GroupSetup, KEPT_BYTES_MAX};

/// What every batch says beside its parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub volume: VolumeId,
    pub epoch: Epoch,
    pub vdl: Span,
    pub low_water: Lsn,
    pub watermark: u64,
}

impl Stamp {
    pub(super) fn segment(&self, group: GroupId) -> SegmentId {
        SegmentId { volume: self.volume, group }
    }
}

struct Closed {
    last: Lsn,
    vdl: Lsn,
    bytes: Bytes,
}

/// One member, as the lane sees it.
#[derive(Clone, Copy, Default)]
struct Member {
    /// Number of the next batch to send.
    next: u64,
    /// Highest durable point told.
    told: Lsn,
    /// An announcement is to be sent after the batches.
    announce: bool,
    /// It wants the history before it accepts batches.
    refuses: bool,
}

pub(super) struct Lane {
    setup: GroupSetup,
    members: [Member; COPIES],
    scls: Scls,
    gcl: Lsn,
    /// Parts submitted and not in a batch yet, and about how long they are.
    open: Vec<Part>,
    open_bytes: usize,
    /// End of the last part before `open`.
    base: Lsn,
    /// Closed batches, the first with number `first`.
    kept: VecDeque<Closed>,
    kept_bytes: usize,
    first: u64,
    /// The last announcement made, to share its encoding.
    announcement: Option<(Stamp, Lsn, Bytes)>,
}

impl Lane {
    pub(super) fn new(setup: GroupSetup) -> Lane {
        Lane {
            members: [Member::default(); COPIES],
            scls: [Lsn::ZERO; COPIES],
            gcl: setup.tail,
            open: Vec::new(),
            open_bytes: 0,
            base: setup.tail,
            kept: VecDeque::new(),
            kept_bytes: 0,
            first: 0,
            announcement: None,
            setup,
        }
    }

    pub(super) fn setup(&self) -> &GroupSetup {
        &self.setup
    }

    fn index(&self, node: NodeId) -> Option<usize> {
        self.setup.members.iter().position(|member| *member == node)
    }

    fn header(&self, stamp: &Stamp, last: Lsn) -> BatchHeader {
        BatchHeader {
            segment: stamp.segment(self.setup.group),
            epoch: stamp.epoch,
            membership: self.setup.membership,
            base: self.base,
            last,
            vdl: stamp.vdl,
            low_water: stamp.low_water,
            watermark: stamp.watermark,
        }
    }

    /// Adds a part to the open batch. No batch of several parts is longer than the target, which is
    /// far below what nodes refuse, in bytes, parts and changes alike: a long part goes alone.
    pub(super) fn push(&mut self, part: Part, stamp: &Stamp) {
        let bytes = part.bytes_estimate();
        if self.open_bytes + bytes > BATCH_BYTES_TARGET {
            self.close(stamp);
        }
        self.open_bytes += bytes;
        self.open.push(part);
        if self.open_bytes >= BATCH_BYTES_TARGET {
            self.close(stamp);
        }
    }

    pub(super) fn close(&mut self, stamp: &Stamp) {
        let Some(last) = self.open.last().map(|part| part.meta.span.end) else { return };
        let header = self.header(stamp, last);
        let bytes = Batch { header, parts: std::mem::take(&mut self.open) }.encode();
        self.open_bytes = 0;
        self.base = last;
        self.kept_bytes += bytes.len();
        self.kept.push_back(Closed { last, vdl: stamp.vdl.end, bytes });
    }

    pub(super) fn announce(&mut self, stamp: &Stamp) {
        for (member, scl) in self.members.iter_mut().zip(&self.scls) {
            member.announce |= member.told < stamp.vdl.end || *scl < self.base;
        }
    }

    /// Sends again what the node has not acknowledged, as far as it is kept.
    pub(super) fn start_over(&mut self, node: NodeId) {
        if let Some(index) = self.index(node) {
            let acknowledged = self.kept.partition_point(|batch| batch.last <= self.scls[index]);
            self.members[index] = Member {
                next: self.first + acknowledged as u64,
                announce: true,
                ..Member::default()
            };
        }
    }

    pub(super) fn poll_send(&mut self, node: NodeId, stamp: &Stamp) -> Option<Bytes> {
        let index = self.index(node).filter(|index| !self.members[*index].refuses)?;
        // First of all a link carries an announcement: a wiped member learns from it what it lacks.
        if self.members[index].announce && self.members[index].told == Lsn::ZERO {
            return Some(self.announcement_to(index, stamp));
        }
        let next = self.members[index].next.max(self.first);
        if let Some(batch) = self.kept.get((next - self.first) as usize) {
            let bytes = batch.bytes.clone();
            let member = &mut self.members[index];
            member.next = next + 1;
            member.told = member.told.max(batch.vdl);
            self.trim();
            return Some(bytes);
        }
        self.members[index].announce.then(|| self.announcement_to(index, stamp))
    }

    fn announcement_to(&mut self, index: usize, stamp: &Stamp) -> Bytes {
        self.members[index].announce = false;
        self.members[index].told = stamp.vdl.end;
        if let Some((made, base, bytes)) = &self.announcement
            && made == stamp
            && *base == self.base
        {
            return bytes.clone();
        }
        let batch = Batch { header: self.header(stamp, self.base), parts: Vec::new() };
        let bytes = batch.encode();
        self.announcement = Some((*stamp, self.base, bytes.clone()));
        bytes
    }

    /// Notes a member's SCL; the group's GCL when it has moved.
    pub(super) fn on_ack(&mut self, node: NodeId, scl: Lsn, write_quorum: usize) -> Option<Lsn> {
        let index = self.index(node)?;
        if std::mem::take(&mut self.members[index].refuses) {
            self.start_over(node);
        }
        // Nobody holds more than was submitted: what a member claims beyond is not ours to count.
        let submitted = self.open.last().map_or(self.base, |part| part.meta.span.end);
        let scl = scl.min(submitted);
        if scl <= self.scls[index] {
            return None;
        }
        self.scls[index] = scl;
        let gcl = quorum::reached_by(write_quorum, &self.scls);
        if gcl <= self.gcl {
            return None;
        }
        self.gcl = gcl;
        self.trim();
        Some(gcl)
    }

    /// Lets go of quorate batches that all members were sent, and of the oldest above the limit.
    fn trim(&mut self) {
        let sent = self.members.iter().map(|member| member.next).min().unwrap_or(0);
        while let Some(batch) = self.kept.front() {
            let spare = self.first < sent || self.kept_bytes > KEPT_BYTES_MAX;
            if batch.last > self.gcl || !spare {
                break;
            }
            self.kept_bytes -= batch.bytes.len();
            self.first += 1;
            self.kept.pop_front();
        }
    }

    /// The member wants the history before it accepts batches.
    pub(super) fn set_refuses(&mut self, node: NodeId) {
        if let Some(index) = self.index(node) {
            self.members[index].refuses = true;
        }
    }

    /// The member was wiped: what it acknowledged is gone. (The GCL stands: it never falls.)
    pub(super) fn set_lost(&mut self, node: NodeId) {
        if let Some(index) = self.index(node) {
            self.members[index].refuses = true;
            self.scls[index] = Lsn::ZERO;
        }
    }

    pub(super) fn is_adopted(&self, node: NodeId) -> bool {
        self.index(node).is_none_or(|index| !self.members[index].refuses)
    }

    pub(super) fn scl(&self, node: NodeId) -> Lsn {
        self.index(node).map_or(Lsn::ZERO, |index| self.scls[index])
    }

    pub(super) fn readers(&self, complete_to: Lsn) -> impl Iterator<Item = NodeId> {
        let complete = move |(node, scl): (&NodeId, &Lsn)| (*scl >= complete_to).then_some(*node);
        self.setup.members.iter().zip(&self.scls).filter_map(complete)
    }

    pub(super) fn most_complete(&self) -> NodeId {
        let best = (0..COPIES).max_by_key(|index| self.scls[*index]).unwrap_or(0);
        self.setup.members[best]
    }

    pub(super) fn invariants(&self, gcl: Lsn, last_part: Lsn) {
        assert!(self.gcl >= gcl, "the ledger hears of the GCL from here");
        let closed = self.kept.back().map_or(self.base, |batch| batch.last);
        assert_eq!(closed, self.base);
        let submitted = self.open.last().map_or(self.base, |part| part.meta.span.end);
        assert_eq!(submitted, last_part);
        assert_eq!(self.kept_bytes, self.kept.iter().map(|batch| batch.bytes.len()).sum());
        let first = self.kept.front().map_or(self.base, |batch| batch.last);
        assert!(first > self.gcl || self.kept.is_empty() || self.kept_bytes > 0);
    }
}
