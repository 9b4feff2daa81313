//! The connections of one event loop, with what each still has to do.
//!
//! Invariants: a line that may have bytes in its socket is in `busy` until it was read dry (events
//! are edge-triggered); one with frames to send is in `dirty`, `held` or waiting for its writable
//! event. A line whose peer does not read is not read from either, so that nobody can make us queue
//! answers without bound.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use link::{Connection, DueTimer, LinkError, READS_MAX, Received, Sent};
use mio::event::Source;
use mio::{Events, Interest, Poll, Token, Waker};
use wire::{Message, frame};

/// Number of a connection, unique in the process's life.
pub(crate) type LineId = u64;

/// Connections of one loop; more are closed at once.
const LINES_MAX: usize = 4096;
/// A connection that has not shaken hands after so long is closed.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// Answers queued for one peer above which its requests wait.
const QUEUED_BYTES_PAUSE: usize = 16 << 20;
const SCRATCH_BYTES: usize = 256 << 10;
/// Least that is read of a line at once.
const READ_BYTES_MIN: usize = 4 << 10;
const TOKEN_WAKE: Token = Token(0);
const TOKEN_LISTEN: Token = Token(1);
const TOKEN_TIMER: Token = Token(2);
const LINES_FROM: usize = 3;

/// One connection and its state in the loop.
struct Line {
    connection: Connection,
    closing: bool,
    blocked: bool,
    held: Option<Instant>,
}

/// What a wait brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Woken {
    /// There is mail.
    pub(crate) mail: bool,
    /// Somebody connects.
    pub(crate) accepting: bool,
}

/// The connections of one event loop.
pub(crate) struct Lines {
    poll: Poll,
    events: Events,
    lines: BTreeMap<LineId, Line>,
    busy: BTreeSet<LineId>,
    dirty: BTreeSet<LineId>,
    greeting: BTreeMap<LineId, Instant>,
    held: BTreeSet<(Instant, LineId)>,
    /// Lines that are not read until [`Lines::resume`].
    paused: BTreeSet<LineId>,
    timer: DueTimer,
    scratch: Vec<u8>,
}

impl Lines {
    pub(crate) fn new() -> io::Result<Lines> {
        let (poll, mut timer) = (Poll::new()?, DueTimer::new()?);
        poll.registry().register(&mut timer, TOKEN_TIMER, Interest::READABLE)?;
        Ok(Lines {
            poll,
            events: Events::with_capacity(256),
            lines: BTreeMap::new(),
            busy: BTreeSet::new(),
            dirty: BTreeSet::new(),
            greeting: BTreeMap::new(),
            held: BTreeSet::new(),
            paused: BTreeSet::new(),
            timer,
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    pub(crate) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), TOKEN_WAKE)
    }

    pub(crate) fn listen(&self, listener: &mut impl Source) -> io::Result<()> {
        self.poll.registry().register(listener, TOKEN_LISTEN, Interest::READABLE)
    }

    /// Takes a connection in; what is queued on it is sent at the next flush.
    pub(crate) fn add(&mut self, id: LineId, mut connection: Connection) -> io::Result<()> {
        if self.lines.len() >= LINES_MAX {
            return Err(io::Error::other(format!("{LINES_MAX} connections are open already")));
        }
        let token = Token(usize::try_from(id).unwrap_or(usize::MAX) + LINES_FROM);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(connection.source(), token, both)?;
        if connection.peer().is_none() {
            self.greeting.insert(id, Instant::now());
        }
        self.lines.insert(id, Line { connection, closing: false, blocked: false, held: None });
        self.busy.insert(id);
        self.dirty.insert(id);
        Ok(())
    }

    /// Takes a connection out, to be closed or handed to another loop.
    pub(crate) fn remove(&mut self, id: LineId) -> Option<Connection> {
        let mut line = self.lines.remove(&id)?;
        self.busy.remove(&id);
        self.dirty.remove(&id);
        self.greeting.remove(&id);
        self.paused.remove(&id);
        if let Some(due) = line.held {
            self.held.remove(&(due, id));
        }
        if let Err(error) = self.poll.registry().deregister(line.connection.source()) {
            tracing::warn!(peer = line.connection.describe(), %error, "cannot deregister");
            return None;
        }
        Some(line.connection)
    }

