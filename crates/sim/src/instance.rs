//! A simulated database instance: opens the volume by the real recovery, then writes by the real
//! writer. The dull shell between them and the network.

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::{
    Command, Event, GroupMembers, GroupSetup, Held, Opened, Record, Recovery, Rules, Timelines,
    Writer, WriterState,
};
use types::{Epoch, GroupId, Lsn, NodeId, PageKey, SegmentId, Span, Timeline};
use wire::{Batch, Change, Message, Refusal};

use crate::oracle::{Oracle, Violation};
use crate::rng::Rng;
use crate::world::VOLUME;

/// Bytes that this small writer may run ahead.
const LEAD_BYTES_MAX: u64 = 6_000;
/// An unanswered question this old means that the connection is dead.
const ANSWER_MICROS_MAX: u64 = 250_000;

/// A connection to a node.
#[derive(Clone, Copy, Default)]
pub struct Link {
    up: bool,
    /// Counts connections.
    pub session: u64,
    /// The node's life it was made with.
    pub life: u64,
    unanswered_since: Option<u64>,
    /// Something was lost on it, so nothing more passes: a stream has no gaps.
    pub broken: bool,
}

/// What an instance does.
pub enum Role<R: Rules> {
    /// It opens the volume.
    Opening(Box<Recovery<R>>),
    /// It writes.
    Writing(Box<Writer<R>>, Opened),
    /// It was fenced, or killed.
    Dead,
}

/// A database instance.
pub struct Instance<R: Rules> {
    /// Its epoch.
    pub epoch: Epoch,
    /// What it does.
    pub role: Role<R>,
    /// Stopped until then.
    pub paused_until: u64,
    /// Connections, by node.
    pub links: BTreeMap<NodeId, Link>,
    /// Messages to send.
    pub outbox: Vec<(NodeId, GroupId, Message)>,
    /// Events its recovery has taken: where a test kills it.
    pub steps: u64,
    last_turn: u64,
    since: Option<u64>,
    told_decision: bool,
    watermark: u64,
    /// Nothing is read below this any more.
    low_water: Lsn,
}

impl<R: Rules> Instance<R> {
    /// An instance that opens the volume.
    #[must_use]
    pub fn new(epoch: Epoch, groups: Vec<GroupMembers>, nodes: &[NodeId]) -> Self {
        let first = Timelines::NextAfterOr(Timeline(1));
        let mut recovery = Recovery::new_under(VOLUME, epoch, groups, first);
        // Until a connection stands nobody can be reached.
        nodes.iter().for_each(|node| recovery.handle(Event::Unreachable { node: *node }));
        Instance {
            epoch,
            role: Role::Opening(Box::new(recovery)),
            paused_until: 0,
            links: nodes.iter().map(|node| (*node, Link::default())).collect(),
            outbox: Vec::new(),
            steps: 0,
            last_turn: 0,
            since: None,
            told_decision: false,
            watermark: 0,
            low_water: Lsn::ZERO,
        }
    }

    /// Whether it still does anything.
    #[must_use]
    pub fn alive(&self) -> bool {
        !matches!(self.role, Role::Dead)
    }

    /// The durable point it has declared.
    #[must_use]
    pub fn vdl(&self) -> Option<Span> {
        match &self.role {
            Role::Writing(writer, _) => Some(writer.vdl()),
            _ => None,
        }
    }

    /// Notices the state of its connections; `reachable` gives a node's life if it answers.
    pub fn look(&mut self, now: u64, reachable: impl Fn(NodeId) -> Option<u64>) {
        for node in self.links.keys().copied().collect::<Vec<_>>() {
            let Some(mut link) = self.links.get(&node).copied() else { continue };
            let late = link.unanswered_since.is_some_and(|since| now > since + ANSWER_MICROS_MAX);
            let life = reachable(node);
            if link.up && (late || life.is_some_and(|life| life != link.life)) {
                link.up = false;
                self.link_changed(node, false);
            } else if !link.up
                && let Some(life) = life
            {
                let session = link.session + 1;
                link = Link { up: true, session, life, unanswered_since: None, broken: false };
                self.link_changed(node, true);
            }
            self.links.insert(node, link);
        }
    }

    fn link_changed(&mut self, node: NodeId, up: bool) {
        match &mut self.role {
            Role::Opening(recovery) if up => recovery.handle(Event::Reachable { node }),
            Role::Opening(recovery) => recovery.handle(Event::Unreachable { node }),
            Role::Writing(writer, _) if up => writer.link_up(node),
            Role::Writing(writer, _) => writer.link_down(node),
            Role::Dead => {}
        }
    }

