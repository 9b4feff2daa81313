//! What the control plane remembers: records of nodes, volumes and groups. Values only.

use std::collections::BTreeMap;

use registry::{Duty, text};
use serde::{Deserialize, Serialize};
use types::{Az, ClusterId, Incarnation, NodeId, VolumeId};

/// A node that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    #[serde(with = "text")]
    pub name: NodeId,
    #[serde(with = "text")]
    pub az: Az,
    pub address: String,
    pub http: Option<String>,
    #[serde(with = "text")]
    pub incarnation: Incarnation,
    pub pid: u32,
    /// The newest life of its log that it has told of, in this life of its disk.
    #[serde(default)]
    pub log_life: u64,
    #[serde(default)]
    pub duty: Duty,
}

/// A holder of a place of a group's member set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    #[serde(with = "text")]
    pub node: NodeId,
    /// The life of the node's disk that the segment was assigned to. Written before the segment is
    /// created anywhere: a node that comes back with another life has lost it and must rebuild (C3).
    #[serde(with = "text")]
    pub assigned: Incarnation,
    /// The life of the node's disk that confirmed holding it.
    #[serde(with = "text::optional")]
    pub created: Option<Incarnation>,
    /// Generation of the member set that gave it the place.
    #[serde(default = "registry::first_members")]
    pub since: u64,
}

impl MemberRecord {
    /// A place newly given to a node, in the life that its disk has now.
    pub fn new(node: &NodeRecord, since: u64) -> MemberRecord {
        MemberRecord { node: node.name, assigned: node.incarnation, created: None, since }
    }
}

/// A node that is to take over a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoiningRecord {
    /// The place, `0..6`.
    pub place: usize,
    pub member: MemberRecord,
}

/// A node that is to forget its copy: its place was given to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerRecord {
    #[serde(with = "text")]
    pub node: NodeId,
    /// Generation of the member set that took the place away.
    pub by: u64,
}

/// A protection group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub id: u32,
    pub membership_epoch: u64,
    /// The present holders, by place.
    pub members: Vec<MemberRecord>,
    #[serde(default)]
    pub joining: Vec<JoiningRecord>,
    /// Those that have not confirmed yet that they have forgotten their copy.
    #[serde(default)]
    pub former: Vec<FormerRecord>,
}

impl GroupRecord {
    /// Every holder, present and joining.
    pub fn holders(&self) -> impl Iterator<Item = &MemberRecord> {
        self.members.iter().chain(self.joining.iter().map(|joining| &joining.member))
    }

    /// The same, to be changed.
    pub fn holders_mut(&mut self) -> impl Iterator<Item = &mut MemberRecord> {
        self.members.iter_mut().chain(self.joining.iter_mut().map(|joining| &mut joining.member))
    }

    /// The holder on this node.
    pub fn holder(&self, node: NodeId) -> Option<&MemberRecord> {
        self.holders().find(|member| member.node == node)
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    #[serde(with = "text")]
    pub id: VolumeId,
    pub name: String,
    pub epoch: u64,
    pub timeline: u32,
    pub geometry_epoch: u64,
    pub group_bytes: u64,
    /// Bytes of pages beyond which it may not grow.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
    pub initialized: bool,
    pub writer: Option<String>,
    /// Groups that a write quorum holds, ascending.
    pub groups: Vec<GroupRecord>,
    /// The next group, assigned to nodes but not yet held by a write quorum; joins `groups` then.
    pub pending: Option<GroupRecord>,
}

impl VolumeRecord {
    /// Every group, the pending one last.
    pub fn all_groups(&self) -> impl Iterator<Item = &GroupRecord> {
        self.groups.iter().chain(&self.pending)
    }

    /// The group with this number, pending or not.
    pub fn group_mut(&mut self, id: u32) -> Option<&mut GroupRecord> {
        self.groups.iter_mut().chain(&mut self.pending).find(|group| group.id == id)
    }
}

/// A volume that was deleted. Kept for ever: its id is not given again, and a node that was away may
/// come back with it after any time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeletedRecord {
    #[serde(with = "text")]
    pub id: VolumeId,
    pub name: String,
    /// Who held it.
    #[serde(with = "text::list")]
    pub nodes: Vec<NodeId>,
}

/// Segments on each node that has any.
pub(crate) type Loads = BTreeMap<NodeId, usize>;

/// Everything that is remembered.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub cluster: ClusterId,
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    pub volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub deleted: BTreeMap<VolumeId, DeletedRecord>,
}

/// One record that becomes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Node(NodeRecord),
    Volume(VolumeRecord),
    /// The volume's record goes, and this one comes.
    Deleted(DeletedRecord),
}

impl State {
    /// Whether a change concerns others: a node's log that goes on does not.
    pub fn is_news(&self, change: &Change) -> bool {
        let Change::Node(node) = change else { return true };
        let known = self.nodes.get(&node.name).cloned();
        known.map(|known| NodeRecord { log_life: node.log_life, ..known }).as_ref() != Some(node)
    }

    /// Takes a change that is durable.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Node(node) => drop(self.nodes.insert(node.name, node)),
            Change::Volume(volume) => drop(self.volumes.insert(volume.id, volume)),
            Change::Deleted(deleted) => {
                self.volumes.remove(&deleted.id);
                self.deleted.insert(deleted.id, deleted);
            }
        }
    }

    /// Segments placed on each node so far: its load.
    pub fn loads(&self) -> Loads {
        let mut loads = Loads::new();
        for group in self.volumes.values().flat_map(VolumeRecord::all_groups) {
            for member in group.holders() {
                *loads.entry(member.node).or_default() += 1;
            }
        }
        loads
    }
}
