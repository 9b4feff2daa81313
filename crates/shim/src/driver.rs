//! Talking to the driver: hello, fetch, prefetch, bell. One connection per process, made when first
//! needed. A request that wants an answer is repeated until there is one: a driver that is gone is
//! waited for, a fence ends the process.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

use seam::{Instance, Reply, Request, SegmentName, socket, sys};

use crate::process;

const NONE: i32 = -1;
/// Pause between attempts to reach a driver that is gone.
const PAUSE_MILLISECONDS: u32 = 50;
/// How often a starting server asks before it gives up (rule R3): ten seconds.
const HELLO_ATTEMPTS: u32 = 200;

static CONNECTION: AtomicI32 = AtomicI32::new(NONE);
static BELL: AtomicI32 = AtomicI32::new(NONE);
/// A request is under way on `CONNECTION`; one made meanwhile, from a signal handler, takes its own.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Forgets the parent's connection, in a child just forked.
pub fn forget() {
    let inherited = CONNECTION.swap(NONE, SeqCst);
    if inherited != NONE {
        sys::close(inherited);
    }
    BUSY.store(false, SeqCst);
}

/// Wakes the driver. It is asked again before long if this comes to nothing.
pub fn ring() {
    let Some(instance) = process::instance() else { return };
    let mut fd = BELL.load(SeqCst);
    if fd == NONE {
        let path = instance.wake();
        let Some(path) = path.as_c_str() else { return };
        // For reading too: a driver that dies must not make this write raise SIGPIPE.
        let opened = sys::open(path, libc::O_RDWR | libc::O_NONBLOCK, 0).and_then(sys::move_high);
        let Ok(opened) = opened else { return };
        fd = opened;
        BELL.store(fd, SeqCst);
    }
    // A full FIFO will wake the driver as well as one more byte.
    let _written = sys::write(fd, b"!");
}

/// Makes blocks present; returns when they are.
pub fn fetch(name: &SegmentName, first: u32, count: u32) -> Result<(), i32> {
    tell(&Request::Fetch { name: *name, first, count, hint: 0 })
}

/// Has the driver do something; returns when it is done.
pub fn tell(request: &Request) -> Result<(), i32> {
    let instance = process::instance().ok_or(libc::EIO)?;
    loop {
        if process::board()?.is_fenced() {
            stop();
        }
        if let Ok(reply) = ask(instance, request) {
            return if reply.errno == 0 { Ok(()) } else { Err(reply.errno) };
        }
        sys::sleep(PAUSE_MILLISECONDS);
    }
}

/// Says that blocks will be read soon. Nothing is waited for, nothing is lost if it fails.
pub fn prefetch(name: &SegmentName, first: u32, count: u32) {
    let Some(instance) = process::instance() else { return };
    if BUSY.swap(true, SeqCst) {
        return;
    }
    let request = Request::Prefetch { name: *name, first, count };
    if let Ok(fd) = connection(instance)
        && !matches!(socket::send(fd, &request.encode(), false), Ok(()) | Err(libc::EAGAIN))
    {
        disconnect(fd);
    }
    BUSY.store(false, SeqCst);
}

/// A server says hello before it may start (rule R3).
pub fn hello() -> Result<(), i32> {
    let instance = process::instance().ok_or(libc::EIO)?;
    let request = Request::Hello { pid: sys::own_pid(), postmaster: true };
    for _attempt in 0..HELLO_ATTEMPTS {
        if let Ok(reply) = ask(instance, &request) {
            if reply.errno != 0 {
                return Err(reply.errno);
            }
            let board = process::board()?;
            if board.is_fenced() {
                return Err(libc::ESTALE);
            }
            board.set_postmaster_pid(sys::own_pid());
            return Ok(());
        }
        sys::sleep(PAUSE_MILLISECONDS);
    }
    Err(libc::ECONNREFUSED)
}

fn connection(instance: &Instance) -> Result<i32, i32> {
    match CONNECTION.load(SeqCst) {
        NONE => {
            let fd = socket::connect(instance)?;
            CONNECTION.store(fd, SeqCst);
            Ok(fd)
        }
        fd => Ok(fd),
    }
}

fn disconnect(fd: i32) {
    CONNECTION.store(NONE, SeqCst);
    sys::close(fd);
}

fn ask(instance: &Instance, request: &Request) -> Result<Reply, i32> {
    if BUSY.swap(true, SeqCst) {
        let fd = socket::connect(instance)?;
        let reply = exchange(fd, request);
        sys::close(fd);
        return reply;
    }
    let reply =
        connection(instance).and_then(|fd| exchange(fd, request).inspect_err(|_| disconnect(fd)));
    BUSY.store(false, SeqCst);
    reply
}

fn exchange(fd: i32, request: &Request) -> Result<Reply, i32> {
    socket::send(fd, &request.encode(), true)?;
    let mut bytes = [0; Reply::SIZE];
    socket::receive(fd, &mut bytes)?;
    Reply::decode(&bytes).ok_or(libc::EPROTO)
}

/// Stops the server: a newer epoch has taken over. Never returns, so no call reports success.
pub fn stop() -> ! {
    complain(b"sixfold: FENCED: another server has opened this volume; stopping this one, nothing acknowledged is lost\n");
    if let Ok(board) = process::board()
        && let Ok(pid @ 1..) = i32::try_from(board.postmaster_pid())
    {
        // SAFETY: signalling a process involves no memory.
        let _signalled = unsafe { libc::syscall(libc::SYS_kill, pid, libc::SIGQUIT) };
    }
    exit_process(2)
}

/// Writes one line to standard error, where PostgreSQL's log is.
pub fn complain(line: &[u8]) {
    // Nothing can be done if this fails, and nothing depends on it.
    let _written = sys::write(2, line);
}

/// Ends the process at once. Status 2 makes a postmaster treat it as a crash.
pub fn exit_process(status: i32) -> ! {
    loop {
        // SAFETY: no memory is involved; the call does not return.
        let _never = unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}
