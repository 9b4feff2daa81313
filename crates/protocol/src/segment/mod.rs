//! One segment's brain on a storage node: what it accepts, persists, answers and asks its peers.
//!
//! Everything in is an [`Input`], everything out an [`Output`]; the shell carries outputs out in
//! their order. Two states are kept apart: `accepted` (what the segment has promised itself, used
//! to refuse) and `durable` (what its log holds, used to answer). An answer is queued behind every
//! entry issued before it and leaves when those are durable, so an acknowledgement before the sync
//! cannot be written down (rule V2).
//!
//! Reading order: this file (queues), [`append`] (the log), [`opening`] (seal, adopt, tails),
//! [`gossip`] (peers, repair).

mod append;
mod gossip;
mod opening;

use std::collections::VecDeque;
use std::marker::PhantomData;

use types::{Epoch, GroupId, History, Lsn, MembershipEpoch, NodeId, SegmentId, Span};
use wire::{Batch, Message, Refusal, SegmentReport, SegmentSpec};

use crate::chain::{Chain, HeldPart};
use crate::rules::{Rules, Sound};
use gossip::Gossip;
use opening::Adoption;

/// An opaque reply handle chosen by the shell: (connection, request).
pub type Asker = u64;

/// What happened to a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A writer's batch.
    Append {
        /// Whom to answer.
        from: Asker,
        /// The batch.
        batch: Batch,
    },
    /// A recovery's seal.
    Seal {
        /// Whom to answer.
        from: Asker,
        /// The new epoch.
        epoch: Epoch,
    },
    /// An opened epoch's history.
    Adopt {
        /// Whom to answer, once durable and again when the SCL reaches `until`.
        from: Asker,
        /// The history, its last entry the new epoch's.
        history: History,
        /// The durable point the epoch was opened at.
        vdl: Span,
        /// What this group must hold.
        until: Lsn,
        /// Who holds it.
        peer: NodeId,
    },
    /// A question about the segment.
    AskReport {
        /// Whom to answer.
        from: Asker,
    },
    /// A recovery's question about parts.
    AskTail {
        /// Whom to answer.
        from: Asker,
        /// The asking epoch.
        epoch: Epoch,
        /// The newest history the asker has found.
        history: History,
        /// Exclusive lower bound of part ends.
        after: Lsn,
    },
    /// A peer's question for parts.
    Pull {
        /// Whom to answer.
        from: Asker,
        /// The peer's history.
        history: History,
        /// The peer's SCL.
        after: Lsn,
        /// About how much to send.
        bytes_max: u32,
    },
    /// A peer's answer to `Pull` (`Fill`), or to `AskReport` (`Report`: no batches).
    Filled {
        /// The peer.
        from_peer: NodeId,
        /// Its account.
        report: SegmentReport,
        /// Runs of the chain.
        batches: Vec<Batch>,
    },
    /// A peer refused `Pull` or `AskReport`, or could not be reached.
    PeerRefused {
        /// The peer.
        peer: NodeId,
        /// Why; `None` when it could not be reached.
        refusal: Option<Refusal>,
    },
    /// Everything persisted up to and including this number is durable.
    Persisted {
        /// The number of the last durable `Persist`.
        seq: u64,
    },
    /// The group's members as the control plane has them now. This node's hold is the same one.
    Members(SegmentSpec),
    /// A gossip turn.
    Tick,
    /// The segment's files were copied from a peer and are durable, and with them, in one step, the
    /// report's `vdl`, `low_water` and `watermark` where they are higher than the segment's own: its
    /// files never hold more than the durable point that a restart remembers.
    Hydrated {
        /// The peer's account when it gave out its manifest.
        report: SegmentReport,
        /// End of the last part in the files.
        flushed: Lsn,
    },
    /// The copy ordered by `Hydrate` failed; nothing was installed.
    NotHydrated {
        /// The peer.
        peer: NodeId,
    },
}

