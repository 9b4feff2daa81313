//! What the control plane knows: nodes, volumes with their groups, instances.

use serde::{Deserialize, Serialize};
use types::{Az, ClusterId, Incarnation, Lsn, NodeId, VolumeId};

use crate::text;

/// A node introduces itself; repeated every second or so, which is also its heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRegistration {
    /// Its name.
    #[serde(with = "text")]
    pub name: NodeId,
    /// Its availability zone; never changes for a name.
    #[serde(with = "text")]
    pub az: Az,
    /// Where its peers and drivers reach it, `host:port`.
    pub address: String,
    /// Where its metrics are, `host:port`.
    pub http: Option<String>,
    /// This life of its disk.
    #[serde(with = "text")]
    pub incarnation: Incarnation,
    /// The cluster that its disk belongs to; none on an empty disk.
    #[serde(with = "text::optional")]
    pub cluster: Option<ClusterId>,
    /// Its process, for the operator's eyes.
    pub pid: u32,
    /// The newest life of its log that is durable on its disk; none when that is not known. It only
    /// ascends within a life of the disk.
    #[serde(default)]
    pub log_life: Option<u64>,
    /// What it keeps of which segment; none before its store is open.
    #[serde(default)]
    pub holds: Option<Vec<SegmentUse>>,
    /// Whether its log waits for room on the disk: it acknowledges nothing.
    #[serde(default)]
    pub disk_full: bool,
    /// The number of the news that it has: they are not told twice.
    #[serde(default)]
    pub news: Option<u64>,
}

/// What a node keeps of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentUse {
    /// The volume.
    #[serde(with = "text")]
    pub volume: VolumeId,
    /// The group.
    pub group: u32,
    /// Bytes of its page files.
    pub file_bytes: u64,
    /// Bytes of its batches in the hot log, those kept for peers included.
    pub log_bytes: u64,
}

/// Answer to a [`NodeRegistration`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRegistered {
    /// The cluster, to be written into the node's identity on first contact.
    #[serde(with = "text")]
    pub cluster: ClusterId,
    /// Another number than before when anything that the control plane remembers has changed.
    pub news: u64,
    /// Every segment this node is to hold; none when it has these news. One that it does not have yet
    /// is to be created with the `fresh` given here.
    pub segments: Option<Vec<SegmentPlace>>,
    /// Of the volumes that it holds something of, those that were deleted: to be dropped. A volume
    /// that is merely not known here is kept.
    #[serde(default, with = "text::list")]
    pub deleted: Vec<VolumeId>,
}

/// One segment that a node is to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentPlace {
    /// The volume.
    #[serde(with = "text")]
    pub volume: VolumeId,
    /// The group.
    pub group: u32,
    /// Generation of its member set.
    pub membership_epoch: u64,
    /// The six present holders, by place.
    pub members: Vec<Member>,
    /// Nodes that are to replace some of them.
    #[serde(default)]
    pub joining: Vec<Joining>,
    /// Whether an empty copy is a true copy: the segment was assigned to this very life of the
    /// node's disk. Otherwise it is rebuilt from its peers before it votes or serves.
    pub fresh: bool,
}

/// A holder of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    #[serde(with = "text")]
    pub node: NodeId,
    /// Its availability zone.
    #[serde(with = "text")]
    pub az: Az,
    /// Its address as last registered, `host:port`.
    pub address: String,
    /// The life of its disk as last registered.
    #[serde(with = "text")]
    pub incarnation: Incarnation,
    /// Generation of the member set that gave it the place.
    #[serde(default = "first_members")]
    pub since: u64,
}

/// What records say of members from before members could be replaced.
#[must_use]
pub fn first_members() -> u64 {
    1
}

/// A node that is to take over a place, and fills its copy meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// The place, `0..6`.
    pub place: usize,
    /// The node.
    #[serde(flatten)]
    pub member: Member,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// It holds segments and is given more.
    #[default]
    Serving,
    /// Its segments move to other nodes, and it is given none.
    Draining,
    /// It is lost: its segments are rebuilt on other nodes, and what comes back under its name is not
    /// given them again.
    Lost,
}

/// A node as the control plane knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    #[serde(with = "text")]
    pub name: NodeId,
    /// Its availability zone.
    #[serde(with = "text")]
    pub az: Az,
    /// Its address, `host:port`.
    pub address: String,
    /// Where its metrics are.
    pub http: Option<String>,
    /// The life of its disk.
    #[serde(with = "text")]
    pub incarnation: Incarnation,
    /// Its process as last registered.
    pub pid: u32,
    /// Milliseconds since it was last heard; none when not since this control plane started.
    pub seen_ms_ago: Option<u64>,
    /// What it is for.
    #[serde(default)]
    pub duty: Duty,
    /// Segments whose place it holds.
    #[serde(default)]
    pub segments: usize,
    /// Segments that it fills to take over a place.
    #[serde(default)]
    pub filling: usize,
    /// For how many milliseconds some writer has found it suspect.
    #[serde(default)]
    pub suspect_ms: Option<u64>,
    /// Whether it said last that its disk is full.
    #[serde(default)]
    pub disk_full: bool,
}

