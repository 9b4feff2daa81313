//! Presence maps: which blocks of a relation segment file are really there, and the protocol by
//! which PostgreSQL's processes and the driver change that without a lock between them.
//!
//! ```text
//! byte 0      magic, 8 bytes; zeros up to 4096
//! byte 4096   one 32-bit word per block of the segment (131,072 of them):
//!             bit 0 ABSENT   1 REFERENCED   2 WRITTEN   3 WRITING   4 WAITERS
//!             bits 5..17 owner of the claim (place on the board), 0 = unclaimed
//!             bits 17..32 number of times the block was made absent, wrapping
//! ```
//!
//! A word of zeros is a present block, so a new file, and whatever a file grows by, is present
//! (rule R2), and holes in it are zeros as in any file.
//!
//! ```text
//!            fill: claim, write, release            write by PostgreSQL: claim, write, release
//!  absent ─────────────────────────────► present ◄──────────────────────────────────── any
//!     ▲                                     │
//!     └── evict: claim (only if not WRITTEN), ABSENT and count+1, punch, release
//! ```
//!
//! The count is what makes a read right: a reader notes the word, reads, and looks again. If the
//! block was evicted and filled in between, ABSENT looks the same but the count does not (rule H5).

use std::sync::atomic::{AtomicU32, Ordering::SeqCst, fence};

use crate::slot::Claimant;
use crate::sys::{self, Mapping};
use crate::{Instance, PathText, SegmentName};

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 8192;
/// Blocks of a full segment file (`RELSEG_SIZE`).
pub const BLOCKS_PER_SEGMENT: u32 = 131_072;

const MAGIC: &[u8; 8] = b"SIXMAP01";
const HEADER_BYTES: usize = 4096;
const MAP_BYTES: usize = HEADER_BYTES + BLOCKS_PER_SEGMENT as usize * 4;

const ABSENT: u32 = 1;
const REFERENCED: u32 = 1 << 1;
const WRITTEN: u32 = 1 << 2;
const WRITING: u32 = 1 << 3;
const WAITERS: u32 = 1 << 4;
const OWNER_SHIFT: u32 = 5;
const OWNER: u32 = 0xfff << OWNER_SHIFT;
const COUNT_ONE: u32 = 1 << 17;
const COUNT: u32 = !(COUNT_ONE - 1);

/// How long a waiter sleeps before it asks whether the claim's owner still lives.
const PATIENCE_MILLISECONDS: u32 = 50;

/// A block's word, as read at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State(u32);

impl State {
    /// The block is not in the local file.
    #[must_use]
    pub fn is_absent(self) -> bool {
        self.0 & ABSENT != 0
    }

    /// Read or written since the mark was last cleared.
    #[must_use]
    pub fn is_referenced(self) -> bool {
        self.0 & REFERENCED != 0
    }

    /// Written by PostgreSQL since the mark was last cleared.
    #[must_use]
    pub fn is_written(self) -> bool {
        self.0 & WRITTEN != 0
    }

    /// Somebody is filling, writing, evicting or discarding it.
    #[must_use]
    pub fn is_claimed(self) -> bool {
        self.0 & OWNER != 0
    }

    /// Whether bytes read between the two looks are the block's: present at both, and not made
    /// absent in between.
    #[must_use]
    pub fn held_until(self, later: State) -> bool {
        !self.is_absent() && !later.is_absent() && self.same_absence(later)
    }

    /// Whether the block was not made absent between the two looks.
    #[must_use]
    pub fn same_absence(self, later: State) -> bool {
        self.0 & COUNT == later.0 & COUNT
    }

    fn owner(self) -> u32 {
        (self.0 & OWNER) >> OWNER_SHIFT
    }
}

/// One segment file's map, mapped into this process.
#[derive(Debug)]
pub struct Map {
    mapping: Mapping,
}

