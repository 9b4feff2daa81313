//! One group of a writer: its batches on their way to the holders of its six places.
//!
//! Batches are numbered; each member has the number of the next one to send. So six sends share one
//! encoding, and a member that is slow or gone costs a number, not a queue.
//!
//! Invariant: a batch that is not quorate is kept.

use std::collections::VecDeque;

use bytes::Bytes;
use types::{
    Epoch, GroupId, Holder, Lsn, Members, MembershipEpoch, NodeId, SegmentId, Span, VolumeId,
};
use wire::{Batch, BatchHeader, Part};

use super::{BATCH_BYTES_TARGET, GroupSetup, Held};
use crate::rules::Rules;

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

/// One holder of a place, as the lane sees it.
struct Member {
    holder: Holder,
    /// Whether it votes and serves, as it last said.
    full: Option<bool>,
    /// What it is known to hold without a gap.
    scl: Lsn,
    /// Number of the next batch to send.
    next: u64,
    /// Highest durable point told.
    told: Lsn,
    /// An announcement is to be sent after the batches.
    announce: bool,
    /// It wants the history before it accepts batches.
    refuses: bool,
}

impl Member {
    /// A holder of which nothing is known.
    fn new(holder: Holder) -> Member {
        let (full, announce, refuses) = (None, false, false);
        Member { holder, full, scl: Lsn::ZERO, next: 0, told: Lsn::ZERO, announce, refuses }
    }
}

pub(super) struct Lane {
    setup: GroupSetup,
    /// In the order of the member set's holders.
    members: Vec<Member>,
    gcl: Lsn,
    /// Parts submitted and not in a batch yet, and about how long they are.
    open: Vec<Part>,
    open_bytes: usize,
    /// End of the last part before `open`.
    base: Lsn,
    /// Closed batches, the first with number `first`.
    kept: VecDeque<Closed>,
    kept_bytes: usize,
    /// Above it, the oldest that are quorate are let go.
    kept_max: usize,
    first: u64,
    /// The last announcement made, to share its encoding.
    announcement: Option<(Stamp, Lsn, Bytes)>,
}

impl Lane {
    pub(super) fn new(setup: GroupSetup) -> Lane {
        Lane {
            members: setup.members.holders().map(|(_, holder)| Member::new(holder)).collect(),
            gcl: setup.tail,
            open: Vec::new(),
            open_bytes: 0,
            base: setup.tail,
            kept: VecDeque::new(),
            kept_bytes: 0,
            kept_max: 0,
            first: 0,
            announcement: None,
            setup,
        }
    }

    pub(super) fn set_kept_max(&mut self, bytes: usize) {
        self.kept_max = bytes;
    }

    pub(super) fn setup(&self) -> &GroupSetup {
        &self.setup
    }

    /// Another member set is in force: holders that stay keep what is known of them, others are unknown.
    /// The group's GCL when it has moved: without a holder that left, a place may have got further.
    pub(super) fn set_members<R: Rules>(
        &mut self,
        membership: MembershipEpoch,
        members: Members,
    ) -> Option<Lsn> {
        let mut known = std::mem::take(&mut self.members);
        let mut take = |holder: Holder| {
            let stays = known.iter().position(|member| member.holder == holder);
            let joins = || Member { announce: true, ..Member::new(holder) };
            stays.map_or_else(joins, |at| known.swap_remove(at))
        };
        self.members = members.holders().map(|(_, holder)| take(holder)).collect();
        (self.setup.membership, self.setup.members) = (membership, members);
        self.measure::<R>()
    }

    fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.holder.node == node)
    }

    fn member_mut(&mut self, node: NodeId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.holder.node == node)
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
        for member in &mut self.members {
            let behind = member.told < stamp.vdl.end || member.scl < self.base;
            // One that is being rebuilt has no other occasion to say that it is full.
            member.announce |= behind || member.full == Some(false);
        }
    }

    pub(super) fn ask(&mut self, node: NodeId) {
        if let Some(member) = self.member_mut(node) {
            member.announce = true;
        }
    }

    pub(super) fn is_rebuilt(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.full == Some(false))
    }

    /// Sends again what the node has not acknowledged, as far as it is kept.
    pub(super) fn start_over(&mut self, node: NodeId) {
        let Some(scl) = self.member(node).map(|member| member.scl) else { return };
        let acknowledged = self.kept.partition_point(|batch| batch.last <= scl);
        let next = self.first + acknowledged as u64;
        if let Some(member) = self.member_mut(node) {
            let full = member.full;
            *member = Member { scl, full, next, announce: true, ..Member::new(member.holder) };
        }
    }

    pub(super) fn poll_send(&mut self, node: NodeId, stamp: &Stamp) -> Option<Bytes> {
        let first = self.first;
        let member = self.members.iter_mut().find(|member| member.holder.node == node)?;
        if member.refuses {
            return None;
        }
        // First of all a link carries an announcement: a wiped member learns from it what it lacks.
        let next = member.next.max(first);
        let first_of_all = member.announce && member.told == Lsn::ZERO;
        let batch = self.kept.get((next - first) as usize).filter(|_| !first_of_all);
        if let Some(batch) = batch {
            let bytes = batch.bytes.clone();
            member.next = next + 1;
            member.told = member.told.max(batch.vdl);
            self.trim();
            return Some(bytes);
        }
        if !std::mem::take(&mut member.announce) {
            return None;
        }
        member.told = stamp.vdl.end;
        Some(self.announcement(stamp))
    }

    fn announcement(&mut self, stamp: &Stamp) -> Bytes {
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

    /// Notes what a holder has; the group's GCL when it has moved. What another copy of the node's
    /// had, before it left and came back, says nothing.
    pub(super) fn on_ack<R: Rules>(&mut self, node: NodeId, held: Held) -> Option<Lsn> {
        // Nobody holds more than was submitted: what a member claims beyond is not ours to count.
        let submitted = self.open.last().map_or(self.base, |part| part.meta.span.end);
        let scl = held.scl.min(submitted);
        let member = self.member_mut(node)?;
        if R::COPIES_ARE_NAMED && member.holder.since != held.since {
            // It has yet to hear of its new copy: asked by the history until that one answers.
            member.refuses = true;
            return None;
        }
        member.full = Some(held.full);
        if std::mem::take(&mut member.refuses) {
            self.start_over(node);
        }
        let member = self.member_mut(node).filter(|member| member.scl < scl)?;
        member.scl = scl;
        self.measure::<R>()
    }

    /// The group's GCL from what its places hold (rule Q6), when it has moved.
    fn measure<R: Rules>(&mut self) -> Option<Lsn> {
        let scls = self.members.iter().map(|member| member.scl);
        let places = quorum::by_place(&self.setup.members, scls);
        let gcl = quorum::reached_by(R::WRITE_QUORUM, &places);
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
            let spare = self.first < sent || self.kept_bytes > self.kept_max;
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
        if let Some(member) = self.member_mut(node) {
            member.refuses = true;
        }
    }

    /// The member was wiped: what it acknowledged is gone. (The GCL stands: it never falls.)
    pub(super) fn set_lost(&mut self, node: NodeId) {
        if let Some(member) = self.member_mut(node) {
            (member.refuses, member.full, member.scl) = (true, Some(false), Lsn::ZERO);
        }
    }

    pub(super) fn is_adopted(&self, node: NodeId) -> bool {
        self.member(node).is_none_or(|member| !member.refuses)
    }

    pub(super) fn scl(&self, node: NodeId) -> Lsn {
        self.member(node).map_or(Lsn::ZERO, |member| member.scl)
    }

    pub(super) fn readers(&self, complete_to: Lsn) -> impl Iterator<Item = NodeId> {
        let complete = self.members.iter().filter(move |member| member.scl >= complete_to);
        complete.map(|member| member.holder.node)
    }

    /// Who is asked for what others lack; among equals each group names another.
    pub(super) fn most_complete(&self) -> NodeId {
        let (turn, count) = (self.setup.group.0 as usize, self.members.len().max(1));
        let place = |at: usize| (at + turn) % count;
        let members = self.members.iter().enumerate();
        let best = members.max_by_key(|(at, member)| (member.scl, member.full, place(*at)));
        best.map_or(self.setup.members.present()[0], |(_, member)| member.holder.node)
    }

    /// Joining holders that could take over: full, and with everything that is quorate.
    pub(super) fn filled(&self) -> impl Iterator<Item = NodeId> {
        let joining = self.setup.members.places().iter().filter_map(|place| place.joining);
        joining.filter_map(|holder| {
            let member = self.member(holder.node)?;
            (member.full == Some(true) && member.scl >= self.gcl).then_some(holder.node)
        })
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
