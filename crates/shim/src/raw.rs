//! The interposed calls as the kernel offers them: the result and errno that libc would give.

use std::ffi::{c_char, c_int};

use libc::{iovec, mode_t, off_t, size_t, ssize_t, syscall};

fn int(result: i64) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

fn size(result: i64) -> ssize_t {
    ssize_t::try_from(result).unwrap_or(-1)
}

pub unsafe fn openat(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // O_LARGEFILE is what 64-bit libc passes: nothing to add.
    // SAFETY: the caller's promise about `path`.
    int(unsafe { syscall(libc::SYS_openat, at, path, flags, mode) })
}

pub fn close(fd: c_int) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_close, fd) })
}

pub fn dup(fd: c_int) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_dup, fd) })
}

pub fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_dup3, fd, to, flags) })
}

pub unsafe fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the caller's promise about `argument`.
    int(unsafe { syscall(libc::SYS_fcntl, fd, command, argument) })
}

pub unsafe fn read(fd: c_int, into: *mut u8, bytes: size_t) -> ssize_t {
    // SAFETY: the caller's promise about `into`.
    size(unsafe { syscall(libc::SYS_read, fd, into, bytes) })
}

pub unsafe fn write(fd: c_int, from: *const u8, bytes: size_t) -> ssize_t {
    // SAFETY: the caller's promise about `from`.
    size(unsafe { syscall(libc::SYS_write, fd, from, bytes) })
}

pub unsafe fn pread(fd: c_int, into: *mut u8, bytes: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller's promise about `into`.
    size(unsafe { syscall(libc::SYS_pread64, fd, into, bytes, offset) })
}

pub unsafe fn pwrite(fd: c_int, from: *const u8, bytes: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller's promise about `from`.
    size(unsafe { syscall(libc::SYS_pwrite64, fd, from, bytes, offset) })
}

pub unsafe fn readv(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's promise about `vector`.
    size(unsafe { syscall(libc::SYS_readv, fd, vector, count) })
}

pub unsafe fn writev(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's promise about `vector`.
    size(unsafe { syscall(libc::SYS_writev, fd, vector, count) })
}

pub unsafe fn preadv2(
    fd: c_int,
    vector: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    // The kernel takes the offset in two halves; the upper one is unused on 64-bit machines.
    // SAFETY: the caller's promise about `vector`.
    size(unsafe { syscall(libc::SYS_preadv2, fd, vector, count, offset, 0usize, flags) })
}

pub unsafe fn pwritev2(
    fd: c_int,
    vector: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the caller's promise about `vector`.
    size(unsafe { syscall(libc::SYS_pwritev2, fd, vector, count, offset, 0usize, flags) })
}

pub fn lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t {
    // SAFETY: no memory is involved.
    unsafe { syscall(libc::SYS_lseek, fd, offset, whence) }
}

pub fn ftruncate(fd: c_int, bytes: off_t) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_ftruncate, fd, bytes) })
}

pub unsafe fn truncate(path: *const c_char, bytes: off_t) -> c_int {
    // SAFETY: the caller's promise about `path`.
    int(unsafe { syscall(libc::SYS_truncate, path, bytes) })
}

pub fn fallocate(fd: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_fallocate, fd, mode, offset, bytes) })
}

pub fn fadvise(fd: c_int, offset: off_t, bytes: off_t, advice: c_int) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_fadvise64, fd, offset, bytes, advice) })
}

pub fn fsync(fd: c_int) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_fsync, fd) })
}

pub fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_fdatasync, fd) })
}

pub fn sync_file_range(fd: c_int, offset: off_t, bytes: off_t, flags: u32) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_sync_file_range, fd, offset, bytes, flags) })
}

pub fn syncfs(fd: c_int) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_syncfs, fd) })
}

pub unsafe fn mkdirat(at: c_int, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller's promise about `path`.
    int(unsafe { syscall(libc::SYS_mkdirat, at, path, mode) })
}

pub unsafe fn unlinkat(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's promise about `path`.
    int(unsafe { syscall(libc::SYS_unlinkat, at, path, flags) })
}

pub unsafe fn renameat2(
    at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
    flags: u32,
) -> c_int {
    // SAFETY: the caller's promise about both paths.
    int(unsafe { syscall(libc::SYS_renameat2, at, from, to_at, to, flags) })
}

pub unsafe fn linkat(
    at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's promise about both paths.
    int(unsafe { syscall(libc::SYS_linkat, at, from, to_at, to, flags) })
}

pub unsafe fn chdir(path: *const c_char) -> c_int {
    // SAFETY: the caller's promise about `path`.
    int(unsafe { syscall(libc::SYS_chdir, path) })
}

pub fn fchdir(fd: c_int) -> c_int {
    // SAFETY: no memory is involved.
    int(unsafe { syscall(libc::SYS_fchdir, fd) })
}

pub unsafe fn copy_file_range(
    from: c_int,
    from_offset: *mut off_t,
    to: c_int,
    to_offset: *mut off_t,
    bytes: size_t,
    flags: u32,
) -> ssize_t {
    // SAFETY: the caller's promise about both offsets.
    size(unsafe {
        syscall(libc::SYS_copy_file_range, from, from_offset, to, to_offset, bytes, flags)
    })
}
