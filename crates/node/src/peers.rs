//! Links to the other nodes, opened when there is something to ask and kept.
//!
//! Questions are never retried here: the next gossip turn asks again. A peer that is away is left
//! alone for a while, one that stopped answering is hung up on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use link::{Connection, Party};
use registry::SegmentPlace;
use types::{NodeId, SegmentId};
use wire::{Message, SegmentSpec};

use crate::lines::{LineId, Lines};

/// After a failure, a peer is left alone for this long.
const LEAVE_ALONE: Duration = Duration::from_millis(500);
/// A peer that has not answered for so long is hung up on.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Questions in flight to one peer.
const ASKED_MAX: usize = 256;

struct Asked {
    peer: NodeId,
    segment: SegmentId,
    at: Instant,
}

struct Peer {
    address: String,
    line: Option<LineId>,
    again: Option<Instant>,
    asked: usize,
    /// It did not answer last time; told once.
    away: bool,
}

/// The other nodes.
#[derive(Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    asked: BTreeMap<u64, Asked>,
    request: u64,
}

impl Peers {
    /// Learns addresses from a segment's members, as remembered on disk or sent by control.
    pub(crate) fn learn(&mut self, spec: &SegmentSpec) {
        for peer in spec.holders() {
            self.set(peer.holder.node, &peer.address);
        }
    }

    /// Learns addresses from the control plane's list.
    pub(crate) fn learn_places(&mut self, places: &[SegmentPlace]) {
        for place in places {
            let joining = place.joining.iter().map(|joining| &joining.member);
            for member in place.members.iter().chain(joining) {
                self.set(member.node, &member.address);
            }
        }
    }

    fn set(&mut self, node: NodeId, address: &str) {
        let fresh =
            || Peer { address: address.to_owned(), line: None, again: None, asked: 0, away: false };
        let peer = self.peers.entry(node).or_insert_with(fresh);
        if peer.address != address {
            address.clone_into(&mut peer.address);
            peer.again = None;
        }
    }

    /// A peer's address.
    pub(crate) fn address(&self, node: NodeId) -> Option<&str> {
        self.peers.get(&node).map(|peer| peer.address.as_str())
    }

    /// Whose line this is, if it is a peer's that we called.
    pub(crate) fn of_line(&self, line: LineId) -> Option<NodeId> {
        let mut peers = self.peers.iter();
        peers.find(|(_, peer)| peer.line == Some(line)).map(|(node, _)| *node)
    }

    /// Asks a peer about a segment. `fresh_line` numbers a new connection. False when the question
    /// was not sent.
    pub(crate) fn ask(
        &mut self,
        lines: &mut Lines,
        party: &Party,
        fresh_line: impl FnOnce() -> LineId,
        (node, segment): (NodeId, SegmentId),
        message: &Message,
    ) -> bool {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&node) else {
            tracing::debug!(peer = %node, "no address known");
            return false;
        };
        if peer.again.is_some_and(|again| now < again) || peer.asked >= ASKED_MAX {
            return false;
        }
        let line = match peer.line {
            Some(line) => line,
            None => match call(lines, party, &peer.address, fresh_line) {
                Ok(line) => *peer.line.insert(line),
                Err(error) => {
                    tracing::debug!(peer = %node, %error, "cannot call");
                    peer.again = Some(now + LEAVE_ALONE);
                    return false;
                }
            },
        };
        peer.asked += 1;
        self.request += 1;
        self.asked.insert(self.request, Asked { peer: node, segment, at: now });
        lines.send(line, self.request, message);
        true
    }

    /// The question that this request number stood for, if it was this peer's.
    pub(crate) fn answered(&mut self, node: NodeId, request: u64) -> Option<SegmentId> {
        if self.asked.get(&request)?.peer != node {
            return None;
        }
        let asked = self.asked.remove(&request)?;
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.asked = peer.asked.saturating_sub(1);
            if std::mem::take(&mut peer.away) {
                tracing::info!(peer = %node, "peer answers again");
            }
        }
        Some(asked.segment)
    }

    /// A line ended. If it was a peer's: the peer, and the segments whose questions are lost.
    pub(crate) fn ended(&mut self, line: LineId) -> Option<(NodeId, Vec<SegmentId>)> {
        let node = self.of_line(line)?;
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.line = None;
            peer.asked = 0;
            peer.again = Some(Instant::now() + LEAVE_ALONE);
            if !std::mem::replace(&mut peer.away, true) {
                tracing::info!(peer = %node, address = peer.address, "peer is away; will keep trying");
            }
        }
        let lost = self.asked.extract_if(.., |_, asked| asked.peer == node);
        Some((node, lost.map(|(_, asked)| asked.segment).collect()))
    }

    /// Lines of peers that have not answered for too long, to be hung up.
    pub(crate) fn silent(&self, now: Instant) -> Vec<LineId> {
        // Numbers ascend with time: the oldest question is the first.
        let old = self.asked.values().take_while(|asked| now > asked.at + SILENCE_MAX);
        let mut lines: Vec<LineId> =
            old.filter_map(|asked| self.peers.get(&asked.peer)?.line).collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }
}

fn call(
    lines: &mut Lines,
    party: &Party,
    address: &str,
    fresh_line: impl FnOnce() -> LineId,
) -> anyhow::Result<LineId> {
    let connection = Connection::connect(link::resolve(address)?, party)?;
    let line = fresh_line();
    lines.add(line, connection)?;
    Ok(line)
}
