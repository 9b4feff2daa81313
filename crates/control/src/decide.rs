//! Every decision of the control plane, pure: the state and a wish in, the changes and the answer out.
//!
//! Nothing here is durable yet: the caller stores the changes before it answers or acts on them.

use registry::{
    AddGroup, CreateVolume, Duty, GroupInfo, Joining, Member, NodeRegistration, OpenVolume,
    Problem, ProblemCode, SegmentPlace, VolumeInfo, WriterReady,
};
use types::{GROUP_BYTES_DEFAULT, GROUP_BYTES_MIN, NodeId, VolumeId, WRITE_QUORUM};

use crate::placement::{Candidate, place};
use crate::state::{Change, GroupRecord, MemberRecord, NodeRecord, State, VolumeRecord};
use crate::volumes::check_limit;

pub(crate) fn problem(code: ProblemCode, message: impl Into<String>) -> Problem {
    Problem { code, message: message.into() }
}

/// A node introduces itself. A name keeps its zone; a disk keeps its cluster.
pub(crate) fn register(state: &State, node: &NodeRegistration) -> Result<Vec<Change>, Problem> {
    if let Some(theirs) = node.cluster.filter(|theirs| *theirs != state.cluster) {
        return Err(problem(
            ProblemCode::Mismatch,
            format!(
                "node {}'s disk belongs to cluster {theirs}, this is {}; start it with its own \
                 control plane's address, or wipe its directory",
                node.name, state.cluster
            ),
        ));
    }
    let known = state.nodes.get(&node.name);
    if let Some(known) = known.filter(|known| known.az != node.az) {
        return Err(problem(
            ProblemCode::Mismatch,
            format!(
                "node {} is registered in zone {}, not {}; give a node of another zone another name",
                node.name, known.az, node.az
            ),
        ));
    }
    if node.address.is_empty() {
        return Err(problem(ProblemCode::Invalid, "a node needs an address, `host:port`"));
    }
    let told = known.filter(|known| known.incarnation == node.incarnation);
    let told = told.map_or(0, |known| known.log_life);
    if let Some(life) = node.log_life.filter(|life| *life < told) {
        return Err(problem(
            ProblemCode::OlderDisk,
            format!(
                "node {0}'s disk is an earlier copy of itself: its log is at life {life}, and was at \
                 {told} before, so it has forgotten what it acknowledged; wipe its directory \
                 (`sixfold dev wipe {0}` in a development cluster) and start it: its peers rebuild it",
                node.name
            ),
        ));
    }
    let record = NodeRecord {
        log_life: node.log_life.map_or(told, |life| life.max(told)),
        name: node.name,
        az: node.az,
        address: node.address.clone(),
        http: node.http.clone(),
        incarnation: node.incarnation,
        pid: node.pid,
        duty: known.map_or(Duty::Serving, |known| known.duty),
    };
    if known == Some(&record) {
        return Ok(Vec::new());
    }
    let mut changes = reassigned(state, &record);
    changes.push(Change::Node(record));
    Ok(changes)
}

/// Pending groups follow a node into its new life: nobody has written to them, so an empty copy is
/// still a true copy.
fn reassigned(state: &State, node: &NodeRecord) -> Vec<Change> {
    let mut changes = Vec::new();
    for known in state.volumes.values() {
        let mut volume = known.clone();
        let members = volume.pending.iter_mut().flat_map(|group| &mut group.members);
        for member in members.filter(|member| member.node == node.name) {
            member.assigned = node.incarnation;
        }
        if volume != *known {
            changes.push(Change::Volume(volume));
        }
    }
    changes
}

/// The segments that a node is to hold.
pub(crate) fn segments(state: &State, name: NodeId) -> Vec<SegmentPlace> {
    let mut segments = Vec::new();
    for volume in state.volumes.values() {
        segments.extend(volume.all_groups().filter_map(|group| {
            let member = group.holder(name)?;
            segment_place(state, volume.id, group, member)
        }));
    }
    segments
}

/// The order to one member to hold a group; none while the node is unknown.
pub(crate) fn segment_place(
    state: &State,
    volume: VolumeId,
    group: &GroupRecord,
    member: &MemberRecord,
) -> Option<SegmentPlace> {
    let node = state.nodes.get(&member.node)?;
    Some(SegmentPlace {
        volume,
        group: group.id,
        membership_epoch: group.membership_epoch,
        members: group.members.iter().filter_map(|member| shown(state, member)).collect(),
        joining: joining(state, group),
        // Who was given a place later has to copy what the group holds by then.
        fresh: node.incarnation == member.assigned && member.since == registry::first_members(),
    })
}

fn shown(state: &State, member: &MemberRecord) -> Option<Member> {
    let node = state.nodes.get(&member.node)?;
    Some(Member {
        node: node.name,
        az: node.az,
        address: node.address.clone(),
        incarnation: node.incarnation,
        since: member.since,
    })
}

