//! Raw system calls, errno, futexes and shared mappings, without allocation or re-entry.
//!
//! `libc::open` and its like must not be used in this crate: inside the preload library those names
//! are the library's own hooks. Results are `Err(errno)`; every call restarts itself on EINTR.

use std::ffi::{CStr, c_long};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// The calling thread's errno.
#[must_use]
pub fn errno() -> i32 {
    // SAFETY: the C library's errno location is always valid for the calling thread.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
pub fn set_errno(value: i32) {
    // SAFETY: as in `errno`.
    unsafe { *libc::__errno_location() = value }
}

/// Turns a system call's result into its value or errno.
///
/// # Errors
/// The errno when `result` is negative.
pub fn check(result: c_long) -> Result<i64, i32> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn restarting(mut call: impl FnMut() -> c_long) -> Result<i64, i32> {
    loop {
        match check(call()) {
            Err(libc::EINTR) => {}
            other => return other,
        }
    }
}

fn as_fd(value: i64) -> Result<i32, i32> {
    i32::try_from(value).map_err(|_| libc::EMFILE)
}

/// Opens a file; `O_CLOEXEC` is added.
///
/// # Errors
/// The errno.
pub fn open(path: &CStr, flags: i32, mode: u32) -> Result<i32, i32> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: `path` ends with a zero byte and outlives the call.
    let open =
        || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, mode) };
    restarting(open).and_then(as_fd)
}

/// Closes a descriptor. Nothing useful can be done about an error of close.
pub fn close(fd: i32) {
    // SAFETY: closing a number touches no memory of ours.
    let _closed = unsafe { libc::syscall(libc::SYS_close, fd) };
}

/// Moves a descriptor out of the range that programs expect for themselves (0, 1, 2 and the like).
///
/// # Errors
/// The errno; `fd` is closed in any case.
pub fn move_high(fd: i32) -> Result<i32, i32> {
    // SAFETY: descriptors are numbers; no memory is involved.
    let moved =
        restarting(|| unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 64) });
    close(fd);
    moved.and_then(as_fd)
}

/// Size of an open file, bytes.
///
/// # Errors
/// The errno.
pub fn file_bytes(fd: i32) -> Result<u64, i32> {
    // SAFETY: an all-zero stat is a valid value of that plain struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writing for the duration of the call.
    restarting(|| unsafe { libc::syscall(libc::SYS_fstat, fd, &raw mut stat) })?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Device and inode of a path, following links.
///
/// # Errors
/// The errno.
pub fn identity(path: &CStr) -> Result<(u64, u64), i32> {
    // SAFETY: an all-zero stat is a valid value of that plain struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is terminated and `stat` valid for writing for the duration of the call.
    restarting(|| unsafe {
        libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), &raw mut stat, 0)
    })?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Gives a file that root has made to the owner of `directory`, so that PostgreSQL, which refuses
/// to run as root, can use it. Does nothing for anybody but root.
///
/// # Errors
/// The errno.
pub fn give_to_owner_of(directory: &CStr, path: &CStr) -> Result<(), i32> {
    // SAFETY: takes no argument and cannot fail.
    if unsafe { libc::syscall(libc::SYS_geteuid) } != 0 {
        return Ok(());
    }
    // SAFETY: an all-zero stat is a valid value of that plain struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let at = libc::AT_FDCWD;
    // SAFETY: the path is terminated and `stat` valid for writing for the duration of the call.
    restarting(|| unsafe {
        libc::syscall(libc::SYS_newfstatat, at, directory.as_ptr(), &raw mut stat, 0)
    })?;
    let (user, group) = (stat.st_uid, stat.st_gid);
    // SAFETY: the path is terminated and outlives the call.
    restarting(|| unsafe { libc::syscall(libc::SYS_fchownat, at, path.as_ptr(), user, group, 0) })
        .map(drop)
}

/// Sets an open file's size.
///
/// # Errors
/// The errno.
pub fn resize(fd: i32, bytes: u64) -> Result<(), i32> {
    // SAFETY: no memory is involved.
    restarting(|| unsafe { libc::syscall(libc::SYS_ftruncate, fd, bytes) }).map(drop)
}

/// Removes a file.
///
/// # Errors
/// The errno.
pub fn unlink(path: &CStr) -> Result<(), i32> {
    // SAFETY: `path` is terminated and outlives the call.
    restarting(|| unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path.as_ptr(), 0) })
        .map(drop)
}

/// Renames a file, replacing the target.
///
/// # Errors
/// The errno.
pub fn rename(from: &CStr, to: &CStr) -> Result<(), i32> {
    let at = libc::AT_FDCWD;
    // SAFETY: both paths are terminated and outlive the call.
    restarting(|| unsafe {
        libc::syscall(libc::SYS_renameat2, at, from.as_ptr(), at, to.as_ptr(), 0)
    })
    .map(drop)
}

