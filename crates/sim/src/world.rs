//! The deterministic world: one queue of happenings in simulated time, one seeded generator, the
//! real protocol code in every node and instance.
//!
//! A run has two phases. In the safety phase the nemesis does what the seed's options allow. In the
//! liveness phase faults stop, four nodes come back and progress is demanded; then all come back and
//! all six copies of every group must become equal, byte for byte, to the promised log.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use protocol::{Crippled, GroupMembers, GroupSetup, Input, Rules};
use segstore::StoreError;
use types::{Epoch, GroupId, History, Lsn, Members, MembershipEpoch, NodeId, VolumeId};
use wire::{Message, SegmentSpec};

use crate::copies::CopyOf;
use crate::disks::{Hurt, Image};
use crate::instance::{Instance, Load, Role};
use crate::net::{End, Net};
use crate::node::{Effect, Node, Route};
use crate::options::Options;
use crate::oracle::{Oracle, Violation};
use crate::rng::Rng;
use crate::trace::Trace;

/// The volume of every run.
pub const VOLUME: VolumeId = VolumeId(0x51f0);

const INSTANCE_TURN_MICROS: u64 = 12_000;
/// A sync of a node that is slow.
const SLOW_SYNC_MICROS: u64 = 2_000_000;

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A request arrives at a node.
    Request { node: usize, life: u64, route: Route, message: Message },
    /// An answer arrives at an instance.
    Answer { instance: usize, session: u64, node: usize, group: GroupId, message: Message },
    /// An answer arrives at a node from its peer.
    PeerAnswer { node: usize, life: u64, peer: usize, group: GroupId, message: Message },
    /// A write is durable.
    Written { node: usize, life: u64 },
    /// A gossip turn of all of a node's segments.
    Gossip { node: usize, life: u64 },
    /// A peer gives out its files, if it follows this history.
    Given { copy: CopyOf, history: History },
    /// A copy of files completes; whether its source's disk was hurt when it began.
    Copied { copy: CopyOf, hurt: bool },
    /// A node's power is lost, unless it was before.
    Cut { node: usize, life: u64 },
    /// A node's disk works again.
    Relief { node: usize },
    /// A hurt disk is scrubbed.
    Scrub { node: usize },
    /// A node's power comes back.
    Restart { node: usize },
    /// A node learns of a group it is to hold, or of who else does.
    Create { node: usize, spec: SegmentSpec },
    /// A node learns that another has its place.
    Drop { node: usize, group: GroupId, membership: MembershipEpoch },
    /// The control plane learns that a joining holder is whole.
    Filled { epoch: Epoch, group: GroupId, membership: MembershipEpoch, node: NodeId },
    /// The control plane learns that a group wants for members.
    Crippled { epoch: Epoch, crippled: Crippled },
    /// Three nodes are struck.
    Strike { nodes: Vec<usize> },
    /// An instance's turn.
    Turn { instance: usize },
    /// The nemesis's turn.
    Nemesis,
}

