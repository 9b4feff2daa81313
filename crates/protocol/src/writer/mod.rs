//! The writer: records in, one batch a group out to the holders of its six places, acknowledgements in, VDL out.
//!
//! On the commit path. A batch is encoded once and shared by its six sends; an acknowledgement costs
//! the sorting of six numbers and amortised constant time. Nothing scans what is outstanding.
//!
//! A batch is kept until it is quorate *and* was sent to every member, the latter within
//! [`KEPT_BYTES_MAX`] a group and [`KEPT_BYTES_ALL_MAX`] in all: a member that falls behind further is filled by its peers. A batch that
//! is not quorate is never dropped, because nobody else may have it (rule V5).
//!
//! Reading order: this file (API), [`lane`] (one group's batches and members).

mod lane;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use bytes::Bytes;
use quorum::Ledger;
use types::{Epoch, GroupId, History, Lsn, Members, MembershipEpoch, NodeId, Span, VolumeId};
use wire::{Change, Message, Part, PartMeta, Refusal, SegmentReport};

use crate::rules::{Rules, Sound};
use lane::{Lane, Stamp};

/// Bytes of quorate batches kept for members that have not been sent them, a group.
pub const KEPT_BYTES_MAX: usize = 8 << 20;
/// The same for all groups together, each its share.
pub const KEPT_BYTES_ALL_MAX: usize = 64 << 20;
/// Bytes at which a batch is closed without waiting for a flush: no more than a node takes in at once where several
/// volumes write, so that none waits long for another's.
pub const BATCH_BYTES_TARGET: usize = 64 << 10;

/// A group as the writer starts with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSetup {
    /// The group.
    pub group: GroupId,
    /// Its member set's generation.
    pub membership: MembershipEpoch,
    /// Its members.
    pub members: Members,
    /// End of the group's last part at or below the durable point.
    pub tail: Lsn,
}

/// What a holder says that it has of its group, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Everything up to here (SCL).
    pub scl: Lsn,
    /// Which copy says so ([`types::Holder::since`]).
    pub since: MembershipEpoch,
    /// Whether it votes and serves.
    pub full: bool,
}

impl From<&SegmentReport> for Held {
    fn from(report: &SegmentReport) -> Held {
        Held { scl: report.scl, since: report.since, full: report.full }
    }
}

/// One record of the engine's log, split by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its bytes in the log.
    pub span: Span,
    /// Start of the record before it.
    pub prev: Lsn,
    /// What it means for each group: at least one, in ascending order of groups.
    pub parts: Vec<(GroupId, Vec<Change>, Bytes)>,
}

/// Whether the writer may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// It may.
    Running,
    /// A newer epoch exists, this one: nothing that is not durable will be. Final.
    Fenced(Epoch),
}

/// The writer of one volume in one epoch.
pub struct Writer<R: Rules = Sound> {
    stamp: Stamp,
    ledger: Ledger,
    lanes: BTreeMap<GroupId, Lane>,
    links: BTreeMap<NodeId, Link>,
    state: WriterState,
    rules: PhantomData<R>,
}

/// A node that holds members of some groups.
#[derive(Default)]
struct Link {
    up: bool,
    groups: Vec<GroupId>,
    /// Where in `groups` the next send is looked for, so that all get their turn.
    turn: usize,
}

impl Writer {
    /// A writer of `epoch` that begins at the durable point `vdl`.
    #[must_use]
    pub fn new(
        volume: VolumeId,
        epoch: Epoch,
        groups: Vec<GroupSetup>,
        vdl: Span,
        watermark: u64,
    ) -> Writer {
        Writer::new_under(volume, epoch, groups, vdl, watermark)
    }
}

