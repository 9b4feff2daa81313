//! Exports that move bytes: read, write, their positioned and vectored forms, and the kernel's own
//! copying, which is refused for relation files so that callers fall back to reading and writing.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "every block passes on the promises of the C caller about its own arguments"
)]

use std::ffi::{c_int, c_void};

use libc::{iovec, off_t, size_t, ssize_t};
use seam::access::Extent;
use seam::{Map, SegmentName, sys};

use crate::open::export;
use crate::table::{self, Meaning};
use crate::{raw, relation, wal};

/// Runs a call piece by piece until it is done, comes up short, or fails.
fn piecewise(whole: Extent, mut call: impl FnMut(Extent, usize) -> isize) -> ssize_t {
    let before = sys::errno();
    let mut done: u64 = 0;
    while done < whole.bytes {
        let rest = Extent { offset: whole.offset.saturating_add(done), bytes: whole.bytes - done };
        let piece = rest.piece();
        let result = call(piece, usize::try_from(done).unwrap_or(usize::MAX));
        let Ok(count) = u64::try_from(result) else {
            // What was done before the failure counts; the next call meets the failure again.
            if done == 0 {
                return result;
            }
            break;
        };
        done += count;
        if count < piece.bytes {
            break;
        }
    }
    sys::set_errno(before);
    ssize_t::try_from(done).unwrap_or(ssize_t::MAX)
}

/// A kernel length and offset of a piece.
fn numbers(piece: Extent) -> (usize, off_t) {
    (usize::try_from(piece.bytes).unwrap_or(0), off_t::try_from(piece.offset).unwrap_or(off_t::MAX))
}

unsafe fn pread_relation(
    fd: c_int,
    into: *mut u8,
    bytes: size_t,
    offset: off_t,
    name: &SegmentName,
    map: &Map,
) -> ssize_t {
    let Some(whole) = relation::extent(offset, bytes) else {
        return unsafe { raw::pread(fd, into, bytes, offset) };
    };
    piecewise(whole, |piece, done| {
        let (bytes, offset) = numbers(piece);
        // SAFETY: `done + bytes` stays within what the caller gave.
        relation::read(map, name, piece, || unsafe {
            raw::pread(fd, into.add(done), bytes, offset)
        })
    })
}

unsafe fn pwrite_relation(
    fd: c_int,
    from: *const u8,
    bytes: size_t,
    offset: off_t,
    name: &SegmentName,
    map: &Map,
) -> ssize_t {
    let Some(whole) = relation::extent(offset, bytes) else {
        return unsafe { raw::pwrite(fd, from, bytes, offset) };
    };
    piecewise(whole, |piece, done| {
        let (bytes, offset) = numbers(piece);
        // SAFETY: `done + bytes` stays within what the caller gave.
        relation::write(fd, map, name, piece, || unsafe {
            raw::pwrite(fd, from.add(done), bytes, offset)
        })
    })
}

unsafe fn pread_any(fd: c_int, into: *mut c_void, bytes: size_t, offset: off_t) -> ssize_t {
    let into = into.cast::<u8>();
    if table::is_ours(fd)
        && let Meaning::Relation(name, Some(map)) = table::meaning(fd)
    {
        return unsafe { pread_relation(fd, into, bytes, offset, &name, &map) };
    }
    unsafe { raw::pread(fd, into, bytes, offset) }
}

unsafe fn pwrite_any(fd: c_int, from: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
    let from = from.cast::<u8>();
    let plain = || unsafe { raw::pwrite(fd, from, bytes, offset) };
    if !table::is_ours(fd) {
        return plain();
    }
    match table::meaning(fd) {
        Meaning::Relation(name, Some(map)) => unsafe {
            pwrite_relation(fd, from, bytes, offset, &name, &map)
        },
        Meaning::Wal(segment) => wal::wrote(segment, u64::try_from(offset).unwrap_or(0), plain()),
        _ => plain(),
    }
}

/// Does a call at the descriptor's own offset, and moves that on.
fn at_own_offset(fd: c_int, call: impl FnOnce(off_t) -> ssize_t) -> ssize_t {
    let offset = raw::lseek(fd, 0, libc::SEEK_CUR);
    if offset < 0 {
        return -1;
    }
    let result = call(offset);
    if result > 0 && raw::lseek(fd, offset.saturating_add(result as off_t), libc::SEEK_SET) < 0 {
        return -1;
    }
    result
}

