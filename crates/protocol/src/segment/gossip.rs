//! Peers: a segment fills its gaps from them, learns newer histories from them, and is rebuilt from
//! them after a wipe. The writer may be absent.
//!
//! A wiped segment, or one on a node that joins (rule V12), first hears three full peers, so that it knows every seal its lost
//! self may have promised; until then it refuses everything. It then copies, and votes and serves
//! again only when it holds what the epoch's writer had sent before it first spoke to the segment
//! in its new life: more than its lost self can have acknowledged.

use std::collections::BTreeMap;

use types::{Epoch, GroupId, History, Lsn, NodeId, READ_QUORUM};
use wire::{Batch, Message, Refusal, SegmentReport};

use super::append::check_links;
use super::{Asker, LogEntry, Output, Segment, Waiting};
use crate::rules::Rules;

/// About how much is pulled at a time.
const PULL_BYTES_MAX: u32 = 1 << 20;
/// Turns after which an unanswered question is asked again, of another.
const PATIENCE_TURNS: u32 = 3;
/// Turns after which a copy of files that reports nothing is given up.
const HYDRATION_TURNS: u32 = 100_000;

/// What a segment knows of its peers.
pub(super) struct Gossip {
    /// Whose turn is next.
    turn: usize,
    /// A pull on its way: whom, and for how many turns.
    asked: Option<(NodeId, u32)>,
    /// A copy of files under way: from whom, and for how many turns.
    hydrating: Option<(NodeId, u32)>,
    /// The last answer told of more: pull on at once, from this peer.
    more: Option<NodeId>,
    /// What is left to do until the segment is full.
    rebuild: Option<Rebuild>,
}

#[derive(Default)]
struct Rebuild {
    /// Full peers heard since the start.
    heard: BTreeMap<NodeId, SegmentReport>,
    /// Enough of them were.
    informed: bool,
    /// The epoch's writer had sent the group's parts up to here when it first spoke to us.
    target: Option<(Epoch, Lsn)>,
}

impl Gossip {
    /// The segments of different groups begin with different peers: a node that lacks many asks all alike.
    pub(super) fn new(full: bool, group: GroupId) -> Gossip {
        Gossip {
            turn: group.0 as usize,
            asked: None,
            hydrating: None,
            more: None,
            rebuild: (!full).then(Rebuild::default),
        }
    }

    /// Whether the segment knows what seals were promised in its name.
    pub(super) fn knows_peers(&self) -> bool {
        self.rebuild.as_ref().is_none_or(|rebuild| rebuild.informed)
    }

    /// An announcement names all that its writer has sent of the group, so all that this segment
    /// can have acknowledged to it before.
    pub(super) fn hear_announcement(&mut self, epoch: Epoch, base: Lsn) {
        if let Some(rebuild) = &mut self.rebuild
            && rebuild.target.is_none_or(|(of, _)| of < epoch)
        {
            rebuild.target = Some((epoch, base));
        }
    }

    /// Asks the peer that a recovery named, without waiting for a turn.
    pub(super) fn pull_soon(&mut self, peer: NodeId, me: NodeId) {
        if peer != me {
            self.asked = None;
            self.more = Some(peer);
        }
    }

    pub(super) fn not_hydrated(&mut self, peer: NodeId) {
        if self.hydrating.is_some_and(|(from, _)| from == peer) {
            self.hydrating = None;
        }
    }
}

impl<R: Rules> Segment<R> {
    /// The present holders but this one.
    fn peers(&self) -> impl Iterator<Item = NodeId> {
        let nodes = self.spec.members.iter().map(|peer| peer.holder.node);
        nodes.filter(|node| *node != self.me)
    }

    pub(super) fn on_tick(&mut self, out: &mut Vec<Output>) {
        if !self.gossip.knows_peers() {
            let segment = self.id();
            let ask = |peer| Output::Ask { peer, message: Message::AskReport { segment } };
            return out.extend(self.peers().map(ask));
        }
        if !waited(&mut self.gossip.hydrating, HYDRATION_TURNS)
            || !waited(&mut self.gossip.asked, PATIENCE_TURNS)
        {
            return;
        }
        let behind = self.adoption.as_ref().map(|adoption| adoption.peer);
        let peers: Vec<_> = self.peers().collect();
        self.gossip.turn += 1;
        // Every other turn goes to the peer that recovery named, the rest to all in order.
        let named = behind.filter(|peer| self.gossip.turn.is_multiple_of(2) && *peer != self.me);
        if let Some(peer) =
            named.or_else(|| peers.get(self.gossip.turn % peers.len().max(1)).copied())
        {
            self.pull(peer, out);
        }
    }

    fn pull(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        self.gossip.asked = Some((peer, 0));
        let message = Message::Pull {
            segment: self.id(),
            history: self.durable.history.clone(),
            after: self.chain.scl(),
            bytes_max: PULL_BYTES_MAX,
        };
        out.push(Output::Ask { peer, message });
    }

    /// Pulls at once where more is known to be had; otherwise the next turn will do.
    pub(super) fn pull_on(&mut self, out: &mut Vec<Output>) {
        let idle = self.gossip.asked.is_none() && self.gossip.hydrating.is_none();
        if idle
            && self.persisted == self.issued
            && let Some(peer) = self.gossip.more.take()
        {
            self.pull(peer, out);
        }
    }

    /// Follows a peer's newer history, unless a recovery is reading this segment: what it was told
    /// in answer to its seal must stay true until it decides (rule V6).
    fn learn(&mut self, history: &History, out: &mut Vec<Output>) {
        let newer = history.last_epoch() > self.accepted.history.last_epoch();
        if newer && history.last_epoch() >= self.accepted.sealed && self.may_follow(history).is_ok()
        {
            self.follow(history.clone(), out);
        }
    }

