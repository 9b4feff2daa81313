//! The board: one page-aligned piece of shared memory per instance, and the commit path over it.
//!
//! The board is a file, so it survives the death of either side; PostgreSQL's processes and the
//! driver map it. Every field is an atomic; a reader in the middle of a change sees old or new.
//!
//! **Flush (rules H1, H2).** PostgreSQL rewrites the last page of its log in place, so a position
//! cannot tell whether bytes below it have changed since. Writes to the log are therefore *counted*:
//! `wal_writes` goes up after each one has reached the file. A flush needs all writes counted when
//! it begins; the driver publishes in `flushed` a count it read *before* it read the log, once every
//! complete record it found is durable.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::slot::Slot;
use crate::sys::{self, Mapping};
use crate::{Instance, PathText};

/// First bytes of a board: "SIXBOARD" read as a number.
const MAGIC: u64 = 0x4452_414f_4258_4953;
/// Layout version; both sides come from one build, a mismatch is refused.
const VERSION: u32 = 1;
/// How long a waiter sleeps before it looks at the fence again and wakes the driver once more.
const RECHECK_MILLISECONDS: u32 = 200;
/// Places for processes that hold claims; also the number of owners a map word can name.
pub const SLOTS: usize = 4096;

/// Why there is no board to work with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BoardError {
    /// A system call failed with this errno.
    System(i32),
    /// The file is no board, or one of another version.
    Foreign,
}

impl std::fmt::Display for BoardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BoardError::System(errno) => {
                write!(f, "shared board: {}", std::io::Error::from_raw_os_error(*errno))
            }
            BoardError::Foreign => f.write_str(
                "shared board: not a board of this version; stop PostgreSQL and start the instance anew",
            ),
        }
    }
}

impl std::error::Error for BoardError {}

/// How log flushes are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// This server's log is the volume's: a flush waits for the quorum (rule R1).
    Write,
    /// This server's log is a copy of what is durable already: a flush returns at once.
    Follow,
}

/// How a flush ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Everything written before it began is durable.
    Durable,
    /// A newer epoch exists; the process must stop and must not report success.
    Fenced,
}

/// Why relation files may not grow. Each has an owner of its own in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NoRoom {
    /// The host's cache is at its limit.
    Cache = 1,
    /// The volume is at its limit.
    Volume = 2,
}

/// The shared memory. Never constructed: it is mapped.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Board {
    magic: AtomicU64,
    version: AtomicU32,
    mode: AtomicU32,
    wal_segment_bytes: AtomicU64,
    generation: AtomicU64,
    driver_pid: AtomicU32,
    postmaster_pid: AtomicU32,
    heartbeat: AtomicU64,
    fenced: AtomicU32,
    no_room: AtomicU32,
    grown_blocks: AtomicU64,
    wal: WalLine,
    flush: FlushLine,
    slots: [Slot; SLOTS],
}

/// Written by PostgreSQL's processes.
#[repr(C, align(64))]
#[derive(Debug)]
struct WalLine {
    writes: AtomicU64,
    end: AtomicU64,
    requested: AtomicU64,
    timeline: AtomicU32,
    driver_asleep: AtomicU32,
}

/// Written by the driver.
#[repr(C, align(64))]
#[derive(Debug)]
struct FlushLine {
    flushed: AtomicU64,
    word: AtomicU32,
    waiters: AtomicU32,
}

/// A mapped board; boards stay mapped for the life of the process.
pub type SharedBoard = &'static Board;

