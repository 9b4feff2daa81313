//! Opening a volume: fence the old writer, find the durable point, make it durable again, adopt.
//!
//! ```text
//! sealing    Seal to all; at least 4 of 6 sealed and 3 full ones among them, in every group
//! measuring  AskTail to each group's most complete member; walk the volume chain: the VDL
//! adopting   Adopt (history with the new epoch) to all; at least 4 in every group hold it all
//! opened
//! ```
//!
//! Nothing is decided from what a segment said before it sealed (rule V7). Any step may be cut off
//! for good: a newer epoch begins again, and respects the history of this one if it finds it on any
//! segment (rule V11). Until adoption is done nothing has been promised to anyone.
//!
//! Reading order: this file (events and phases), [`seats`] (what is known of each member),
//! [`measure`] (candidates and the walk).

mod measure;
mod seats;

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;

use types::{
    Epoch, EpochStart, GroupId, History, Lsn, Members, MembershipEpoch, NodeId, SegmentId, Span,
    Timeline, VolumeId,
};
use wire::{Message, PartMeta, Refusal, SegmentReport};

use crate::rules::{Rules, Sound};
use crate::writer::{GroupSetup, Held};
use measure::Tail;
use seats::{Asked, Group};

/// A group to open: its number, its member set's generation, its members.
pub type GroupMembers = (GroupId, MembershipEpoch, Members);

/// A group that too few members answer for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crippled {
    /// The group.
    pub group: GroupId,
    /// The member set that was asked.
    pub membership: MembershipEpoch,
    /// Its present holders that are sealed and full: three of them know of everything durable, so the
    /// other places may be given to new nodes (rule V16).
    pub survivors: Vec<NodeId>,
}

/// Which timeline the new epoch writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timelines {
    /// The one after the newest found; in a volume without any epoch, this one.
    NextAfterOr(Timeline),
    /// The newest found: a driver that was restarted under a living engine.
    KeepOr(Timeline),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A segment reported.
    Report {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// Its account.
        report: SegmentReport,
    },
    /// A segment answered `AskTail`.
    Tail {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// Last epoch of the history asked with.
        history: Epoch,
        /// The bound asked with.
        after: Lsn,
        /// End of the last live part at or below it.
        base: Lsn,
        /// Live parts above it.
        parts: Vec<PartMeta>,
    },
    /// A segment refused what it was asked last.
    Refused {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// Why.
        refusal: Refusal,
    },
    /// A node cannot be reached; what was sent to it is lost.
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// A node can be reached (every node is thought to be, at the start).
    Reachable {
        /// The node.
        node: NodeId,
    },
    /// Time passed: unanswered questions are asked again.
    Tick,
}

impl Event {
    /// The event that a node's answer about a group stands for, if it is one of recovery's.
    #[must_use]
    pub fn of(node: NodeId, group: GroupId, message: Message) -> Option<Event> {
        match message {
            Message::Report { report, .. } => Some(Event::Report { node, group, report }),
            Message::Tail { history, after, base, parts, .. } => {
                Some(Event::Tail { node, group, history, after, base, parts })
            }
            Message::Refused(refusal) => Some(Event::Refused { node, group, refusal }),
            _ => None,
        }
    }
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send a `Seal`, `AskTail` or `Adopt` to a node.
    Send {
        /// The node.
        node: NodeId,
        /// The message.
        message: Message,
    },
}

/// Why a volume could not be opened. Retrying with the same epoch is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A newer open has begun: leave the volume to it.
    #[error("epoch {0} has been sealed meanwhile: a newer open took over")]
    Fenced(Epoch),
    /// The list of groups is older than the log: fetch it anew and open again.
    #[error("record {record} has a part in group {group}, which the geometry does not list")]
    UnknownGroup {
        /// The record.
        record: Span,
        /// The group.
        group: GroupId,
    },
    /// A segment holds knowledge that contradicts the decision: stop and examine.
    #[error("node {node}, group {group}, contradicts the recovery: {what}")]
    Contradiction {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// What it said.
        what: String,
    },
}

/// An opened volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The volume.
    pub volume: VolumeId,
    /// The last durable record.
    pub vdl: Span,
    /// The epochs up to and including the new one.
    pub history: History,
    /// The groups, as a writer starts with them.
    pub tails: Vec<GroupSetup>,
    /// Highest engine watermark found (rule R6).
    pub watermark: u64,
    /// Highest low-water mark found.
    pub low_water: Lsn,
    /// What the members hold that follow the new history already.
    pub reports: BTreeMap<(GroupId, NodeId), Held>,
}