    /// A node answered on the connection in use.
    pub fn answered(
        &mut self,
        node: NodeId,
        group: GroupId,
        message: Message,
        oracle: &mut Oracle,
    ) -> Result<(), Violation> {
        if let Some(link) = self.links.get_mut(&node).filter(|link| !link.broken) {
            link.unanswered_since = None;
        }
        match &mut self.role {
            Role::Opening(recovery) => {
                if let Some(event) = Event::of(node, group, message) {
                    self.steps += 1;
                    recovery.handle(event);
                }
                self.opened(oracle)
            }
            Role::Writing(writer, _) => {
                let before = writer.vdl();
                match message {
                    Message::Ack { epoch, scl, since, full, .. } => {
                        writer.on_ack(node, group, epoch, Held { scl, since, full });
                    }
                    Message::Report { report, .. } if report.history.last_epoch() == self.epoch => {
                        writer.on_ack(node, group, self.epoch, Held::from(&report));
                    }
                    Message::Refused(Refusal::Malformed(what)) => return Err(Violation(what)),
                    Message::Refused(refusal) => {
                        writer.on_refused(node, group, &refusal);
                    }
                    _ => {}
                }
                writer.invariants();
                let vdl = writer.vdl();
                let fenced = writer.state() != WriterState::Running;
                if vdl != before {
                    oracle.advanced(self.epoch, before, vdl)?;
                }
                if fenced {
                    self.role = Role::Dead;
                }
                Ok(())
            }
            Role::Dead => Ok(()),
        }
    }

    /// Goes from opening to writing once the recovery is through.
    fn opened(&mut self, oracle: &mut Oracle) -> Result<(), Violation> {
        let Role::Opening(recovery) = &self.role else { return Ok(()) };
        if let Some(vdl) = recovery.decided().filter(|_| !self.told_decision) {
            self.told_decision = true;
            oracle.decided(self.epoch, vdl)?;
        }
        match recovery.outcome() {
            None => Ok(()),
            Some(Err(protocol::RecoveryError::Fenced(_))) => {
                self.role = Role::Dead;
                Ok(())
            }
            Some(Err(error)) => Err(Violation(error.to_string())),
            Some(Ok(opened)) => {
                oracle.opened(&opened)?;
                self.watermark = opened.watermark;
                self.low_water = opened.low_water;
                let tails = opened.tails.clone();
                let mut writer =
                    Writer::new_under(VOLUME, self.epoch, tails, opened.vdl, opened.watermark);
                for (node, link) in &self.links {
                    if link.up {
                        writer.link_up(*node);
                    }
                }
                for ((group, node), held) in &opened.reports {
                    writer.on_ack(*node, *group, self.epoch, *held);
                }
                self.role = Role::Writing(Box::new(writer), opened);
                Ok(())
            }
        }
    }

    /// A group was added to the volume.
    pub fn grow(&mut self, setup: GroupSetup) {
        if let Role::Writing(writer, _) = &mut self.role {
            writer.add_group(setup);
        }
    }

