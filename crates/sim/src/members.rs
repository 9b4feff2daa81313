//! Members replaced while everything else goes wrong: the control plane's part, in the simulator.
//!
//! The control plane is one, and never wrong about its own state; what it tells arrives late, or at
//! some before others, and what it hears may be long past: so every step is a compare-and-set.

use protocol::{Crippled, Rules};
use types::{Epoch, GroupId, Holder, Members, MembershipEpoch, NodeId, READ_QUORUM, SegmentId};
use wire::{Peer, SegmentSpec};

use crate::instance::Role;
use crate::oracle::Violation;
use crate::world::{Happening, VOLUME, World};

/// Longest time that news of a member set take, microseconds.
const NEWS_MICROS: u64 = 300_000;

impl<R: Rules> World<R> {
    /// What a node that holds the group is told of it.
    pub(crate) fn spec(&self, group: GroupId, fresh: bool) -> SegmentSpec {
        let (_, membership, members) = self.geometry[group.0 as usize];
        let peer = |holder| Peer { holder, address: String::new() };
        SegmentSpec {
            segment: SegmentId { volume: VOLUME, group },
            membership,
            members: members.places().map(|place| peer(place.present)).into(),
            joining: members.places().iter().filter_map(|place| place.joining).map(peer).collect(),
            fresh,
        }
    }

    /// A turn of the nemesis: some places of a group are handed over, or that is given up.
    pub(crate) fn replace_some(&mut self) {
        let group = self.rng.below(self.geometry.len() as u64) as usize;
        for _ in 0..self.rng.between(1, 3) {
            let place = self.rng.below(types::COPIES as u64) as usize;
            let (_, _, members) = self.geometry[group];
            if members.places()[place].joining.is_none() {
                self.hand_over(group, place);
            } else if self.rng.chance(300) {
                self.change(group, "given up", |places, _| places[place].joining = None);
            }
        }
    }

    /// Hands a place over to some node that does not hold the group.
    fn hand_over(&mut self, group: usize, place: usize) {
        let Some(node) = self.spare(group) else { return };
        self.change(group, "handed over", |places, since| {
            places[place].joining = Some(Holder { node, since });
        });
    }

    /// A living node that holds no place of the group.
    fn spare(&mut self, group: usize) -> Option<NodeId> {
        let (_, _, members) = self.geometry[group];
        let holds = |name: &NodeId| members.holders().any(|(_, holder)| holder.node == *name);
        let spare = |node: &usize| self.nodes[*node].up && !holds(&self.names[*node]);
        let spares: Vec<usize> = (0..self.nodes.len()).filter(spare).collect();
        self.rng.pick(&spares).map(|node| self.names[*node])
    }

    /// A new member set: holders are told by and by, and those without a place to forget theirs.
    fn change(
        &mut self,
        group: usize,
        what: &str,
        edit: impl FnOnce(&mut [types::Place; types::COPIES], MembershipEpoch),
    ) {
        let (id, membership, before) = self.geometry[group];
        let next = membership.next();
        let mut places = *before.places();
        edit(&mut places, next);
        let after = Members::new(places).expect("no node gets two places");
        self.geometry[group] = (id, next, after);
        self.trace.note("members", &[id.0.into(), next.0], || {
            format!(
                "group {id}, members {next}: {what}, now {:?}",
                places.map(|p| (p.present.node, p.joining.map(|j| j.node)))
            )
        });
        for (_, holder) in after.holders() {
            // One of the first six that has not heard of the group yet begins with an empty, true copy.
            let spec = self.spec(id, holder.since == MembershipEpoch::FIRST);
            let node = self.index(holder.node);
            let delay = self.rng.between(100, NEWS_MICROS);
            self.schedule(delay, Happening::Create { node, spec });
        }
        for (_, holder) in before.holders() {
            if !after.holders().any(|(_, stays)| stays == holder) {
                let node = self.index(holder.node);
                let delay = self.rng.between(100, NEWS_MICROS);
                let what = Happening::Drop { node, group: id, membership: next };
                self.schedule(delay, what);
            }
        }
    }

    /// What an instance says of its members reaches the control plane: those that joined and are whole,
    /// and groups that want for members. In return it may learn of newer member sets.
    pub(crate) fn consult(&mut self, instance: usize) -> Result<(), Violation> {
        let (epoch, news) = (self.instances[instance].epoch, self.rng.chance(300));
        if self.calm && epoch < self.epoch {
            // It hears that it was overtaken, even if whoever did so is gone before it sealed anything.
            self.instances[instance].role = Role::Dead;
        }
        match &mut self.instances[instance].role {
            Role::Writing(writer, _) => {
                let before = writer.vdl();
                for (group, membership, members) in self.geometry.iter().filter(|_| news) {
                    writer.set_members(*group, *membership, *members);
                }
                if writer.vdl() != before {
                    self.oracle.advanced(epoch, before, writer.vdl())?;
                }
                for (group, membership, node) in writer.filled().collect::<Vec<_>>() {
                    let delay = self.rng.between(100, NEWS_MICROS);
                    let what = Happening::Filled { epoch, group, membership, node };
                    self.schedule(delay, what);
                }
            }
            Role::Opening(recovery) => {
                for crippled in recovery.crippled() {
                    let delay = self.rng.between(100, NEWS_MICROS);
                    self.schedule(delay, Happening::Crippled { epoch, crippled });
                }
            }
            Role::Dead => {}
        }
        Ok(())
    }

