//! Whether there is room for what is about to begin, so that it is refused in one sentence and not
//! found out halfway.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskError, ErrorKind};

/// What an operator does about a full disk. Every error of class [`ErrorKind::Full`] ends with it.
pub const FULL: &str =
    "the file system is full: make room on it (`df -h` and `df -i` show it), then start again";

/// Why something does not begin.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RoomError {
    /// Too little is free.
    #[error(
        "starting {what} takes {}, and where {} lies only {} are free: make room there, or choose \
         another directory",
        megabytes(*needed), path.display(), megabytes(*free)
    )]
    Short {
        /// What does not begin.
        what: String,
        /// Where it was to lie.
        path: PathBuf,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that are free there.
        free: u64,
    },
    /// It cannot be found out.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Bytes that are free where `path` lies, or will lie: the nearest directory above that exists.
///
/// # Errors
/// The system's failure.
pub fn free(disk: &dyn Disk, path: &Path) -> Result<u64, DiskError> {
    let mut path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match (disk.free_bytes(path), path.parent()) {
            (Err(error), Some(above)) if error.kind == ErrorKind::Missing => {
                path = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            }
            (answer, _) => return answer,
        }
    }
}

/// Refuses `what` when fewer than `needed` bytes are free where `path` lies.
///
/// # Errors
/// [`RoomError::Short`], or the system's failure.
pub fn require(disk: &dyn Disk, path: &Path, needed: u64, what: &str) -> Result<(), RoomError> {
    let free = free(disk, path)?;
    if free >= needed {
        return Ok(());
    }
    Err(RoomError::Short { what: what.to_owned(), path: path.to_owned(), needed, free })
}

/// Bytes in words; what is free is rounded down and needs are whole megabytes.
fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemDisk, RealDisk};

    #[test]
    fn too_little_room_is_refused_with_both_figures_and_the_place() {
        let disk = MemDisk::new();
        disk.set_capacity(Some(3 << 20));
        let place = Path::new("data/a1");
        require(&disk, place, 3 << 20, "a node").expect("just enough");
        let error = require(&disk, place, 64 << 20, "a node").expect_err("too little").to_string();
        for word in ["a node", "64 MB", "3 MB", "data/a1", "make room"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn a_directory_still_to_be_made_counts_as_the_one_above_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let there = free(&RealDisk, dir.path()).expect("known");
        let below = free(&RealDisk, &dir.path().join("not/yet")).expect("known");
        assert!(there > 0 && below > 0);
    }
}
