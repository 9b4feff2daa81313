//! What is in the cache, and what goes next: a clock over the blocks of all segment files that rule
//! R4a lets go. A block that was used since the hand last passed is spared once.

use std::fs;
use std::io;

use seam::{Instance, SegmentName};

use crate::cache::local::Local;

/// Fork numbers as in file names.
const MAIN: u32 = 0;
const INIT: u32 = 3;

/// Blocks of one file that may go, by number within the file.
#[derive(Debug)]
pub struct Candidates {
    /// The file.
    pub local: Local,
    /// Present, unclaimed blocks.
    pub blocks: Vec<u32>,
}

/// Segment files that have a map, in order.
///
/// # Errors
/// When the directory cannot be read.
pub fn segments(instance: &Instance) -> io::Result<Vec<SegmentName>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(instance.maps().as_str())? {
        let name = entry?.file_name();
        found.extend(SegmentName::from_map_name(name.as_encoded_bytes()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Bytes that relation files with maps take on the local disk.
///
/// # Errors
/// When a file cannot be looked at.
pub fn resident_bytes(instance: &Instance) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for name in segments(instance)? {
        match fs::metadata(instance.data(&name).as_str()) {
            Ok(metadata) => bytes += metadata.blocks() * 512,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Rule R4a: the main fork of a permanent relation. An unlogged one has an init fork; temporary
/// ones have no map at all.
fn may_go(instance: &Instance, name: &SegmentName) -> bool {
    let init = SegmentName { fork: INIT, segment: 0, ..*name };
    name.fork == MAIN && fs::symlink_metadata(instance.data(&init).as_str()).is_err()
}

/// The clock's hand.
#[derive(Debug, Default)]
pub struct Clock {
    /// Where it stands: the next block to look at.
    hand: (SegmentName, u32),
}

impl Clock {
    /// Picks up to `want` blocks to let go, sparing used ones once; goes round at most twice.
    ///
    /// # Errors
    /// When files cannot be looked at.
    pub fn pick(&mut self, instance: &Instance, want: usize) -> io::Result<Vec<Candidates>> {
        let names = segments(instance)?;
        let start = names.partition_point(|name| *name < self.hand.0);
        let mut picked: Vec<Candidates> = Vec::new();
        let mut count = 0;
        for name in names.iter().cycle().skip(start).take(names.len() * 2) {
            if count >= want {
                break;
            }
            let first = if *name == self.hand.0 { self.hand.1 } else { 0 };
            if !may_go(instance, name) {
                self.hand = (*name, u32::MAX);
                continue;
            }
            let Some(local) = Local::open(instance, name)? else { continue };
            let (blocks, next) = pick_from(&local, first, want - count, true)?;
            self.hand = (*name, next);
            count += blocks.len();
            if !blocks.is_empty() {
                picked.push(Candidates { local, blocks });
            }
            if next == u32::MAX && names.last() == Some(name) {
                self.hand = Default::default();
            }
        }
        Ok(picked)
    }
}

/// Every block of every file that may go.
///
/// # Errors
/// When files cannot be looked at.
pub fn everything(instance: &Instance) -> io::Result<Vec<Candidates>> {
    let mut found = Vec::new();
    for name in segments(instance)?.iter().filter(|name| may_go(instance, name)) {
        if let Some(local) = Local::open(instance, name)? {
            let (blocks, _) = pick_from(&local, 0, usize::MAX, false)?;
            if !blocks.is_empty() {
                found.push(Candidates { local, blocks });
            }
        }
    }
    Ok(found)
}

/// Present, unclaimed blocks from `first` on, and where to go on (`u32::MAX`: the file is done).
fn pick_from(local: &Local, first: u32, want: usize, spare: bool) -> io::Result<(Vec<u32>, u32)> {
    let mut blocks = Vec::new();
    for block in first..local.blocks()? {
        if blocks.len() >= want {
            return Ok((blocks, block));
        }
        let state = local.map.state(block);
        if state.is_absent() || state.is_claimed() {
            continue;
        }
        if spare && state.is_referenced() {
            local.map.clear_referenced(block);
            continue;
        }
        blocks.push(block);
    }
    Ok((blocks, u32::MAX))
}
