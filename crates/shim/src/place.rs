//! What a path given to a call means here: outside the data directory, or which of its files.

use std::ffi::{CStr, c_char, c_int};

use seam::FileKind;

use crate::process;

/// What a path means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Not below the data directory: the call passes through.
    Outside,
    /// Below it.
    Inside(FileKind),
}

/// Says what a path means to this process.
pub unsafe fn of(at: c_int, path: *const c_char) -> Place {
    let Some(instance) = process::instance() else { return Place::Outside };
    if path.is_null() {
        return Place::Outside;
    }
    // SAFETY: not null, and by the call's contract a terminated string.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path.first() == Some(&b'/') {
        let pgdata = instance.pgdata();
        let below = path.strip_prefix(pgdata.as_bytes());
        return match below {
            Some([]) => Place::Inside(FileKind::Other),
            Some([b'/', rest @ ..]) => Place::Inside(seam::classify(rest)),
            _ => Place::Outside,
        };
    }
    if at != libc::AT_FDCWD || !process::in_pgdata() || path.is_empty() || path.starts_with(b"..") {
        return Place::Outside;
    }
    Place::Inside(seam::classify(path))
}
