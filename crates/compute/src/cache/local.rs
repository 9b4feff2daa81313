//! One relation segment file as the driver has it open: its data and its presence map.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::FallocateFlags;
use seam::{BLOCK_BYTES, Instance, Map, SegmentName};

/// Bytes of a block as memory.
pub const BLOCK: usize = 8192;

/// See the module's description. Stays usable, and harmless, when the file is removed meanwhile.
#[derive(Debug)]
pub struct Local {
    /// Which file.
    pub name: SegmentName,
    /// Its map.
    pub map: Map,
    file: File,
}

impl Local {
    /// Opens a segment file; `None` when it or its map does not exist (it is wholly present, or
    /// going away).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(instance: &Instance, name: &SegmentName) -> io::Result<Option<Local>> {
        let Some(map) = Map::open(instance, name).map_err(io::Error::from_raw_os_error)? else {
            return Ok(None);
        };
        let data = instance.data(name);
        match OpenOptions::new().read(true).write(true).open(data.as_str()) {
            Ok(file) => Ok(Some(Local { name: *name, map, file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Blocks of the file.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn blocks(&self) -> io::Result<u32> {
        let blocks = self.file.metadata()?.len() / BLOCK_BYTES;
        Ok(u32::try_from(blocks).unwrap_or(u32::MAX).min(seam::BLOCKS_PER_SEGMENT))
    }

    /// Bytes that it takes on the disk.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    /// Reads a block as it is locally, present or not.
    ///
    /// # Errors
    /// When the system refuses, or the file ends before.
    pub fn read(&self, block: u32, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, u64::from(block) * BLOCK_BYTES)
    }

    /// Writes a block, under a claim.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&self, block: u32, page: &[u8]) -> io::Result<()> {
        self.file.write_all_at(page, u64::from(block) * BLOCK_BYTES)
    }

    /// Gives a block's room back to the disk, under a claim, after it was made absent.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn punch(&self, block: u32) -> io::Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let start = u64::from(block) * BLOCK_BYTES;
        Ok(rustix::fs::fallocate(self.file.as_fd(), how, start, BLOCK_BYTES)?)
    }
}