impl Board {
    /// Makes a new, empty board and takes it. For a driver that starts with no PostgreSQL of the
    /// instance alive; processes left over from an earlier one find theirs fenced.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(
        instance: &Instance,
        mode: Mode,
        wal_segment_bytes: u64,
    ) -> Result<SharedBoard, BoardError> {
        if let Ok(old) = Board::open(instance) {
            old.fence();
        }
        let path = instance.board();
        let mut fresh = path;
        fresh.push(b".new");
        let (from, to) = (c_path(&fresh)?, c_path(&path)?);
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
        let fd = sys::open(from, flags, 0o600).map_err(BoardError::System)?;
        let sized = sys::resize(fd, size_of::<Board>() as u64);
        let mapping = sized.and_then(|()| Mapping::shared(fd, size_of::<Board>()));
        sys::close(fd);
        let board = Board::of(mapping.map_err(BoardError::System)?);
        board.wal_segment_bytes.store(wal_segment_bytes, SeqCst);
        board.set_mode(mode);
        board.version.store(VERSION, SeqCst);
        board.magic.store(MAGIC, SeqCst);
        instance.adopt(from).and_then(|()| sys::rename(from, to)).map_err(BoardError::System)?;
        board.take_over();
        Ok(board)
    }

    /// Maps the instance's board as it is. A driver that comes back to a living PostgreSQL then
    /// calls [`Board::take_over`].
    ///
    /// # Errors
    /// When there is none, or it is another version's.
    pub fn open(instance: &Instance) -> Result<SharedBoard, BoardError> {
        let path = instance.board();
        let fd = sys::open(c_path(&path)?, libc::O_RDWR, 0).map_err(BoardError::System)?;
        let mapping = sys::file_bytes(fd).map_err(BoardError::System).and_then(|bytes| {
            if bytes != size_of::<Board>() as u64 {
                return Err(BoardError::Foreign);
            }
            Mapping::shared(fd, size_of::<Board>()).map_err(BoardError::System)
        });
        sys::close(fd);
        let board = Board::of(mapping?);
        if board.magic.load(SeqCst) != MAGIC || board.version.load(SeqCst) != VERSION {
            return Err(BoardError::Foreign);
        }
        Ok(board)
    }

    fn of(mapping: Mapping) -> SharedBoard {
        // Mapped for ever, so that references are good for ever; a process maps one or two.
        let board = std::mem::ManuallyDrop::new(mapping).start().cast::<Board>();
        // SAFETY: the mapping is page-aligned, as long as a `Board`, never unmapped; a `Board` is
        // atomics only, for which any bytes are valid.
        unsafe { board.as_ref() }
    }

    // ---- the driver's side ----------------------------------------------------------------

    /// Declares the calling process the driver.
    pub fn take_over(&self) {
        self.wal.driver_asleep.store(0, SeqCst);
        self.driver_pid.store(sys::own_pid(), SeqCst);
        self.generation.fetch_add(1, SeqCst);
    }

    /// Number of drivers that have had this board.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Sets how flushes are answered. A promoted replica's driver sets `Write` before PostgreSQL
    /// hears of the promotion.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(u32::from(mode == Mode::Write), SeqCst);
    }

    /// How flushes are answered.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.mode.load(SeqCst) == 0 { Mode::Follow } else { Mode::Write }
    }

    /// Number of writes to the log so far. Read it before reading the log.
    #[must_use]
    pub fn wal_writes(&self) -> u64 {
        self.wal.writes.load(SeqCst)
    }

    /// Just past the highest byte of the log ever written, and the timeline of the last write. The
    /// bytes below are records up to the last complete one and then filling.
    #[must_use]
    pub fn wal_end(&self) -> (u64, u32) {
        (self.wal.end.load(SeqCst), self.wal.timeline.load(SeqCst))
    }

    /// The highest count that a flush waits for.
    #[must_use]
    pub fn requested(&self) -> u64 {
        self.wal.requested.load(SeqCst)
    }

    /// The count published last.
    #[must_use]
    pub fn flushed(&self) -> u64 {
        self.flush.flushed.load(SeqCst)
    }

    /// Publishes that every complete record in the first `writes` writes is durable at a quorum,
    /// and wakes those who waited for it (rule H2).
    pub fn set_flushed(&self, writes: u64) {
        self.flush.flushed.fetch_max(writes, SeqCst);
        self.wake_flushes();
    }

    fn wake_flushes(&self) {
        self.flush.word.fetch_add(1, SeqCst);
        if self.flush.waiters.load(SeqCst) > 0 {
            sys::futex_wake_all(&self.flush.word);
        }
    }

    /// To be called before the driver blocks: from then on a flush writes to the wake FIFO. `false`
    /// when a flush has asked for more than `handled` meanwhile: look again instead of blocking.
    pub fn prepare_sleep(&self, handled: u64) -> bool {
        self.wal.driver_asleep.store(1, SeqCst);
        if self.requested() > handled {
            self.wal.driver_asleep.store(0, SeqCst);
            return false;
        }
        true
    }

    /// To be called when the driver has woken up, for whatever reason.
    pub fn awake(&self) {
        self.wal.driver_asleep.store(0, SeqCst);
    }

    /// Stops every process of the instance at its next flush, waiting or not (rule H3). Final.
    pub fn fence(&self) {
        self.fenced.store(1, SeqCst);
        self.wake_flushes();
    }

    /// Tells writes that would grow a relation to fail with ENOSPC, or not to for this reason.
    pub fn set_no_room(&self, why: NoRoom, full: bool) {
        match full {
            true => self.no_room.fetch_or(why as u32, SeqCst),
            false => self.no_room.fetch_and(!(why as u32), SeqCst),
        };
    }

    /// Blocks by which PostgreSQL has grown relation files since the board was made.
    #[must_use]
    pub fn grown_blocks(&self) -> u64 {
        self.grown_blocks.load(SeqCst)
    }

    /// The driver's sign of life, microseconds of a clock of its choice.
    pub fn beat(&self, now_micros: u64) {
        self.heartbeat.store(now_micros, SeqCst);
    }

    /// The sign of life given last.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(SeqCst)
    }

    /// Pid of the postmaster that said hello last; zero before.
    #[must_use]
    pub fn postmaster_pid(&self) -> u32 {
        self.postmaster_pid.load(SeqCst)
    }

    /// Pid of the driver.
    #[must_use]
    pub fn driver_pid(&self) -> u32 {
        self.driver_pid.load(SeqCst)
    }

    // ---- the library's side ---------------------------------------------------------------

    /// Records the postmaster.
    pub fn set_postmaster_pid(&self, pid: u32) {
        self.postmaster_pid.store(pid, SeqCst);
    }

    /// Bytes of a WAL segment file.
    #[must_use]
    pub fn wal_segment_bytes(&self) -> u64 {
        self.wal_segment_bytes.load(SeqCst)
    }

    /// Whether a newer epoch has taken over.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(SeqCst) != 0
    }

    /// Whether relation files may not grow, for whatever reason.
    #[must_use]
    pub fn no_room(&self) -> bool {
        self.no_room.load(SeqCst) != 0
    }

    /// Counts blocks by which a relation file has grown.
    pub fn count_grown(&self, blocks: u64) {
        self.grown_blocks.fetch_add(blocks, SeqCst);
    }

    /// Counts a write to the log that has reached the file and ends at `end`.
    pub fn wal_written(&self, end: u64, timeline: u32) {
        self.wal.end.fetch_max(end, SeqCst);
        self.wal.timeline.store(timeline, SeqCst);
        self.wal.writes.fetch_add(1, SeqCst);
    }

    /// Waits until every write to the log counted so far is durable (rule R1). `wake` is called
    /// when the driver sleeps. Waits for ever when there is no driver; never succeeds otherwise.
    pub fn flush(&self, mut wake: impl FnMut()) -> Flush {
        let need = self.wal_writes();
        if self.is_fenced() {
            return Flush::Fenced;
        }
        if self.mode() == Mode::Follow || self.flushed() >= need {
            return Flush::Durable;
        }
        self.wal.requested.fetch_max(need, SeqCst);
        self.flush.waiters.fetch_add(1, SeqCst);
        let outcome = loop {
            let word = self.flush.word.load(SeqCst);
            if self.is_fenced() {
                break Flush::Fenced;
            }
            if self.flushed() >= need {
                break Flush::Durable;
            }
            if self.wal.driver_asleep.swap(0, SeqCst) != 0 {
                wake();
            }
            sys::futex_wait(&self.flush.word, word, RECHECK_MILLISECONDS);
        };
        self.flush.waiters.fetch_sub(1, SeqCst);
        outcome
    }

    /// The place of a process that holds claims.
    pub(crate) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)
    }
}