unsafe fn read_any(fd: c_int, into: *mut c_void, bytes: size_t) -> ssize_t {
    if table::is_ours(fd)
        && let Meaning::Relation(_, Some(_)) = table::meaning(fd)
    {
        return at_own_offset(fd, |offset| unsafe { pread_any(fd, into, bytes, offset) });
    }
    unsafe { raw::read(fd, into.cast(), bytes) }
}

unsafe fn write_any(fd: c_int, from: *const c_void, bytes: size_t) -> ssize_t {
    let plain = || unsafe { raw::write(fd, from.cast(), bytes) };
    if !table::is_ours(fd) {
        return plain();
    }
    match table::meaning(fd) {
        Meaning::Relation(_, Some(_)) | Meaning::Wal(_) => {
            if append(fd) {
                let end = sys::file_bytes(fd).ok().and_then(|end| off_t::try_from(end).ok());
                // Nobody opens relations or the log for appending; if somebody does, put it right.
                if end.is_none_or(|end| raw::lseek(fd, end, libc::SEEK_SET) < 0) {
                    return -1;
                }
            }
            at_own_offset(fd, |offset| unsafe { pwrite_any(fd, from, bytes, offset) })
        }
        _ => plain(),
    }
}

fn append(fd: c_int) -> bool {
    // SAFETY: the command takes no argument.
    let flags = unsafe { raw::fcntl(fd, libc::F_GETFL, 0) };
    flags >= 0 && flags & libc::O_APPEND != 0
}

/// The buffers of a vectored call; empty for arguments that the kernel is to refuse.
unsafe fn buffers<'a>(vector: *const iovec, count: c_int) -> &'a [iovec] {
    match usize::try_from(count) {
        Ok(count @ 1..=1024) if !vector.is_null() => unsafe {
            std::slice::from_raw_parts(vector, count)
        },
        _ => &[],
    }
}

/// Does a vectored call on a relation buffer by buffer: same bytes, same order, and short in the
/// same place as one call could be.
unsafe fn each_buffer(
    vector: &[iovec],
    offset: off_t,
    mut call: impl FnMut(*mut u8, usize, off_t) -> ssize_t,
) -> ssize_t {
    let mut done: ssize_t = 0;
    for buffer in vector {
        let result =
            call(buffer.iov_base.cast(), buffer.iov_len, offset.saturating_add(done as off_t));
        if result < 0 {
            return if done == 0 { result } else { done };
        }
        done = done.saturating_add(result);
        if result.unsigned_abs() < buffer.iov_len {
            break;
        }
    }
    done
}

unsafe fn preadv2_any(
    fd: c_int,
    vector: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    if table::is_ours(fd)
        && let Meaning::Relation(name, Some(map)) = table::meaning(fd)
    {
        let list = unsafe { buffers(vector, count) };
        if !list.is_empty() && offset >= 0 {
            return unsafe {
                each_buffer(list, offset, |into, bytes, at| {
                    pread_relation(fd, into, bytes, at, &name, &map)
                })
            };
        }
    }
    unsafe { raw::preadv2(fd, vector, count, offset, flags) }
}

unsafe fn pwritev2_any(
    fd: c_int,
    vector: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    let plain = || unsafe { raw::pwritev2(fd, vector, count, offset, flags) };
    if !table::is_ours(fd) {
        return plain();
    }
    match table::meaning(fd) {
        Meaning::Relation(name, Some(map)) => {
            let list = unsafe { buffers(vector, count) };
            if list.is_empty() || offset < 0 {
                return plain();
            }
            unsafe {
                each_buffer(list, offset, |from, bytes, at| {
                    pwrite_relation(fd, from, bytes, at, &name, &map)
                })
            }
        }
        Meaning::Wal(segment) => wal::wrote(segment, u64::try_from(offset).unwrap_or(0), plain()),
        _ => plain(),
    }
}

unsafe fn preadv_any(fd: c_int, vector: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    unsafe { preadv2_any(fd, vector, count, offset, 0) }
}

unsafe fn pwritev_any(fd: c_int, vector: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    unsafe { pwritev2_any(fd, vector, count, offset, 0) }
}

