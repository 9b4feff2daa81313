//! `CREATE DATABASE ... STRATEGY file_copy` and `ALTER DATABASE ... SET TABLESPACE`: a backend copies a
//! directory file by file and then logs one small record that says so.
//!
//! - D19: the pages are in the volume before that record is. A copying backend ends by syncing the
//!   directory; the preload library tells us and waits. Only when the files' pages have ridden into
//!   the volume and are durable may the backend go on and log its record, which then only makes
//!   them a database's. What a crash can cut off is thus always before the record, when nobody
//!   knows of the database: the directory is marked in the catalog while it is being filled, and
//!   every shutdown checkpoint, each opening's first record among them, deletes what is marked.
//!
//! The files are what the record means: both commands make a checkpoint before they copy, and
//! nobody may be connected to the source meanwhile.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pgwal::keys::Fork;
use seam::{FileKind, Instance, SegmentName, classify};

use crate::cache::fork_of;
use crate::cache::local::{BLOCK, Local};
use crate::carrier::{Carrier, Mood};
use crate::riders::Rider;
use crate::volume_view::Shared;

/// Bytes put into the volume at once.
const AT_ONCE: usize = 8 << 20;
/// Longest wait for a server that is neither up nor starting.
const PATIENCE: Duration = Duration::from_secs(5);

/// A directory that process `pid` has made and synced.
#[derive(Debug, Clone, Copy)]
pub struct Directory {
    /// Tablespace oid.
    pub tablespace: u32,
    /// Database oid.
    pub database: u32,
    /// The process.
    pub pid: u32,
}

/// A directory was made where none was. What the volume has for it, an attempt that failed has left
/// there: files that are about to be copied must not be taken for blocks that are in the volume.
///
/// # Errors
/// When it cannot be cleared away: nothing may be copied there then.
pub fn forget_copy(
    shared: &Shared,
    carrier: &Carrier,
    tablespace: u32,
    database: u32,
) -> anyhow::Result<()> {
    let is_empty = {
        let router = shared.router();
        let catalog = &router.catalog;
        catalog.copy(tablespace, database).is_none()
            && !catalog.databases().contains_key(&(tablespace, database))
            && catalog.forks_of_database(tablespace, database).next().is_none()
    };
    // A server in recovery makes again what it has made before: that is not left over.
    if is_empty || carrier.mood(PATIENCE)? == Mood::Recovering {
        return Ok(());
    }
    carrier.carry(vec![Rider::CopyBegins(tablespace, database)])?;
    carrier.carry(vec![Rider::CopyFails(tablespace, database)])
}

/// Puts the pages of a directory just copied into the volume.
///
/// # Errors
/// When they cannot be put there: the copying backend must not log its record then.
pub fn keep_copy(
    instance: &Instance,
    shared: &Shared,
    carrier: &Carrier,
    directory: Directory,
) -> anyhow::Result<()> {
    let Directory { tablespace, database, pid } = directory;
    let files = files(instance, tablespace, database)?;
    // A directory just made for a database whose blocks will be logged is empty. A server in
    // recovery copies again what it has logged before: the volume has that.
    if files.is_empty() || carrier.mood(PATIENCE)? == Mood::Recovering {
        return Ok(());
    }
    carrier.carry(vec![Rider::CopyBegins(tablespace, database)])?;
    let kept = ensure_alive(pid).and_then(|()| {
        keep_files(instance, carrier, &files)?;
        carrier.carry(vec![Rider::CopyEnds(tablespace, database)])
    });
    if let Err(error) = kept {
        // Nobody will log the record, so nobody else would clear this away before the next start.
        carrier.carry(vec![Rider::CopyFails(tablespace, database)])?;
        return Err(error);
    }
    let is_there = shared.router().catalog.copy(tablespace, database) == Some(true);
    ensure!(is_there, "the server was restarted while database {database} was copied");
    Ok(())
}

fn ensure_alive(pid: u32) -> anyhow::Result<()> {
    match seam::sys::process_started(pid) {
        Some(_) => Ok(()),
        None => bail!("the process {pid}, which copied a database, has ended"),
    }
}

/// The files of permanent relations in a directory, of unlogged ones only the init fork.
fn files(instance: &Instance, tablespace: u32, database: u32) -> anyhow::Result<Vec<SegmentName>> {
    let any = SegmentName { tablespace, database, relation: 1, ..SegmentName::default() };
    let path = any.data_path();
    let directory = Path::new(path.as_str()).parent().context("a file lies in a directory")?;
    let pgdata = instance.pgdata();
    let full = Path::new(pgdata.as_str()).join(directory);
    let context = || format!("cannot list {}", full.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&full).with_context(context)? {
        let path = directory.join(entry.with_context(context)?.file_name());
        if let FileKind::Relation(name) = classify(path.as_os_str().as_encoded_bytes()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let init = |name: &SegmentName| SegmentName { fork: Fork::Init as u32, segment: 0, ..*name };
    let all = names.clone();
    names.retain(|name| name.fork == Fork::Init as u32 || all.binary_search(&init(name)).is_err());
    Ok(names)
}

fn keep_files(instance: &Instance, carrier: &Carrier, files: &[SegmentName]) -> anyhow::Result<()> {
    let mut riders = Vec::new();
    let mut bytes = 0;
    for name in files {
        let path = name.data_path();
        let local = Local::open(instance, name)
            .with_context(|| format!("cannot open {}", path.as_str()))?
            .with_context(|| format!("{} has gone", path.as_str()))?;
        let blocks = local.blocks().with_context(|| path.as_str().to_owned())?;
        let (rel, fork) = fork_of(name);
        riders.push(Rider::CopiedFork(rel, fork, name.first_block() + blocks));
        for block in 0..blocks {
            let page = page(&local, block).with_context(|| path.as_str().to_owned())?;
            if page.iter().all(|byte| *byte == 0) {
                continue; // what was never put reads as zeros
            }
            bytes += page.len();
            riders.push(Rider::CopiedPage(rel, fork, name.first_block() + block, page.into()));
            if bytes >= AT_ONCE {
                carrier.carry(std::mem::take(&mut riders))?;
                bytes = 0;
            }
        }
    }
    carrier.carry(riders)
}

/// A block of a file that nobody writes any more.
fn page(local: &Local, block: u32) -> anyhow::Result<Vec<u8>> {
    let before = local.map.state(block);
    let mut page = vec![0; BLOCK];
    local.read(block, &mut page)?;
    // It may leave the cache once it is in the volume, which it is not, unless we were killed in
    // the middle of this.
    ensure!(before.held_until(local.map.state(block)), "block {block} is not here; try again");
    Ok(page)
}