impl Opened {
    /// The epoch opened.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.history.last_epoch()
    }

    /// The timeline that the epoch writes.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        self.history.entries().last().map_or(Timeline(0), |entry| entry.timeline)
    }

    /// `Adopt` for members that come up before a writer runs; later use
    /// [`crate::Writer::adopt_message`].
    #[must_use]
    pub fn adopt_message(&self, group: GroupId) -> Option<Message> {
        let setup = self.tails.iter().find(|setup| setup.group == group)?;
        let held = |node: &NodeId| self.reports.get(&(group, *node)).map(|held| held.scl);
        let complete = |node: &NodeId| held(node) >= Some(setup.tail);
        let peer = setup.members.present().into_iter().find(complete)?;
        Some(Message::Adopt {
            segment: SegmentId { volume: self.volume, group },
            history: self.history.clone(),
            vdl: self.vdl,
            until: setup.tail,
            peer,
        })
    }
}

/// What the recovery decided; fixed from the first `Adopt` on.
struct Decision {
    vdl: Span,
    history: History,
    /// Per group: what must be held, and who was measured to hold it.
    until: BTreeMap<GroupId, (Lsn, NodeId)>,
}

/// One attempt, in one epoch, to open a volume.
pub struct Recovery<R: Rules = Sound> {
    volume: VolumeId,
    epoch: Epoch,
    timelines: Timelines,
    groups: BTreeMap<GroupId, Group>,
    reachable: BTreeMap<NodeId, bool>,
    /// Facts from segments that have sealed this epoch; none is ever unlearnt.
    newest: History,
    known: Span,
    low_water: Lsn,
    watermark: u64,
    decision: Option<Decision>,
    outcome: Option<Result<Opened, RecoveryError>>,
    commands: VecDeque<Command>,
    rules: PhantomData<R>,
}

impl Recovery {
    /// Begins to open a volume in a new epoch, with its geometry as the metadata store has it.
    #[must_use]
    pub fn new(
        volume: VolumeId,
        epoch: Epoch,
        groups: Vec<GroupMembers>,
        timelines: Timelines,
    ) -> Recovery {
        Recovery::new_under(volume, epoch, groups, timelines)
    }
}

impl<R: Rules> Recovery<R> {
    /// [`Recovery::new`] under other rules.
    #[must_use]
    pub fn new_under(
        volume: VolumeId,
        epoch: Epoch,
        groups: Vec<GroupMembers>,
        timelines: Timelines,
    ) -> Self {
        let present = groups.iter().flat_map(|(_, _, members)| members.present());
        let reachable = present.map(|node| (node, true)).collect();
        let group = |(group, membership, members)| (group, Group::new(membership, members));
        let mut recovery = Recovery {
            volume,
            epoch,
            timelines,
            groups: groups.into_iter().map(group).collect(),
            reachable,
            newest: History::default(),
            known: Span::ZERO,
            low_water: Lsn::ZERO,
            watermark: 0,
            decision: None,
            outcome: None,
            commands: VecDeque::new(),
            rules: PhantomData,
        };
        recovery.drive();
        recovery
    }

