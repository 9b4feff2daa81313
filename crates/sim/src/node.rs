//! A simulated storage node: real segments, a simulated disk, and the dull shell between them.

use std::collections::BTreeMap;

use protocol::{Asker, Input, Output, Rules, Segment};
use types::{GroupId, History, NodeId};
use wire::{Message, Refusal, SegmentReport, SegmentSpec};

use crate::disk::SegmentDisk;
use crate::net::End;
use crate::rng::Rng;

/// Parts a `Fill` carries at most: few, so that catching up takes several.
const FILL_PARTS_MAX: usize = 12;

/// Who waits for an answer: where to, and about which group.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The asker.
    pub to: End,
    /// The asker's connection: an answer to an older one is dropped.
    pub session: u64,
    /// The group asked about.
    pub group: GroupId,
}

/// What a node wants done outside itself.
pub enum Effect {
    /// Answer.
    Answer(Route, Message),
    /// Ask a peer's segment of the group.
    Ask(NodeId, GroupId, Message),
    /// Copy the segment's files from a peer, if it follows this history.
    Hydrate(NodeId, GroupId, History),
    /// Entries were written: a sync is wanted.
    Wrote,
}

/// A copy of a group and its disk.
pub struct Copy<R: Rules> {
    /// The brain; none while the node is down.
    pub segment: Option<Segment<R>>,
    /// The disk.
    pub disk: SegmentDisk,
    spec: SegmentSpec,
}

/// A storage node.
pub struct Node<R: Rules> {
    /// Its name.
    pub name: NodeId,
    /// Counts its lives: what was sent to an earlier one is dropped.
    pub life: u64,
    /// Whether it runs.
    pub up: bool,
    /// Stopped until then.
    pub paused_until: u64,
    /// A sync is under way.
    pub syncing: bool,
    /// Its segments.
    pub copies: BTreeMap<GroupId, Copy<R>>,
    routes: BTreeMap<Asker, Route>,
    asked: Asker,
}

impl<R: Rules> Node<R> {
    /// A node without segments.
    #[must_use]
    pub fn new(name: NodeId) -> Self {
        Node {
            name,
            life: 1,
            up: true,
            paused_until: 0,
            syncing: false,
            copies: BTreeMap::new(),
            routes: BTreeMap::new(),
            asked: 0,
        }
    }

    /// Creates a segment of a new group.
    pub fn create(&mut self, spec: SegmentSpec) {
        let segment = Segment::fresh_under(self.name, spec.clone());
        let disk = SegmentDisk::new(segment.state().clone());
        let segment = self.up.then_some(segment);
        self.copies.insert(spec.group(), Copy { segment, disk, spec });
    }

    /// Power is lost.
    pub fn crash(&mut self, rng: &mut Rng) {
        self.up = false;
        self.life += 1;
        self.syncing = false;
        self.routes.clear();
        for copy in self.copies.values_mut() {
            copy.segment = None;
            copy.disk.crash(rng);
        }
    }

    /// The disk is lost too: the segments are blank when it comes back.
    pub fn wipe(&mut self) {
        for copy in self.copies.values_mut() {
            let blank = Segment::blank_under(self.name, copy.spec.clone());
            let _: &Segment<R> = &blank;
            copy.disk = SegmentDisk::new(blank.state().clone());
        }
    }

    /// Power is back.
    pub fn restart(&mut self) {
        self.up = true;
        for copy in self.copies.values_mut() {
            let (state, held) = copy.disk.restore();
            let flushed = copy.disk.flushed();
            copy.segment =
                Some(Segment::restore_under(self.name, copy.spec.clone(), state, flushed, held));
        }
    }

