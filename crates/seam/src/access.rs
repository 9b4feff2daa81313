//! Reads, writes and discards of a relation segment file that obey its presence map. The caller
//! gives the system call itself; these functions say when it may run and whether it counts.
//!
//! Not for the driver's own fills and evictions, which claim single blocks ([`crate::map`]).

use crate::map::{BLOCK_BYTES, Map, State};
use crate::slot::Claimant;
use crate::{BLOCKS_PER_SEGMENT, SegmentName};

/// Most blocks that one guarded call may concern; longer ones are done in pieces.
pub const BLOCKS_AT_ONCE: u32 = 64;

/// Bytes of a file that a call concerns, as blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// How many bytes, more than zero.
    pub bytes: u64,
}

impl Extent {
    /// The first block touched.
    #[must_use]
    pub fn first(&self) -> u32 {
        block_of(self.offset)
    }

    /// Number of blocks touched, none past the segment's end.
    #[must_use]
    pub fn count(&self) -> u32 {
        let end = self.offset.saturating_add(self.bytes).div_ceil(BLOCK_BYTES);
        block_count(end).saturating_sub(self.first())
    }

    /// The longest beginning of this that one guarded call may concern.
    #[must_use]
    pub fn piece(&self) -> Extent {
        let whole = u64::from(BLOCKS_AT_ONCE) * BLOCK_BYTES;
        let room = whole - self.offset % BLOCK_BYTES;
        Extent { offset: self.offset, bytes: self.bytes.min(room) }
    }

    fn covers(&self, block: u32) -> bool {
        let start = u64::from(block) * BLOCK_BYTES;
        self.offset <= start && start + BLOCK_BYTES <= self.offset.saturating_add(self.bytes)
    }

    fn blocks(&self) -> std::ops::Range<u32> {
        self.first()..self.first() + self.count()
    }
}

fn block_of(offset: u64) -> u32 {
    block_count(offset / BLOCK_BYTES)
}

fn block_count(blocks: u64) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX).min(BLOCKS_PER_SEGMENT)
}

/// Runs `read` until everything it read was present throughout (rule R2), fetching what is absent.
/// `extent` is at most one [`Extent::piece`].
///
/// # Errors
/// What `fetch` fails with.
pub fn read_present<T>(
    map: &Map,
    extent: Extent,
    mut fetch: impl FnMut(u32, u32) -> Result<(), i32>,
    mut read: impl FnMut() -> T,
) -> Result<T, i32> {
    let mut before = [State::default(); BLOCKS_AT_ONCE as usize + 1];
    loop {
        let mut absent = None;
        for (block, state) in extent.blocks().zip(before.iter_mut()) {
            *state = map.look(block);
            if state.is_absent() {
                let (first, _) = absent.unwrap_or((block, block));
                absent = Some((first, block));
            }
        }
        if let Some((first, last)) = absent {
            fetch(first, last - first + 1)?;
            continue;
        }
        let result = read();
        let held = |(block, state): (u32, &State)| state.held_until(map.look_again(block));
        if extent.blocks().zip(before.iter()).all(held) {
            return Ok(result);
        }
    }
}

/// Runs `write` under claims on every block it touches; what it wrote is present afterwards
/// (rule R2a: a write waits for a fill under way and always wins). A block that the write covers
/// only in part is fetched first. `write` answers like the system call: bytes written, or negative.
///
/// # Errors
/// What `fetch` fails with; nothing was written then.
pub fn write_claimed(
    map: &Map,
    name: &SegmentName,
    claimant: Claimant<'_>,
    extent: Extent,
    mut fetch: impl FnMut(u32, u32) -> Result<(), i32>,
    write: impl FnOnce() -> i64,
) -> Result<i64, i32> {
    let partly_absent =
        || extent.blocks().find(|block| !extent.covers(*block) && map.state(*block).is_absent());
    loop {
        if let Some(block) = partly_absent() {
            fetch(block, 1)?;
            continue;
        }
        claimant.publish(name, extent.first(), extent.count());
        extent.blocks().for_each(|block| map.claim_write(block, claimant));
        if partly_absent().is_none() {
            break;
        }
        extent.blocks().for_each(|block| map.release_unchanged(block));
        claimant.retire();
    }
    let result = write();
    let done = Extent { offset: extent.offset, bytes: u64::try_from(result).unwrap_or(0) };
    for block in extent.blocks() {
        // A short write may have left a block half new: absent ones stay so.
        if done.covers(block) || result == i64::try_from(extent.bytes).unwrap_or(i64::MAX) {
            map.release_present(block);
        } else {
            map.release_unchanged(block);
        }
    }
    claimant.retire();
    Ok(result)
}

/// Runs `cut`, which truncates the file to `blocks.start` blocks or removes it, under claims on all
/// its blocks from there on, so that no late fill can write into what comes after it. If it
/// succeeds the blocks are cleared: what the file grows to later is present, and zeros.
pub fn discard(
    map: &Map,
    name: &SegmentName,
    claimant: Claimant<'_>,
    blocks: std::ops::Range<u32>,
    cut: impl FnOnce() -> bool,
) {
    let count = blocks.end.saturating_sub(blocks.start);
    claimant.publish(name, blocks.start, count);
    blocks.clone().for_each(|block| map.claim_discard(block, claimant));
    let done = cut();
    for block in blocks {
        if done {
            map.release_cleared(block);
        } else {
            map.release_unchanged(block);
        }
    }
    claimant.retire();
}