struct Entry {
    at: u64,
    number: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The world of one seed.
pub struct World<R: Rules> {
    /// Simulated time, microseconds.
    pub now: u64,
    number: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    /// The only source of chance.
    pub rng: Rng,
    /// What the run is like.
    pub options: Options,
    pub(crate) names: Vec<NodeId>,
    /// Storage nodes.
    pub nodes: Vec<Node<R>>,
    /// Database instances, oldest first.
    pub instances: Vec<Instance<R>>,
    /// The network.
    pub net: Net,
    /// The checkers.
    pub oracle: Oracle,
    /// What happened.
    pub trace: Trace,
    pub(crate) epoch: Epoch,
    pub(crate) geometry: Vec<GroupMembers>,
    /// No faults any more.
    pub calm: bool,
    /// Writers submit no more.
    pub quiet: bool,
    /// Kill the newest instance when its recovery has taken so many events.
    pub kill_at_step: Option<u64>,
    /// Nodes that stay down until released.
    pub held_down: BTreeSet<usize>,
    /// Copies of files put in place.
    pub copies: u64,
    /// The node whose disk may have lost something without a word.
    pub(crate) hurt: Option<(usize, Hurt)>,
    pub(crate) images: BTreeMap<usize, Image>,
    /// Disks that lost something without a word.
    pub hurts: u64,
    /// Segments mended with peers' pages.
    pub mends: u64,
    /// Nodes that never come back.
    pub gone: BTreeSet<usize>,
}

impl<R: Rules> World<R> {
    /// A world of new nodes and a volume that was never opened.
    ///
    /// # Errors
    /// A store's.
    pub fn new(mut rng: Rng, options: Options, trace: Trace) -> Result<Self, StoreError> {
        let names: Vec<NodeId> = (0..options.nodes)
            .map(|index| format!("n{index}").parse().expect("a valid name"))
            .collect();
        let mut world = World {
            now: 0,
            number: 0,
            queue: BinaryHeap::new(),
            nodes: names
                .iter()
                .map(|name| Node::new(*name, options.store.clone()))
                .collect::<Result<_, _>>()?,
            names,
            instances: Vec::new(),
            net: Net::default(),
            oracle: Oracle::default(),
            trace,
            epoch: Epoch(0),
            geometry: Vec::new(),
            calm: false,
            quiet: false,
            kill_at_step: None,
            held_down: BTreeSet::new(),
            copies: 0,
            hurt: None,
            images: BTreeMap::new(),
            hurts: 0,
            mends: 0,
            gone: BTreeSet::new(),
            rng: Rng::new(rng.next_u64()),
            options,
        };
        for _ in 0..world.options.groups {
            let (_, specs) = world.plan_group();
            for (node, spec) in specs {
                world.nodes[node].hold(spec, &mut Vec::new())?;
            }
        }
        for node in 0..world.nodes.len() {
            world.schedule_gossip(node);
        }
        let turn = world.options.turn_micros;
        world.schedule(turn, Happening::Nemesis);
        world.open();
        Ok(world)
    }

    pub(crate) fn schedule(&mut self, delay: u64, what: Happening) {
        self.number += 1;
        let entry = Entry { at: self.now + delay, number: self.number, what };
        self.queue.push(Reverse(entry));
    }

    pub(crate) fn schedule_gossip(&mut self, node: usize) {
        let delay = self.rng.between(1, self.options.gossip_micros);
        let life = self.nodes[node].life;
        self.schedule(delay, Happening::Gossip { node, life });
    }

    pub(crate) fn index(&self, name: NodeId) -> usize {
        self.names.iter().position(|other| *other == name).expect("a node of this world")
    }

    /// Chooses six members for the next group.
    pub(crate) fn plan_group(&mut self) -> (GroupSetup, Vec<(usize, SegmentSpec)>) {
        let group = GroupId(self.geometry.len() as u32);
        let living: Vec<usize> =
            (0..self.names.len()).filter(|node| !self.gone.contains(node)).collect();
        let first = self.rng.below(living.len() as u64) as usize;
        let chosen: Vec<usize> = (0..6).map(|i| living[(first + i) % living.len()]).collect();
        let members = Members::first(std::array::from_fn(|i| self.names[chosen[i]]));
        let (members, membership) = (members.expect("six nodes"), MembershipEpoch::FIRST);
        self.geometry.push((group, membership, members));
        let spec = self.spec(group, true);
        let setup = GroupSetup { group, membership, members, tail: Lsn::ZERO };
        (setup, chosen.into_iter().map(|node| (node, spec.clone())).collect())
    }

    /// The control plane raises the epoch and a new instance opens the volume.
    pub fn open(&mut self) {
        self.epoch = self.epoch.next();
        let instance = Instance::new(self.epoch, self.geometry.clone(), &self.names);
        self.trace.note("open", &[self.epoch.0], || format!("epoch {} opens", self.epoch));
        self.instances.push(instance);
        let delay = self.rng.between(1, INSTANCE_TURN_MICROS);
        self.schedule(delay, Happening::Turn { instance: self.instances.len() - 1 });
    }

