//! Relation segment files: reads see only what is present, writes claim and win (rules R2, R2a).

use seam::access::{self, Extent};
use seam::{BLOCK_BYTES, Map, SegmentName, sys};

use crate::{driver, process, raw};

/// Most blocks that one `posix_fadvise` asks the driver for.
const PREFETCH_BLOCKS: u32 = 1024;

/// An extent from a call's own numbers; `None` for what the kernel is to refuse or has no bytes.
pub fn extent(offset: i64, bytes: usize) -> Option<Extent> {
    let offset = u64::try_from(offset).ok()?;
    (bytes > 0).then_some(Extent { offset, bytes: bytes as u64 })
}

fn failed(errno: i32) -> isize {
    sys::set_errno(errno);
    -1
}

/// Reads one piece of a file: `read` is the system call on exactly that piece.
pub fn read(map: &Map, name: &SegmentName, piece: Extent, read: impl FnMut() -> isize) -> isize {
    let fetch = |first, count| process::quietly(|| driver::fetch(name, first, count));
    access::read_present(map, piece, fetch, read).unwrap_or_else(failed)
}

/// Writes one piece of a file: `write` is the system call on exactly that piece.
pub fn write(
    fd: i32,
    map: &Map,
    name: &SegmentName,
    piece: Extent,
    write: impl FnOnce() -> isize,
) -> isize {
    let ready = || {
        let board = process::board()?;
        if board.no_room() && piece.offset.saturating_add(piece.bytes) > sys::file_bytes(fd)? {
            return Err(libc::ENOSPC);
        }
        let untouched =
            (0..piece.count()).filter(|at| map.is_untouched(piece.first() + at)).count();
        if untouched > 0 {
            board.count_grown(untouched as u64);
        }
        process::claimant()
    };
    let claimant = match process::quietly(ready) {
        Ok(claimant) => claimant,
        Err(errno) => return failed(errno),
    };
    let fetch = |first, count| driver::fetch(name, first, count);
    let mut after = sys::errno();
    let write = || {
        let result = write();
        after = sys::errno();
        result as i64
    };
    match access::write_claimed(map, name, claimant, piece, fetch, write) {
        Ok(result) => {
            sys::set_errno(after);
            isize::try_from(result).unwrap_or(-1)
        }
        Err(errno) => failed(errno),
    }
}

/// Truncates a file, or lets it grow by a hole.
pub fn truncate(fd: i32, map: &Map, name: &SegmentName, bytes: i64) -> i32 {
    let prepared = process::quietly(|| {
        let old = sys::file_bytes(fd)?;
        let new = u64::try_from(bytes).map_err(|_| libc::EINVAL)?;
        if new > old && process::board()?.no_room() {
            return Err(libc::ENOSPC);
        }
        let kept = new.div_ceil(BLOCK_BYTES);
        let edge = u32::try_from(new / BLOCK_BYTES).unwrap_or(u32::MAX);
        if new < old && !new.is_multiple_of(BLOCK_BYTES) && map.state(edge).is_absent() {
            driver::fetch(name, edge, 1)?;
        }
        let block =
            |blocks: u64| u32::try_from(blocks).unwrap_or(u32::MAX).min(seam::BLOCKS_PER_SEGMENT);
        Ok((block(kept), block(old.div_ceil(BLOCK_BYTES)), process::claimant()?))
    });
    let (kept, old, claimant) = match prepared {
        Ok(prepared) => prepared,
        Err(errno) => return failed(errno) as i32,
    };
    let mut outcome = (-1, 0);
    access::discard(map, name, claimant, kept..old.max(kept), || {
        outcome = (raw::ftruncate(fd, bytes), sys::errno());
        outcome.0 == 0
    });
    sys::set_errno(outcome.1);
    outcome.0
}

/// Asks for the absent blocks of a range before they are read.
pub fn prefetch(map: &Map, name: &SegmentName, extent: Extent) {
    let first = extent.first();
    let end = first + extent.count().min(PREFETCH_BLOCKS);
    let mut run = None;
    for block in first..=end {
        let absent = block < end && map.state(block).is_absent();
        match (run, absent) {
            (None, true) => run = Some(block),
            (Some(from), false) => {
                driver::prefetch(name, from, block - from);
                run = None;
            }
            _ => {}
        }
    }
}