fn joining(state: &State, group: &GroupRecord) -> Vec<Joining> {
    let known = group.joining.iter().filter_map(|joining| {
        Some(Joining { place: joining.place, member: shown(state, &joining.member)? })
    });
    known.collect()
}

/// The volume as the API shows it.
pub(crate) fn volume_info(state: &State, volume: &VolumeRecord) -> VolumeInfo {
    VolumeInfo {
        cluster: state.cluster,
        id: volume.id,
        name: volume.name.clone(),
        epoch: volume.epoch,
        timeline: volume.timeline,
        geometry_epoch: volume.geometry_epoch,
        group_bytes: volume.group_bytes,
        limit_bytes: volume.limit_bytes,
        initialized: volume.initialized,
        writer: volume.writer.clone(),
        groups: volume.groups.iter().map(|group| group_info(state, group)).collect(),
    }
}

pub(crate) fn group_info(state: &State, group: &GroupRecord) -> GroupInfo {
    GroupInfo {
        id: group.id,
        membership_epoch: group.membership_epoch,
        members: group.members.iter().filter_map(|member| shown(state, member)).collect(),
        joining: joining(state, group),
    }
}

/// Finds a volume.
pub(crate) fn find(state: &State, volume: VolumeId) -> Result<&VolumeRecord, Problem> {
    state.volumes.get(&volume).ok_or_else(|| match state.deleted.get(&volume) {
        Some(deleted) => problem(
            ProblemCode::Deleted,
            format!("volume {} ({volume}) was deleted; this id is never used again", deleted.name),
        ),
        None => problem(ProblemCode::NotFound, format!("this cluster has no volume {volume}")),
    })
}

