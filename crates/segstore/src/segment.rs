//! One segment's place on disk and in memory, and the one way its manifest changes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use env::{Disk, DiskError};
use types::{Lsn, SegmentId};

use crate::index::Index;
use crate::manifest::Manifest;
use crate::pages::{FileMeta, PageFile};

/// One segment.
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) dir: PathBuf,
    index: RwLock<Index>,
    manifest: Mutex<Manifest>,
}

/// A new set of files for a segment.
pub(crate) struct NewFiles {
    /// Newest first.
    pub(crate) files: Vec<Arc<PageFile>>,
    /// What they cover.
    pub(crate) flushed: Lsn,
    /// Lowest read point that they can answer.
    pub(crate) horizon: Lsn,
}

/// Name of a segment's directory.
pub(crate) fn dir_name(segment: SegmentId) -> String {
    format!("{}-{}", segment.volume, segment.group)
}

/// The segment that a directory of this name belongs to.
pub(crate) fn from_dir_name(name: &str) -> Option<SegmentId> {
    let (volume, group) = name.split_once('-')?;
    let (volume, group) = (volume.parse().ok()?, group.parse().ok()?);
    Some(SegmentId { volume, group: types::GroupId(group) })
}

impl Segment {
    pub(crate) fn new(id: SegmentId, dir: PathBuf, index: Index, manifest: Manifest) -> Segment {
        Segment { id, dir, index: RwLock::new(index), manifest: Mutex::new(manifest) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new page file; durable with the next commit.
    pub(crate) fn next_file(&self) -> u64 {
        let mut manifest = self.manifest();
        manifest.next_file += 1;
        manifest.next_file - 1
    }

    /// Makes state and file set durable, then visible: first the manifest, then the index (S4).
    /// Returns the files that are no longer part of the segment. For [`crate::Store::save`] only,
    /// which notes it in the log.
    pub(crate) fn commit(
        &self,
        disk: &dyn Disk,
        change: Option<NewFiles>,
        edit: impl FnOnce(&mut Manifest),
    ) -> Result<Vec<Arc<PageFile>>, DiskError> {
        let mut manifest = self.manifest();
        let mut next = manifest.clone();
        edit(&mut next);
        next.generation += 1;
        if let Some(change) = &change {
            next.files = change.files.iter().map(|file| file.meta).collect::<Vec<FileMeta>>();
            next.flushed = change.flushed;
            next.horizon = next.horizon.max(change.horizon);
        }
        {
            let index = self.read();
            next.state = index.state.clone();
            next.state_at = index.state_at;
            next.covered = index.covered(next.flushed);
        }
        next.save(disk, &self.dir)?;
        let mut gone = Vec::new();
        if let Some(change) = change {
            let mut index = self.write();
            let kept = |old: &Arc<PageFile>| change.files.iter().any(|new| Arc::ptr_eq(old, new));
            gone.extend(index.files.iter().filter(|old| !kept(old)).cloned());
            index.publish(change.files, change.flushed, next.horizon);
        }
        *manifest = next;
        Ok(gone)
    }
}