/// What the shell is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Append the entry to the hot log; report with `Persisted` when durable. Numbers ascend by one.
    Persist {
        /// Number of the entry.
        seq: u64,
        /// The entry.
        entry: LogEntry,
    },
    /// Answer an asker.
    Reply {
        /// Whom.
        to: Asker,
        /// The answer.
        message: Message,
    },
    /// Ask a peer; its answer comes back as `Filled` or `PeerRefused`.
    Ask {
        /// The peer.
        peer: NodeId,
        /// The question: `Pull` or `AskReport`.
        message: Message,
    },
    /// Read the group's batches in `(after, upto]` from the store and answer `Fill` with this report,
    /// or `Refused(Forgotten)` when they have left the log.
    Read {
        /// Whom to answer.
        to: Asker,
        /// Exclusive lower bound.
        after: Lsn,
        /// Inclusive upper bound: the SCL.
        upto: Lsn,
        /// About how much.
        bytes_max: u32,
        /// The account to send along.
        report: SegmentReport,
    },
    /// Drop the parts that this history voids from the store's index.
    Void {
        /// The history now followed, durably.
        history: History,
    },
    /// Copy the segment's files from this peer; report with `Hydrated` or `NotHydrated`.
    Hydrate {
        /// The peer.
        peer: NodeId,
        /// Install only what a peer gives out whose manifest's report follows this history (or an
        /// older one): of a newer one's durable points this segment could not tell what they void.
        history: History,
    },
}

/// What goes to the hot log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// Parts.
    Batch(Batch),
    /// A promise: the state as it is from here on.
    State(SegmentState),
}

/// A segment's promises and hearsay, as persisted.
///
/// A store that restores a segment folds into it what the batches after it say: the highest `vdl`,
/// `low_water` and `watermark` of their headers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SegmentState {
    /// Newest epoch sealed: older writers are refused.
    pub sealed: Epoch,
    /// The history followed.
    pub history: History,
    /// Newest member set told.
    pub membership: MembershipEpoch,
    /// Highest durable point heard of. Never below what the store's files hold.
    pub vdl: Span,
    /// Highest low-water mark heard of.
    pub low_water: Lsn,
    /// Highest engine watermark heard of (rule R6).
    pub watermark: u64,
    /// Whether the segment votes and serves: false from a wipe until it is rebuilt.
    pub full: bool,
}

/// An accepted entry that is not durable yet.
enum Pending {
    Parts(Vec<HeldPart>),
    State(SegmentState),
}

/// What happens once everything issued before it is durable.
enum Waiting {
    Ack { to: Asker, epoch: Epoch },
    Report { to: Asker, epoch: Option<Epoch> },
    Tail { to: Asker, epoch: Epoch, history: History, after: Lsn },
    Fill { to: Asker, history: History, after: Lsn, bytes_max: u32 },
    Settle { vdl: Span },
    Floor { flushed: Lsn },
}

/// One segment of one group on one node.
pub struct Segment<R: Rules = Sound> {
    me: NodeId,
    spec: SegmentSpec,
    accepted: SegmentState,
    durable: SegmentState,
    /// Durable parts, live under the durable history.
    chain: Chain,
    issued: u64,
    persisted: u64,
    pending: VecDeque<(u64, Pending)>,
    waiting: VecDeque<(u64, Waiting)>,
    adoption: Option<Adoption>,
    gossip: Gossip,
    rules: PhantomData<R>,
}

impl Segment {
    /// A segment of a new group: an empty copy that is a true copy. `me` is the node it is on.
    #[must_use]
    pub fn fresh(me: NodeId, spec: SegmentSpec) -> Segment {
        Segment::fresh_under(me, spec)
    }

    /// A segment whose content was lost or never there: it is rebuilt before it votes or serves.
    #[must_use]
    pub fn blank(me: NodeId, spec: SegmentSpec) -> Segment {
        Segment::blank_under(me, spec)
    }

    /// A segment after a restart. `flushed` is the end of the last part in the store's files (zero
    /// without files); `held` are the parts in its hot log, in any order, void ones included.
    #[must_use]
    pub fn restore(
        me: NodeId,
        spec: SegmentSpec,
        state: SegmentState,
        flushed: Lsn,
        held: impl IntoIterator<Item = HeldPart>,
    ) -> Segment {
        Segment::restore_under(me, spec, state, flushed, held)
    }
}

impl<R: Rules> Segment<R> {
    /// [`Segment::fresh`] under other rules.
    #[must_use]
    pub fn fresh_under(me: NodeId, spec: SegmentSpec) -> Self {
        let state =
            SegmentState { membership: spec.membership, full: true, ..SegmentState::default() };
        Self::restore_under(me, spec, state, Lsn::ZERO, [])
    }

