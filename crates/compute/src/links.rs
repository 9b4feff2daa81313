//! Connections to the storage nodes in one event loop: made, remade with back-off, read and written.
//!
//! A dead or slow node disturbs nobody else: its attempts are spaced out, and what is queued for it
//! is bounded by who sends (the protocol's writer).

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use link::{Connection, LinkError, Party, Received, Sent};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use types::NodeId;
use wire::Message;

const WAKER: Token = Token(0);
const BELL: Token = Token(1);
const FIRST_NODE: usize = 16;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const SCRATCH_BYTES: usize = 256 << 10;

/// What happened on a turn of the loop.
#[derive(Debug)]
pub enum LinkEvent {
    /// A node has welcomed us.
    Up(NodeId),
    /// Its connection is gone, or could not be made.
    Down(NodeId),
    /// A node said something; the number is the tag of what it answers.
    Message(NodeId, u32, Message),
    /// A node refuses to talk to us for good (another version or cluster).
    Barred(NodeId, String),
    /// Somebody else in this process woke us.
    Woken,
    /// The descriptor given to [`Links::watch`] is readable.
    Bell,
}

#[derive(Debug)]
struct Link {
    node: NodeId,
    address: String,
    connection: Option<Connection>,
    up: bool,
    began: Instant,
    retry_at: Instant,
    backoff: Duration,
    held_until: Option<Instant>,
    dirty: bool,
    /// The socket may hold more than was read: no further event will tell.
    more: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct Links {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    party: Party,
    links: Vec<Link>,
    index: BTreeMap<NodeId, usize>,
    scratch: Vec<u8>,
    inbox: Vec<(u64, Message)>,
    /// Requests sent: the lower half of a request's number; the upper half is its tag.
    request: u32,
}

impl Links {
    /// No connections yet; this instance will introduce itself as `party`.
    ///
    /// # Errors
    /// When the system has no event queue to give.
    pub fn new(party: Party) -> anyhow::Result<Links> {
        let poll = Poll::new().context("cannot make an event queue")?;
        let waker = Waker::new(poll.registry(), WAKER).context("cannot make a waker")?;
        Ok(Links {
            poll,
            events: Events::with_capacity(64),
            waker: Arc::new(waker),
            party,
            links: Vec::new(),
            index: BTreeMap::new(),
            scratch: vec![0; SCRATCH_BYTES],
            inbox: Vec::new(),
            request: 0,
        })
    }