impl<R: Rules> Writer<R> {
    /// [`Writer::new`] under other rules.
    #[must_use]
    pub fn new_under(
        volume: VolumeId,
        epoch: Epoch,
        groups: Vec<GroupSetup>,
        vdl: Span,
        watermark: u64,
    ) -> Self {
        let mut writer = Writer {
            stamp: Stamp { volume, epoch, vdl, low_water: Lsn::ZERO, watermark },
            ledger: Ledger::new(vdl),
            lanes: BTreeMap::new(),
            links: BTreeMap::new(),
            state: WriterState::Running,
            rules: PhantomData,
        };
        groups.into_iter().for_each(|group| writer.know_group(group));
        writer.share_out();
        writer
    }

    /// Adds a group: at the start, or a new one (tail zero) as the volume grows.
    ///
    /// # Panics
    /// When the group exists already.
    pub fn add_group(&mut self, setup: GroupSetup) {
        self.know_group(setup);
        self.share_out();
    }

    /// What is kept for laggards is bounded whatever the number of groups.
    fn share_out(&mut self) {
        let share = KEPT_BYTES_MAX.min(KEPT_BYTES_ALL_MAX / self.lanes.len().max(1));
        self.lanes.values_mut().for_each(|lane| lane.set_kept_max(share));
    }

    fn know_group(&mut self, setup: GroupSetup) {
        self.ledger.add_group(setup.group, setup.tail);
        for (_, holder) in setup.members.holders() {
            self.links.entry(holder.node).or_default().groups.push(setup.group);
        }
        self.lanes.insert(setup.group, Lane::new(setup));
    }

    /// A group's member set has changed; an older one than is known, or another group's, changes
    /// nothing. Returns whether the durable point moved.
    pub fn set_members(
        &mut self,
        group: GroupId,
        membership: MembershipEpoch,
        members: Members,
    ) -> bool {
        let known = self.lanes.get_mut(&group).filter(|_| self.state == WriterState::Running);
        let Some(lane) = known.filter(|lane| lane.setup().membership < membership) else {
            return false;
        };
        for (_, holder) in lane.setup().members.holders() {
            if let Some(link) = self.links.get_mut(&holder.node) {
                link.groups.retain(|other| *other != group);
            }
        }
        let gcl = lane.set_members::<R>(membership, members);
        for (_, holder) in members.holders() {
            self.links.entry(holder.node).or_default().groups.push(group);
        }
        gcl.is_some_and(|gcl| self.advance(group, gcl))
    }