    /// Waits until something happens, but not beyond `deadline`.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Woken> {
        if let Some((due, _)) = self.held.first() {
            self.timer.arm(*due)?;
        }
        let idle = self.readable().next().is_none() && self.dirty.is_empty();
        let timeout = match deadline {
            _ if !idle => Some(Duration::ZERO),
            Some(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
            None => None,
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        let mut woken = Woken::default();
        for event in &self.events {
            match event.token() {
                TOKEN_WAKE => woken.mail = true,
                TOKEN_LISTEN => woken.accepting = true,
                TOKEN_TIMER => {} // `release_held` looks at the clock
                Token(number) => {
                    let id = (number - LINES_FROM) as LineId;
                    let Some(line) = self.lines.get_mut(&id) else { continue };
                    line.closing |= event.is_read_closed() || event.is_error();
                    if event.is_readable() || line.closing {
                        self.busy.insert(id);
                    }
                    if event.is_writable() && line.blocked {
                        line.blocked = false;
                        self.dirty.insert(id);
                    }
                }
            }
        }
        self.release_held();
        Ok(woken)
    }

    fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((due, id)) = self.held.first().copied().filter(|(due, _)| *due <= now) {
            self.held.remove(&(due, id));
            if let Some(line) = self.lines.get_mut(&id) {
                line.held = None;
            }
            self.dirty.insert(id);
        }
    }

