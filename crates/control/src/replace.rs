//! Members replaced: whose place goes to whom, and when. Pure (rules C10 to C14).
//!
//! ```text
//!   begin     the place gets a joining holder        a node is lost, drained, silent or slow too long
//!   give up   it loses it again                      the node is well, or the joining one is lost
//!   finish    the joining holder gets the place      the current writer says that it is whole
//!   rescue    it, or a new node, gets it at once      an opening finds three whole members, not four
//! ```
//!
//! Every step raises the group's membership epoch, and is decided on the record as it is now: what a
//! writer or a recovery says of an older one counts for nothing.

use std::collections::BTreeSet;

use registry::{CrippledGroup, Duty, Filled, Problem, ProblemCode, Rescue};
use types::{NodeId, READ_QUORUM, VolumeId, WRITE_QUORUM};

use crate::decide::{check_epoch, find, problem};
use crate::state::{
    Change, FormerRecord, GroupRecord, JoiningRecord, Loads, MemberRecord, NodeRecord, State,
    VolumeRecord,
};

/// What the control plane hears of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It was heard lately.
    Alive,
    /// So it was, but some writer finds it suspect, or found it slow lately: nothing new is given to it.
    Doubtful,
    /// It was not, for a while.
    Silent,
    /// It has been silent for so long that its segments are rebuilt elsewhere.
    Lost,
}

/// How the volume's current writer finds a node, by the answers to what it sends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// As quick as the others, or not a holder of anything.
    Well,
    /// Far slower than the others.
    Suspect,
    /// That for so long that its segments are rebuilt elsewhere.
    Slow,
    /// Not heard yet: this process has only just begun.
    Unknown,
}

/// What is known of nodes at one moment.
pub(crate) struct Nodes<'a> {
    /// By their own heartbeats.
    pub health: &'a dyn Fn(NodeId) -> Health,
    /// By the word of a volume's writer.
    pub found: &'a dyn Fn(VolumeId, NodeId) -> Found,
}

/// What has to change in who holds what, as nodes are and are meant to be. Looks at every group every two
/// seconds: what does not change is not copied.
pub(crate) fn plan(state: &State, nodes: &Nodes<'_>) -> Vec<Change> {
    // Loads change with every place given away: each group is planned on what was planned before.
    let mut loads = None;
    let mut changes = Vec::new();
    for (id, known) in &state.volumes {
        let fit = |node: &&NodeRecord| {
            node.duty == Duty::Serving
                && (nodes.health)(node.name) != Health::Lost
                && (nodes.found)(*id, node.name) != Found::Slow
        };
        let fit: BTreeSet<NodeId> =
            state.nodes.values().filter(fit).map(|node| node.name).collect();
        let settled = |group: &GroupRecord| {
            group.joining.is_empty()
                && group.members.iter().all(|member| fit.contains(&member.node))
        };
        let mut volume: Option<VolumeRecord> = None;
        let unsettled = known.groups.iter().enumerate().filter(|(_, group)| !settled(group));
        for (index, group) in unsettled {
            let mut after = group.clone();
            tend(state, loads.get_or_insert_with(|| state.loads()), *id, &mut after, nodes);
            if after != *group {
                volume.get_or_insert_with(|| known.clone()).groups[index] = after;
            }
        }
        changes.extend(volume.map(Change::Volume));
    }
    changes
}

/// One group's places: those of lost nodes before those of others.
fn tend(
    state: &State,
    loads: &mut Loads,
    volume: VolumeId,
    group: &mut GroupRecord,
    nodes: &Nodes<'_>,
) {
    let gone = |node| is_gone(state, node, nodes.health);
    let leaves = |node| gone(node) || duty(state, node) == Duty::Draining;
    let well = |node| (nodes.found)(volume, node) == Found::Well && is_up(state, node, nodes);
    for place in 0..group.members.len() {
        let Some(joining) = joining(group, place) else { continue };
        if leaves(joining.member.node) || well(group.members[place].node) {
            give_up(loads, group, place);
        }
    }
    let mut places: Vec<usize> = (0..group.members.len()).collect();
    places.sort_by_key(|place| !gone(group.members[*place].node));
    for place in places {
        let present = group.members[place].node;
        let slow = || is_too_slow(state, volume, group, place, nodes);
        if joining(group, place).is_some() || !(leaves(present) || slow()) {
            continue;
        }
        match replacement(state, loads, group, present, nodes.health) {
            Some(node) => {
                *loads.entry(node.name).or_default() += 1;
                begin(group, place, node);
            }
            None if gone(present) => make_way(state, loads, group, present, nodes.health),
            None => {}
        }
    }
}

