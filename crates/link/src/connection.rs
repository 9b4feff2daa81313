//! A connection in an event loop: edge-triggered, buffered both ways, written with one call.
//!
//! The owner registers [`Connection::source`] for reading and writing, calls
//! [`Connection::receive`] when it is readable (again at once on [`Received::More`]), and
//! [`Connection::flush`] after it queued something, when it is writable, and when the instant of
//! [`Sent::Held`] has come.
//!
//! Invariants: frames leave in the order they were queued, each no sooner than the delay to the
//! peer's zone allows; nothing but the greeting leaves before the handshake is done.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use mio::net::TcpStream;
use wire::{Decoder, Frame, Hello, Message, Welcome, frame};

use crate::error::LinkError;
use crate::party::{Host, Party};
use crate::socket;

/// Slices given to one write.
const SLICES_MAX: usize = 64;
/// Reads of one [`Connection::receive`], so that a busy peer does not starve the others.
pub const READS_MAX: usize = 4;

/// The other side, once it has introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It connected to us.
    Guest(Hello),
    /// We connected to it.
    Node(Welcome),
}

/// What [`Connection::receive`] leaves in the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing: the next event tells of more.
    Drained,
    /// Perhaps more: call again without waiting for an event.
    More,
}

/// What [`Connection::flush`] leaves in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing.
    All,
    /// Something, until the socket is writable.
    Blocked,
    /// Something, until this instant (delay between zones).
    Held(Instant),
    /// Something, until the handshake is done.
    Greeting,
}

#[derive(Debug)]
enum Side {
    Caller(Party),
    Host(Host),
}

#[derive(Debug)]
struct Queued {
    since: Option<Instant>,
    bytes: Bytes,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    side: Side,
    address: String,
    peer: Option<Peer>,
    decoder: Decoder,
    greeting: Bytes,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    delay: Duration,
    delayed: bool,
}

impl Connection {
    /// Begins to connect; register it at once.
    ///
    /// # Errors
    /// When the attempt cannot even begin. Later failures show in `receive` and `flush`.
    pub fn connect(address: SocketAddr, party: &Party) -> Result<Connection, LinkError> {
        let named = address.to_string();
        let io = |source| LinkError::Io { what: "cannot connect to", peer: named.clone(), source };
        let stream = TcpStream::connect(address).map_err(io)?;
        let greeting = frame::encode_hello(&party.hello());
        let delayed = !party.az_latency.is_zero();
        Connection::new(stream, Side::Caller(party.clone()), named, greeting, delayed)
    }