    /// [`Segment::blank`] under other rules.
    #[must_use]
    pub fn blank_under(me: NodeId, spec: SegmentSpec) -> Self {
        let state = SegmentState { membership: spec.membership, ..SegmentState::default() };
        Self::restore_under(me, spec, state, Lsn::ZERO, [])
    }

    /// [`Segment::restore`] under other rules.
    #[must_use]
    pub fn restore_under(
        me: NodeId,
        spec: SegmentSpec,
        state: SegmentState,
        flushed: Lsn,
        held: impl IntoIterator<Item = HeldPart>,
    ) -> Self {
        let mut chain = Chain::new(flushed);
        let history = &state.history;
        chain.insert(
            held.into_iter().filter(|part| history.is_live(part.epoch, part.meta.span.start)),
        );
        chain.settle(state.vdl.end);
        let gossip = Gossip::new(state.full, spec.segment.group);
        Segment {
            me,
            spec,
            accepted: state.clone(),
            durable: state,
            chain,
            issued: 0,
            persisted: 0,
            pending: VecDeque::new(),
            waiting: VecDeque::new(),
            adoption: None,
            gossip,
            rules: PhantomData,
        }
    }

    /// The state that a new segment's log begins with.
    #[must_use]
    pub fn state(&self) -> &SegmentState {
        &self.durable
    }

    /// The segment's name.
    #[must_use]
    pub fn id(&self) -> SegmentId {
        self.spec.segment
    }

