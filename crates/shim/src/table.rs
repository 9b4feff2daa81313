//! What a descriptor means: nothing to us, a file of the data directory, a WAL segment, or a
//! relation segment with its presence map. A plain array in zeroed memory, inherited by fork.
//!
//! Invariant: an entry is set after the descriptor is open and cleared before it is closed, so a
//! number reused by something else is never mistaken.

use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::SeqCst};

use seam::{Map, Request, SegmentName};

/// Descriptors that can be told apart. PostgreSQL stays below `max_files_per_process`; a file of
/// ours that gets a higher number is refused with EMFILE (rule L5).
const DESCRIPTORS: usize = 1 << 16;

const NOTHING: u32 = 0;
const LOCAL: u32 = 1;
const WAL: u32 = 2;
const RELATION: u32 = 3;
const SETTINGS: u32 = 4;
const DATABASE: u32 = 5;

struct Entry {
    kind: AtomicU32,
    /// WAL: timeline, and whether every write is a flush.
    timeline: AtomicU32,
    synchronous: AtomicU32,
    /// WAL: log position of the file's first byte.
    start: AtomicU64,
    name: [AtomicU32; 5],
    /// Relation: mapping of its presence map, null if it has none.
    map: AtomicPtr<u8>,
}

static TABLE: [Entry; DESCRIPTORS] = [const {
    Entry {
        kind: AtomicU32::new(NOTHING),
        timeline: AtomicU32::new(0),
        synchronous: AtomicU32::new(0),
        start: AtomicU64::new(0),
        name: [const { AtomicU32::new(0) }; 5],
        map: AtomicPtr::new(ptr::null_mut()),
    }
}; DESCRIPTORS];

/// A WAL segment's descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Wal {
    pub timeline: u32,
    pub start: u64,
    /// Opened so that each write is a flush (O_DSYNC, O_SYNC).
    pub synchronous: bool,
}

/// What a descriptor means.
#[derive(Debug)]
pub enum Meaning {
    Nothing,
    /// A file below the data directory that is neither of the others.
    Local,
    Wal(Wal),
    Relation(SegmentName, Option<ManuallyDrop<Map>>),
    /// A file or directory whose sync is told to the driver.
    Told(Request),
}

impl Entry {
    fn numbers(&self) -> [u32; 5] {
        [0, 1, 2, 3, 4].map(|at: usize| self.name.get(at).map_or(0, |word| word.load(SeqCst)))
    }
}

fn entry(fd: c_int) -> Option<&'static Entry> {
    TABLE.get(usize::try_from(fd).ok()?)
}

/// Whether a descriptor means something to us: the fast way out of every call.
#[inline]
pub fn is_ours(fd: c_int) -> bool {
    entry(fd).is_some_and(|entry| entry.kind.load(SeqCst) != NOTHING)
}

/// What a descriptor means.
pub fn meaning(fd: c_int) -> Meaning {
    let Some(entry) = entry(fd) else { return Meaning::Nothing };
    match entry.kind.load(SeqCst) {
        LOCAL => Meaning::Local,
        WAL => Meaning::Wal(Wal {
            timeline: entry.timeline.load(SeqCst),
            start: entry.start.load(SeqCst),
            synchronous: entry.synchronous.load(SeqCst) != 0,
        }),
        RELATION => {
            let [tablespace, database, relation, fork, segment] = entry.numbers();
            // SAFETY: the entry's mapping lives until the entry is cleared, which is when the
            // program closes the descriptor, not while it is in a call on it. Never dropped here.
            let map = unsafe { Map::from_raw(entry.map.load(SeqCst)) }.map(ManuallyDrop::new);
            Meaning::Relation(SegmentName { tablespace, database, relation, fork, segment }, map)
        }
        SETTINGS => Meaning::Told(Request::Settings),
        DATABASE => {
            let [tablespace, database, ..] = entry.numbers();
            let pid = seam::sys::own_pid();
            Meaning::Told(Request::Directory { tablespace, database, pid })
        }
        _ => Meaning::Nothing,
    }
}

/// Notes a file of the data directory. Numbers past the table are simply not noted: its syncs are
/// then real ones, which is harmless.
pub fn set_local(fd: c_int) {
    if let Some(entry) = entry(fd) {
        entry.kind.store(LOCAL, SeqCst);
    }
}

/// Notes a WAL segment; `false` when the number is past the table.
#[must_use]
pub fn set_wal(fd: c_int, wal: Wal) -> bool {
    let Some(entry) = entry(fd) else { return false };
    entry.timeline.store(wal.timeline, SeqCst);
    entry.start.store(wal.start, SeqCst);
    entry.synchronous.store(u32::from(wal.synchronous), SeqCst);
    entry.kind.store(WAL, SeqCst);
    true
}

/// Notes a relation segment; `false` when the number is past the table.
#[must_use]
pub fn set_relation(fd: c_int, name: &SegmentName, map: Option<Map>) -> bool {
    let Some(entry) = entry(fd) else { return false };
    let numbers = [name.tablespace, name.database, name.relation, name.fork, name.segment];
    for (place, number) in entry.name.iter().zip(numbers) {
        place.store(number, SeqCst);
    }
    entry.map.store(map.map_or(ptr::null_mut(), Map::into_raw), SeqCst);
    entry.kind.store(RELATION, SeqCst);
    true
}

/// Notes a file or directory whose sync the driver is told of; `false` when the number is past the
/// table, or the request is not about one.
#[must_use]
pub fn set_told(fd: c_int, request: Request) -> bool {
    let Some(entry) = entry(fd) else { return false };
    let (kind, numbers) = match request {
        Request::Settings => (SETTINGS, [0, 0]),
        Request::Directory { tablespace, database, .. } => (DATABASE, [tablespace, database]),
        _ => return false,
    };
    for (place, number) in entry.name.iter().zip(numbers) {
        place.store(number, SeqCst);
    }
    entry.kind.store(kind, SeqCst);
    true
}

/// Forgets a descriptor that is about to be closed.
pub fn clear(fd: c_int) {
    let Some(entry) = entry(fd) else { return };
    if entry.kind.swap(NOTHING, SeqCst) == RELATION {
        // SAFETY: taken out of the entry, so it is dropped once.
        drop(unsafe { Map::from_raw(entry.map.swap(ptr::null_mut(), SeqCst)) });
    }
}
