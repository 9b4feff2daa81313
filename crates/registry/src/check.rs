//! A check of everything that a node stores, as the node is asked for it and tells of it.

use serde::{Deserialize, Serialize};
use types::VolumeId;

use crate::text;

/// Wish that a node check its disk now; one that is under way ends for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckWish {
    /// Only segments of this volume (and the log, which all share).
    #[serde(default, with = "text::optional")]
    pub volume: Option<VolumeId>,
    /// Only segments of this group.
    #[serde(default)]
    pub group: Option<u32>,
}

/// How far a check is, and what it has met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProgress {
    /// Tells one check from the next; 0 before the first of a process.
    pub id: u64,
    /// Whether everything has been checked.
    pub done: bool,
    /// Why it has ended before.
    pub failed: Option<String>,
    /// Bytes to check, as they were at the beginning.
    pub bytes_planned: u64,
    /// Bytes checked.
    pub bytes_checked: u64,
    /// What has been checked of each segment.
    pub segments: Vec<CheckedSegment>,
    /// What has been checked of the log.
    pub log: CheckedLog,
    /// What is damaged now: it is mended meanwhile and later.
    pub damage: Vec<SegmentDamage>,
    /// Damaged log files that are not yet emptied.
    pub log_damage: Vec<String>,
}

/// What has been checked of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedSegment {
    /// The volume.
    #[serde(with = "text")]
    pub volume: VolumeId,
    /// The group.
    pub group: u32,
    /// Page files.
    pub files: u64,
    /// Their blocks and indexes.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged blocks, indexes and manifests met.
    pub damaged: u64,
}

/// What has been checked of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedLog {
    /// Files.
    pub files: u64,
    /// Durable writes.
    pub units: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged files met.
    pub damaged: u64,
}

/// A segment with damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentDamage {
    /// The volume.
    #[serde(with = "text")]
    pub volume: VolumeId,
    /// The group.
    pub group: u32,
    /// Damaged places.
    pub places: u64,
    /// It is rebuilt as a whole.
    pub lost: bool,
    /// The first of them.
    pub why: String,
}