    /// The epoch written.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.stamp.epoch
    }

    /// Whether the writer may go on.
    #[must_use]
    pub fn state(&self) -> WriterState {
        self.state
    }

    /// Bytes submitted beyond the durable point. Above [`types::WRITER_LEAD_BYTES_MAX`] the caller
    /// waits before it submits more.
    #[must_use]
    pub fn lead_bytes(&self) -> u64 {
        self.ledger.last().end.bytes_since(self.ledger.vdl().end)
    }

    /// The last record submitted.
    #[must_use]
    pub fn submitted(&self) -> Span {
        self.ledger.last()
    }

    /// Takes the next record of the log, and the engine's watermark with it in force (rule R6), which never
    /// falls: a batch may be closed at any record, and carries what covers all that it holds.
    ///
    /// # Panics
    /// When it does not follow the one before in the volume's chain, or names an unknown group.
    pub fn submit(&mut self, record: Record, watermark: u64) {
        self.stamp.watermark = self.stamp.watermark.max(watermark);
        let Record { span, prev, parts } = record;
        let last = self.ledger.last();
        assert_eq!(prev, last.start, "record {span} is not linked to {last}");
        // Zero links the volume's first record to nothing; a record there would be nothing's namesake.
        assert!(span.start > Lsn::ZERO, "no record starts at zero");
        self.ledger.record(span, parts.iter().map(|(group, ..)| *group));
        let groups: Vec<GroupId> = parts.iter().map(|(group, ..)| *group).collect();
        for (group, changes, body) in parts {
            let shared = groups.iter().copied().filter(|other| *other != group).collect();
            let part = Part { meta: PartMeta { span, prev, shared }, changes, body };
            let lane = self.lanes.get_mut(&group).expect("the ledger knows the group");
            lane.push(part, &self.stamp);
        }
    }

    /// Sets the lowest read point that any instance may still use; it never falls.
    pub fn set_low_water(&mut self, low_water: Lsn) {
        self.stamp.low_water = self.stamp.low_water.max(low_water);
    }

    /// Closes what was submitted into one batch a group, ready to be sent to all six members.
    pub fn flush(&mut self) {
        self.lanes.values_mut().for_each(|lane| lane.close(&self.stamp));
    }

    /// Tells the durable point, by an empty batch, to every member whose last batch told an older
    /// one; and asks so how far those are that are not known to hold everything sent, because a gap
    /// that gossip fills is acknowledged only when the writer speaks again. To be called every few
    /// milliseconds while something is not durable, and now and then when idle.
    pub fn announce(&mut self) {
        self.lanes.values_mut().for_each(|lane| lane.announce(&self.stamp));
    }

    /// Has the node asked by an announcement how far it is, though nothing may be new: what it answers
    /// tells that it lives, and how quickly.
    pub fn ask(&mut self, node: NodeId) {
        let Some(link) = self.links.get(&node) else { return };
        let lane = link.groups.iter().find(|group| !self.is_rebuilt(**group, node)).copied();
        if let Some(lane) = lane.and_then(|group| self.lanes.get_mut(&group)) {
            lane.ask(node);
        }
    }

    /// Whether the node has said that its copy of a group is being rebuilt.
    #[must_use]
    pub fn is_rebuilt(&self, group: GroupId, node: NodeId) -> bool {
        self.lanes.get(&group).is_some_and(|lane| lane.is_rebuilt(node))
    }

    /// Whether the node has a copy of any group.
    #[must_use]
    pub fn is_holder(&self, node: NodeId) -> bool {
        self.links.get(&node).is_some_and(|link| !link.groups.is_empty())
    }

    /// The node can be reached from now on: what is not durable and it has not acknowledged is sent
    /// again, and what it holds is asked by an announcement. It need not be in any group yet.
    pub fn link_up(&mut self, node: NodeId) {
        let link = self.links.entry(node).or_default();
        link.up = true;
        for group in &link.groups {
            if let Some(lane) = self.lanes.get_mut(group) {
                lane.start_over(node);
            }
        }
    }

    /// The node cannot be reached.
    pub fn link_down(&mut self, node: NodeId) {
        if let Some(link) = self.links.get_mut(&node) {
            link.up = false;
        }
    }

    /// The next encoded batch for a node ([`wire::frame::append_header`] makes it a frame). None
    /// while its link is down, when all was sent, or when the writer is fenced.
    pub fn poll_send(&mut self, node: NodeId) -> Option<Bytes> {
        if self.state != WriterState::Running {
            return None;
        }
        let link = self.links.get_mut(&node).filter(|link| link.up)?;
        for _ in 0..link.groups.len() {
            let group = link.groups[link.turn % link.groups.len()];
            link.turn = link.turn.wrapping_add(1);
            if let Some(bytes) =
                self.lanes.get_mut(&group).and_then(|lane| lane.poll_send(node, &self.stamp))
            {
                return Some(bytes);
            }
        }
        None
    }

    /// A member reports (by `Ack`, or by `Report` after `Adopt`) what it holds of its group.
    /// Returns whether the durable point moved.
    pub fn on_ack(&mut self, node: NodeId, group: GroupId, epoch: Epoch, held: Held) -> bool {
        if epoch != self.stamp.epoch || self.state != WriterState::Running {
            return false;
        }
        let Some(lane) = self.lanes.get_mut(&group) else { return false };
        let gcl = lane.on_ack::<R>(node, held);
        gcl.is_some_and(|gcl| self.advance(group, gcl))
    }

    fn advance(&mut self, group: GroupId, gcl: Lsn) -> bool {
        let moved = self.ledger.advance(group, gcl);
        if moved {
            self.stamp.vdl = self.ledger.vdl();
        }
        moved
    }

    /// A member refused a batch. A refusal by a newer epoch is final; any other stops the sends to
    /// this member until it has reported ([`Writer::to_adopt`]).
    pub fn on_refused(&mut self, node: NodeId, group: GroupId, refusal: &Refusal) -> WriterState {
        let own = self.stamp.epoch;
        match refusal {
            Refusal::Fenced { asked, current } if *asked == own && *current > own => {
                self.state = WriterState::Fenced(*current);
            }
            // Of another epoch, late: not about what is sent now.
            Refusal::Fenced { .. } => {}
            Refusal::NotAdopted { epoch } if *epoch != own => {}
            Refusal::Hydrating(_) => {
                if let Some(lane) = self.lanes.get_mut(&group) {
                    lane.set_lost(node);
                }
            }
            _ => {
                if let Some(lane) = self.lanes.get_mut(&group) {
                    lane.set_refuses(node);
                }
            }
        }
        self.state
    }

    /// Members on reachable nodes that must be sent [`Writer::adopt_message`], now and again until
    /// they have reported.
    pub fn to_adopt(&self) -> impl Iterator<Item = (NodeId, GroupId)> {
        self.links.iter().filter(|(_, link)| link.up).flat_map(|(node, link)| {
            let lagging = |group: &&GroupId| {
                self.lanes.get(group).is_some_and(|lane| !lane.is_adopted(*node))
            };
            link.groups.iter().filter(lagging).map(|group| (*node, *group))
        })
    }

    /// What makes a member accept this writer: `history` is [`crate::Opened::history`].
    #[must_use]
    pub fn adopt_message(&self, group: GroupId, history: &History) -> Option<Message> {
        let lane = self.lanes.get(&group)?;
        Some(Message::Adopt {
            segment: self.stamp.segment(group),
            history: history.clone(),
            vdl: self.ledger.vdl(),
            until: self.ledger.tail(group),
            peer: lane.most_complete(),
        })
    }

    /// The volume durable point: the last record of which, and of all before it, every part is
    /// quorate.
    #[must_use]
    pub fn vdl(&self) -> Span {
        self.ledger.vdl()
    }

    /// The volume complete LSN.
    #[must_use]
    pub fn vcl(&self) -> Lsn {
        self.ledger.vcl()
    }

    /// The group complete LSN: a write quorum of members have reached it.
    #[must_use]
    pub fn gcl(&self, group: GroupId) -> Lsn {
        self.ledger.gcl(group)
    }

    /// How far a member is known to hold its group.
    #[must_use]
    pub fn scl(&self, group: GroupId, node: NodeId) -> Lsn {
        self.lanes.get(&group).map_or(Lsn::ZERO, |lane| lane.scl(node))
    }

    /// End of the group's last part at or below `read_point`: exact for the VDL and above, never too
    /// low below it.
    #[must_use]
    pub fn group_tail_at(&self, group: GroupId, read_point: Lsn) -> Lsn {
        self.ledger.tail_at(group, read_point)
    }

    /// Members known to hold the group up to `complete_to`.
    pub fn readers(&self, group: GroupId, complete_to: Lsn) -> impl Iterator<Item = NodeId> {
        self.lanes.get(&group).into_iter().flat_map(move |lane| lane.readers(complete_to))
    }

    /// Joining holders that have all of their group: whom the control plane may give the place to, in
    /// this epoch and out of this member set (rule V16).
    pub fn filled(&self) -> impl Iterator<Item = (GroupId, MembershipEpoch, NodeId)> {
        self.lanes.iter().flat_map(|(group, lane)| {
            lane.filled().map(|node| (*group, lane.setup().membership, node))
        })
    }

    /// The groups and their members.
    pub fn groups(&self) -> impl Iterator<Item = &GroupSetup> {
        self.lanes.values().map(Lane::setup)
    }

    /// Checks the writer against itself; for tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn invariants(&self) {
        self.ledger.invariants();
        assert_eq!(self.stamp.vdl, self.ledger.vdl());
        for (group, lane) in &self.lanes {
            lane.invariants(self.ledger.gcl(*group), self.ledger.last_part(*group));
        }
    }
}
