//! Old directories out of the way and new ones made, neither at the cost of an opening.
//!
//! Why it is not just "delete and create": a file system of the ext family does not give out an
//! inode again for a while after its file was deleted, and looks past all such inodes of the block
//! group one by one. Making a directory of a thousand files where a thousand were just deleted takes
//! twenty times as long as making it elsewhere. So what is old is moved aside and deleted once
//! PostgreSQL runs, and a new directory is begun in a block group of its own: the file system
//! chooses one by name below a directory that is marked as a top of hierarchies.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use env::{RealDisk, room};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::skeleton::make_directory;

/// Where old directories wait, and new ones are begun.
const ASIDE: &str = "old";

/// Moves these directories of the instance aside; those that do not exist are passed over.
///
/// # Errors
/// When the file system refuses.
pub fn move_aside(instance: &Path, names: &[&str]) -> anyhow::Result<()> {
    let aside = instance.join(ASIDE);
    make_directory(&aside)?;
    for name in names {
        let from = instance.join(name);
        let free = (0u32..).map(|number| aside.join(number.to_string()));
        let Some(to) = free.into_iter().find(|path| !path.exists()) else { continue };
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot move {} aside", from.display()));
            }
        }
    }
    Ok(())
}

/// Makes an empty directory of the instance, where the file system is at its quickest. There must
/// be none of this name.
///
/// # Errors
/// When the file system refuses.
pub fn make_afresh(instance: &Path, name: &str) -> anyhow::Result<()> {
    let aside = instance.join(ASIDE);
    make_directory(&aside)?;
    spread(&aside);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let (begun, to) = (aside.join(format!("new-{now}")), instance.join(name));
    make_directory(&begun)?;
    fs::rename(&begun, &to).with_context(|| format!("cannot make {}", to.display()))
}

/// Marks a directory so that those made in it begin in block groups of their own. Other file systems
/// know no such mark, and need none.
fn spread(directory: &Path) {
    let marked = File::open(directory).and_then(|open| {
        let flags = ioctl_getflags(&open)?;
        Ok(ioctl_setflags(&open, flags | IFlags::TOPDIR)?)
    });
    if let Err(error) = marked {
        tracing::debug!(%error, directory = %directory.display(), "not marked");
    }
}

/// Deletes what was moved aside, in a thread of its own: nobody waits for it.
///
/// # Errors
/// When the thread cannot be had.
pub fn sweep_later(instance: &Path) -> io::Result<()> {
    let instance = instance.to_owned();
    let work = move || match sweep(&instance) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, "cannot delete the directory before"),
    };
    std::thread::Builder::new().name("sweep".to_owned()).spawn(work).map(drop)
}

/// Makes sure that a directory can be laid out: where the disk is too full for it, what is there
/// goes first, at once; it is a cache, and often what fills the disk.
///
/// # Errors
/// When there is too little room even so, or the file system refuses.
pub fn make_room(instance: &Path, needed: u64) -> anyhow::Result<()> {
    let is_enough = room::free(&RealDisk, instance)? >= needed;
    for name in [ASIDE, "pgdata", "tablespaces", "shm/maps"].iter().filter(|_| !is_enough) {
        let path = instance.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot delete {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(room::require(&RealDisk, instance, needed, "an instance")?)
}

/// Deletes what was moved aside.
///
/// # Errors
/// When the file system refuses.
pub fn sweep(instance: &Path) -> io::Result<()> {
    fs::remove_dir_all(instance.join(ASIDE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_gone_at_once_and_from_the_disk_after_the_sweep() {
        let scratch = tempfile::tempdir().expect("a directory");
        let instance = scratch.path();
        for round in 0..3 {
            move_aside(instance, &["pgdata", "never-made"]).expect("moved");
            make_afresh(instance, "pgdata").expect("made");
            let pgdata = instance.join("pgdata");
            assert_eq!(fs::read_dir(&pgdata).expect("there").count(), 0, "empty, round {round}");
            fs::create_dir(pgdata.join("base")).expect("made");
            fs::write(pgdata.join("base/1"), "one").expect("written");
        }
        assert_eq!(fs::read_dir(instance.join(ASIDE)).expect("there").count(), 2);
        sweep(instance).expect("swept");
        let left: Vec<_> = fs::read_dir(instance).expect("there").flatten().collect();
        assert_eq!(left.len(), 1, "only pgdata: {left:?}");
    }

    #[test]
    fn a_full_disk_is_freed_of_the_cache_before_and_else_refused_with_the_figures() {
        let scratch = tempfile::tempdir().expect("a directory");
        let instance = scratch.path();
        for name in ["old/1", "pgdata/base", "tablespaces/7", "shm/maps"] {
            fs::create_dir_all(instance.join(name)).expect("made");
        }
        make_room(instance, 1).expect("enough");
        assert!(instance.join("pgdata/base").exists(), "left alone while there is room");
        let error = make_room(instance, u64::MAX).expect_err("never enough").to_string();
        assert!(error.contains("make room"), "{error}");
        let left: Vec<_> = fs::read_dir(instance).expect("there").flatten().collect();
        assert!(left.iter().all(|entry| entry.file_name() == "shm"), "{left:?}");
    }

    #[test]
    fn a_directory_in_use_is_not_replaced() {
        let scratch = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(scratch.path().join("pgdata/base")).expect("made");
        make_afresh(scratch.path(), "pgdata").expect_err("it is not empty");
    }
}