    fn readable(&self) -> impl Iterator<Item = LineId> + '_ {
        let paused = |id: &LineId| {
            let queued = |line: &Line| line.connection.queued_bytes();
            self.paused.contains(id)
                || self.lines.get(id).is_some_and(|line| queued(line) > QUEUED_BYTES_PAUSE)
        };
        self.busy.iter().copied().filter(move |id| !paused(id))
    }

    /// Reads every line that may have something, about `bytes_max` of all together in equal shares.
    /// `take` gets each line's messages; lines that ended are removed and returned with the reason.
    pub(crate) fn receive(
        &mut self,
        bytes_max: usize,
        mut take: impl FnMut(LineId, Vec<(u64, Message)>),
    ) -> Vec<(LineId, LinkError)> {
        let mut ended = Vec::new();
        let readable: Vec<LineId> = self.readable().collect();
        let share = bytes_max / readable.len().max(1) / READS_MAX;
        let share = share.clamp(READ_BYTES_MIN, SCRATCH_BYTES);
        for id in readable {
            let Some(line) = self.lines.get_mut(&id) else { continue };
            let mut messages = Vec::new();
            let welcomed = line.connection.peer().is_some();
            let scratch = &mut self.scratch[..share];
            match line.connection.receive(scratch, line.closing, &mut messages) {
                Ok(Received::More) => {}
                Ok(Received::Drained) => {
                    self.busy.remove(&id);
                }
                Err(error) => ended.push((id, error)),
            }
            if !welcomed && line.connection.peer().is_some() {
                self.dirty.insert(id);
                self.greeting.remove(&id);
            }
            if !messages.is_empty() {
                take(id, messages);
            }
        }
        for (id, _) in &ended {
            self.remove(*id);
        }
        ended
    }

    /// Lines that have had long enough to shake hands.
    pub(crate) fn speechless(&self, now: Instant) -> Vec<LineId> {
        // Numbers ascend with time: the oldest is the first.
        let old = self.greeting.iter().take_while(|(_, since)| now > **since + GREETING_MAX);
        old.map(|(id, _)| *id).collect()
    }

    /// Leaves what a line's peer sends in its socket until [`Lines::resume`].
    pub(crate) fn pause(&mut self, id: LineId) {
        if self.lines.contains_key(&id) {
            self.paused.insert(id);
        }
    }

    /// Lines that are not read and whose peers have hung up.
    pub(crate) fn left(&self) -> Vec<LineId> {
        let closing = |id: &LineId| self.lines.get(id).is_some_and(|line| line.closing);
        self.paused.iter().copied().filter(closing).collect()
    }

    /// Reads all lines again.
    pub(crate) fn resume(&mut self) {
        self.paused.clear();
    }

    /// Queues a message; a line that is gone needs no answer.
    pub(crate) fn send(&mut self, id: LineId, request: u64, message: &Message) {
        self.send_bytes(id, frame::encode(request, message));
    }

    /// Queues whole frames.
    pub(crate) fn send_bytes(&mut self, id: LineId, bytes: Bytes) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.connection.send_bytes(bytes);
            self.dirty.insert(id);
        }
    }

    /// Sends what may leave. Lines that ended are removed and returned with the reason.
    pub(crate) fn flush(&mut self) -> Vec<(LineId, LinkError)> {
        let mut ended = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let Some(line) = self.lines.get_mut(&id) else { continue };
            if line.blocked || line.held.is_some() {
                continue; // the writable event, or the instant, brings it back
            }
            match line.connection.flush() {
                Ok(Sent::All | Sent::Greeting) => {}
                Ok(Sent::Blocked) => line.blocked = true,
                Ok(Sent::Held(due)) => {
                    line.held = Some(due);
                    self.held.insert((due, id));
                }
                Err(error) => ended.push((id, error)),
            }
        }
        for (id, _) in &ended {
            self.remove(*id);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use link::{Client, Host, Party};
    use types::{ClusterId, Incarnation};
    use wire::{Speaker, Welcome};

    use super::*;

    const MESSAGES: usize = 100;
    const BYTES: usize = 16 << 10;

    /// Connects and sends more than any turn may take.
    fn pour(address: &str) {
        let (cluster, from) = (ClusterId(1), Speaker::Control);
        let party = Party { cluster, from, az: None, az_latency: Duration::ZERO };
        let mut client = Client::connect(address, &party, GREETING_MAX).expect("welcomed");
        for _ in 0..MESSAGES {
            client.send(&Message::Chunk(Bytes::from(vec![7; BYTES]))).expect("taken");
        }
        assert!(client.receive().is_err(), "there is no answer, only an end");
    }

    #[test]
    fn a_turn_takes_about_what_it_may_of_all_lines_together() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let address = address.clone();
                thread::spawn(move || pour(&address))
            })
            .collect();
        let node = "a1".parse().expect("a name");
        let welcome = Welcome { node, incarnation: Incarnation(1), az: 0 };
        let host = Host { cluster: ClusterId(1), welcome, az_latency: Duration::ZERO };
        let mut lines = Lines::new().expect("an event queue");
        for id in 0..2 {
            let (stream, from) = listener.accept().expect("a client");
            stream.set_nonblocking(true).expect("a socket");
            let stream = mio::net::TcpStream::from_std(stream);
            let connection = Connection::accept(stream, from, &host).expect("taken");
            lines.add(id, connection).expect("watched");
        }
        let mut taken = [0; 2];
        while taken != [MESSAGES; 2] {
            lines.wait(Some(Instant::now() + GREETING_MAX)).expect("something happens");
            thread::sleep(Duration::from_millis(2)); // so that the sockets fill up
            let mut turn = 0;
            let ended = lines.receive(64 << 10, |line, messages| {
                turn += messages.len();
                taken[usize::try_from(line).expect("small")] += messages.len();
            });
            assert!(ended.is_empty(), "{ended:?}");
            // Besides what was read, a message of each line may have been waiting for its end.
            assert!(turn * BYTES <= (64 << 10) + 2 * BYTES, "{turn} messages in one turn");
            assert!(lines.flush().is_empty());
        }
        drop(lines);
        clients.into_iter().for_each(|client| client.join().expect("no panic"));
    }
}
