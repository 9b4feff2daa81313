//! Exports that make and end descriptors: open and its family, close, dup, fcntl, chdir.
//!
//! `open` and `fcntl` are variadic in C. Their optional argument is declared here as an ordinary one:
//! on the platforms we build for it travels in the same register, and it is only used when it counts.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "every block passes on the promises of the C caller about its own arguments"
)]

use std::ffi::{c_char, c_int};

use libc::mode_t;
use seam::{FileKind, Map, Request, SegmentName, sys};

use crate::place::{self, Place};
use crate::table::{self, Meaning, Wal};
use crate::{driver, files, process, raw};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "check how this platform passes variadic arguments before building the library for it"
);

fn failed(errno: i32) -> c_int {
    sys::set_errno(errno);
    -1
}

unsafe fn open_at(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let place = unsafe { place::of(at, path) };
    let plain = |flags| unsafe { raw::openat(at, path, flags, mode) };
    match place {
        Place::Outside => plain(flags),
        Place::Inside(FileKind::Settings) => told(plain(flags), Request::Settings),
        Place::Inside(FileKind::Database { tablespace, database })
            if process::has_made(tablespace, database) =>
        {
            let pid = sys::own_pid();
            told(plain(flags), Request::Directory { tablespace, database, pid })
        }
        Place::Inside(FileKind::Other | FileKind::Database { .. }) => {
            let fd = plain(flags);
            table::set_local(fd);
            fd
        }
        Place::Inside(FileKind::LockFile) => {
            if flags & libc::O_CREAT != 0
                && let Err(errno) = process::quietly(driver::hello)
            {
                driver::complain(
                    b"sixfold: this server may not start: the driver does not let it\n",
                );
                return failed(errno);
            }
            plain(flags)
        }
        Place::Inside(FileKind::Wal { timeline, high, low }) => {
            open_wal(plain(flags), timeline, (high, low), flags)
        }
        Place::Inside(FileKind::Relation(name)) => open_relation(&name, flags, plain),
    }
}

fn open_wal(fd: c_int, timeline: u32, number: (u32, u32), flags: c_int) -> c_int {
    if fd < 0 {
        return fd;
    }
    let noted = process::quietly(process::board).and_then(|board| {
        let start = u64::from(number.0) << 32;
        let start =
            start.saturating_add(u64::from(number.1).saturating_mul(board.wal_segment_bytes()));
        let synchronous = flags & libc::O_DSYNC != 0;
        let wal = Wal { timeline, start, synchronous };
        table::set_wal(fd, wal).then_some(()).ok_or(libc::EMFILE)
    });
    noted.map_or_else(|errno| give_up(fd, errno), |()| fd)
}

fn told(fd: c_int, request: Request) -> c_int {
    match fd < 0 || table::set_told(fd, request) {
        true => fd,
        false => give_up(fd, libc::EMFILE),
    }
}

fn open_relation(name: &SegmentName, flags: c_int, open: impl Fn(c_int) -> c_int) -> c_int {
    let Some(instance) = process::instance() else { return open(flags) };
    if flags & libc::O_CREAT != 0 {
        // A new file gets its map before anybody can open it.
        let mapped = process::quietly(|| match exists(name) {
            true => Ok(()),
            false => Map::for_new_file(instance, name, process::claimant()?).map(drop),
        });
        if let Err(errno) = mapped {
            return failed(errno);
        }
    }
    let fd = open(flags & !libc::O_TRUNC);
    if fd < 0 {
        return fd;
    }
    let noted = process::quietly(|| {
        process::board()?;
        let map = Map::open(instance, name)?;
        table::set_relation(fd, name, map).then_some(()).ok_or(libc::EMFILE)
    });
    if let Err(errno) = noted {
        return give_up(fd, errno);
    }
    if flags & libc::O_TRUNC != 0 && files::truncate_open(fd, 0) != 0 {
        let errno = sys::errno();
        table::clear(fd);
        return give_up(fd, errno);
    }
    fd
}

fn exists(name: &SegmentName) -> bool {
    let path = process::instance().map(|instance| instance.data(name));
    path.as_ref().and_then(seam::PathText::as_c_str).is_some_and(|path| sys::identity(path).is_ok())
}

fn give_up(fd: c_int, errno: i32) -> c_int {
    raw::close(fd);
    failed(errno)
}

