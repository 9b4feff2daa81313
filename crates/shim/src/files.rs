//! Exports that change files as a whole: sizes, syncs, names.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "every block passes on the promises of the C caller about its own arguments"
)]

use std::ffi::{c_char, c_int};

use libc::{mode_t, off_t};
use seam::{BLOCK_BYTES, FileKind, Map, Request, SegmentName, sys};

use crate::open::export;
use crate::place::{self, Place};
use crate::table::{self, Meaning};
use crate::{driver, process, raw, relation, wal};

const HERE: c_int = libc::AT_FDCWD;

fn failed(errno: i32) -> c_int {
    sys::set_errno(errno);
    -1
}

/// Truncates an open file, whatever it is.
pub fn truncate_open(fd: c_int, bytes: off_t) -> c_int {
    if table::is_ours(fd)
        && let Meaning::Relation(name, Some(map)) = table::meaning(fd)
    {
        return relation::truncate(fd, &map, &name, bytes);
    }
    raw::ftruncate(fd, bytes)
}

unsafe fn truncate_path(path: *const c_char, bytes: off_t) -> c_int {
    let Place::Inside(FileKind::Relation(name)) = (unsafe { place::of(HERE, path) }) else {
        return unsafe { raw::truncate(path, bytes) };
    };
    let Some(instance) = process::instance() else { return failed(libc::EIO) };
    match process::quietly(|| Map::open(instance, &name)) {
        Ok(Some(map)) => {
            let fd = unsafe { raw::openat(HERE, path, libc::O_RDWR | libc::O_CLOEXEC, 0) };
            if fd < 0 {
                return fd;
            }
            let result = relation::truncate(fd, &map, &name, bytes);
            process::quietly(|| raw::close(fd));
            result
        }
        Ok(None) => unsafe { raw::truncate(path, bytes) },
        Err(errno) => failed(errno),
    }
}

fn allocate(fd: c_int, offset: off_t, bytes: off_t) -> c_int {
    // What a file grows by is present (H8): nothing to note. This call answers with the errno.
    process::quietly(|| if raw::fallocate(fd, 0, offset, bytes) == 0 { 0 } else { sys::errno() })
}

fn allocate_mode(fd: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int {
    let grows_only = mode & !libc::FALLOC_FL_KEEP_SIZE == 0;
    if !grows_only
        && table::is_ours(fd)
        && matches!(table::meaning(fd), Meaning::Relation(_, Some(_)))
    {
        // Holes and shifts would go behind the map's back.
        return failed(libc::EOPNOTSUPP);
    }
    raw::fallocate(fd, mode, offset, bytes)
}

fn advise(fd: c_int, offset: off_t, bytes: off_t, advice: c_int) -> c_int {
    if advice == libc::POSIX_FADV_WILLNEED
        && table::is_ours(fd)
        && let Meaning::Relation(name, Some(map)) = table::meaning(fd)
        && let Some(extent) = relation::extent(offset, usize::try_from(bytes).unwrap_or(0))
    {
        process::quietly(|| relation::prefetch(&map, &name, extent));
    }
    // This call answers with the errno.
    process::quietly(|| if raw::fadvise(fd, offset, bytes, advice) == 0 { 0 } else { sys::errno() })
}

/// Rule R1: the log waits for the quorum; nothing else local is durable state. What the log does not
/// say and the volume must have all the same is told to the driver (rule L8).
fn sync(fd: c_int, plain: impl FnOnce() -> c_int) -> c_int {
    if !table::is_ours(fd) {
        return plain();
    }
    // SAFETY: the command takes no argument.
    if unsafe { raw::fcntl(fd, libc::F_GETFD, 0) } < 0 {
        return -1;
    }
    match table::meaning(fd) {
        Meaning::Wal(_) => wal::flush(),
        Meaning::Told(request) => {
            if let Err(errno) = process::quietly(|| driver::tell(&request)) {
                return failed(errno);
            }
        }
        _ => {}
    }
    0
}

fn fsync_any(fd: c_int) -> c_int {
    sync(fd, || raw::fsync(fd))
}

fn fdatasync_any(fd: c_int) -> c_int {
    sync(fd, || raw::fdatasync(fd))
}

fn syncfs_any(fd: c_int) -> c_int {
    sync(fd, || raw::syncfs(fd))
}

fn sync_range(fd: c_int, offset: off_t, bytes: off_t, flags: u32) -> c_int {
    // A hint to the kernel, never a promise: for the log too.
    if table::is_ours(fd) { 0 } else { raw::sync_file_range(fd, offset, bytes, flags) }
}

unsafe fn make_directory_at(at: c_int, path: *const c_char, mode: mode_t) -> c_int {
    let result = unsafe { raw::mkdirat(at, path, mode) };
    if result == 0
        && let Place::Inside(FileKind::Database { tablespace, database }) =
            unsafe { place::of(at, path) }
    {
        process::made(tablespace, database);
        let request = Request::NewDirectory { tablespace, database };
        if let Err(errno) = process::quietly(|| driver::tell(&request)) {
            process::quietly(|| unsafe { raw::unlinkat(at, path, libc::AT_REMOVEDIR) });
            return failed(errno);
        }
    }
    result
}

unsafe fn make_directory(path: *const c_char, mode: mode_t) -> c_int {
    unsafe { make_directory_at(HERE, path, mode) }
}

unsafe fn unlink_at(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    let plain = || unsafe { raw::unlinkat(at, path, flags) };
    match unsafe { place::of(at, path) } {
        Place::Inside(FileKind::Relation(name)) => remove_relation(&name, plain),
        _ => plain(),
    }
}

/// Removes a relation segment and its map. The map's blocks are claimed meanwhile, so that nobody
/// fills what is going; a file of the same name made later starts with a map of its own (H9).
fn remove_relation(name: &SegmentName, unlink: impl FnOnce() -> c_int) -> c_int {
    let Some(instance) = process::instance() else { return unlink() };
    let opened = process::quietly(|| match Map::open(instance, name)? {
        Some(map) => process::claimant().map(|claimant| Some((map, claimant))),
        None => Ok(None),
    });
    let (map, claimant) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return unlink(),
        Err(errno) => return failed(errno),
    };
    let blocks = process::quietly(|| {
        let data = instance.data(name);
        let path = data.as_c_str().ok_or(libc::ENAMETOOLONG)?;
        let fd = sys::open(path, libc::O_PATH, 0)?;
        let bytes = sys::file_bytes(fd);
        sys::close(fd);
        bytes.map(|bytes| u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX))
    });
    let blocks = blocks.unwrap_or(0).min(seam::BLOCKS_PER_SEGMENT);
    let mut outcome = (-1, 0);
    seam::access::discard(&map, name, claimant, 0..blocks, || {
        outcome = (unlink(), sys::errno());
        let gone = outcome.0 == 0 || outcome.1 == libc::ENOENT;
        gone && matches!(Map::remove(instance, name), Ok(()) | Err(libc::ENOENT))
    });
    sys::set_errno(outcome.1);
    outcome.0
}

