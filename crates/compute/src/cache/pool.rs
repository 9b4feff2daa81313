//! Connections to storage nodes for readers of pages: kept while idle, made by threads of their own, so
//! that a node that takes connections but never greets holds up no read.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use link::{Client, LinkError, Party};
use types::NodeId;
use wire::Message;

/// Longest time to make a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Idle connections kept per node.
const IDLE_MAX: usize = 16;
/// Connections to a node that are being made at the same time.
const MAKING_MAX: usize = 4;
/// Requests that a connection may owe an answer to; with one more it is closed.
const OWED_MAX: u32 = 4;

/// An idle connection, and how many answers are still to come on it that nobody waits for.
#[derive(Debug)]
pub(super) struct Idle {
    client: Client,
    owed: u32,
}

#[derive(Debug, Default)]
struct Peer {
    idle: Vec<Idle>,
    making: usize,
    /// Why the last one could not be made.
    failure: Option<String>,
}

/// What can be had of a node now.
pub(super) enum Had {
    Idle(Idle),
    /// One is being made.
    Making,
    /// The last one could not be made.
    Failed(String),
}

/// See the module's description.
pub(super) struct Pool {
    party: Party,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// A connection was made, or could not be.
    news: Condvar,
}

impl Pool {
    pub(super) fn new(party: Party) -> Arc<Pool> {
        Arc::new(Pool { party, peers: Mutex::default(), news: Condvar::new() })
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection, if there is one; else one is made, unless enough are.
    pub(super) fn want(self: &Arc<Pool>, node: NodeId, address: &str) -> Had {
        self.had(node, address, MAKING_MAX)
    }

    /// What has become of a connection that was wanted; if another has taken it, one more is made.
    pub(super) fn look(self: &Arc<Pool>, node: NodeId, address: &str) -> Had {
        let why = {
            let peers = self.peers();
            let peer = peers.get(&node).filter(|peer| peer.idle.is_empty() && peer.making == 0);
            peer.and_then(|peer| peer.failure.clone())
        };
        why.map_or_else(|| self.had(node, address, 1), Had::Failed)
    }

    fn had(self: &Arc<Pool>, node: NodeId, address: &str, making_max: usize) -> Had {
        let mut peers = self.peers();
        let peer = peers.entry(node).or_default();
        if let Some(idle) = peer.idle.pop() {
            return Had::Idle(idle);
        }
        if peer.making < making_max {
            peer.failure = None;
            let (pool, address) = (Arc::clone(self), address.to_owned());
            let make = move || pool.make(node, &address);
            match std::thread::Builder::new().name("connect".to_owned()).spawn(make) {
                Ok(_) => peer.making += 1,
                Err(error) => return Had::Failed(format!("cannot start a thread: {error}")),
            }
        }
        Had::Making
    }

    fn make(&self, node: NodeId, address: &str) {
        let made = Client::connect(address, &self.party, CONNECT_LIMIT);
        let mut peers = self.peers();
        let peer = peers.entry(node).or_default();
        peer.making -= 1;
        match made {
            Ok(client) => peer.idle.push(Idle { client, owed: 0 }),
            Err(error) => peer.failure = Some(error.to_string()),
        }
        drop(peers);
        self.news.notify_all();
    }

    /// Waits for news of connections that are being made.
    pub(super) fn wait(&self, time: Duration) {
        let peers = self.peers();
        drop(self.news.wait_timeout(peers, time));
    }

    pub(super) fn put_back(&self, node: NodeId, idle: Idle) {
        let mut peers = self.peers();
        let kept = &mut peers.entry(node).or_default().idle;
        if idle.owed <= OWED_MAX && kept.len() < IDLE_MAX {
            kept.push(idle);
        }
    }

    /// A node's connection has failed: the others are probably dead, too.
    pub(super) fn forget(&self, node: NodeId) {
        self.peers().entry(node).or_default().idle.clear();
    }
}

/// A request that has been sent and not been answered.
pub(super) struct Sent {
    idle: Idle,
    request: u64,
}

impl Idle {
    pub(super) fn send(mut self, message: &Message) -> Result<Sent, LinkError> {
        let request = self.client.send(message)?;
        self.owed += 1;
        Ok(Sent { idle: self, request })
    }
}

impl Sent {
    /// Listens for the answer; `None` when it has not come in time.
    pub(super) fn listen(&mut self, time: Duration) -> Result<Option<Message>, LinkError> {
        self.idle.client.set_timeout(time)?;
        // Answers to earlier questions, that somebody else had answered first, are skipped.
        for _ in 0..=OWED_MAX {
            match self.idle.client.receive() {
                Ok((number, answer)) => {
                    self.idle.owed = self.idle.owed.saturating_sub(1);
                    if number == self.request {
                        return Ok(Some(answer));
                    }
                }
                Err(error) if error.is_timeout() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    pub(super) fn into_idle(self) -> Idle {
        self.idle
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.idle.client.as_fd()
    }
}
