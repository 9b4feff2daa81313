//! What the status says. Field names are a contract with scripts; fields may be added.

use serde::Serialize;

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub volume: Volume,
    pub processes: Vec<ProcessLine>,
    pub groups: Vec<Group>,
    pub instances: Vec<Instance>,
}

/// The volume. Log positions as PostgreSQL prints them; null where nobody could be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Volume {
    pub id: Option<String>,
    pub name: String,
    pub epoch: Option<u64>,
    pub timeline: Option<u32>,
    pub vcl: Option<String>,
    pub vdl: Option<String>,
    pub low_water_mark: Option<String>,
    /// A word for the whole: `writable`, `waiting`, `no writer`, `control plane down`.
    pub state: String,
}

/// One process: `running`, `full` (a node whose disk has no room), `suspect` (a node that a writer finds far
/// slower than the others), `stopped` (it stands still) or `down`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ProcessLine {
    pub role: String,
    pub name: String,
    pub az: Option<String>,
    pub pid: Option<u32>,
    pub address: String,
    pub state: String,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    pub id: u32,
    pub membership_epoch: u64,
    pub members: Vec<GroupMember>,
    /// Nodes that fill a copy, to take over a place.
    pub joining: Vec<GroupMember>,
}

/// One of its six: `healthy`, `hydrating` (being rebuilt), `missing` (the node does not hold it),
/// or `down`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct GroupMember {
    pub node: String,
    pub scl: Option<String>,
    pub state: String,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Instance {
    pub name: String,
    pub role: String,
    pub endpoint: String,
    pub pid: Option<u32>,
    pub daemon_pid: Option<u32>,
    pub data_dir: String,
    pub replay_lsn: Option<String>,
    pub lag_ms: Option<u64>,
    /// What its daemon says it is doing; `down` without one.
    pub state: String,
    pub shipped_bytes_per_copy: Option<u64>,
}