/// A lost node's zone has no other node left, but one that takes a place over from somebody who is still
/// there: that can wait.
fn make_way(
    state: &State,
    loads: &mut Loads,
    group: &mut GroupRecord,
    lost: NodeId,
    health: &dyn Fn(NodeId) -> Health,
) {
    let az = |node| state.nodes.get(&node).map(|record| record.az);
    let waits = |joining: &&JoiningRecord| {
        let present = group.members[joining.place].node;
        az(present) == az(lost) && !is_gone(state, present, health)
    };
    if let Some(place) = group.joining.iter().find(waits).map(|joining| joining.place) {
        give_up(loads, group, place);
    }
}

fn joining(group: &GroupRecord, place: usize) -> Option<&JoiningRecord> {
    group.joining.iter().find(|joining| joining.place == place)
}

fn is_gone(state: &State, node: NodeId, health: &dyn Fn(NodeId) -> Health) -> bool {
    duty(state, node) == Duty::Lost || health(node) == Health::Lost
}

fn is_up(state: &State, node: NodeId, nodes: &Nodes<'_>) -> bool {
    duty(state, node) == Duty::Serving
        && matches!((nodes.health)(node), Health::Alive | Health::Doubtful)
}

/// Whether a place is to change hands because its holder is slow and nothing else (rule C14): no other node
/// is, no other place of the group is being handed over, and without it a write quorum is well. Where
/// several are slow it is their network, their load or the writer, which copying would not mend.
fn is_too_slow(
    state: &State,
    volume: VolumeId,
    group: &GroupRecord,
    place: usize,
    nodes: &Nodes<'_>,
) -> bool {
    let slow = group.members[place].node;
    let well = |node: NodeId| (nodes.found)(volume, node) == Found::Well;
    let others = group.members.iter().filter(|member| member.node != slow);
    let fine = others.filter(|member| well(member.node) && is_up(state, member.node, nodes));
    (nodes.found)(volume, slow) == Found::Slow
        && group.joining.is_empty()
        && state.nodes.keys().all(|node| *node == slow || well(*node))
        && fine.count() >= WRITE_QUORUM
}

fn duty(state: &State, node: NodeId) -> Duty {
    state.nodes.get(&node).map_or(Duty::Lost, |record| record.duty)
}

/// The least loaded living node of the same zone that has nothing to do with the group.
fn replacement<'a>(
    state: &'a State,
    loads: &Loads,
    group: &GroupRecord,
    present: NodeId,
    health: &dyn Fn(NodeId) -> Health,
) -> Option<&'a NodeRecord> {
    let az = state.nodes.get(&present)?.az;
    let free = |node: &&NodeRecord| {
        let strange = group.holder(node.name).is_none()
            && group.former.iter().all(|former| former.node != node.name);
        let able = node.duty == Duty::Serving && health(node.name) == Health::Alive;
        node.az == az && strange && able
    };
    let free = state.nodes.values().filter(free);
    free.min_by_key(|node| (loads.get(&node.name).copied().unwrap_or(0), node.name))
}

fn begin(group: &mut GroupRecord, place: usize, node: &NodeRecord) {
    group.membership_epoch += 1;
    let member = MemberRecord::new(node, group.membership_epoch);
    group.joining.push(JoiningRecord { place, member });
}

fn give_up(loads: &mut Loads, group: &mut GroupRecord, place: usize) {
    group.membership_epoch += 1;
    let by = group.membership_epoch;
    for gone in group.joining.extract_if(.., |joining| joining.place == place) {
        let node = gone.member.node;
        let load = loads.entry(node).or_default();
        *load = load.saturating_sub(1);
        group.former.push(FormerRecord { node, by });
    }
}

/// The joining holder of a place gets it.
fn take_over(group: &mut GroupRecord, place: usize) {
    let Some(at) = group.joining.iter().position(|joining| joining.place == place) else { return };
    group.membership_epoch += 1;
    let by = group.membership_epoch;
    let member = group.joining.swap_remove(at).member;
    let gone = std::mem::replace(&mut group.members[place], member);
    group.former.push(FormerRecord { node: gone.node, by });
}

/// A writer says which joining holders are whole: they get their places, if it is the current writer and
/// counts by the member set in force (compare-and-set). Also returns who did.
pub(crate) fn finish<'a>(
    state: &State,
    id: VolumeId,
    epoch: u64,
    filled: &'a [Filled],
) -> Result<(Option<Change>, Vec<&'a Filled>), Problem> {
    let known = find(state, id)?;
    if filled.is_empty() || epoch != known.epoch {
        return Ok((None, Vec::new()));
    }
    let mut volume = known.clone();
    let mut took = Vec::new();
    for one in filled {
        let Some(group) = volume.groups.iter_mut().find(|group| group.id == one.group) else {
            continue;
        };
        if group.membership_epoch != one.membership_epoch {
            continue;
        }
        let joining = group.joining.iter().find(|joining| joining.member.node == one.node);
        if let Some(place) = joining.map(|joining| joining.place) {
            take_over(group, place);
            took.push(one);
        }
    }
    Ok(((!took.is_empty()).then_some(Change::Volume(volume)), took))
}