    /// A writer says that a joining holder is whole: it gets the place.
    pub(crate) fn filled(
        &mut self,
        epoch: Epoch,
        group: GroupId,
        membership: MembershipEpoch,
        node: NodeId,
    ) {
        let (_, current, members) = self.geometry[group.0 as usize];
        if epoch != self.epoch || membership != current {
            return;
        }
        let joins = |place: &types::Place| place.joining.is_some_and(|of| of.node == node);
        let Some(at) = members.places().iter().position(joins) else { return };
        self.change(group.0 as usize, "replaced", |places, _| take_over(&mut places[at]));
    }

    /// A recovery cannot write to a group, and names the members that know of everything durable: the
    /// places of others that are silent go to whoever joins there, or to a new node.
    pub(crate) fn crippled(&mut self, epoch: Epoch, crippled: &Crippled) {
        let group = crippled.group.0 as usize;
        let (_, current, members) = self.geometry[group];
        let fewer = crippled.survivors.len() < READ_QUORUM;
        if epoch != self.epoch || crippled.membership != current || fewer {
            return;
        }
        for (at, place) in members.places().iter().enumerate() {
            let survives = crippled.survivors.contains(&place.present.node);
            let silent = !self.nodes[self.index(place.present.node)].up || self.rng.chance(100);
            // Nobody could mend it if the survivors were lost in this very moment.
            let lost = self.index(place.present.node);
            let hurt = self.hurt.is_some();
            if survives || !silent || hurt || self.full_without(&[lost]) < READ_QUORUM {
                continue;
            }
            if place.joining.is_none() {
                self.hand_over(group, at);
            }
            if self.geometry[group].2.places()[at].joining.is_some() {
                self.change(group, "taken over", |places, _| take_over(&mut places[at]));
                self.open();
                return;
            }
        }
    }

    /// Present holders of each group that are full and not among `lost`: the least of any group.
    pub(crate) fn full_without(&self, lost: &[usize]) -> usize {
        let full = |members: &Members, group: GroupId| {
            let counts = |holder: &Holder| {
                let node = self.index(holder.node);
                let whole = self.nodes[node].holds_full(group, holder.since);
                whole && !lost.contains(&node) && !self.gone.contains(&node)
            };
            members.places().iter().filter(|place| counts(&place.present)).count()
        };
        let groups = self.geometry.iter().map(|(group, _, members)| full(members, *group));
        groups.min().unwrap_or(0)
    }

    /// Nodes are lost for good, as many as three at once: a zone and one more.
    pub(crate) fn lose_for_good(&mut self) {
        let living: Vec<usize> =
            (0..self.nodes.len()).filter(|node| !self.gone.contains(node)).collect();
        let spare = living.len().saturating_sub(types::COPIES);
        let first = self.rng.below(living.len() as u64) as usize;
        let count = self.rng.between(1, 3).min(spare as u64) as usize;
        let lost: Vec<usize> =
            (0..count).map(|step| living[(first + step) % living.len()]).collect();
        if lost.is_empty() || self.hurt.is_some() || self.full_without(&lost) < READ_QUORUM {
            return;
        }
        for node in lost {
            self.crash(node, true, None);
            self.gone.insert(node);
        }
    }

    /// Places of nodes that are gone for good are handed over, without the nemesis's help.
    pub(crate) fn replace_gone(&mut self) {
        for group in 0..self.geometry.len() {
            let (_, _, members) = self.geometry[group];
            for (at, place) in members.places().iter().enumerate() {
                let gone = |holder: &Holder| self.gone.contains(&self.index(holder.node));
                match place.joining {
                    Some(joining) if gone(&joining) => {
                        self.change(group, "given up", |places, _| places[at].joining = None);
                    }
                    None if gone(&place.present) => self.hand_over(group, at),
                    // A spare node may be of more use where a member is gone.
                    Some(_) if !gone(&place.present) && self.calm => {
                        self.change(group, "given up", |places, _| places[at].joining = None);
                    }
                    _ => {}
                }
            }
        }
    }
}

fn take_over(place: &mut types::Place) {
    if let Some(joining) = place.joining.take() {
        place.present = joining;
    }
}
