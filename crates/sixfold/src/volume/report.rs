//! What is said of volumes. Field names are a contract with scripts; fields may be added.

use std::fmt::Write as _;

use registry::{ControlStatus, InstanceInfo, VolumeInfo, VolumeUse};
use serde::Serialize;

use crate::size;
use crate::status::print::{row, table};

/// An instance not heard for longer has nothing open.
const SILENT_MS: u64 = 5_000;

/// A volume. Bytes are null where nobody could be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Volume {
    pub name: String,
    pub id: String,
    /// `open`, `closed`, `empty` (no database in it yet), `being created` or `deleted`.
    pub state: String,
    /// The instance that has it open.
    pub writer: Option<String>,
    pub epoch: u64,
    pub timeline: u32,
    pub geometry_epoch: u64,
    pub group_bytes: u64,
    pub limit_bytes: Option<u64>,
    /// Pages that exist.
    pub live_bytes: Option<u64>,
    /// Page files, all copies.
    pub file_bytes: u64,
    /// Hot log, all copies.
    pub log_bytes: u64,
    pub groups: Vec<Group>,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    pub id: u32,
    pub membership_epoch: u64,
    pub file_bytes: u64,
    pub log_bytes: u64,
    pub members: Vec<Member>,
}

/// A node's share of a group; null before the node has told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Member {
    pub node: String,
    pub file_bytes: Option<u64>,
    pub log_bytes: Option<u64>,
}

/// What a deletion has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Deleted {
    pub name: String,
    pub id: String,
    /// Nodes that hold nothing of it any more.
    pub freed: Vec<String>,
    /// Nodes that have still to drop it.
    pub holding: Vec<String>,
}

impl Volume {
    pub(crate) fn new(status: &ControlStatus, info: &VolumeInfo, used: &VolumeUse) -> Volume {
        let writer = status.instances.iter().find(|told| has_open(told, info));
        let groups: Vec<Group> = info.groups.iter().map(|group| group_of(group, used)).collect();
        Volume {
            name: info.name.clone(),
            id: info.id.to_string(),
            state: match (info.groups.is_empty(), writer, info.initialized) {
                (true, _, _) => "being created",
                (_, Some(_), _) => "open",
                (_, None, true) => "closed",
                (_, None, false) => "empty",
            }
            .to_owned(),
            writer: writer.map(|told| told.heartbeat.name.clone()),
            epoch: info.epoch,
            timeline: info.timeline,
            geometry_epoch: info.geometry_epoch,
            group_bytes: info.group_bytes,
            limit_bytes: info.limit_bytes,
            live_bytes: used.live_bytes,
            file_bytes: groups.iter().map(|group| group.file_bytes).sum(),
            log_bytes: groups.iter().map(|group| group.log_bytes).sum(),
            groups,
        }
    }
}

fn has_open(told: &InstanceInfo, info: &VolumeInfo) -> bool {
    let state = told.heartbeat.state.as_str();
    let works = state != "fenced" && state != "stopped";
    told.heartbeat.volume == info.id && told.seen_ms_ago < SILENT_MS && works
}

fn group_of(info: &registry::GroupInfo, used: &VolumeUse) -> Group {
    let held = |node| {
        let holder = used.holders.iter().find(|holder| holder.node == node)?;
        holder.segments.as_ref()?.iter().find(|segment| segment.group == info.id)
    };
    let member = |member: &registry::Member| {
        let held = held(member.node);
        Member {
            node: member.node.to_string(),
            file_bytes: held.map(|held| held.file_bytes),
            log_bytes: held.map(|held| held.log_bytes),
        }
    };
    let members: Vec<Member> = info.members.iter().map(member).collect();
    Group {
        id: info.id,
        membership_epoch: info.membership_epoch,
        file_bytes: members.iter().filter_map(|member| member.file_bytes).sum(),
        log_bytes: members.iter().filter_map(|member| member.log_bytes).sum(),
        members,
    }
}

impl Deleted {
    pub(crate) fn new(used: &VolumeUse) -> Deleted {
        let holds = |holder: &&registry::Holder| {
            holder.segments.as_ref().is_none_or(|segments| !segments.is_empty())
        };
        let (holding, freed): (Vec<_>, Vec<_>) = used.holders.iter().partition(holds);
        let names = |holders: Vec<&registry::Holder>| {
            holders.into_iter().map(|holder| holder.node.to_string()).collect()
        };
        Deleted {
            name: used.name.clone(),
            id: used.volume.to_string(),
            freed: names(freed),
            holding: names(holding),
        }
    }
}

/// Volumes, a line each.
pub(crate) fn list(volumes: &[Volume]) -> String {
    let mut rows =
        vec![row(["volume", "state", "writer", "groups", "live", "files", "log", "limit"])];
    rows.extend(volumes.iter().map(|v| {
        row([
            &v.name,
            &v.state,
            v.writer.as_deref().unwrap_or("-"),
            &v.groups.len().to_string(),
            &optional(v.live_bytes),
            &size::text(v.file_bytes),
            &size::text(v.log_bytes),
            &v.limit_bytes.map_or_else(|| "none".to_owned(), size::text),
        ])
    }));
    let mut out = String::new();
    table(&mut out, &rows);
    out.trim_start().to_owned()
}

/// One volume in full.
pub(crate) fn show(volume: &Volume) -> String {
    let mut out = list(std::slice::from_ref(volume));
    let line = format!(
        "\nid {}, epoch {}, timeline {}, geometry {}, groups of {}\n",
        volume.id,
        volume.epoch,
        volume.timeline,
        volume.geometry_epoch,
        size::text(volume.group_bytes),
    );
    out.push_str(&line);
    let mut rows = vec![row(["group", "member", "files", "log"])];
    for group in &volume.groups {
        rows.extend(group.members.iter().map(|m| {
            row([&group.id.to_string(), &m.node, &optional(m.file_bytes), &optional(m.log_bytes)])
        }));
    }
    table(&mut out, &rows);
    out
}

/// A deletion's outcome.
pub(crate) fn deleted(deleted: &Deleted) -> String {
    let mut out = format!("volume {} is deleted", deleted.name);
    if !deleted.freed.is_empty() {
        write!(out, "; freed by {}", deleted.freed.join(" "))
            .expect("writing to a String does not fail");
    }
    if !deleted.holding.is_empty() {
        write!(out, "; still to be freed, as soon as they answer: {}", deleted.holding.join(" "))
            .expect("writing to a String does not fail");
    }
    out
}

fn optional(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), size::text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_exactly_the_fields_that_scripts_rely_on() {
        let groups = vec![Group { members: vec![Member::default()], ..Group::default() }];
        let volume = Volume { groups, ..Volume::default() };
        let json = serde_json::to_value(&volume).expect("plain values");
        for (pointer, fields) in [
            (
                "",
                "name id state writer epoch timeline geometry_epoch group_bytes limit_bytes \
                 live_bytes file_bytes log_bytes groups",
            ),
            ("/groups/0", "id membership_epoch file_bytes log_bytes members"),
            ("/groups/0/members/0", "node file_bytes log_bytes"),
        ] {
            for field in fields.split(' ') {
                assert!(json.pointer(pointer).expect(pointer).get(field).is_some(), "{field}");
            }
        }
        let json = serde_json::to_value(Deleted::default()).expect("plain values");
        for field in ["name", "id", "freed", "holding"] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