    pub(super) fn on_pull(
        &mut self,
        from: Asker,
        history: History,
        after: Lsn,
        bytes_max: u32,
        out: &mut Vec<Output>,
    ) {
        if !self.gossip.knows_peers() {
            return self.refuse(from, Refusal::Hydrating(self.id()), out);
        }
        self.learn(&history, out);
        self.later(Waiting::Fill { to: from, history, after, bytes_max }, out);
    }

    pub(super) fn fill(
        &self,
        to: Asker,
        history: &History,
        after: Lsn,
        bytes_max: u32,
        out: &mut Vec<Output>,
    ) {
        let (segment, report, upto) = (self.id(), self.report(), self.chain.scl());
        if *history == self.durable.history && after < upto {
            out.push(Output::Read { to, after, upto, bytes_max, report });
        } else {
            let message = Message::Fill { segment, report, batches: Vec::new() };
            out.push(Output::Reply { to, message });
        }
    }

    pub(super) fn on_filled(
        &mut self,
        peer: NodeId,
        report: SegmentReport,
        batches: Vec<Batch>,
        out: &mut Vec<Output>,
    ) {
        if !self.gossip.knows_peers() {
            return self.hear_peer(peer, report, out);
        }
        if self.gossip.asked.is_some_and(|(asked, _)| asked == peer) {
            self.gossip.asked = None;
        }
        self.learn(&report.history, out);
        if report.history != self.accepted.history {
            return;
        }
        self.hear(report.vdl, report.low_water, report.watermark, out);
        let issued = self.issued;
        for batch in batches {
            if self.fits(&batch) {
                for run in self.missing(batch) {
                    self.persist(LogEntry::Batch(run), out);
                }
            }
        }
        if self.issued > issued && report.scl > self.chain.scl() {
            self.gossip.more = Some(peer);
        }
    }

    /// Whether a peer's batch is one that the history knows, and well linked.
    fn fits(&self, batch: &Batch) -> bool {
        let known = |entry: &types::EpochStart| entry.epoch == batch.header.epoch;
        batch.header.segment == self.id()
            && self.accepted.history.entries().iter().any(known)
            && check_links(batch).is_ok()
    }

    /// Three full peers know of every seal this segment may have promised before it was wiped, and the
    /// holder before it whose place it takes. An older copy on such a node is nobody's (rule V16).
    fn hear_peer(&mut self, peer: NodeId, report: SegmentReport, out: &mut Vec<Output>) {
        let Some(rebuild) = &mut self.gossip.rebuild else { return };
        let holder = types::Holder { node: peer, since: report.since };
        let holds = self.spec.members.iter().any(|member| member.holder == holder);
        if report.full && holds {
            rebuild.heard.insert(peer, report);
        }
        if rebuild.heard.len() < READ_QUORUM {
            return;
        }
        rebuild.informed = true;
        let heard = std::mem::take(&mut rebuild.heard);
        let sealed = heard.values().map(|report| report.sealed).max().unwrap_or_default();
        self.accepted.sealed = self.accepted.sealed.max(sealed);
        let newest = heard.values().max_by_key(|report| report.history.last_epoch());
        if let Some(report) = newest
            && report.history.last_epoch() > self.accepted.history.last_epoch()
        {
            self.accepted.history = report.history.clone();
        }
        self.persist_state(out);
        let best = heard.iter().max_by_key(|(_, report)| report.scl);
        self.gossip.more = best.map(|(peer, _)| *peer);
    }

    pub(super) fn become_full(&mut self, out: &mut Vec<Output>) {
        let Some(Rebuild { informed: true, target: Some((epoch, base)), .. }) = self.gossip.rebuild
        else {
            return;
        };
        if self.durable.history.last_epoch() == epoch
            && self.accepted.sealed == epoch
            && self.chain.scl() >= base
        {
            self.gossip.rebuild = None;
            self.accepted.full = true;
            self.persist_state(out);
        }
    }

    pub(super) fn on_peer_refused(
        &mut self,
        peer: NodeId,
        refusal: Option<Refusal>,
        out: &mut Vec<Output>,
    ) {
        if self.gossip.asked.is_none_or(|(asked, _)| asked != peer) {
            return;
        }
        self.gossip.asked = None;
        let forgotten = matches!(refusal, Some(Refusal::Forgotten { .. }));
        if forgotten && self.gossip.hydrating.is_none() {
            self.gossip.hydrating = Some((peer, 0));
            out.push(Output::Hydrate { peer, history: self.durable.history.clone() });
        }
    }

    pub(super) fn on_hydrated(
        &mut self,
        report: SegmentReport,
        flushed: Lsn,
        out: &mut Vec<Output>,
    ) {
        self.gossip.hydrating = None;
        self.learn(&report.history, out);
        // An opened epoch's durable point is durable in every later history too.
        if report.history.last_epoch() <= self.accepted.history.last_epoch() {
            self.hear(report.vdl, report.low_water, report.watermark, out);
            self.persist_state(out);
        }
        self.later(Waiting::Floor { flushed }, out);
    }
}

/// Whether nothing is under way in `slot`, or it has been for too many turns.
fn waited(slot: &mut Option<(NodeId, u32)>, turns_max: u32) -> bool {
    match slot {
        Some((_, turns)) if *turns < turns_max => {
            *turns += 1;
            false
        }
        _ => {
            *slot = None;
            true
        }
    }
}
