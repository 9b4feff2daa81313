//! Whether the disk has room for a cluster: asked before it is begun, and again when it fails.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use env::{RealDisk, room};

use super::layout::{Layout, Saved};

/// What a new cluster takes: each of six nodes 96 MB (64 of them at its first write), and the
/// instance a database by `initdb` and a log segment.
const NEW: Needs = Needs { storage: (6 * 96) << 20, instance: 128 << 20 };
/// What a cluster takes that was stopped: each node a log file of 32 MB, unless one is to spare, and
/// the instance a directory laid out afresh.
const AGAIN: Needs = Needs { storage: (6 * 32) << 20, instance: 64 << 20 };
/// With less than this a disk is as good as full.
const FULL: u64 = 1 << 20;

struct Needs {
    storage: u64,
    instance: u64,
}

/// Refuses to start a cluster that would soon run out of room.
pub(crate) fn check(layout: &Layout, saved: &Saved) -> anyhow::Result<()> {
    // Until the control plane has been asked there is nothing.
    let (what, needs) = match saved.cluster {
        None => ("a new cluster", NEW),
        Some(_) => ("this cluster again", AGAIN),
    };
    let (dir, instances) = (&layout.dir, &saved.instances);
    if device(dir) == device(instances) {
        return Ok(room::require(&RealDisk, dir, needs.storage + needs.instance, what)?);
    }
    room::require(&RealDisk, dir, needs.storage, what)?;
    Ok(room::require(&RealDisk, instances, needs.instance, what)?)
}

/// What to tell beside a failure when the disk is full: logs end early then.
pub(crate) fn hint(layout: &Layout, saved: &Saved) -> String {
    let full = |dir: &&&Path| room::free(&RealDisk, dir).is_ok_and(|free| free < FULL);
    match [layout.dir.as_path(), &saved.instances].iter().find(full) {
        Some(dir) => format!("where {} lies {}; ", dir.display(), room::FULL),
        None => String::new(),
    }
}

/// The file system that a path lies on, or will lie on.
fn device(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|place| std::fs::metadata(place).ok()).map(|meta| meta.dev())
}