/// Gives a file a second name; fails with EEXIST rather than replace one.
///
/// # Errors
/// The errno.
pub fn link(from: &CStr, to: &CStr) -> Result<(), i32> {
    let at = libc::AT_FDCWD;
    // SAFETY: both paths are terminated and outlive the call.
    restarting(|| unsafe { libc::syscall(libc::SYS_linkat, at, from.as_ptr(), at, to.as_ptr(), 0) })
        .map(drop)
}

/// Reads once at the descriptor's own offset.
///
/// # Errors
/// The errno.
pub fn read(fd: i32, into: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: `into` is valid for writing for its length.
    restarting(|| unsafe { libc::syscall(libc::SYS_read, fd, into.as_mut_ptr(), into.len()) })
        .map(|count| usize::try_from(count).unwrap_or(0))
}

/// Writes once at the descriptor's own offset.
///
/// # Errors
/// The errno.
pub fn write(fd: i32, from: &[u8]) -> Result<usize, i32> {
    // SAFETY: `from` is valid for reading for its length.
    restarting(|| unsafe { libc::syscall(libc::SYS_write, fd, from.as_ptr(), from.len()) })
        .map(|count| usize::try_from(count).unwrap_or(0))
}

/// Own process id.
#[must_use]
pub fn own_pid() -> u32 {
    // SAFETY: takes no argument and cannot fail.
    u32::try_from(unsafe { libc::syscall(libc::SYS_getpid) }).unwrap_or(0)
}

/// When the process started, in the kernel's clock ticks since boot, or `None` when no such process
/// lives (a zombie does not: it runs nothing any more). Tells a process from a later one of its pid.
#[must_use]
pub fn process_started(pid: u32) -> Option<u64> {
    let mut path = crate::PathText::new();
    path.push(b"/proc/").push_number(u64::from(pid)).push(b"/stat");
    let fd = open(path.as_c_str()?, libc::O_RDONLY, 0).ok()?;
    let mut text = [0u8; 1024];
    let length = read(fd, &mut text);
    close(fd);
    let text = text.get(..length.ok()?)?;
    // The command name is in parentheses and may hold anything; the state follows the last one.
    let after = text.iter().rposition(|byte| *byte == b')')? + 2;
    let mut fields = text.get(after..)?.split(|byte| *byte == b' ');
    let state = fields.next()?;
    if matches!(state, b"Z" | b"X") {
        return None;
    }
    // State is field 3 of proc(5), the start time field 22.
    let started = fields.nth(18)?;
    started.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Sleeps until `word` is no longer `expected`, somebody wakes it, or the time is over. May return
/// early; callers re-check what they wait for. Works between processes (not `FUTEX_PRIVATE`).
pub fn futex_wait(word: &AtomicU32, expected: u32, milliseconds: u32) {
    let timeout = libc::timespec {
        tv_sec: i64::from(milliseconds / 1000),
        tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
    };
    // SAFETY: the word and the timeout are valid for the duration of the call.
    let _woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
        )
    };
}

/// Wakes everybody who waits on `word`.
pub fn futex_wake_all(word: &AtomicU32) {
    // SAFETY: the word is valid for the duration of the call.
    let _woken =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Sleeps.
pub fn sleep(milliseconds: u32) {
    let word = AtomicU32::new(0);
    futex_wait(&word, 0, milliseconds);
}

/// A shared mapping of a whole file; unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is shared between processes anyway; all access goes through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of an open file, shared and writable. The descriptor may be closed.
    ///
    /// # Errors
    /// The errno.
    pub fn shared(fd: i32, bytes: usize) -> Result<Mapping, i32> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
        let start = check(unsafe {
            libc::syscall(libc::SYS_mmap, 0usize, bytes, access, libc::MAP_SHARED, fd, 0usize)
        })?;
        let start = usize::try_from(start).map_err(|_| libc::ENOMEM)?;
        let start =
            NonNull::new(std::ptr::with_exposed_provenance_mut(start)).ok_or(libc::ENOMEM)?;
        Ok(Mapping { start, bytes })
    }

    /// A mapping made earlier and forgotten.
    ///
    /// # Safety
    /// `start` and `bytes` describe a live mapping, which nobody else will unmap.
    #[must_use]
    pub unsafe fn from_parts(start: NonNull<u8>, bytes: usize) -> Mapping {
        Mapping { start, bytes }
    }

    /// First byte.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrowed from it outlives it.
        let _unmapped = unsafe { libc::syscall(libc::SYS_munmap, self.start.as_ptr(), self.bytes) };
    }
}