unsafe fn unlink_here(path: *const c_char) -> c_int {
    unsafe { unlink_at(HERE, path, 0) }
}

unsafe fn remove_here(path: *const c_char) -> c_int {
    // As the C library does: a file, or else a directory.
    let result = unsafe { unlink_at(HERE, path, 0) };
    if result != 0 && matches!(sys::errno(), libc::EISDIR | libc::EPERM) {
        return unsafe { raw::unlinkat(HERE, path, libc::AT_REMOVEDIR) };
    }
    result
}

/// A relation segment's map goes by its name. PostgreSQL renames and links no relation files.
unsafe fn is_relation(at: c_int, path: *const c_char) -> bool {
    matches!(unsafe { place::of(at, path) }, Place::Inside(FileKind::Relation(_)))
}

unsafe fn rename_at2(
    at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
    flags: u32,
) -> c_int {
    if unsafe { is_relation(at, from) || is_relation(to_at, to) } {
        return failed(libc::EXDEV);
    }
    unsafe { raw::renameat2(at, from, to_at, to, flags) }
}

unsafe fn rename_at(at: c_int, from: *const c_char, to_at: c_int, to: *const c_char) -> c_int {
    unsafe { rename_at2(at, from, to_at, to, 0) }
}

unsafe fn rename_here(from: *const c_char, to: *const c_char) -> c_int {
    unsafe { rename_at2(HERE, from, HERE, to, 0) }
}

unsafe fn link_at(
    at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    if unsafe { is_relation(at, from) || is_relation(to_at, to) } {
        return failed(libc::EXDEV);
    }
    unsafe { raw::linkat(at, from, to_at, to, flags) }
}

unsafe fn link_here(from: *const c_char, to: *const c_char) -> c_int {
    unsafe { link_at(HERE, from, HERE, to, 0) }
}

export! {
    fn ftruncate, ftruncate64 (fd: c_int, bytes: off_t) -> c_int = truncate_open;
    fn truncate, truncate64 (path: *const c_char, bytes: off_t) -> c_int = truncate_path;
    fn posix_fallocate, posix_fallocate64 (fd: c_int, offset: off_t, bytes: off_t) -> c_int = allocate;
    fn fallocate, fallocate64 (fd: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int = allocate_mode;
    fn posix_fadvise, posix_fadvise64 (fd: c_int, offset: off_t, bytes: off_t, advice: c_int) -> c_int = advise;
    fn fsync (fd: c_int) -> c_int = fsync_any;
    fn fdatasync (fd: c_int) -> c_int = fdatasync_any;
    fn syncfs (fd: c_int) -> c_int = syncfs_any;
    fn sync_file_range (fd: c_int, offset: off_t, bytes: off_t, flags: u32) -> c_int = sync_range;
    fn mkdir (path: *const c_char, mode: mode_t) -> c_int = make_directory;
    fn mkdirat (at: c_int, path: *const c_char, mode: mode_t) -> c_int = make_directory_at;
    fn unlink (path: *const c_char) -> c_int = unlink_here;
    fn unlinkat (at: c_int, path: *const c_char, flags: c_int) -> c_int = unlink_at;
    fn remove (path: *const c_char) -> c_int = remove_here;
    fn rename (from: *const c_char, to: *const c_char) -> c_int = rename_here;
    fn renameat (at: c_int, from: *const c_char, to_at: c_int, to: *const c_char) -> c_int = rename_at;
    fn renameat2 (at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: u32) -> c_int = rename_at2;
    fn link (from: *const c_char, to: *const c_char) -> c_int = link_here;
    fn linkat (at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: c_int) -> c_int = link_at;
}