/// A volume of this name: the existing one (no change), or a new one with group 0 pending.
pub(crate) fn create(
    state: &State,
    wish: &CreateVolume,
    new_id: VolumeId,
    alive: impl Fn(NodeId) -> bool,
) -> Result<(VolumeId, Option<Change>), Problem> {
    if let Some(existing) = state.volumes.values().find(|volume| volume.name == wish.name) {
        return Ok((existing.id, None));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if wish.name.is_empty() || wish.name.len() > 63 || !wish.name.chars().all(allowed) {
        let rule = "1 to 63 lower-case letters, digits or hyphens";
        let message = format!("`{}` is not a volume name; use {rule}", wish.name);
        return Err(problem(ProblemCode::Invalid, message));
    }
    let group_bytes = wish.group_bytes.unwrap_or(GROUP_BYTES_DEFAULT);
    if group_bytes < GROUP_BYTES_MIN {
        let message = format!("a group of {group_bytes} bytes is too small; the least is 1 MiB");
        return Err(problem(ProblemCode::Invalid, message));
    }
    check_limit(wish.limit_bytes)?;
    if state.volumes.contains_key(&new_id) || state.deleted.contains_key(&new_id) {
        return Err(problem(ProblemCode::Internal, format!("id {new_id} is taken; ask again")));
    }
    let volume = VolumeRecord {
        id: new_id,
        name: wish.name.clone(),
        epoch: 0,
        timeline: 0,
        geometry_epoch: 0,
        group_bytes,
        limit_bytes: wish.limit_bytes,
        initialized: false,
        writer: None,
        groups: Vec::new(),
        pending: Some(new_group(state, 0, alive)?),
    };
    Ok((new_id, Some(Change::Volume(volume))))
}

/// A group assigned to six nodes in their present lives.
fn new_group(
    state: &State,
    id: u32,
    alive: impl Fn(NodeId) -> bool,
) -> Result<GroupRecord, Problem> {
    let loads = state.loads();
    let serving = state.nodes.values().filter(|node| node.duty == Duty::Serving);
    let candidates: Vec<Candidate> = serving
        .map(|node| Candidate {
            node: node.name,
            az: node.az,
            alive: alive(node.name),
            segments: loads.get(&node.name).copied().unwrap_or(0),
        })
        .collect();
    let places = place(&candidates).map_err(|why| problem(ProblemCode::TooFewNodes, why))?;
    let first = registry::first_members();
    let nodes = places.iter().filter_map(|node| state.nodes.get(node));
    let members = nodes.map(|node| MemberRecord::new(node, first)).collect();
    let (joining, former) = (Vec::new(), Vec::new());
    Ok(GroupRecord { id, membership_epoch: first, members, joining, former })
}

/// Raises the epoch for a new writer.
pub(crate) fn open(state: &State, id: VolumeId, wish: &OpenVolume) -> Result<Change, Problem> {
    let mut volume = find(state, id)?.clone();
    if wish.instance.is_empty() {
        return Err(problem(ProblemCode::Invalid, "an open needs the instance's name"));
    }
    if volume.groups.is_empty() {
        let message = format!(
            "volume {} is not yet held by {WRITE_QUORUM} nodes; start its nodes, then create it again",
            volume.name
        );
        return Err(problem(ProblemCode::TooFewNodes, message));
    }
    if let Some(expected) = wish.expected_epoch.filter(|expected| *expected != volume.epoch) {
        let message =
            format!("volume {} is at epoch {}, not {expected}", volume.name, volume.epoch);
        return Err(problem(ProblemCode::Changed, message));
    }
    volume.epoch += 1;
    volume.writer = Some(wish.instance.clone());
    Ok(Change::Volume(volume))
}

/// Takes a writer's report, when it is the current one.
pub(crate) fn ready(
    state: &State,
    id: VolumeId,
    report: &WriterReady,
    initialized: bool,
) -> Result<Change, Problem> {
    let mut volume = find(state, id)?.clone();
    check_epoch(&volume, report.epoch)?;
    volume.timeline = report.timeline;
    volume.initialized |= initialized;
    Ok(Change::Volume(volume))
}

pub(crate) fn check_epoch(volume: &VolumeRecord, epoch: u64) -> Result<(), Problem> {
    if epoch == volume.epoch {
        return Ok(());
    }
    let message = format!(
        "epoch {epoch} of volume {} is over, the current one is {}; this writer must stop",
        volume.name, volume.epoch
    );
    Err(problem(ProblemCode::Fenced, message))
}

/// Assigns the next group to nodes; no change when one is pending already (an earlier try).
pub(crate) fn assign_group(
    state: &State,
    id: VolumeId,
    wish: &AddGroup,
    alive: impl Fn(NodeId) -> bool,
) -> Result<Option<Change>, Problem> {
    let mut volume = find(state, id)?.clone();
    check_epoch(&volume, wish.epoch)?;
    check_geometry(&volume, wish.expected_geometry)?;
    if volume.pending.is_some() {
        return Ok(None);
    }
    let next = volume.groups.last().map_or(0, |group| group.id + 1);
    volume.pending = Some(new_group(state, next, alive)?);
    Ok(Some(Change::Volume(volume)))
}

fn check_geometry(volume: &VolumeRecord, expected: u64) -> Result<(), Problem> {
    if volume.geometry_epoch == expected {
        return Ok(());
    }
    let message = format!(
        "volume {} is at geometry epoch {}, not {expected}; read it again",
        volume.name, volume.geometry_epoch
    );
    Err(problem(ProblemCode::Changed, message))
}

/// Notes which members confirmed a group in which life.
pub(crate) fn confirm(
    state: &State,
    id: VolumeId,
    group: u32,
    confirmed: &[(NodeId, types::Incarnation)],
) -> Result<Option<Change>, Problem> {
    let known = find(state, id)?;
    let mut volume = known.clone();
    let members = volume.group_mut(group).map(GroupRecord::holders_mut);
    for member in members.into_iter().flatten() {
        if let Some((_, life)) = confirmed.iter().find(|(node, _)| *node == member.node) {
            member.created = Some(*life);
        }
    }
    Ok((volume != *known).then_some(Change::Volume(volume)))
}

/// Lets the pending group join once a write quorum holds it in the life it was assigned to.
/// `wish` is checked again: the writer may have been fenced while the nodes were asked.
pub(crate) fn join_group(
    state: &State,
    id: VolumeId,
    wish: Option<&AddGroup>,
) -> Result<Option<Change>, Problem> {
    let mut volume = find(state, id)?.clone();
    if let Some(wish) = wish {
        check_epoch(&volume, wish.epoch)?;
        check_geometry(&volume, wish.expected_geometry)?;
    }
    let Some(pending) = volume.pending.take() else { return Ok(None) };
    let held = pending.members.iter().filter(|member| member.created == Some(member.assigned));
    let held = held.count();
    if held < WRITE_QUORUM {
        let message = format!(
            "too few nodes: {held} of 6 hold group {} of volume {}, {WRITE_QUORUM} are needed; \
             start more nodes and ask again",
            pending.id, volume.name
        );
        return Err(problem(ProblemCode::TooFewNodes, message));
    }
    volume.groups.push(pending);
    volume.geometry_epoch += 1;
    Ok(Some(Change::Volume(volume)))
}

/// Members that have not confirmed their segment in their present life: to be asked (again).
pub(crate) fn unconfirmed(state: &State) -> Vec<(VolumeId, u32, NodeId)> {
    let mut missing = Vec::new();
    for volume in state.volumes.values() {
        for group in volume.all_groups() {
            let members = group.holders().filter(|member| {
                let life = state.nodes.get(&member.node).map(|node| node.incarnation);
                life.is_some() && life != member.created
            });
            missing.extend(members.map(|member| (volume.id, group.id, member.node)));
        }
    }
    missing
}