    /// Runs until the simulated time, or until `done` says so.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run(&mut self, until: u64, done: impl Fn(&Self) -> bool) -> Result<bool, Violation> {
        let mut checked = 0;
        while let Some(Reverse(entry)) = self.queue.pop() {
            if entry.at > until {
                self.queue.push(Reverse(entry));
                self.now = until;
                return Ok(false);
            }
            self.now = entry.at;
            self.happen(entry.what)?;
            checked += 1;
            if checked % 64 == 0 && done(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn happen(&mut self, what: Happening) -> Result<(), Violation> {
        self.trace.at(self.now);
        match what {
            Happening::Request { node, life, route, message } => {
                if let Some(delay) = self.deferred(End::Node(node)) {
                    self.schedule(delay, Happening::Request { node, life, route, message });
                } else if self.alive(node, life) {
                    self.trace.note("request", &[node as u64, route.group.0.into()], || {
                        format!("{:?} -> {}: {message:?}", route.to, self.names[node])
                    });
                    let mut effects = Vec::new();
                    self.nodes[node].request(route, message, &mut effects);
                    self.carry_out(node, effects)?;
                }
            }
            Happening::PeerAnswer { node, life, peer, group, message } => {
                if self.alive(node, life) {
                    let name = self.names[peer];
                    self.trace.note("fill", &[node as u64, peer as u64], || {
                        format!("{name} -> {}: {message:?}", self.names[node])
                    });
                    let mut effects = Vec::new();
                    self.nodes[node].answered(name, group, message, &mut effects);
                    self.carry_out(node, effects)?;
                }
            }
            Happening::Answer { instance, session, node, group, message } => {
                if let Some(delay) = self.deferred(End::Instance(instance)) {
                    let what = Happening::Answer { instance, session, node, group, message };
                    self.schedule(delay, what);
                } else {
                    self.answer(instance, session, node, group, message)?;
                }
            }
            Happening::Written { node, life } => self.written(node, life)?,
            Happening::Gossip { node, life } => {
                if self.nodes[node].life == life {
                    self.gossip(node)?;
                    self.schedule_gossip(node);
                }
            }
            Happening::Given { copy, history } => self.given(copy, &history)?,
            Happening::Copied { copy, hurt } => self.copied(copy, hurt)?,
            Happening::Cut { node, life } => {
                if self.alive(node, life) {
                    let back = self.rng.between(5_000, 200_000);
                    self.crash(node, false, Some(back));
                }
            }
            Happening::Relief { node } => self.nodes[node].relieve_disk(),
            Happening::Scrub { node } => self.scrub(node)?,
            Happening::Restart { node } => self.restart(node)?,
            Happening::Create { node, spec } => self.tell(node, spec)?,
            Happening::Drop { node, group, membership } => {
                let forgotten = self.nodes[node].forget(group, membership);
                if self.stored(node, forgotten)?.is_none() {
                    self.schedule(50_000, Happening::Drop { node, group, membership });
                }
            }
            Happening::Filled { epoch, group, membership, node } => {
                self.filled(epoch, group, membership, node);
            }
            Happening::Crippled { epoch, crippled } => self.crippled(epoch, &crippled),
            Happening::Strike { nodes } => self.strike(&nodes),
            Happening::Turn { instance } => self.turn(instance)?,
            Happening::Nemesis => self.nemesis()?,
        }
        Ok(())
    }

    /// A node is told of a group; one that is down learns of it when it asks, after its restart.
    pub(crate) fn tell(&mut self, node: usize, spec: SegmentSpec) -> Result<(), Violation> {
        let mut effects = Vec::new();
        let held = self.nodes[node].hold(spec.clone(), &mut effects);
        if self.stored(node, held)?.is_none() {
            self.schedule(50_000, Happening::Create { node, spec });
            return Ok(());
        }
        self.carry_out(node, effects)
    }

    pub(crate) fn alive(&self, node: usize, life: u64) -> bool {
        self.nodes[node].up && self.nodes[node].life == life
    }

    /// How long a stopped end still sleeps.
    fn deferred(&self, end: End) -> Option<u64> {
        let until = match end {
            End::Node(node) => self.nodes[node].paused_until,
            End::Instance(instance) => self.instances[instance].paused_until,
        };
        until.checked_sub(self.now).filter(|rest| *rest > 0)
    }

    fn written(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if !self.alive(node, life) {
            return Ok(());
        }
        self.trace.note("written", &[node as u64], || format!("{} has written", self.names[node]));
        let mut effects = Vec::new();
        let written = self.nodes[node].written(&mut effects);
        if self.stored(node, written)?.is_none() {
            if self.alive(node, life) {
                let delay = self.rng.between(1_000, 20_000);
                self.schedule(delay, Happening::Written { node, life });
            }
            return Ok(());
        }
        self.carry_out(node, effects)?;
        self.want_write(node)?;
        self.work(node)
    }

    /// Begins to write when something waits and no write is under way.
    fn want_write(&mut self, node: usize) -> Result<(), Violation> {
        let life = self.nodes[node].life;
        let begun = self.nodes[node].begin_write();
        let Some(begun) = self.stored(node, begun)? else {
            // It tries again, unless its process has ended.
            let delay = self.rng.between(1_000, 20_000);
            self.schedule(delay, Happening::Written { node, life });
            return Ok(());
        };
        if begun {
            let slow = if self.nodes[node].slow_until > self.now { 40 } else { 1 };
            let delay = slow * self.rng.between(50, self.options.sync_micros.max(60));
            let delay = if self.net.is_slow(End::Node(node)) { SLOW_SYNC_MICROS } else { delay };
            self.schedule(delay, Happening::Written { node, life });
        }
        Ok(())
    }

    /// Background work has its chance.
    fn work(&mut self, node: usize) -> Result<(), Violation> {
        if self.rng.chance(self.options.background) {
            let worked = self.nodes[node].work();
            self.stored(node, worked)?;
        }
        Ok(())
    }

    fn gossip(&mut self, node: usize) -> Result<(), Violation> {
        if self.deferred(End::Node(node)).is_some() {
            return Ok(());
        }
        let mut effects = Vec::new();
        for group in self.nodes[node].copies.keys().copied().collect::<Vec<_>>() {
            self.nodes[node].input(group, Input::Tick, &mut effects);
        }
        self.carry_out(node, effects)?;
        self.work(node)
    }

    pub(crate) fn carry_out(&mut self, node: usize, effects: Vec<Effect>) -> Result<(), Violation> {
        let mut wrote = false;
        for effect in effects {
            match effect {
                Effect::Wrote => wrote = true,
                Effect::Answer(route, message) => self.send_answer(node, route, &message),
                Effect::Ask(peer, group, message) => {
                    let (peer, session) = (self.index(peer), self.nodes[node].life);
                    let life = self.nodes[peer].life;
                    let route = Route { to: End::Node(node), session, group };
                    for delay in self.fate(End::Node(node), End::Node(peer)) {
                        let message = message.clone();
                        self.schedule(
                            delay,
                            Happening::Request { node: peer, life, route, message },
                        );
                    }
                }
                Effect::Hydrate(peer, group, history) => {
                    let (peer, life) = (self.index(peer), self.nodes[node].life);
                    let peer_life = self.nodes[peer].life;
                    let delay = self.rng.between(100, 10_000);
                    let copy = CopyOf { group, node, life, peer, peer_life };
                    self.schedule(delay, Happening::Given { copy, history });
                }
                Effect::Served(.., answer) if self.is_excused(node, &answer) => {}
                Effect::Served(group, key, read_point, answer) => {
                    self.trace.note("served", &[node as u64, read_point.0], || {
                        format!("{} serves {key} at {read_point}: {answer:?}", self.names[node])
                    });
                    let served = self.oracle.check_page(group, &key, read_point, &answer);
                    served.map_err(|Violation(what)| {
                        Violation(format!("{}, group {group}: {what}", self.names[node]))
                    })?;
                }
            }
        }
        if wrote {
            self.want_write(node)?;
        }
        Ok(())
    }

    fn fate(&mut self, from: End, to: End) -> Vec<u64> {
        self.net.fate(from, to, &self.options, &mut self.rng)
    }

    fn send_answer(&mut self, node: usize, route: Route, message: &Message) {
        let Route { to, session, group } = route;
        if let End::Instance(instance) = to {
            let link = self.instances[instance].links.get(&self.names[node]);
            if link.is_none_or(|link| link.broken || link.session != session) {
                return;
            }
        }
        let fate = self.fate(End::Node(node), to);
        if let (End::Instance(instance), true) = (to, fate.is_empty()) {
            self.break_link(instance, self.names[node], session);
        }
        for delay in fate {
            let message = message.clone();
            let what = match to {
                End::Instance(instance) => {
                    Happening::Answer { instance, session, node, group, message }
                }
                End::Node(asker) => {
                    Happening::PeerAnswer { node: asker, life: session, peer: node, group, message }
                }
            };
            self.schedule(delay, what);
        }
    }

    fn answer(
        &mut self,
        instance: usize,
        session: u64,
        node: usize,
        group: GroupId,
        message: Message,
    ) -> Result<(), Violation> {
        let name = self.names[node];
        let current =
            self.instances[instance].links.get(&name).is_some_and(|l| l.session == session);
        if !current || !self.instances[instance].alive() {
            return Ok(());
        }
        self.trace.note("answer", &[instance as u64, node as u64], || {
            format!("{name} -> epoch {}: {message:?}", self.instances[instance].epoch)
        });
        let before = self.instances[instance].vdl();
        self.instances[instance].answered(name, group, message, &mut self.oracle)?;
        let after = self.instances[instance].vdl();
        if before != after {
            let end = after.map_or(0, |vdl| vdl.end.0);
            self.trace.note("vdl", &[instance as u64, end], || {
                format!("epoch {} is durable to {after:?}", self.instances[instance].epoch)
            });
        }
        if self.kill_at_step.is_some_and(|step| self.instances[instance].steps >= step) {
            self.instances[instance].role = Role::Dead;
            self.kill_at_step = None;
        }
        self.pump(instance);
        Ok(())
    }

    fn turn(&mut self, instance: usize) -> Result<(), Violation> {
        if !self.instances[instance].alive() {
            return Ok(());
        }
        let delay = self.rng.between(INSTANCE_TURN_MICROS / 2, INSTANCE_TURN_MICROS);
        if let Some(rest) = self.deferred(End::Instance(instance)) {
            self.schedule(rest + delay, Happening::Turn { instance });
            return Ok(());
        }
        let lives: BTreeMap<NodeId, u64> = (0..self.nodes.len())
            .filter(|node| {
                let (here, there) = (End::Instance(instance), End::Node(*node));
                let open = self.net.open(here, there) && self.net.open(there, here);
                open && self.nodes[*node].up && self.nodes[*node].paused_until <= self.now
            })
            .map(|node| (self.names[node], self.nodes[node].life))
            .collect();
        let load = Load {
            records: if self.quiet { 0 } else { self.options.records },
            shared: self.options.shared,
            reads: self.options.reads,
            versions: self.options.versions,
            settle: self.calm,
        };
        let state = &mut self.instances[instance];
        state.look(self.now, |node| lives.get(&node).copied());
        state.turn(self.now, load, &mut self.rng, &mut self.oracle);
        self.consult(instance)?;
        self.pump(instance);
        self.schedule(delay, Happening::Turn { instance });
        Ok(())
    }

    fn pump(&mut self, instance: usize) {
        for (name, group, message) in self.instances[instance].pump(self.now) {
            let node = self.index(name);
            let Some(link) = self.instances[instance].links.get(&name).copied() else { continue };
            if link.broken {
                continue;
            }
            let route = Route { to: End::Instance(instance), session: link.session, group };
            let fate = self.fate(End::Instance(instance), End::Node(node));
            if fate.is_empty() {
                self.break_link(instance, name, link.session);
            }
            for delay in fate {
                let message = message.clone();
                let what = Happening::Request { node, life: link.life, route, message };
                self.schedule(delay, what);
            }
        }
    }

    /// A connection that has lost something carries nothing more; its user notices by and by.
    fn break_link(&mut self, instance: usize, node: NodeId, session: u64) {
        let link = self.instances[instance].links.get_mut(&node);
        if let Some(link) = link.filter(|link| link.session == session) {
            link.broken = true;
        }
    }

    /// The newest instance that is not dead.
    #[must_use]
    pub fn newest(&self) -> Option<usize> {
        (0..self.instances.len()).rev().find(|instance| self.instances[*instance].alive())
    }
}