    /// Wakes the loop from another thread.
    #[must_use]
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Also waits for this descriptor to become readable.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn watch(&self, fd: RawFd) -> anyhow::Result<()> {
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), BELL, Interest::READABLE)
            .context("cannot watch the wake-up descriptor")
    }

    /// Adds a node, or corrects its address.
    pub fn add(&mut self, node: NodeId, address: &str) {
        let now = Instant::now();
        if let Some(link) = self.index.get(&node).and_then(|at| self.links.get_mut(*at)) {
            if link.address != address {
                address.clone_into(&mut link.address);
                link.retry_at = now;
                link.backoff = BACKOFF_MIN;
            }
            return;
        }
        self.index.insert(node, self.links.len());
        self.links.push(Link {
            node,
            address: address.to_owned(),
            connection: None,
            up: false,
            began: now,
            retry_at: now,
            backoff: BACKOFF_MIN,
            held_until: None,
            dirty: false,
            more: false,
        });
    }

    /// Whether a node's connection is up.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.index.get(&node).and_then(|at| self.links.get(*at)).is_some_and(|link| link.up)
    }

    /// The nodes known.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.links.iter().map(|link| link.node)
    }

    /// Bytes waiting in our queue for a node.
    #[must_use]
    pub fn queued_bytes(&self, node: NodeId) -> usize {
        let link = self.index.get(&node).and_then(|at| self.links.get(*at));
        link.and_then(|link| link.connection.as_ref()).map_or(0, Connection::queued_bytes)
    }

    /// Queues a message; false when the node is not connected. [`Links::flush`] sends it. The tag
    /// comes back with the answer.
    pub fn send(&mut self, node: NodeId, tag: u32, message: &Message) -> bool {
        let request = self.number(tag);
        self.with(node, |connection| connection.send(request, message))
    }

    /// Queues an encoded batch; false when the node is not connected.
    pub fn send_batch(&mut self, node: NodeId, tag: u32, batch: Bytes) -> bool {
        let request = self.number(tag);
        self.with(node, |connection| connection.send_batch(request, batch))
    }

    fn number(&mut self, tag: u32) -> u64 {
        self.request = self.request.wrapping_add(1);
        u64::from(tag) << 32 | u64::from(self.request)
    }

    fn with(&mut self, node: NodeId, act: impl FnOnce(&mut Connection)) -> bool {
        let Some(link) = self.index.get(&node).and_then(|at| self.links.get_mut(*at)) else {
            return false;
        };
        match &mut link.connection {
            Some(connection) if link.up => {
                act(connection);
                link.dirty = true;
                true
            }
            _ => false,
        }
    }

    /// Hands what is queued to the sockets.
    pub fn flush(&mut self, into: &mut Vec<LinkEvent>) {
        for index in 0..self.links.len() {
            if self.links.get(index).is_some_and(|link| link.dirty) {
                self.flush_one(index, into);
            }
        }
    }

    fn flush_one(&mut self, index: usize, into: &mut Vec<LinkEvent>) {
        let Some(link) = self.links.get_mut(index) else { return };
        link.dirty = false;
        link.held_until = None;
        let Some(connection) = &mut link.connection else { return };
        match connection.flush() {
            Ok(Sent::Held(until)) => link.held_until = Some(until),
            Ok(Sent::All | Sent::Blocked | Sent::Greeting) => {}
            Err(error) => self.lost(index, &error, into),
        }
    }

    /// One turn: waits up to `timeout` for something to happen, and tells what did.
    ///
    /// # Errors
    /// When the event queue itself fails.
    pub fn turn(&mut self, timeout: Duration, into: &mut Vec<LinkEvent>) -> anyhow::Result<()> {
        let now = Instant::now();
        self.connect_due(now, into);
        let timeout = self.next_wait(now, timeout);
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let polled = self.poll.poll(&mut events, Some(timeout));
        match polled {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("the event queue failed"),
        }
        for event in &events {
            match event.token() {
                WAKER => into.push(LinkEvent::Woken),
                BELL => into.push(LinkEvent::Bell),
                Token(token) => self.ready(token - FIRST_NODE, event, into),
            }
        }
        self.events = events;
        for index in 0..self.links.len() {
            if self.links.get(index).is_some_and(|link| link.more) {
                self.receive(index, false, into);
            }
        }
        self.release_held(into);
        Ok(())
    }

    fn next_wait(&self, now: Instant, timeout: Duration) -> Duration {
        let mut until = now + timeout;
        for link in &self.links {
            if link.more {
                return Duration::ZERO;
            }
            if let Some(held) = link.held_until {
                until = until.min(held);
            }
            if link.connection.is_none() {
                until = until.min(link.retry_at);
            }
        }
        until.saturating_duration_since(now)
    }

    fn release_held(&mut self, into: &mut Vec<LinkEvent>) {
        if self.links.iter().all(|link| link.held_until.is_none()) {
            return;
        }
        let now = Instant::now();
        for index in 0..self.links.len() {
            let held = self.links.get(index).and_then(|link| link.held_until);
            if held.is_some_and(|until| until <= now) {
                self.flush_one(index, into);
            }
        }
    }

    fn connect_due(&mut self, now: Instant, into: &mut Vec<LinkEvent>) {
        for index in 0..self.links.len() {
            let Some(link) = self.links.get_mut(index) else { continue };
            if link.connection.is_some() {
                if !link.up && now.duration_since(link.began) > CONNECT_LIMIT {
                    let peer = link.address.clone();
                    self.lost(index, &LinkError::Closed { peer }, into);
                }
                continue;
            }
            if link.retry_at > now {
                continue;
            }
            let attempt = link::resolve(&link.address)
                .and_then(|address| Connection::connect(address, &self.party));
            link.began = now;
            match attempt {
                Ok(mut connection) => {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    let token = Token(FIRST_NODE + index);
                    let registry = self.poll.registry();
                    match registry.register(connection.source(), token, interest) {
                        Ok(()) => link.connection = Some(connection),
                        Err(source) => {
                            let peer = link.address.clone();
                            let what = "cannot watch the connection to";
                            self.lost(index, &LinkError::Io { what, peer, source }, into);
                        }
                    }
                }
                Err(error) => self.lost(index, &error, into),
            }
        }
    }

    fn ready(&mut self, index: usize, event: &Event, into: &mut Vec<LinkEvent>) {
        if event.is_writable() {
            self.flush_one(index, into);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.receive(index, event.is_read_closed(), into);
        }
    }

    fn receive(&mut self, index: usize, closing: bool, into: &mut Vec<LinkEvent>) {
        let Some(link) = self.links.get_mut(index) else { return };
        let Some(connection) = &mut link.connection else { return };
        let outcome = connection.receive(&mut self.scratch, closing, &mut self.inbox);
        link.more = matches!(outcome, Ok(Received::More));
        if !link.up && connection.peer().is_some() {
            link.up = true;
            link.backoff = BACKOFF_MIN;
            link.dirty = true;
            into.push(LinkEvent::Up(link.node));
        }
        let node = link.node;
        into.extend(
            self.inbox.drain(..).map(|(request, message)| {
                LinkEvent::Message(node, (request >> 32) as u32, message)
            }),
        );
        if let Err(error) = outcome {
            self.lost(index, &error, into);
        }
    }

    fn lost(&mut self, index: usize, error: &LinkError, into: &mut Vec<LinkEvent>) {
        let Some(link) = self.links.get_mut(index) else { return };
        if let Some(mut connection) = link.connection.take()
            && let Err(error) = self.poll.registry().deregister(connection.source())
        {
            tracing::debug!(%error, "a dead connection was not watched");
        }
        let was_up = std::mem::replace(&mut link.up, false);
        link.more = false;
        link.held_until = None;
        link.dirty = false;
        link.retry_at = Instant::now() + link.backoff;
        link.backoff = (link.backoff * 2).min(BACKOFF_MAX);
        if was_up {
            tracing::warn!(node = %link.node, %error, "connection lost");
        } else {
            tracing::debug!(node = %link.node, %error, "no connection");
        }
        if let Some(refusal) = error.refusal() {
            into.push(LinkEvent::Barred(link.node, refusal.to_string()));
        }
        into.push(LinkEvent::Down(link.node));
    }
}
