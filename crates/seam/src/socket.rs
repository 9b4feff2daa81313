//! The driver's socket: its address, and sending and receiving on it without signals.
//!
//! A socket's path must fit 107 bytes. One that does not is reached through a descriptor of its
//! directory, as `/proc/self/fd/<n>/<name>`, so an instance may lie as deep as it likes.

use crate::sys::{self, check};
use crate::{Instance, PathText};

/// Longest path that fits a socket address, without terminator.
const ADDRESS_MAX: usize = 107;

/// Connects to the driver. The descriptor is out of the way of the program's own.
///
/// # Errors
/// The errno; ECONNREFUSED or ENOENT when there is no driver.
pub fn connect(instance: &Instance) -> Result<i32, i32> {
    let fd = sys::move_high(new_socket()?)?;
    let connected = with_address(&instance.socket(), |address, length| {
        // SAFETY: `address` is a valid socket address of `length` bytes during the call.
        check(unsafe { libc::syscall(libc::SYS_connect, fd, address, length) })
    });
    match connected {
        Ok(_) => Ok(fd),
        Err(errno) => {
            sys::close(fd);
            Err(errno)
        }
    }
}

/// Makes the driver's socket and listens on it. An earlier driver's is replaced.
///
/// # Errors
/// The errno.
pub fn listen(instance: &Instance) -> Result<i32, i32> {
    let path = instance.socket();
    match sys::unlink(path.as_c_str().ok_or(libc::ENAMETOOLONG)?) {
        Ok(()) | Err(libc::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let fd = new_socket()?;
    let bound = with_address(&path, |address, length| {
        // SAFETY: as in `connect`.
        check(unsafe { libc::syscall(libc::SYS_bind, fd, address, length) })
    });
    let adopted = bound.and_then(|_| instance.adopt(path.as_c_str().ok_or(libc::ENAMETOOLONG)?));
    // SAFETY: no memory is involved.
    let listening =
        adopted.and_then(|()| check(unsafe { libc::syscall(libc::SYS_listen, fd, 1024) }));
    if let Err(errno) = listening {
        sys::close(fd);
        return Err(errno);
    }
    Ok(fd)
}

/// Sends bytes without raising SIGPIPE; with `wait` false, fails with EAGAIN rather than wait.
///
/// # Errors
/// The errno; EPIPE when only a part could be sent.
pub fn send(fd: i32, bytes: &[u8], wait: bool) -> Result<(), i32> {
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    let mut rest = bytes;
    loop {
        // SAFETY: `rest` is valid for reading for its length.
        let sent = check(unsafe {
            libc::syscall(libc::SYS_sendto, fd, rest.as_ptr(), rest.len(), flags, 0usize, 0usize)
        });
        match sent {
            Err(libc::EINTR) => {}
            Err(errno) => return Err(if rest.len() == bytes.len() { errno } else { libc::EPIPE }),
            Ok(count) => {
                rest = rest.get(usize::try_from(count).unwrap_or(0)..).unwrap_or(&[]);
                if rest.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

/// Receives exactly so many bytes.
///
/// # Errors
/// The errno; EPIPE when the other side ended the connection.
pub fn receive(fd: i32, into: &mut [u8]) -> Result<(), i32> {
    let mut have = 0;
    while let Some(place) = into.get_mut(have..).filter(|place| !place.is_empty()) {
        match sys::read(fd, place)? {
            0 => return Err(libc::EPIPE),
            count => have += count,
        }
    }
    Ok(())
}

fn new_socket() -> Result<i32, i32> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::syscall(libc::SYS_socket, libc::AF_UNIX, kind, 0) })?;
    i32::try_from(fd).map_err(|_| libc::EMFILE)
}

fn with_address<T>(
    path: &PathText,
    call: impl FnOnce(*const libc::sockaddr_un, usize) -> Result<T, i32>,
) -> Result<T, i32> {
    let mut short = *path;
    let mut directory = None;
    if path.as_bytes().len() > ADDRESS_MAX {
        let slash =
            path.as_bytes().iter().rposition(|byte| *byte == b'/').ok_or(libc::ENAMETOOLONG)?;
        let (parent, name) = path.as_bytes().split_at(slash);
        let mut parent_path = PathText::new();
        parent_path.push(parent);
        let parent = parent_path.as_c_str().ok_or(libc::ENAMETOOLONG)?;
        let fd = sys::open(parent, libc::O_PATH | libc::O_DIRECTORY, 0)?;
        directory = Some(fd);
        short = PathText::new();
        short.push(b"/proc/self/fd/").push_number(u64::from(fd.unsigned_abs())).push(name);
    }
    // SAFETY: zeros are a valid socket address without a name.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX.unsigned_abs().try_into().unwrap_or(1);
    for (place, byte) in address.sun_path.iter_mut().zip(short.as_bytes()) {
        *place = byte.cast_signed();
    }
    let result = call(&raw const address, size_of::<libc::sockaddr_un>());
    if let Some(fd) = directory {
        sys::close(fd);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_reached_however_deep_the_instance_lies() {
        for depth in [1, 20] {
            let root =
                std::env::temp_dir().join(format!("seam-door-{depth}-{}", std::process::id()));
            let deep = (0..depth).fold(root.clone(), |path, _| path.join("directory"));
            std::fs::create_dir_all(deep.join("shm")).expect("scratch");
            let instance =
                Instance::new(deep.to_str().expect("utf-8").as_bytes(), None).expect("fits");
            assert!(connect(&instance).is_err());
            let listener = listen(&instance).expect("bound");
            let client = connect(&instance).expect("connected");
            send(client, b"!", false).expect("sent");
            sys::close(client);
            sys::close(listener);
            std::fs::remove_dir_all(&root).expect("scratch");
        }
    }
}