impl Map {
    /// Opens a segment's map; `None` when it has none, i.e. is wholly present.
    ///
    /// # Errors
    /// The errno; EINVAL for a file that is no map.
    pub fn open(instance: &Instance, name: &SegmentName) -> Result<Option<Map>, i32> {
        let path = instance.map(name);
        match sys::open(terminated(&path)?, libc::O_RDWR, 0) {
            Ok(fd) => {
                let mut magic = [0; 8];
                if sys::read(fd, &mut magic) != Ok(8) || magic != *MAGIC {
                    sys::close(fd);
                    return Err(libc::EINVAL);
                }
                Map::mapped(fd).map(Some)
            }
            Err(libc::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The map of a file that is about to be made: everything present. If one of that name is left
    /// from a file removed by a process that died on the way, it is emptied.
    ///
    /// # Errors
    /// The errno.
    pub fn for_new_file(
        instance: &Instance,
        name: &SegmentName,
        claimant: Claimant<'_>,
    ) -> Result<Map, i32> {
        loop {
            if let Some(map) = Map::open(instance, name)? {
                let dirty = |block: &u32| map.state(*block) != State(0);
                let end = (0..BLOCKS_PER_SEGMENT).rev().find(dirty).map_or(0, |last| last + 1);
                crate::access::discard(&map, name, claimant, 0..end, || true);
                return Ok(map);
            }
            let (map, fresh) = Map::unnamed(instance, name, 0)?;
            let linked = sys::link(terminated(&fresh)?, terminated(&instance.map(name))?);
            sys::unlink(terminated(&fresh)?)?;
            match linked {
                Ok(()) => return Ok(map),
                Err(libc::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Makes the map of a skeleton file whose first `blocks` blocks are absent, replacing any of
    /// that name: for the driver, before PostgreSQL starts. Appears complete or not at all.
    ///
    /// # Errors
    /// The errno.
    pub fn create_absent(instance: &Instance, name: &SegmentName, blocks: u32) -> Result<Map, i32> {
        let (map, fresh) = Map::unnamed(instance, name, blocks)?;
        sys::rename(terminated(&fresh)?, terminated(&instance.map(name))?)?;
        Ok(map)
    }

    /// A complete map under a temporary name of this process.
    fn unnamed(
        instance: &Instance,
        name: &SegmentName,
        blocks: u32,
    ) -> Result<(Map, PathText), i32> {
        let mut fresh = instance.map(name);
        fresh.push(b".new").push_number(u64::from(sys::own_pid()));
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
        let fd = sys::open(terminated(&fresh)?, flags, 0o600)?;
        let ready = write_new(fd, blocks.min(BLOCKS_PER_SEGMENT))
            .and_then(|()| sys::resize(fd, MAP_BYTES as u64))
            .and_then(|()| instance.adopt(terminated(&fresh)?));
        if let Err(errno) = ready {
            sys::close(fd);
            return Err(errno);
        }
        let map = Map::mapped(fd)?;
        Ok((map, fresh))
    }

    /// Removes a segment's map from the directory.
    ///
    /// # Errors
    /// The errno, ENOENT included.
    pub fn remove(instance: &Instance, name: &SegmentName) -> Result<(), i32> {
        sys::unlink(terminated(&instance.map(name))?)
    }

    /// Maps an open map file and closes the descriptor.
    fn mapped(fd: i32) -> Result<Map, i32> {
        let bytes = sys::file_bytes(fd);
        let mapping = match bytes {
            Ok(bytes) if bytes == MAP_BYTES as u64 => Mapping::shared(fd, MAP_BYTES),
            Ok(_) => Err(libc::EINVAL),
            Err(errno) => Err(errno),
        };
        sys::close(fd);
        mapping.map(|mapping| Map { mapping })
    }

    /// Gives up the value but not the mapping, for tables of plain words.
    #[must_use]
    pub fn into_raw(self) -> *mut u8 {
        std::mem::ManuallyDrop::new(self).mapping.start().as_ptr()
    }

    /// The map whose mapping [`Map::into_raw`] gave; `None` for null.
    ///
    /// # Safety
    /// `start` comes from `into_raw` and has not been made into a `Map` that was dropped. Whoever
    /// makes more than one `Map` of it at a time lets only the last be dropped.
    #[must_use]
    pub unsafe fn from_raw(start: *mut u8) -> Option<Map> {
        let start = std::ptr::NonNull::new(start)?;
        // SAFETY: the caller's promise: a live mapping of a whole map.
        Some(Map { mapping: unsafe { Mapping::from_parts(start, MAP_BYTES) } })
    }

    /// Whether the block has never been read, written or absent: an idea of a file's growth.
    #[must_use]
    pub fn is_untouched(&self, block: u32) -> bool {
        self.state(block) == State(0)
    }

    fn word(&self, block: u32) -> Option<&AtomicU32> {
        if block >= BLOCKS_PER_SEGMENT {
            return None;
        }
        let at = HEADER_BYTES + block as usize * 4;
        // SAFETY: `at` is inside the mapping (its size was checked) and a multiple of four; the
        // mapping lives as long as `self`; the words are only ever used as atomics.
        Some(unsafe { self.mapping.start().add(at).cast::<AtomicU32>().as_ref() })
    }

    /// The block's state. Blocks past the segment's end are present.
    #[must_use]
    pub fn state(&self, block: u32) -> State {
        State(self.word(block).map_or(0, |word| word.load(SeqCst)))
    }

    // ---- reading --------------------------------------------------------------------------

    /// Looks at a block that is about to be read, and marks it referenced.
    #[must_use]
    pub fn look(&self, block: u32) -> State {
        let Some(word) = self.word(block) else { return State(0) };
        let seen = word.load(SeqCst);
        if seen & REFERENCED == 0 {
            word.fetch_or(REFERENCED, SeqCst);
        }
        fence(SeqCst);
        State(seen)
    }

    /// Looks again after the read; see [`State::held_until`].
    #[must_use]
    pub fn look_again(&self, block: u32) -> State {
        fence(SeqCst);
        self.state(block)
    }

    /// Waits while the block is claimed. Undoes the claim if its owner is dead.
    pub fn wait_unclaimed(&self, block: u32, claimant: Claimant<'_>) {
        let Some(word) = self.word(block) else { return };
        loop {
            let seen = word.load(SeqCst);
            if !State(seen).is_claimed() {
                return;
            }
            wait_once(word, seen, claimant);
        }
    }

    // ---- claims ---------------------------------------------------------------------------

    /// Claims a block for a write by PostgreSQL, waiting for a fill or eviction under way. The
    /// range must have been published. Blocks are claimed in ascending order (rule H6).
    pub fn claim_write(&self, block: u32, claimant: Claimant<'_>) {
        self.claim(block, WRITING | WRITTEN | REFERENCED, claimant);
    }

    /// Claims a block that is about to be cut off or removed, waiting as for a write.
    pub fn claim_discard(&self, block: u32, claimant: Claimant<'_>) {
        self.claim(block, 0, claimant);
    }

    fn claim(&self, block: u32, marks: u32, claimant: Claimant<'_>) {
        let Some(word) = self.word(block) else { return };
        loop {
            let seen = word.load(SeqCst);
            if State(seen).is_claimed() {
                wait_once(word, seen, claimant);
                continue;
            }
            let claimed = seen | marks | claimant.index << OWNER_SHIFT;
            if word.compare_exchange(seen, claimed, SeqCst, SeqCst).is_ok() {
                return;
            }
        }
    }

    /// Claims a block for filling: only if it is absent, unclaimed, and was not made absent again
    /// since `seen` was read, which must have been before the page was asked for (rule R2a).
    #[must_use]
    pub fn claim_fill(&self, block: u32, seen: State, claimant: Claimant<'_>) -> bool {
        self.claim_if(block, claimant, |now| now.is_absent() && seen.same_absence(now))
    }

    /// Claims a block for eviction: only if it is present, unclaimed and not written since
    /// [`Map::clear_written`].
    #[must_use]
    pub fn claim_evict(&self, block: u32, claimant: Claimant<'_>) -> bool {
        self.claim_if(block, claimant, |now| !now.is_absent() && !now.is_written())
    }

    fn claim_if(&self, block: u32, claimant: Claimant<'_>, fit: impl Fn(State) -> bool) -> bool {
        let Some(word) = self.word(block) else { return false };
        let mut seen = word.load(SeqCst);
        while !State(seen).is_claimed() && fit(State(seen)) {
            let claimed = seen | claimant.index << OWNER_SHIFT;
            match word.compare_exchange_weak(seen, claimed, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Makes a block claimed for eviction absent; only then may its bytes be punched out.
    pub fn make_absent(&self, block: u32) {
        if let Some(word) = self.word(block) {
            change(word, |now| (now | ABSENT).wrapping_add(COUNT_ONE));
        }
    }

    /// Releases a claim; the block is present now.
    pub fn release_present(&self, block: u32) {
        self.release(block, |now| now & !ABSENT);
    }

    /// Releases a claim; the block is as present or absent as it was.
    pub fn release_unchanged(&self, block: u32) {
        self.release(block, |now| now);
    }

    /// Releases a claim on a block that is no more: what comes to be there is present, and zeros.
    pub fn release_cleared(&self, block: u32) {
        self.release(block, |now| now & (COUNT | WAITERS));
    }

    fn release(&self, block: u32, then: impl Fn(u32) -> u32) {
        let Some(word) = self.word(block) else { return };
        let before = change(word, |now| then(now) & !(OWNER | WRITING | WAITERS));
        if before & WAITERS != 0 {
            sys::futex_wake_all(word);
        }
    }

    /// Undoes a claim of a dead owner. What it was writing may be torn, so it is absent from now
    /// on and comes back from storage: the dead process's server restarts and replays its log.
    pub(crate) fn undo_claim(&self, block: u32, owner: u32) {
        let Some(word) = self.word(block) else { return };
        let mut seen = word.load(SeqCst);
        while State(seen).owner() == owner {
            let torn = seen & WRITING != 0 && seen & ABSENT == 0;
            let count = if torn { COUNT_ONE } else { 0 };
            let undone =
                (seen & !(OWNER | WRITING | WAITERS) | u32::from(torn)).wrapping_add(count);
            match word.compare_exchange_weak(seen, undone, SeqCst, SeqCst) {
                Ok(_) => {
                    sys::futex_wake_all(word);
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }

    // ---- marks for eviction ---------------------------------------------------------------

    /// Clears the WRITTEN mark; a later write sets it again. Returns the state before.
    pub fn clear_written(&self, block: u32) -> State {
        State(self.word(block).map_or(0, |word| word.fetch_and(!WRITTEN, SeqCst)))
    }

    /// Clears the REFERENCED mark. Returns the state before.
    pub fn clear_referenced(&self, block: u32) -> State {
        State(self.word(block).map_or(0, |word| word.fetch_and(!REFERENCED, SeqCst)))
    }
}

/// Applies a change to a word and returns what it was before.
fn change(word: &AtomicU32, then: impl Fn(u32) -> u32) -> u32 {
    let mut seen = word.load(SeqCst);
    loop {
        match word.compare_exchange_weak(seen, then(seen), SeqCst, SeqCst) {
            Ok(before) => return before,
            Err(now) => seen = now,
        }
    }
}

/// Writes the header and the words of so many absent blocks into a new map file. By plain writes: a
/// first write through a mapping costs ten times as much, and an opening makes a thousand maps.
fn write_new(fd: i32, absent: u32) -> Result<(), i32> {
    const WORDS: usize = 1024;
    let mut buffer = [0u8; HEADER_BYTES + WORDS * 4];
    let (header, words) = buffer.split_at_mut(HEADER_BYTES);
    for (place, byte) in header.iter_mut().zip(MAGIC) {
        *place = *byte;
    }
    for word in words.chunks_exact_mut(4) {
        word.copy_from_slice(&ABSENT.to_ne_bytes());
    }
    let mut left = absent as usize;
    let mut from = 0; // the header goes with the first words
    loop {
        let count = left.min(WORDS);
        let bytes = buffer.get(from..HEADER_BYTES + count * 4).unwrap_or(&[]);
        if sys::write(fd, bytes)? != bytes.len() {
            return Err(libc::ENOSPC);
        }
        left -= count;
        from = HEADER_BYTES;
        if left == 0 {
            return Ok(());
        }
    }
}

fn wait_once(word: &AtomicU32, seen: u32, claimant: Claimant<'_>) {
    let waiting = seen | WAITERS;
    if seen != waiting && word.compare_exchange(seen, waiting, SeqCst, SeqCst).is_err() {
        return;
    }
    sys::futex_wait(word, waiting, PATIENCE_MILLISECONDS);
    let now = State(word.load(SeqCst));
    if now.is_claimed() && now.owner() == State(seen).owner() {
        claimant.undo_if_dead(now.owner());
    }
}

fn terminated(path: &PathText) -> Result<&std::ffi::CStr, i32> {
    path.as_c_str().ok_or(libc::ENAMETOOLONG)
}