    /// Whether some segment has yet to be rebuilt.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.copies.values().any(|copy| match &copy.segment {
            Some(segment) => !segment.report().full,
            None => !copy.disk.restore().0.full,
        })
    }

    /// Takes a request about a group.
    pub fn request(&mut self, route: Route, message: Message, effects: &mut Vec<Effect>) {
        self.asked += 1;
        let from = self.asked;
        let input = match message {
            Message::Append(batch) => Input::Append { from, batch },
            Message::Seal { epoch, .. } => Input::Seal { from, epoch },
            Message::Adopt { history, vdl, until, peer, .. } => {
                Input::Adopt { from, history, vdl, until, peer }
            }
            Message::AskReport { .. } => Input::AskReport { from },
            Message::AskTail { epoch, history, after, .. } => {
                Input::AskTail { from, epoch, history, after }
            }
            Message::Pull { history, after, bytes_max, .. } => {
                Input::Pull { from, history, after, bytes_max }
            }
            other => unreachable!("nobody asks {other:?}"),
        };
        if !self.copies.contains_key(&route.group) {
            let segment = types::SegmentId { volume: crate::world::VOLUME, group: route.group };
            effects.push(Effect::Answer(route, Message::Refused(Refusal::NoSegment(segment))));
            return;
        }
        self.routes.insert(from, route);
        self.input(route.group, input, effects);
    }

    /// A peer answered.
    pub fn answered(
        &mut self,
        peer: NodeId,
        group: GroupId,
        message: Message,
        effects: &mut Vec<Effect>,
    ) {
        let input = match message {
            Message::Report { report, .. } => {
                Input::Filled { from_peer: peer, report, batches: Vec::new() }
            }
            Message::Fill { report, batches, .. } => {
                Input::Filled { from_peer: peer, report, batches }
            }
            Message::Refused(refusal) => Input::PeerRefused { peer, refusal: Some(refusal) },
            other => unreachable!("no peer answers {other:?}"),
        };
        self.input(group, input, effects);
    }

    /// A segment's input, and what comes of it.
    pub fn input(&mut self, group: GroupId, input: Input, effects: &mut Vec<Effect>) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        let Some(segment) = &mut copy.segment else { return };
        let mut outputs = Vec::new();
        segment.handle(input, &mut outputs);
        segment.invariants();
        for output in outputs {
            match output {
                Output::Persist { seq, entry } => {
                    copy.disk.append(seq, entry);
                    effects.push(Effect::Wrote);
                }
                Output::Reply { to, message } => {
                    // An adoption may be answered twice: its route stays.
                    if let Some(route) = self.routes.get(&to) {
                        effects.push(Effect::Answer(*route, message));
                    }
                }
                Output::Ask { peer, message } => effects.push(Effect::Ask(peer, group, message)),
                Output::Read { to, after, upto, bytes_max: _, report } => {
                    let message = read(copy, &report, after, upto);
                    if let Some(route) = self.routes.get(&to) {
                        effects.push(Effect::Answer(*route, message));
                    }
                }
                Output::Void { .. } => {}
                Output::Hydrate { peer, history } => {
                    effects.push(Effect::Hydrate(peer, group, history));
                }
            }
        }
        if self.routes.len() > 4096 {
            self.routes.pop_first();
        }
    }

    /// Entries up to these are durable.
    pub fn synced(&mut self, upto: &BTreeMap<GroupId, u64>, effects: &mut Vec<Effect>) {
        self.syncing = false;
        for (group, seq) in upto {
            if let Some(copy) = self.copies.get_mut(group) {
                copy.disk.sync(*seq);
            }
            self.input(*group, Input::Persisted { seq: *seq }, effects);
        }
    }

    /// Moves a segment's durable parts from its log into files.
    pub fn flush(&mut self, group: GroupId) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        let Some(segment) = &copy.segment else { return };
        copy.disk.flush(&segment.state().clone(), segment.scl());
    }
}

fn read<R: Rules>(
    copy: &Copy<R>,
    report: &SegmentReport,
    after: types::Lsn,
    upto: types::Lsn,
) -> Message {
    let segment = copy.spec.segment;
    match copy.disk.read(&report.history, after, upto, FILL_PARTS_MAX) {
        Some(batches) => Message::Fill { segment, report: report.clone(), batches },
        None => {
            let horizon = copy.disk.flushed();
            Message::Refused(Refusal::Forgotten { horizon, asked: after })
        }
    }
}