    /// Takes a connection that a listener accepted.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn accept(
        stream: TcpStream,
        from: SocketAddr,
        host: &Host,
    ) -> Result<Connection, LinkError> {
        let delayed = !host.az_latency.is_zero();
        Connection::new(stream, Side::Host(host.clone()), from.to_string(), Bytes::new(), delayed)
    }

    fn new(
        stream: TcpStream,
        side: Side,
        address: String,
        greeting: Bytes,
        delayed: bool,
    ) -> Result<Connection, LinkError> {
        socket::configure(&stream).map_err(|source| LinkError::Io {
            what: "cannot set up the connection with",
            peer: address.clone(),
            source,
        })?;
        Ok(Connection {
            stream,
            side,
            address,
            peer: None,
            decoder: Decoder::new(),
            greeting,
            queue: VecDeque::new(),
            queued_bytes: 0,
            delay: Duration::ZERO,
            delayed,
        })
    }

    /// What to register with the poll.
    pub fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The other side, once the handshake is done.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// The other side's name and address, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.peer {
            None => self.address.clone(),
            Some(Peer::Node(welcome)) => format!("{} at {}", welcome.node, self.address),
            Some(Peer::Guest(hello)) => match &hello.from {
                wire::Speaker::Node { node, .. } => format!("node {node} at {}", self.address),
                wire::Speaker::Instance { name, .. } => {
                    format!("instance {name} at {}", self.address)
                }
                wire::Speaker::Control => format!("control at {}", self.address),
            },
        }
    }

    /// Bytes queued and not yet sent: the owner bounds them.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues a message.
    pub fn send(&mut self, request: u64, message: &Message) {
        self.send_bytes(frame::encode(request, message));
    }

    /// Queues an `Append` of a batch that is encoded already, without copying it.
    pub fn send_batch(&mut self, request: u64, batch: Bytes) {
        self.send_bytes(frame::append_header(request, &batch));
        self.send_bytes(batch);
    }

    /// Queues bytes of whole frames.
    pub fn send_bytes(&mut self, bytes: Bytes) {
        let since = self.delayed.then(Instant::now);
        self.queued_bytes += bytes.len();
        self.queue.push_back(Queued { since, bytes });
    }

    /// Reads what has come and yields whole messages. `closing`: the event said that the peer will
    /// send no more, so read to the end.
    ///
    /// # Errors
    /// When the connection is over; messages yielded before it are good.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        closing: bool,
        into: &mut Vec<(u64, Message)>,
    ) -> Result<Received, LinkError> {
        for _ in 0..READS_MAX {
            let count = match self.stream.read(scratch) {
                Ok(0) => return Err(LinkError::Closed { peer: self.describe() }),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if not_yet(&error) => return Ok(Received::Drained),
                Err(source) => return Err(self.io("cannot receive from", source)),
            };
            self.decoder.feed(&scratch[..count]);
            self.take_frames(into)?;
            // A short read has emptied the socket: what comes later raises another event.
            if count < scratch.len() && !closing {
                return Ok(Received::Drained);
            }
        }
        Ok(Received::More)
    }

    fn take_frames(&mut self, into: &mut Vec<(u64, Message)>) -> Result<(), LinkError> {
        loop {
            let next = self.decoder.next();
            match next.map_err(|source| LinkError::Wire { peer: self.describe(), source })? {
                None => return Ok(()),
                Some(Frame::Message { request, message }) if self.peer.is_some() => {
                    into.push((request, message));
                }
                Some(frame) => self.shake_hands(frame)?,
            }
        }
    }

    fn shake_hands(&mut self, frame: Frame) -> Result<(), LinkError> {
        let out_of_turn = |what| LinkError::Unexpected { peer: self.address.clone(), what };
        if self.peer.is_some() {
            return Err(out_of_turn("a second handshake"));
        }
        match (&self.side, frame) {
            (Side::Host(host), Frame::Hello(hello)) => {
                if let Err(refusal) = host.admit(&hello) {
                    return Err(self.turn_away(refusal));
                }
                self.greeting = frame::encode_welcome(&host.welcome);
                self.delay = host.delay_to(hello.az);
                self.peer = Some(Peer::Guest(hello));
            }
            (Side::Caller(party), Frame::Welcome(welcome)) => {
                self.delay = party.delay_to(welcome.az);
                self.peer = Some(Peer::Node(welcome));
            }
            (Side::Caller(_), Frame::Refusal(refusal)) => {
                return Err(LinkError::Refused { peer: self.address.clone(), refusal });
            }
            _ => return Err(out_of_turn("a frame before the handshake")),
        }
        self.decoder.established();
        Ok(())
    }

    fn turn_away(&mut self, refusal: wire::Refusal) -> LinkError {
        let peer = self.address.clone();
        // Fits any socket buffer; if it is not sent, the close says it less politely.
        match self.stream.write_all(&frame::encode_refusal(&refusal)) {
            Ok(()) => LinkError::TurnedAway { peer, refusal },
            Err(source) => self.io("cannot answer", source),
        }
    }

    /// Sends what may leave now.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn flush(&mut self) -> Result<Sent, LinkError> {
        while !self.greeting.is_empty() {
            match self.stream.write(&self.greeting) {
                Ok(count) => self.greeting.advance(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if not_yet(&error) => return Ok(Sent::Blocked),
                Err(source) => return Err(self.io("cannot greet", source)),
            }
        }
        if self.peer.is_none() && !self.queue.is_empty() {
            return Ok(Sent::Greeting);
        }
        while !self.queue.is_empty() {
            let (ready, held) = self.ready();
            if ready == 0 {
                return Ok(held.map_or(Sent::All, Sent::Held));
            }
            match self.write_once(ready) {
                Ok(count) => self.sent(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if not_yet(&error) => return Ok(Sent::Blocked),
                Err(source) => return Err(self.io("cannot send to", source)),
            }
        }
        Ok(Sent::All)
    }

    /// How many queued frames may leave now, and when the first of the others may.
    fn ready(&self) -> (usize, Option<Instant>) {
        if self.delay.is_zero() {
            return (self.queue.len(), None);
        }
        let now = Instant::now();
        let due = |queued: &Queued| queued.since.map_or(now, |since| since + self.delay);
        let ready = self.queue.iter().take_while(|queued| due(queued) <= now).count();
        (ready, self.queue.get(ready).map(due))
    }

    fn write_once(&mut self, ready: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = ready.min(SLICES_MAX);
        for (slice, queued) in slices.iter_mut().zip(self.queue.iter().take(count)) {
            *slice = IoSlice::new(&queued.bytes);
        }
        self.stream.write_vectored(&slices[..count])
    }

    fn sent(&mut self, mut count: usize) {
        self.queued_bytes -= count;
        while let Some(front) = self.queue.front_mut() {
            if count < front.bytes.len() {
                front.bytes.advance(count);
                return;
            }
            count -= front.bytes.len();
            self.queue.pop_front();
        }
    }

    fn io(&self, what: &'static str, source: io::Error) -> LinkError {
        LinkError::Io { what, peer: self.describe(), source }
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Blocked, or still connecting: the writable event tells.
fn not_yet(error: &io::Error) -> bool {
    would_block(error) || error.kind() == io::ErrorKind::NotConnected
}
