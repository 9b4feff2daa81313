//! Decisions about a volume's end and its bounds, pure: a limit, a deletion, who must hear of it.
//!
//! A deletion is one change: the volume's record goes and a tombstone comes, for ever. From then on
//! its epoch is over (its writer hears so and stops), its id is not given again, and every node that
//! says it holds something of it is told to drop it: so a crash at any moment, of anybody, leaves
//! nothing that is not done later.

use std::collections::BTreeSet;

use registry::{Problem, ProblemCode, SegmentUse};
use types::VolumeId;

use crate::decide::{find, problem};
use crate::state::{Change, DeletedRecord, State};

/// Smallest limit: an empty database takes half of it.
const LIMIT_BYTES_MIN: u64 = 64 << 20;

/// A writer that has, or may have, a volume open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenBy {
    pub instance: String,
    pub seen_ms_ago: u64,
}

/// Checks a limit.
pub(crate) fn check_limit(limit_bytes: Option<u64>) -> Result<(), Problem> {
    match limit_bytes.filter(|bytes| *bytes < LIMIT_BYTES_MIN) {
        None => Ok(()),
        Some(bytes) => {
            let message = format!("a limit of {bytes} bytes is too small; the least is 64 MiB");
            Err(problem(ProblemCode::Invalid, message))
        }
    }
}

/// Gives a volume another limit.
pub(crate) fn limit(
    state: &State,
    id: VolumeId,
    limit_bytes: Option<u64>,
) -> Result<Vec<Change>, Problem> {
    check_limit(limit_bytes)?;
    let known = find(state, id)?;
    let mut volume = known.clone();
    volume.limit_bytes = limit_bytes;
    Ok(if volume == *known { Vec::new() } else { vec![Change::Volume(volume)] })
}

/// Deletes a volume; nothing to do when it was deleted before.
pub(crate) fn delete(
    state: &State,
    id: VolumeId,
    open: Option<OpenBy>,
    force: bool,
) -> Result<Vec<Change>, Problem> {
    if state.deleted.contains_key(&id) {
        return Ok(Vec::new());
    }
    let volume = find(state, id)?;
    if let Some(OpenBy { instance, seen_ms_ago }) = open.filter(|_| !force) {
        let message = format!(
            "instance {instance} has volume {} open (heard {seen_ms_ago} ms ago); stop it first, or \
             force the deletion, which stops it",
            volume.name
        );
        return Err(problem(ProblemCode::InUse, message));
    }
    let groups = || volume.all_groups();
    let former = groups().flat_map(|group| group.former.iter().map(|former| former.node));
    let holders = groups().flat_map(|group| group.holders().map(|member| member.node));
    let nodes: BTreeSet<_> = holders.chain(former).collect();
    Ok(vec![Change::Deleted(DeletedRecord {
        id,
        name: volume.name.clone(),
        nodes: nodes.into_iter().collect(),
    })])
}

/// Of the volumes that a node holds something of, those that it is to drop.
pub(crate) fn to_drop(state: &State, holds: &[SegmentUse]) -> Vec<VolumeId> {
    let held: BTreeSet<VolumeId> = holds.iter().map(|one| one.volume).collect();
    held.into_iter().filter(|volume| state.deleted.contains_key(volume)).collect()
}