fn c_path(path: &PathText) -> Result<&std::ffi::CStr, BoardError> {
    path.as_c_str().ok_or(BoardError::System(libc::ENAMETOOLONG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn instance(name: &str) -> Instance {
        let directory = std::env::temp_dir().join(format!("seam-{name}-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("shm/maps")).expect("scratch directory");
        Instance::new(directory.to_str().expect("utf-8").as_bytes(), None).expect("short path")
    }

    #[test]
    fn a_rewrite_below_the_flushed_position_needs_a_flush_of_its_own() {
        let board = Board::create(&instance("rewrite"), Mode::Write, 16 << 20).expect("board");
        board.wal_written(8192, 1);
        board.set_flushed(board.wal_writes());
        assert_eq!(board.flush(|| {}), Flush::Durable);
        // The same page again, with one more record in it.
        board.wal_written(8192, 1);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(board.flush(|| {}), Flush::Durable);
                done.store(true, SeqCst);
            });
            sys::sleep(50);
            assert!(!done.load(SeqCst), "the rewritten page is not durable yet");
            assert_eq!(board.requested(), 2);
            board.set_flushed(2);
        });
        assert!(done.load(SeqCst));
    }

    #[test]
    fn a_sleeping_driver_is_woken_once_and_never_misses_a_request() {
        let board = Board::create(&instance("asleep"), Mode::Write, 16 << 20).expect("board");
        board.wal_written(8192, 1);
        assert!(board.prepare_sleep(0));
        let wakes = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| board.flush(|| wakes.store(wakes.load(SeqCst) + 1, SeqCst)));
            while wakes.load(SeqCst) == 0 {
                sys::sleep(1);
            }
            assert!(!board.prepare_sleep(0), "a request came: do not block");
            board.set_flushed(board.requested());
        });
        assert_eq!(wakes.load(SeqCst), 1);
    }

    #[test]
    fn a_fence_ends_a_waiting_flush_without_success() {
        let place = instance("fence");
        let board = Board::create(&place, Mode::Write, 16 << 20).expect("board");
        board.wal_written(10, 1);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| board.flush(|| {}));
            sys::sleep(20);
            board.fence();
            assert_eq!(waiter.join().expect("no panic"), Flush::Fenced);
        });
        // A new board fences whoever still has the old one.
        let first = Board::create(&place, Mode::Follow, 16 << 20).expect("board");
        assert_eq!(first.flush(|| {}), Flush::Durable);
        let second = Board::create(&place, Mode::Write, 16 << 20).expect("board");
        assert_eq!(first.flush(|| {}), Flush::Fenced);
        assert!(!second.is_fenced());
    }
}