/// Makes `copy` mean what `fd` means.
fn duplicate(fd: c_int, copy: c_int) -> c_int {
    if copy < 0 || copy == fd {
        return copy;
    }
    let noted = match table::meaning(fd) {
        Meaning::Nothing => Ok(true),
        Meaning::Local => {
            table::set_local(copy);
            Ok(true)
        }
        Meaning::Wal(wal) => Ok(table::set_wal(copy, wal)),
        Meaning::Told(request) => Ok(table::set_told(copy, request)),
        Meaning::Relation(name, None) => Ok(table::set_relation(copy, &name, None)),
        // A mapping of its own, so that either may be closed first.
        Meaning::Relation(name, Some(_)) => process::quietly(|| {
            let instance = process::instance().ok_or(libc::EIO)?;
            Map::open(instance, &name).map(|map| table::set_relation(copy, &name, map))
        }),
    };
    match noted {
        Ok(true) => copy,
        Ok(false) => give_up(copy, libc::EMFILE),
        Err(errno) => give_up(copy, errno),
    }
}

macro_rules! export {
    ($($(#[$doc:meta])* fn $($name:ident),+ ($($argument:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {
        $($crate::open::export!(@each $body, ($($argument: $type),*), $result, $($name),+);)*
    };
    (@each $body:expr, $arguments:tt, $result:ty, $($name:ident),+) => {
        $($crate::open::export!(@one $body, $arguments, $result, $name);)+
    };
    (@one $body:expr, ($($argument:ident: $type:ty),*), $result:ty, $name:ident) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the C caller's promises, passed on unchanged.
            #[allow(unused_unsafe, reason = "some bodies need it")]
            unsafe { $body($($argument),*) }
        }
    };
}
pub(crate) use export;

const HERE: c_int = libc::AT_FDCWD;
const CREATE: c_int = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;

unsafe fn open_here(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(HERE, path, flags, mode) }
}

unsafe fn open_checked(path: *const c_char, flags: c_int) -> c_int {
    unsafe { open_at(HERE, path, flags, 0) }
}

unsafe fn openat_checked(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    unsafe { open_at(at, path, flags, 0) }
}

unsafe fn create(path: *const c_char, mode: mode_t) -> c_int {
    unsafe { open_at(HERE, path, CREATE, mode) }
}

fn close_any(fd: c_int) -> c_int {
    if table::is_ours(fd) {
        process::quietly(|| table::clear(fd));
    }
    raw::close(fd)
}

fn dup_any(fd: c_int) -> c_int {
    duplicate(fd, raw::dup(fd))
}

fn dup_to(fd: c_int, to: c_int, flags: c_int) -> c_int {
    if fd != to && table::is_ours(to) {
        process::quietly(|| table::clear(to));
    }
    duplicate(fd, raw::dup3(fd, to, flags))
}

fn dup2_any(fd: c_int, to: c_int) -> c_int {
    if fd == to {
        // dup3 refuses what dup2 allows; asking for the flags tells whether the number is open.
        // SAFETY: the command takes no argument.
        return if unsafe { raw::fcntl(fd, libc::F_GETFD, 0) } < 0 { -1 } else { fd };
    }
    dup_to(fd, to, 0)
}

unsafe fn fcntl_any(fd: c_int, command: c_int, argument: usize) -> c_int {
    let result = unsafe { raw::fcntl(fd, command, argument) };
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicate(fd, result),
        _ => result,
    }
}

unsafe fn chdir_any(path: *const c_char) -> c_int {
    let result = unsafe { raw::chdir(path) };
    if result == 0 {
        process::moved();
    }
    result
}

fn fchdir_any(fd: c_int) -> c_int {
    let result = raw::fchdir(fd);
    if result == 0 {
        process::moved();
    }
    result
}

export! {
    fn open, open64 (path: *const c_char, flags: c_int, mode: mode_t) -> c_int = open_here;
    fn __open_2, __open64_2 (path: *const c_char, flags: c_int) -> c_int = open_checked;
    fn openat, openat64 (at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int = open_at;
    fn __openat_2, __openat64_2 (at: c_int, path: *const c_char, flags: c_int) -> c_int = openat_checked;
    fn creat, creat64 (path: *const c_char, mode: mode_t) -> c_int = create;
    fn close (fd: c_int) -> c_int = close_any;
    fn dup (fd: c_int) -> c_int = dup_any;
    fn dup2 (fd: c_int, to: c_int) -> c_int = dup2_any;
    fn dup3 (fd: c_int, to: c_int, flags: c_int) -> c_int = dup_to;
    fn fcntl, fcntl64 (fd: c_int, command: c_int, argument: usize) -> c_int = fcntl_any;
    fn chdir (path: *const c_char) -> c_int = chdir_any;
    fn fchdir (fd: c_int) -> c_int = fchdir_any;
}