/// An opening lacks a write quorum, and names the members that know of everything durable: where there are
/// three of them, the places of silent others go to new nodes at once. Returns how many did.
pub(crate) fn rescue(
    state: &State,
    id: VolumeId,
    wish: &Rescue,
    health: &dyn Fn(NodeId) -> Health,
) -> Result<(Option<Change>, usize), Problem> {
    let known = find(state, id)?;
    check_epoch(known, wish.epoch)?;
    let mut volume = known.clone();
    let mut places = 0;
    for crippled in &wish.groups {
        let survivors = survivors(crippled)?;
        if let Some(group) = volume.groups.iter_mut().find(|group| group.id == crippled.group)
            && group.membership_epoch == crippled.membership_epoch
        {
            places += replace_silent(state, group, &survivors, health);
        }
    }
    Ok(((places > 0).then_some(Change::Volume(volume)), places))
}

fn survivors(crippled: &CrippledGroup) -> Result<Vec<NodeId>, Problem> {
    let names = crippled.survivors.iter().map(|name| name.parse::<NodeId>());
    let names: Result<Vec<NodeId>, _> = names.collect();
    names.map_err(|error| problem(ProblemCode::Invalid, error.to_string()))
}

fn replace_silent(
    state: &State,
    group: &mut GroupRecord,
    survivors: &[NodeId],
    health: &dyn Fn(NodeId) -> Health,
) -> usize {
    // Places are counted, not names: one that is said twice is one.
    let survives = |member: &&MemberRecord| survivors.contains(&member.node);
    if group.members.iter().filter(survives).count() < READ_QUORUM {
        return 0;
    }
    let mut places = 0;
    for place in 0..group.members.len() {
        let node = group.members[place].node;
        if survivors.contains(&node) || !is_gone(state, node, health) {
            continue;
        }
        if joining(group, place).is_none() {
            let Some(new) = replacement(state, &state.loads(), group, node, health) else {
                continue;
            };
            begin(group, place, new);
        }
        take_over(group, place);
        places += 1;
    }
    places
}

/// Whether the node has a place of the group that nobody joins yet.
fn keeps(group: &GroupRecord, name: NodeId) -> bool {
    let place = group.members.iter().position(|member| member.node == name);
    place.is_some_and(|place| joining(group, place).is_none())
}

/// A node's duty, when its zone can do without it.
pub(crate) fn set_duty(
    state: &State,
    name: NodeId,
    duty: Duty,
    health: &dyn Fn(NodeId) -> Health,
) -> Result<Option<Change>, Problem> {
    let Some(known) = state.nodes.get(&name) else {
        let message = format!("this cluster has no node {name}; `sixfold node list` names them");
        return Err(problem(ProblemCode::NotFound, message));
    };
    if known.duty == duty {
        return Ok(None);
    }
    if duty != Duty::Serving {
        let loads = state.loads();
        let groups = state.volumes.values().flat_map(|volume| &volume.groups);
        for group in groups.filter(|group| keeps(group, name)) {
            if replacement(state, &loads, group, name, health).is_none() {
                let message = format!(
                    "zone {} has no other living node that could take {name}'s segments; start one \
                     there with `sixfold node`, then ask again",
                    known.az
                );
                return Err(problem(ProblemCode::TooFewNodes, message));
            }
        }
    }
    Ok(Some(Change::Node(NodeRecord { duty, ..known.clone() })))
}

/// Orders to forget: (volume, group, node, by which member set).
pub(crate) fn forgets(state: &State) -> Vec<(VolumeId, u32, FormerRecord)> {
    let groups = state
        .volumes
        .values()
        .flat_map(|volume| volume.groups.iter().map(|group| (volume.id, group)));
    let former = groups.flat_map(|(volume, group)| {
        group.former.iter().map(move |former| (volume, group.id, former.clone()))
    });
    former.collect()
}

/// A node has forgotten its copy.
pub(crate) fn forgotten(
    state: &State,
    id: VolumeId,
    group: u32,
    former: &FormerRecord,
) -> Option<Change> {
    let mut volume: VolumeRecord = state.volumes.get(&id)?.clone();
    volume.group_mut(group)?.former.retain(|other| other != former);
    Some(Change::Volume(volume))
}

#[cfg(test)]
mod tests;