unsafe fn readv_any(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
    if table::is_ours(fd)
        && let Meaning::Relation(_, Some(_)) = table::meaning(fd)
    {
        return at_own_offset(fd, |offset| unsafe { preadv_any(fd, vector, count, offset) });
    }
    unsafe { raw::readv(fd, vector, count) }
}

unsafe fn writev_any(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
    if table::is_ours(fd)
        && matches!(table::meaning(fd), Meaning::Relation(_, Some(_)) | Meaning::Wal(_))
    {
        return at_own_offset(fd, |offset| unsafe { pwritev_any(fd, vector, count, offset) });
    }
    unsafe { raw::writev(fd, vector, count) }
}

/// What the C library does when a checked call would overrun its buffer.
fn stop_if(overrun: bool) {
    if overrun {
        crate::driver::complain(b"*** buffer overflow detected ***: terminated\n");
        // SAFETY: ends the process.
        unsafe { libc::abort() }
    }
}

unsafe fn read_checked(fd: c_int, into: *mut c_void, bytes: size_t, room: size_t) -> ssize_t {
    stop_if(bytes > room);
    unsafe { read_any(fd, into, bytes) }
}

unsafe fn pread_checked(
    fd: c_int,
    into: *mut c_void,
    bytes: size_t,
    offset: off_t,
    room: size_t,
) -> ssize_t {
    stop_if(bytes > room);
    unsafe { pread_any(fd, into, bytes, offset) }
}

fn guarded(fd: c_int) -> bool {
    table::is_ours(fd) && matches!(table::meaning(fd), Meaning::Relation(..) | Meaning::Wal(_))
}

unsafe fn copy_range(
    from: c_int,
    from_offset: *mut off_t,
    to: c_int,
    to_offset: *mut off_t,
    bytes: size_t,
    flags: u32,
) -> ssize_t {
    if guarded(from) || guarded(to) {
        sys::set_errno(libc::EXDEV);
        return -1;
    }
    unsafe { raw::copy_file_range(from, from_offset, to, to_offset, bytes, flags) }
}

unsafe fn send_file(to: c_int, from: c_int, offset: *mut off_t, bytes: size_t) -> ssize_t {
    if guarded(from) || guarded(to) {
        sys::set_errno(libc::EINVAL);
        return -1;
    }
    let sent = unsafe { libc::syscall(libc::SYS_sendfile, to, from, offset, bytes) };
    ssize_t::try_from(sent).unwrap_or(-1)
}

export! {
    fn read (fd: c_int, into: *mut c_void, bytes: size_t) -> ssize_t = read_any;
    fn __read_chk (fd: c_int, into: *mut c_void, bytes: size_t, room: size_t) -> ssize_t = read_checked;
    fn write (fd: c_int, from: *const c_void, bytes: size_t) -> ssize_t = write_any;
    fn pread, pread64 (fd: c_int, into: *mut c_void, bytes: size_t, offset: off_t) -> ssize_t = pread_any;
    fn __pread_chk, __pread64_chk (fd: c_int, into: *mut c_void, bytes: size_t, offset: off_t, room: size_t) -> ssize_t = pread_checked;
    fn pwrite, pwrite64 (fd: c_int, from: *const c_void, bytes: size_t, offset: off_t) -> ssize_t = pwrite_any;
    fn readv (fd: c_int, vector: *const iovec, count: c_int) -> ssize_t = readv_any;
    fn writev (fd: c_int, vector: *const iovec, count: c_int) -> ssize_t = writev_any;
    fn preadv, preadv64 (fd: c_int, vector: *const iovec, count: c_int, offset: off_t) -> ssize_t = preadv_any;
    fn pwritev, pwritev64 (fd: c_int, vector: *const iovec, count: c_int, offset: off_t) -> ssize_t = pwritev_any;
    fn preadv2, preadv64v2 (fd: c_int, vector: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t = preadv2_any;
    fn pwritev2, pwritev64v2 (fd: c_int, vector: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t = pwritev2_any;
    fn copy_file_range (from: c_int, from_offset: *mut off_t, to: c_int, to_offset: *mut off_t, bytes: size_t, flags: u32) -> ssize_t = copy_range;
    fn sendfile, sendfile64 (to: c_int, from: c_int, offset: *mut off_t, bytes: size_t) -> ssize_t = send_file;
}
