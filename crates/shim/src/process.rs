//! What one process knows: the instance, the board, its place among the claimants, and whether its
//! working directory is the data directory. Survives fork: a child forgets what belongs to its
//! parent (the connection and the place), and makes its own when it first needs them.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use seam::{Board, Claimant, Instance, sys};

static INSTANCE: OnceLock<Instance> = OnceLock::new();
static BOARD: OnceLock<&'static Board> = OnceLock::new();
static IN_PGDATA: AtomicBool = AtomicBool::new(false);
/// This process's place on the board; zero before it has one.
static CLAIMANT: AtomicU32 = AtomicU32::new(0);
/// Tablespace and database of the directory that this process has made last; zero for none.
static MADE: AtomicU64 = AtomicU64::new(0);

/// The instance that this process belongs to; `None` when the library is to stay out of the way.
#[inline]
pub fn instance() -> Option<&'static Instance> {
    INSTANCE.get()
}

/// The board. Errno EIO when there is none: nothing may be read or written without it.
pub fn board() -> Result<&'static Board, i32> {
    if let Some(board) = BOARD.get() {
        return Ok(board);
    }
    let board = Board::open(instance().ok_or(libc::EIO)?).map_err(|_| libc::EIO)?;
    Ok(BOARD.get_or_init(|| board))
}

/// Whether relative paths are paths below the data directory.
pub fn in_pgdata() -> bool {
    IN_PGDATA.load(SeqCst)
}

/// Looks where the process is, after it has moved.
pub fn moved() {
    let Some(instance) = instance() else { return };
    let saved = sys::errno();
    let here = sys::identity(c".");
    let there = instance.pgdata().as_c_str().ok_or(libc::ENAMETOOLONG).and_then(sys::identity);
    IN_PGDATA.store(here.is_ok() && here == there, SeqCst);
    sys::set_errno(saved);
}

/// This process's right to claim blocks. Errno ENFILE when no place is free.
pub fn claimant() -> Result<Claimant<'static>, i32> {
    let (board, instance) = (board()?, instance().ok_or(libc::EIO)?);
    match CLAIMANT.load(SeqCst) {
        0 => {
            let claimant = Claimant::enter(board, instance).ok_or(libc::ENFILE)?;
            CLAIMANT.store(claimant.index(), SeqCst);
            Ok(claimant)
        }
        index => Ok(Claimant::at(board, instance, index)),
    }
}

fn directory(tablespace: u32, database: u32) -> u64 {
    u64::from(tablespace) << 32 | u64::from(database)
}

/// This process has made the directory of a database.
pub fn made(tablespace: u32, database: u32) {
    MADE.store(directory(tablespace, database), SeqCst);
}

/// Whether the directory is the one that this process has made last. One that it syncs then is the
/// copy of another, or still empty: PostgreSQL syncs no others but in recovery.
pub fn has_made(tablespace: u32, database: u32) -> bool {
    MADE.load(SeqCst) == directory(tablespace, database)
}

/// Keeps errno as it was, for work done on the side of a call.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let saved = sys::errno();
    let result = work();
    sys::set_errno(saved);
    result
}

extern "C" fn forked() {
    CLAIMANT.store(0, SeqCst);
    MADE.store(0, SeqCst);
    crate::driver::forget();
}

extern "C" fn load() {
    // PostgreSQL moves its environment about to show a process title: read it now, once.
    let Some(directory) = variable(c"SIXFOLD_INSTANCE") else { return };
    let Some(instance) = Instance::new(directory, variable(c"SIXFOLD_PGDATA")) else {
        // A path that cannot be worked with must not look like "no instance".
        crate::driver::complain(
            b"sixfold: SIXFOLD_INSTANCE is too long a path; move the instance directory\n",
        );
        crate::driver::exit_process(2);
    };
    if INSTANCE.set(instance).is_err() {
        return;
    }
    // SAFETY: `forked` is a function of this library, which is never unloaded.
    if unsafe { libc::pthread_atfork(None, None, Some(forked)) } != 0 {
        crate::driver::complain(b"sixfold: out of memory while loading\n");
        crate::driver::exit_process(2);
    }
    moved();
}

extern "C" fn unload() {
    let index = CLAIMANT.swap(0, SeqCst);
    if let (Some(board), Some(instance), 1..) = (BOARD.get(), INSTANCE.get(), index) {
        Claimant::at(board, instance, index).leave();
    }
}

fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: `name` is terminated; the program has not begun and nobody changes the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: a terminated string that is only used during loading (`Instance` copies it).
    let value = unsafe { CStr::from_ptr(value) }.to_bytes();
    (!value.is_empty()).then_some(value)
}

#[unsafe(link_section = ".init_array")]
#[used]
static LOAD: extern "C" fn() = load;

#[unsafe(link_section = ".fini_array")]
#[used]
static UNLOAD: extern "C" fn() = unload;