impl NodeInfo {
    /// What is wrong with a node that is heard, in a word: `full` or `suspect`.
    #[must_use]
    pub fn ailment(&self) -> Option<&'static str> {
        match (self.disk_full, self.suspect_ms) {
            (true, _) => Some("full"),
            (false, Some(_)) => Some("suspect"),
            (false, None) => None,
        }
    }
}

/// Wish for a node's duty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDuty {
    /// What it is to be for.
    pub duty: Duty,
}

/// The cluster and its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The cluster.
    #[serde(with = "text")]
    pub cluster: ClusterId,
    /// Its nodes, by name.
    pub nodes: Vec<NodeInfo>,
}

/// Wish for a volume; granting it again returns the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateVolume {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Bytes of pages at which a group is full; the default when none.
    pub group_bytes: Option<u64>,
    /// Bytes of pages beyond which it may not grow; unlimited when none.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
}

/// Wish that a volume be gone for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteVolume {
    /// Even while a writer has it open: its epoch ends with the volume.
    pub force: bool,
}

/// Wish for another limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitVolume {
    /// As in [`CreateVolume::limit_bytes`].
    pub limit_bytes: Option<u64>,
}

/// What a volume takes, as its writer and its nodes last told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// The volume.
    #[serde(with = "text")]
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Whether it was deleted: only nodes that have not yet heard of it hold anything.
    pub deleted: bool,
    /// Bytes of pages that exist in it; none when no writer has told since the control plane started.
    pub live_bytes: Option<u64>,
    /// Every node that holds a segment of it, or did when it was deleted, by name.
    pub holders: Vec<Holder>,
}

/// A node that holds segments of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The node.
    #[serde(with = "text")]
    pub node: NodeId,
    /// Milliseconds since it was last heard; none when not since this control plane started.
    pub seen_ms_ago: Option<u64>,
    /// What it keeps of the volume, empty once it has dropped it; none when it has not told.
    pub segments: Option<Vec<SegmentUse>>,
}

/// A volume and its groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// The cluster it belongs to.
    #[serde(with = "text")]
    pub cluster: ClusterId,
    /// The volume.
    #[serde(with = "text")]
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Generation of its writer; 0 before the first open.
    pub epoch: u64,
    /// The engine's timeline of the last writer that became ready; 0 before the first.
    pub timeline: u32,
    /// Generation of its list of groups.
    pub geometry_epoch: u64,
    /// Bytes of pages at which a group is full.
    pub group_bytes: u64,
    /// Bytes of pages beyond which it may not grow.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
    /// Whether a writer has ever become ready on it, i.e. it holds a whole database.
    pub initialized: bool,
    /// The instance that opened it last.
    pub writer: Option<String>,
    /// Its groups, ascending.
    pub groups: Vec<GroupInfo>,
}

/// A group and its holders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its number.
    pub id: u32,
    /// Generation of its member set.
    pub membership_epoch: u64,
    /// The six present holders, by place.
    pub members: Vec<Member>,
    /// Nodes that are to replace some of them.
    #[serde(default)]
    pub joining: Vec<Joining>,
}

impl GroupInfo {
    /// Every holder, present and joining.
    pub fn holders(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(self.joining.iter().map(|joining| &joining.member))
    }
}

/// A joining holder of which the writer of the current epoch says that it has all of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// The group.
    pub group: u32,
    /// Generation of the member set that the writer counts by.
    pub membership_epoch: u64,
    /// The node.
    #[serde(with = "text")]
    pub node: NodeId,
}

/// A node as a writer finds it, by the answers to what it sends there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSeen {
    /// The node.
    #[serde(with = "text")]
    pub node: NodeId,
    /// Milliseconds since it last acknowledged anything; none when it has not yet.
    pub heard_ms_ago: Option<u64>,
    /// For how many milliseconds it has been suspect: far slower than the others.
    pub suspect_ms: Option<u64>,
}

/// A group that cannot be opened for want of members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrippledGroup {
    /// The group.
    pub group: u32,
    /// Generation of the member set that was asked.
    pub membership_epoch: u64,
    /// Members that are sealed in the epoch and full.
    pub survivors: Vec<String>,
}

/// An opening cannot go on: the places of silent members may be given to new nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// The epoch that is being opened; refused when it is not the volume's current one.
    pub epoch: u64,
    /// The groups that want for members.
    pub groups: Vec<CrippledGroup>,
}