    /// What to do next.
    pub fn poll(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The result, once there is one.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<Opened, RecoveryError>> {
        self.outcome.clone()
    }

    /// The epoch being opened.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The durable point decided on, before it is adopted everywhere.
    #[must_use]
    pub fn decided(&self) -> Option<Span> {
        self.decision.as_ref().map(|decision| decision.vdl)
    }

    /// Whether it still waits for enough segments to seal. Until then more nodes are all that helps;
    /// afterwards an attempt that stands still rests on a node that does not answer.
    #[must_use]
    pub fn is_sealing(&self) -> bool {
        self.decision.is_none() && !self.groups.values().all(Group::may_decide)
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) {
        if self.outcome.is_some() {
            return;
        }
        match event {
            Event::Report { node, group, report } => self.on_report(node, group, report),
            Event::Tail { node, group, history, after, base, parts } => {
                if let Some(seat) =
                    self.groups.get_mut(&group).and_then(|known| known.seat_mut(node))
                {
                    seat.take_tail(Tail { history, after, base, parts });
                }
            }
            Event::Refused { node, group, refusal } => self.on_refused(node, group, refusal),
            Event::Unreachable { node } => self.set_reachable(node, false),
            Event::Reachable { node } => self.set_reachable(node, true),
            Event::Tick => self.groups.values_mut().for_each(Group::forget_asked),
        }
        self.drive();
    }

    fn on_report(&mut self, node: NodeId, group: GroupId, report: SegmentReport) {
        if report.sealed > self.epoch {
            self.outcome = Some(Err(RecoveryError::Fenced(report.sealed)));
            return;
        }
        if R::SEAL_BEFORE_SCL && report.sealed < self.epoch {
            return;
        }
        let decided = self.decision.is_some();
        let until = self.decision.as_ref().and_then(|decision| decision.until.get(&group)).copied();
        let known = self.groups.get_mut(&group);
        let Some(seat) = known.and_then(|known| known.seat_of::<R>(node, report.since)) else {
            return;
        };
        if decided {
            let follows = report.history.last_epoch() == self.epoch;
            let further = seat.adopted.is_none_or(|held| held.scl <= report.scl);
            if follows && further && until.is_some_and(|(until, _)| report.scl >= until) {
                seat.adopted = Some(Held::from(&report));
            }
            return;
        }
        if report.history.last_epoch() > self.newest.last_epoch() {
            self.newest = report.history.clone();
        }
        if report.vdl.end > self.known.end {
            self.known = report.vdl;
        }
        self.low_water = self.low_water.max(report.low_water);
        self.watermark = self.watermark.max(report.watermark);
        seat.report = Some(report);
    }

    fn on_refused(&mut self, node: NodeId, group: GroupId, refusal: Refusal) {
        match refusal {
            Refusal::Fenced { current, .. } if current > self.epoch => {
                self.outcome = Some(Err(RecoveryError::Fenced(current)));
            }
            Refusal::Malformed(what) => {
                self.outcome = Some(Err(RecoveryError::Contradiction { node, group, what }));
            }
            // Its durable point has moved since its report, or it cannot take part: seal it again.
            // Not before the next turn, unless what it knows is newer.
            other => {
                let again = matches!(other, Refusal::Forgotten { .. });
                if let Some(seat) =
                    self.groups.get_mut(&group).and_then(|known| known.seat_mut(node))
                {
                    seat.withdraw();
                    seat.asked = if again { Asked::Nothing } else { Asked::Refused };
                }
            }
        }
    }

    fn set_reachable(&mut self, node: NodeId, reachable: bool) {
        self.reachable.insert(node, reachable);
        for seat in self.groups.values_mut().filter_map(|group| group.seat_mut(node)) {
            seat.asked = Asked::Nothing;
            if !reachable {
                seat.withdraw();
            }
        }
    }

    /// Does whatever the state of things allows.
    fn drive(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        if self.decision.is_none() {
            self.ask_seals();
            if self.groups.values().all(Group::may_decide) {
                self.measure();
            }
        }
        if self.decision.is_some() {
            self.ask_adoption();
            self.finish();
        }
    }

    fn segment(&self, group: GroupId) -> SegmentId {
        SegmentId { volume: self.volume, group }
    }

    fn ask_seals(&mut self) {
        let (volume, epoch) = (self.volume, self.epoch);
        for (group, state) in &mut self.groups {
            let segment = SegmentId { volume, group: *group };
            for (node, seat) in state.seats_mut() {
                let up = self.reachable.get(&node).copied().unwrap_or(false);
                if up && seat.report.is_none() && seat.asked == Asked::Nothing {
                    seat.asked = Asked::Seal;
                    let message = if R::SEAL_BEFORE_SCL {
                        Message::Seal { segment, epoch }
                    } else {
                        Message::AskReport { segment }
                    };
                    self.commands.push_back(Command::Send { node, message });
                }
            }
        }
    }

    /// Asks each group's candidate for its tail; decides when all are there.
    fn measure(&mut self) {
        let asked = (self.newest.last_epoch(), self.known.end);
        let mut tails = BTreeMap::new();
        let mut missing = Vec::new();
        for (group, state) in &mut self.groups {
            let Some((node, seat)) = state.candidate(&self.newest, R::NEWEST_HISTORY) else {
                return;
            };
            match seat.tail.as_ref().filter(|tail| (tail.history, tail.after) == asked) {
                Some(tail) => drop(tails.insert(*group, (node, tail.clone()))),
                None => missing.push((*group, node)),
            }
        }
        for (group, node) in &missing {
            self.ask_tail(*group, *node);
        }
        if missing.is_empty() {
            self.decide(&tails);
        }
    }

    fn ask_tail(&mut self, group: GroupId, node: NodeId) {
        let (segment, after) = (self.segment(group), self.known.end);
        let asked = Asked::Tail(self.newest.last_epoch(), after);
        let Some(seat) = self.groups.get_mut(&group).and_then(|known| known.seat_mut(node)) else {
            return;
        };
        if seat.asked == asked {
            return;
        }
        seat.asked = asked;
        let (epoch, history) = (self.epoch, self.newest.clone());
        let message = Message::AskTail { segment, epoch, history, after };
        self.commands.push_back(Command::Send { node, message });
    }

    fn decide(&mut self, tails: &BTreeMap<GroupId, (NodeId, Tail)>) {
        let walked = match measure::walk::<R>(self.known, tails) {
            Ok(walked) => walked,
            Err(error) => {
                self.outcome = Some(Err(error));
                return;
            }
        };
        let last = self.newest.entries().last().map(|entry| entry.timeline);
        let timeline = match (self.timelines, last) {
            (Timelines::NextAfterOr(_), Some(Timeline(last))) => Timeline(last.saturating_add(1)),
            (Timelines::KeepOr(_), Some(last)) => last,
            (Timelines::NextAfterOr(first) | Timelines::KeepOr(first), None) => first,
        };
        let entry = EpochStart { epoch: self.epoch, begins: walked.vdl.end, timeline };
        let until = walked
            .tails
            .into_iter()
            .filter_map(|(group, end)| Some((group, (end, tails.get(&group)?.0))))
            .collect();
        self.decision = Some(Decision { vdl: walked.vdl, history: self.newest.with(entry), until });
        self.groups.values_mut().for_each(Group::forget_asked);
    }

    fn ask_adoption(&mut self) {
        let Some(decision) = &self.decision else { return };
        for (group, state) in &mut self.groups {
            let Some((until, measured)) = decision.until.get(group).copied() else { continue };
            let segment = SegmentId { volume: self.volume, group: *group };
            let up = |node: &NodeId| self.reachable.get(node).copied().unwrap_or(false);
            // The member measured holds it all; once it is gone, whoever else has got that far.
            let peer = if up(&measured) { measured } else { state.adopted(up).unwrap_or(measured) };
            for (node, seat) in state.seats_mut() {
                if up(&node) && seat.adopted.is_none() && seat.asked == Asked::Nothing {
                    seat.asked = Asked::Adopt;
                    let (history, vdl) = (decision.history.clone(), decision.vdl);
                    let message = Message::Adopt { segment, history, vdl, until, peer };
                    self.commands.push_back(Command::Send { node, message });
                }
            }
        }
    }

    fn finish(&mut self) {
        let Some(decision) = &self.decision else { return };
        if !self.groups.values().all(Group::may_open) {
            return;
        }
        let setup = |(group, state): (&GroupId, &Group)| GroupSetup {
            group: *group,
            membership: state.membership,
            members: state.members,
            tail: decision.until.get(group).map_or(Lsn::ZERO, |(end, _)| *end),
        };
        let reports = self.groups.iter().flat_map(|(group, state)| {
            state.seats().filter_map(|(node, seat)| Some(((*group, node), seat.adopted?)))
        });
        self.outcome = Some(Ok(Opened {
            volume: self.volume,
            vdl: decision.vdl,
            history: decision.history.clone(),
            tails: self.groups.iter().map(setup).collect(),
            watermark: self.watermark,
            low_water: self.low_water,
            reports: reports.collect(),
        }));
    }

    /// The groups that cannot be written to for want of members, while it waits for enough to seal.
    #[must_use]
    pub fn crippled(&self) -> Vec<Crippled> {
        if self.decision.is_some() {
            return Vec::new();
        }
        let lacking = self.groups.iter().filter(|(_, state)| !state.may_decide());
        let crippled = lacking.map(|(group, state)| Crippled {
            group: *group,
            membership: state.membership,
            survivors: state.survivors(),
        });
        crippled.collect()
    }

    /// What the recovery waits for, for humans.
    #[must_use]
    pub fn waiting_for(&self) -> String {
        let lacking = self.groups.iter().filter_map(|(group, state)| {
            let what =
                if self.decision.is_some() { state.lacks_open() } else { state.lacks_decide() };
            what.map(|what| format!("group {group}: {what}"))
        });
        let lacking: Vec<String> = lacking.collect();
        match (&self.outcome, lacking.is_empty()) {
            (Some(_), _) => "nothing".to_owned(),
            (None, true) => "log tails of the most complete segments".to_owned(),
            (None, false) => lacking.join("; "),
        }
    }
}