    /// The group it is a copy of.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.spec.segment.group
    }

    /// Every part up to here is held durably (SCL).
    #[must_use]
    pub fn scl(&self) -> Lsn {
        self.chain.scl()
    }

    /// The highest durable point heard of.
    #[must_use]
    pub fn vdl(&self) -> Span {
        self.durable.vdl
    }

    /// The highest low-water mark heard of.
    #[must_use]
    pub fn low_water(&self) -> Lsn {
        self.accepted.low_water
    }

    /// Whether pages may be served from here: `complete_to` is the end of the group's last part at
    /// or below the read point.
    ///
    /// # Errors
    /// When the segment is being rebuilt or does not hold the group that far.
    pub fn may_serve(&self, complete_to: Lsn) -> Result<(), Refusal> {
        if !self.durable.full {
            return Err(Refusal::Hydrating(self.id()));
        }
        if self.scl() < complete_to {
            return Err(Refusal::Behind { scl: self.scl(), asked: complete_to });
        }
        Ok(())
    }

    /// The segment's account of itself: durable facts only.
    #[must_use]
    pub fn report(&self) -> SegmentReport {
        SegmentReport {
            scl: self.chain.scl(),
            sealed: self.durable.sealed,
            history: self.durable.history.clone(),
            vdl: self.durable.vdl,
            low_water: self.accepted.low_water,
            watermark: self.accepted.watermark,
            membership: self.durable.membership,
            since: self.spec.since(self.me),
            full: self.durable.full,
        }
    }

    /// Takes one input and appends what is to be done to `out`.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Append { from, batch } => self.on_append(from, batch, out),
            Input::Seal { from, epoch } => self.on_seal(from, epoch, out),
            Input::Adopt { from, history, vdl: _, until, peer } => {
                self.on_adopt(from, history, until, peer, out);
            }
            Input::AskReport { from } => {
                self.later(Waiting::Report { to: from, epoch: None }, out);
            }
            Input::AskTail { from, epoch, history, after } => {
                self.later(Waiting::Tail { to: from, epoch, history, after }, out);
            }
            Input::Pull { from, history, after, bytes_max } => {
                self.on_pull(from, history, after, bytes_max, out);
            }
            Input::Filled { from_peer, report, batches } => {
                self.on_filled(from_peer, report, batches, out);
            }
            Input::PeerRefused { peer, refusal } => self.on_peer_refused(peer, refusal, out),
            Input::Persisted { seq } => self.on_persisted(seq, out),
            Input::Members(spec) => self.on_members(spec, out),
            Input::Tick => self.on_tick(out),
            Input::Hydrated { report, flushed } => self.on_hydrated(report, flushed, out),
            Input::NotHydrated { peer } => self.gossip.not_hydrated(peer),
        }
        self.progress(out);
    }

    fn on_members(&mut self, spec: SegmentSpec, out: &mut Vec<Output>) {
        if spec.membership < self.accepted.membership {
            return;
        }
        self.spec = spec;
        if self.spec.membership > self.accepted.membership {
            self.accepted.membership = self.spec.membership;
            self.persist_state(out);
        }
    }

    /// Issues a log entry.
    fn persist(&mut self, entry: LogEntry, out: &mut Vec<Output>) {
        self.issued += 1;
        let pending = match &entry {
            LogEntry::Batch(batch) => Pending::Parts(HeldPart::of(batch).collect()),
            LogEntry::State(state) => Pending::State(state.clone()),
        };
        self.pending.push_back((self.issued, pending));
        out.push(Output::Persist { seq: self.issued, entry });
        if !R::REPLY_AFTER_PERSISTED {
            self.on_persisted(self.issued, out);
        }
    }

    /// Issues the accepted state.
    fn persist_state(&mut self, out: &mut Vec<Output>) {
        self.persist(LogEntry::State(self.accepted.clone()), out);
    }

    /// Does `waiting` once everything issued so far is durable.
    fn later(&mut self, waiting: Waiting, out: &mut Vec<Output>) {
        if self.persisted == self.issued {
            self.run(waiting, out);
        } else {
            self.waiting.push_back((self.issued, waiting));
        }
    }

    fn on_persisted(&mut self, seq: u64, out: &mut Vec<Output>) {
        while let Some((number, pending)) = self.pending.pop_front_if(|(number, _)| *number <= seq)
        {
            self.persisted = number;
            match pending {
                Pending::Parts(parts) => self.chain.insert(parts),
                Pending::State(state) => self.apply_state(state, out),
            }
            while let Some((_, waiting)) =
                self.waiting.pop_front_if(|(number, _)| *number <= self.persisted)
            {
                self.run(waiting, out);
            }
        }
    }

    fn apply_state(&mut self, state: SegmentState, out: &mut Vec<Output>) {
        if state.history != self.durable.history {
            self.chain.void(&state.history);
            out.push(Output::Void { history: state.history.clone() });
        }
        self.durable = state;
    }

    fn run(&mut self, waiting: Waiting, out: &mut Vec<Output>) {
        let segment = self.id();
        match waiting {
            Waiting::Ack { to, epoch } => {
                let (scl, full) = (self.chain.scl(), self.durable.full);
                let since = self.spec.since(self.me);
                let message = Message::Ack { segment, epoch, scl, since, full };
                out.push(Output::Reply { to, message });
            }
            Waiting::Report { to, epoch } => {
                out.push(Output::Reply { to, message: self.answer(epoch) })
            }
            Waiting::Tail { to, epoch, history, after } => {
                out.push(Output::Reply { to, message: self.tail(epoch, &history, after) });
            }
            Waiting::Fill { to, history, after, bytes_max } => {
                self.fill(to, &history, after, bytes_max, out);
            }
            Waiting::Settle { vdl } => {
                self.durable.vdl = self.durable.vdl.max(vdl);
                self.chain.settle(vdl.end);
            }
            Waiting::Floor { flushed } => self.chain.raise_floor(flushed),
        }
    }

    /// Takes note of what a writer of the epoch in force, or a peer of the same history, knows.
    fn hear(&mut self, vdl: Span, low_water: Lsn, watermark: u64, out: &mut Vec<Output>) {
        self.accepted.low_water = self.accepted.low_water.max(low_water);
        self.accepted.watermark = self.accepted.watermark.max(watermark);
        if vdl.end > self.accepted.vdl.end {
            self.accepted.vdl = vdl;
            // The chain may still hold parts that a pending history voids: they go first. Nor may a
            // report pair this point with the history before, or a peer would settle such parts.
            self.later(Waiting::Settle { vdl }, out);
        }
    }

    /// What follows from a step forward, whatever caused it.
    fn progress(&mut self, out: &mut Vec<Output>) {
        self.answer_adoption(out);
        self.become_full(out);
        self.pull_on(out);
    }

    fn refuse(&self, to: Asker, refusal: Refusal, out: &mut Vec<Output>) {
        out.push(Output::Reply { to, message: Message::Refused(refusal) });
    }

    /// Checks the segment against itself; for tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn invariants(&self) {
        self.chain.invariants();
        assert!(self.durable.sealed <= self.accepted.sealed, "a promise is not taken back");
        assert!(self.persisted <= self.issued);
        assert_eq!(self.pending.is_empty(), self.persisted == self.issued);
        assert!(self.accepted.history.last_epoch() <= self.accepted.sealed);
    }
}