    /// A turn: questions asked again, records submitted, everything ready put into the outbox.
    pub fn turn(&mut self, now: u64, load: Load, rng: &mut Rng, oracle: &mut Oracle) {
        let again = now >= self.last_turn + 100_000;
        if again {
            self.last_turn = now;
        }
        if matches!(self.role, Role::Opening(_))
            && now > *self.since.get_or_insert(now) + OPEN_MICROS_MAX
        {
            self.role = Role::Dead;
        }
        match &mut self.role {
            Role::Opening(recovery) if again => recovery.handle(Event::Tick),
            Role::Writing(writer, opened) => {
                submit(writer, load, &mut self.watermark, rng, oracle);
                if rng.chance(800) {
                    writer.flush();
                }
                if rng.chance(300) || load.settle {
                    let low_water = Lsn(writer.vdl().end.0.saturating_sub(load.versions));
                    self.low_water = self.low_water.max(low_water);
                    oracle.raised(self.low_water);
                    writer.set_low_water(self.low_water);
                    writer.flush();
                    writer.announce();
                }
                if rng.chance(load.reads) {
                    self.outbox.extend(read(writer, self.low_water, rng));
                }
                if again {
                    for (node, group) in writer.to_adopt().collect::<Vec<_>>() {
                        if let Some(message) = writer.adopt_message(group, &opened.history) {
                            self.outbox.push((node, group, message));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Collects what is to be sent; messages of one connection leave in order.
    pub fn pump(&mut self, now: u64) -> Vec<(NodeId, GroupId, Message)> {
        let mut sends = std::mem::take(&mut self.outbox);
        match &mut self.role {
            Role::Opening(recovery) => {
                while let Some(Command::Send { node, message }) = recovery.poll() {
                    let group = group_of(&message);
                    sends.push((node, group, message));
                }
            }
            Role::Writing(writer, _) => {
                for node in self.links.keys() {
                    while let Some(bytes) = writer.poll_send(*node) {
                        let batch = Batch::decode(bytes).expect("a writer's batch is well formed");
                        sends.push((*node, batch.header.segment.group, Message::Append(batch)));
                    }
                }
            }
            Role::Dead => sends.clear(),
        }
        sends.retain(|(node, ..)| self.links.get(node).is_some_and(|link| link.up));
        for (node, ..) in &sends {
            if let Some(link) = self.links.get_mut(node) {
                link.unanswered_since.get_or_insert(now);
            }
        }
        sends
    }
}

/// Opens that take longer are given up for a newer epoch: what they decided on may hang on a node
/// that is gone.
const OPEN_MICROS_MAX: u64 = 2_000_000;

/// What a writer is to do in a turn.
#[derive(Clone, Copy)]
pub struct Load {
    /// Records to submit at most.
    pub records: u64,
    /// Share of records with parts in several groups, thousandths.
    pub shared: u64,
    /// Turns in which some pages are read, thousandths.
    pub reads: u64,
    /// Bytes of log below the durable point at whose ends pages may still be read.
    pub versions: u64,
    /// Flush and announce without chance.
    pub settle: bool,
}

/// Pages a group has at most.
const PAGES: u64 = 60;

fn random_key(rng: &mut Rng) -> PageKey {
    let mut key = [0; PageKey::SIZE];
    key[19] = rng.below(PAGES) as u8;
    PageKey(key)
}

/// A request for some pages at a random read point, to a member known to be complete to there.
fn read<R: Rules>(
    writer: &Writer<R>,
    low_water: Lsn,
    rng: &mut Rng,
) -> Option<(NodeId, GroupId, Message)> {
    let groups: Vec<GroupId> = writer.groups().map(|setup| setup.group).collect();
    let group = *rng.pick(&groups)?;
    let durable = writer.vdl().end;
    let lowest = low_water.min(durable);
    // Some below what may still be answered for: rightly, or not at all.
    let from = if rng.chance(200) { lowest.0.saturating_sub(1_000) } else { lowest.0 };
    let read_point = Lsn(rng.between(from, durable.0));
    let complete_to = writer.group_tail_at(group, read_point.max(lowest));
    let readers: Vec<NodeId> = writer.readers(group, complete_to).collect();
    let segment = SegmentId { volume: VOLUME, group };
    let keys = (0..rng.between(1, 6)).map(|_| random_key(rng)).collect();
    let message = Message::ReadPages { segment, read_point, complete_to, keys };
    Some((*rng.pick(&readers)?, group, message))
}

fn submit<R: Rules>(
    writer: &mut Writer<R>,
    load: Load,
    watermark: &mut u64,
    rng: &mut Rng,
    oracle: &mut Oracle,
) {
    for _ in 0..rng.below(load.records + 1) {
        if writer.lead_bytes() > LEAD_BYTES_MAX {
            return;
        }
        let last = writer.submitted();
        let start = last.end.aligned().max(Lsn(8));
        let span = Span { start, end: start.plus(rng.between(24, 400)) };
        let groups: Vec<GroupId> = writer.groups().map(|setup| setup.group).collect();
        let mut chosen: Vec<GroupId> = if rng.chance(load.shared) {
            groups.iter().copied().filter(|_| rng.chance(600)).collect()
        } else {
            Vec::new()
        };
        if chosen.is_empty() {
            chosen.extend(rng.pick(&groups).copied());
        }
        let part = |group: GroupId| {
            // One body in 256 replaces its pages.
            let body: Vec<u8> = (0..rng.between(1, 24)).map(|_| rng.below(256) as u8).collect();
            let changes = (0..rng.between(1, 3)).map(|_| change(rng)).collect();
            (group, changes, Bytes::from(body))
        };
        let parts = chosen.into_iter().map(part).collect();
        let record = Record { span, prev: last.start, parts };
        *watermark += 1;
        oracle.submitted(writer.epoch(), &record, *watermark);
        writer.submit(record, *watermark);
    }
}

fn change(rng: &mut Rng) -> Change {
    let key = random_key(rng);
    match rng.below(40) {
        0 => Change::Put(key, Bytes::from(vec![rng.below(256) as u8; 20])),
        1 => {
            let mut to = key;
            to.0[19] += 1 + rng.below(8) as u8;
            Change::Delete { from: key, to }
        }
        _ => Change::Apply(key),
    }
}

fn group_of(message: &Message) -> GroupId {
    match message {
        Message::Seal { segment, .. }
        | Message::AskReport { segment }
        | Message::AskTail { segment, .. }
        | Message::Adopt { segment, .. } => segment.group,
        other => unreachable!("a recovery does not send {other:?}"),
    }
}