/// Answer to a [`Rescue`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescued {
    /// Places given to new nodes: open again, in a newer epoch, if there are any.
    pub places: usize,
}

/// Wish to become a volume's writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenVolume {
    /// The instance.
    pub instance: String,
    /// Raise the epoch only from this one (compare-and-set); from whatever it is when none.
    pub expected_epoch: Option<u64>,
}

/// Report of a writer that works, in its epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterReady {
    /// Its epoch; refused when it is not the volume's current one.
    pub epoch: u64,
    /// The engine's timeline that it writes.
    pub timeline: u32,
}

/// Wish for one more group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddGroup {
    /// The writer's epoch; refused when it is not the volume's current one.
    pub epoch: u64,
    /// The geometry epoch that the writer knows (compare-and-set).
    pub expected_geometry: u64,
}

/// A group just added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupAdded {
    /// The geometry epoch that includes it.
    pub geometry_epoch: u64,
    /// The group.
    pub group: GroupInfo,
}

/// What an instance is to its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceRole {
    /// The one that writes.
    Writer,
    /// One that reads.
    Replica,
}

/// An instance tells that it lives; sent every second or so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceHeartbeat {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: InstanceRole,
    /// Its zone.
    #[serde(with = "text::optional")]
    pub az: Option<Az>,
    /// The volume.
    #[serde(with = "text")]
    pub volume: VolumeId,
    /// The epoch it works in.
    pub epoch: u64,
    /// The engine's timeline it is on.
    pub timeline: u32,
    /// What it is doing: `opening`, `starting`, `ready`, `fenced`, `stopping`, `stopped`.
    pub state: String,
    /// Where clients connect, `host:port`.
    pub endpoint: String,
    /// Where its metrics are, `host:port`.
    pub http: Option<String>,
    /// Its database server's first process, when it runs.
    pub pid: Option<u32>,
    /// Its daemon.
    pub daemon_pid: u32,
    /// The server's data directory.
    pub data_dir: String,
    /// Every record up to here is quorate (a writer's).
    #[serde(with = "text::optional")]
    pub vcl: Option<Lsn>,
    /// The durable point (a writer's).
    #[serde(with = "text::optional")]
    pub vdl: Option<Lsn>,
    /// The low-water mark (a writer's).
    #[serde(with = "text::optional")]
    pub low_water_mark: Option<Lsn>,
    /// How far it has replayed (a replica's).
    #[serde(with = "text::optional")]
    pub replay_lsn: Option<Lsn>,
    /// How far behind its writer that is, milliseconds.
    pub lag_ms: Option<u64>,
    /// Bytes of batches made for one copy since the daemon started (a writer's).
    #[serde(default)]
    pub shipped_bytes_per_copy: Option<u64>,
    /// Bytes of pages that exist in the volume (a writer's).
    #[serde(default)]
    pub live_bytes: Option<u64>,
    /// Joining holders that are whole (a writer's).
    #[serde(default)]
    pub filled: Vec<Filled>,
    /// How it finds its nodes (a writer's).
    #[serde(default)]
    pub seen: Vec<NodeSeen>,
}

impl InstanceHeartbeat {
    /// What an instance says that has nothing to tell yet.
    #[must_use]
    pub fn first(name: String, role: InstanceRole, volume: VolumeId) -> InstanceHeartbeat {
        InstanceHeartbeat {
            name,
            role,
            az: None,
            volume,
            epoch: 0,
            timeline: 0,
            state: "opening".to_owned(),
            endpoint: String::new(),
            http: None,
            pid: None,
            daemon_pid: 0,
            data_dir: String::new(),
            vcl: None,
            vdl: None,
            low_water_mark: None,
            replay_lsn: None,
            lag_ms: None,
            shipped_bytes_per_copy: None,
            live_bytes: None,
            filled: Vec::new(),
            seen: Vec::new(),
        }
    }
}

/// Answer to an [`InstanceHeartbeat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The volume's current epoch: a writer of an older one is fenced and must stop.
    pub epoch: u64,
    /// Its geometry epoch: newer than the one known means groups were added.
    pub geometry_epoch: u64,
    /// Another number than before when the volume should be read again.
    pub news: u64,
}

/// An instance as the control plane last heard it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// What it said.
    #[serde(flatten)]
    pub heartbeat: InstanceHeartbeat,
    /// Milliseconds since then.
    pub seen_ms_ago: u64,
}

/// Everything at once, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// The cluster.
    #[serde(with = "text")]
    pub cluster: ClusterId,
    /// The control plane's process.
    pub pid: u32,
    /// Its nodes, by name.
    pub nodes: Vec<NodeInfo>,
    /// Its volumes, by name.
    pub volumes: Vec<VolumeInfo>,
    /// Its instances, by name.
    pub instances: Vec<InstanceInfo>,
}
