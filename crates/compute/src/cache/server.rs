//! Requests from PostgreSQL's processes: one connection and one thread per process that has missed
//! a block, plus a few threads that read ahead.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use seam::{Instance, Reply, Request, SegmentName, SharedBoard, socket};

use crate::cache::Filler;

/// Stack of a connection's thread: it does little.
const STACK_BYTES: usize = 256 << 10;
/// Threads that read ahead.
const AHEAD_THREADS: usize = 4;
/// Ranges waiting to be read ahead; more are dropped, they were only a guess.
const AHEAD_QUEUE: usize = 256;
/// First and largest number of blocks read ahead of a process that reads on and on.
const WINDOW_MIN: u32 = 8;
const WINDOW_MAX: u32 = 64;

/// Answers what is not about pages: zero, or the errno that PostgreSQL is to get.
pub type Office = Box<dyn Fn(Request) -> i32 + Send + Sync>;

type Range = (SegmentName, u32, u32);

struct Shared {
    board: SharedBoard,
    filler: Arc<Filler>,
    office: Office,
    ahead: SyncSender<Range>,
    stopping: AtomicBool,
}

/// See the module's description. Stops on drop; connections end when PostgreSQL closes them.
pub struct Server {
    instance: Instance,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on the instance's socket.
    ///
    /// # Errors
    /// When the socket or a thread cannot be had.
    pub fn start(
        instance: Instance,
        board: SharedBoard,
        filler: Arc<Filler>,
        office: Office,
    ) -> io::Result<Server> {
        let fd = socket::listen(&instance).map_err(io::Error::from_raw_os_error)?;
        // SAFETY: a descriptor just made, which nobody else owns.
        #[expect(unsafe_code, reason = "the socket comes from a crate that knows no std types")]
        let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let (ahead, ranges) = sync_channel(AHEAD_QUEUE);
        let ranges = Arc::new(Mutex::new(ranges));
        for _ in 0..AHEAD_THREADS {
            let (filler, ranges) = (Arc::clone(&filler), Arc::clone(&ranges));
            let worker = Builder::new().name("cache-ahead".to_owned());
            worker.spawn(move || read_ahead(&filler, &ranges))?;
        }
        let stopping = AtomicBool::new(false);
        let shared = Arc::new(Shared { board, filler, office, ahead, stopping });
        let accepting = Arc::clone(&shared);
        let acceptor = Builder::new()
            .name("cache-server".to_owned())
            .spawn(move || accept(&listener, &accepting))?;
        Ok(Server { instance, shared, acceptor: Some(acceptor) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        // The acceptor sits in accept: knock.
        if let Ok(fd) = socket::connect(&self.instance) {
            seam::sys::close(fd);
            if let Some(acceptor) = self.acceptor.take()
                && acceptor.join().is_err()
            {
                tracing::error!("the cache's server thread had panicked");
            }
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(SeqCst) {
            return;
        }
        let started = accepted.and_then(|(stream, _)| {
            let shared = Arc::clone(shared);
            let thread = Builder::new().name("cache-client".to_owned()).stack_size(STACK_BYTES);
            thread.spawn(move || serve(&shared, stream))
        });
        if let Err(error) = started {
            // Out of descriptors or threads: PostgreSQL's process tries again by itself.
            tracing::warn!(%error, "cannot take a connection from PostgreSQL");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn serve(shared: &Shared, mut stream: UnixStream) {
    let mut sequence = Sequence::default();
    let mut bytes = [0; Request::SIZE];
    // An end of the connection is an end of the process, in whatever way.
    while stream.read_exact(&mut bytes).is_ok() {
        let Some(request) = Request::decode(&bytes) else {
            tracing::error!("a request on the cache's socket makes no sense; connection closed");
            return;
        };
        let errno = match request {
            Request::Prefetch { name, first, count } => {
                look_ahead(shared, (name, first, count));
                continue;
            }
            Request::Fetch { name, first, count, hint } => {
                if let Some(range) = sequence.note(&name, first, count, hint) {
                    look_ahead(shared, range);
                }
                shared.filler.fetch(&name, first, count).err().unwrap_or(0)
            }
            other => (shared.office)(other),
        };
        let reply = Reply { errno, generation: shared.board.generation() };
        if stream.write_all(&reply.encode()).is_err() {
            return;
        }
    }
}

fn look_ahead(shared: &Shared, range: Range) {
    // A full queue drops the guess.
    if shared.ahead.try_send(range).is_err() {
        tracing::trace!("read-ahead dropped");
    }
}

fn read_ahead(filler: &Filler, ranges: &Mutex<Receiver<Range>>) {
    loop {
        let next = ranges.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((name, first, count)) = next else { return };
        filler.prefetch(&name, first, count);
    }
}

/// What one process has missed last: does it read on and on?
#[derive(Debug, Default)]
struct Sequence {
    name: SegmentName,
    /// Just past the blocks missed last.
    next: u32,
    /// How far was read ahead of them.
    window: u32,
}

impl Sequence {
    /// Takes note of a miss; the range to read ahead, if any. A miss within or just after what was
    /// read ahead goes on where the last one was, and doubles the window.
    fn note(&mut self, name: &SegmentName, first: u32, count: u32, hint: u32) -> Option<Range> {
        let end = first.saturating_add(count);
        let reach = self.next.saturating_add(self.window);
        let goes_on = self.name == *name && self.next > 0 && (self.next..=reach).contains(&first);
        self.window = if goes_on { (self.window * 2).clamp(WINDOW_MIN, WINDOW_MAX) } else { 0 };
        self.name = *name;
        self.next = end;
        let ahead = self
            .window
            .max(hint.min(WINDOW_MAX))
            .min(seam::BLOCKS_PER_SEGMENT - end.min(seam::BLOCKS_PER_SEGMENT));
        (ahead > 0).then_some((*name, end, ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_reads_on_is_read_ahead_for() {
        let name = SegmentName { relation: 7, ..SegmentName::default() };
        let other = SegmentName { relation: 8, ..SegmentName::default() };
        let mut sequence = Sequence::default();
        assert_eq!(sequence.note(&name, 0, 1, 0), None);
        assert_eq!(sequence.note(&name, 1, 1, 0), Some((name, 2, 8)));
        assert_eq!(sequence.note(&name, 10, 1, 0), Some((name, 11, 16)));
        assert_eq!(sequence.note(&name, 5_000, 1, 0), None);
        assert_eq!(sequence.note(&other, 5_001, 1, 0), None);
        assert_eq!(sequence.note(&other, 5_002, 1, 0), Some((other, 5_003, 8)));
        let last = seam::BLOCKS_PER_SEGMENT - 1;
        assert_eq!(sequence.note(&other, last, 1, 9), None, "nothing after the last block");
    }
}
