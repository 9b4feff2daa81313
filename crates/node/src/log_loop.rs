//! The log loop: one thread that owns every segment, and the only one that writes the hot log.
//!
//! A turn reads every connection that has something, feeds the segments, makes everything they want
//! persisted durable in ONE write, and sends what that lets them answer. While it writes, new
//! batches gather in the sockets: that is the group commit. Order within a turn (each for a reason):
//!
//! 1. receive and handle — no answer leaves yet;
//! 2. persist — an acknowledgement exists only after it (the segments' own doing, rule V2);
//! 3. publish accounts — a reader that is asked because of an acknowledgement must know it;
//! 4. send.
//!
//! Reading order: [`LogLoop::run`], [`LogLoop::turn`], `dispatch.rs` (who handles which message).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use link::{Connection, LinkError};
use mio::net::TcpListener;
use protocol::{Input, Output, Segment};
use types::{Epoch, History, Lsn, MembershipEpoch, NodeId, SegmentId, Span, VolumeId};
use wire::{Message, SegmentSpec};

use crate::asks::Asks;
use crate::given_away::GivenAway;
use crate::hydrate::{Hydrator, Order};
use crate::lines::{LineId, Lines};
use crate::mail::{Asker, ChainJob, LOG_LOOP, Mail, Post};
use crate::metrics::SegmentGauges;
use crate::pace::Pace;
use crate::peers::Peers;
use crate::shared::Shared;
use crate::turns::Turns;
use crate::unwritten::Unwritten;

/// A writer that spoke less than this ago will do so again.
const FED: Duration = Duration::from_secs(1);
/// How often to look whether background work keeps up.
const LOOK: Duration = Duration::from_millis(50);

/// One segment and what the loop remembers of it.
pub(crate) struct Held {
    pub(crate) segment: Segment,
    pub(crate) spec: SegmentSpec,
    /// Marks last told to the store.
    marks: (Span, Lsn, u64),
    /// How far the newest writer heard here has sent.
    sent: (Epoch, Lsn),
    /// When a writer last spoke here.
    fed: Option<Instant>,
    /// SCL last published.
    scl: Lsn,
    gauges: SegmentGauges,
}

impl Held {
    /// Notes how far a writer has sent.
    pub(crate) fn note_sent(&mut self, header: &wire::BatchHeader) {
        self.sent = self.sent.max((header.epoch, header.last));
        self.fed = Some(Instant::now());
    }

    /// Whether a writer feeds this segment. What a peer is ahead by is then on its way here too, and
    /// fetching it would only carry it twice.
    pub(crate) fn is_fed(&self, now: Instant) -> bool {
        self.fed.is_some_and(|fed| now < fed + FED)
    }

    /// Whether something is known to be missing, or was a moment ago: gossip is urgent.
    fn is_behind(&mut self, report: &wire::SegmentReport) -> bool {
        let moved = std::mem::replace(&mut self.scl, report.scl) != report.scl;
        let (epoch, last) = self.sent;
        let gap = report.history.last_epoch() == epoch && report.scl < last;
        gap || (moved && !report.full)
    }
}

/// The loop.
pub(crate) struct LogLoop {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lines: Lines,
    pub(crate) post: Post,
    pub(crate) segments: BTreeMap<SegmentId, Held>,
    pub(crate) peers: Peers,
    pub(crate) pace: Pace,
    pub(crate) asks: Asks,
    /// Inputs still to be handled in this turn.
    pub(crate) inputs: VecDeque<(SegmentId, Input)>,
    /// Lines that have spoken of the log, and stay here.
    pub(crate) log_lines: BTreeSet<LineId>,
    /// Volumes that were deleted, as far as this life of the process has heard.
    pub(crate) deleted: BTreeSet<VolumeId>,
    pub(crate) turns: Turns,
    pub(crate) given_away: GivenAway,
    listener: TcpListener,
    mail: Receiver<Mail>,
    hydrator: Hydrator,
    lines_made: LineId,
    pub(crate) unwritten: Unwritten,
    /// When to look again whether background work keeps up, and whether it did not.
    look: Instant,
    pub(crate) outrun: bool,
    hold: bool,
    replies: Vec<(Asker, Message)>,
    acks: BTreeMap<(usize, LineId, SegmentId), usize>,
    touched: BTreeSet<SegmentId>,
}

/// What the loop is built from.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lines: Lines,
    pub(crate) post: Post,
    pub(crate) mail: Receiver<Mail>,
    pub(crate) listener: TcpListener,
    pub(crate) hydrator: Hydrator,
    /// Background work is held, so that nobody can wait for it.
    pub(crate) hold: bool,
}

impl LogLoop {
    /// A loop over restored segments.
    pub(crate) fn new(parts: Parts, restored: Vec<(SegmentSpec, Segment)>) -> LogLoop {
        let Parts { shared, lines, post, mail, listener, hydrator, hold } = parts;
        let mut log = LogLoop {
            shared,
            lines,
            post,
            segments: BTreeMap::new(),
            peers: Peers::default(),
            pace: Pace::default(),
            asks: Asks::default(),
            inputs: VecDeque::new(),
            log_lines: BTreeSet::new(),
            deleted: BTreeSet::new(),
            turns: Turns::default(),
            given_away: GivenAway::default(),
            listener,
            mail,
            hydrator,
            lines_made: 0,
            unwritten: Unwritten::default(),
            look: Instant::now(),
            outrun: false,
            hold,
            replies: Vec::new(),
            acks: BTreeMap::new(),
            touched: BTreeSet::new(),
        };
        for (spec, segment) in restored {
            log.hold(spec, segment);
        }
        log.publish();
        log
    }

    /// Takes a segment into the loop.
    pub(crate) fn hold(&mut self, spec: SegmentSpec, segment: Segment) {
        let id = segment.id();
        self.peers.learn(&spec);
        self.pace.hurry(id, Instant::now());
        let held = Held {
            segment,
            spec,
            marks: (Span::ZERO, Lsn::ZERO, 0),
            sent: (Epoch(0), Lsn::ZERO),
            fed: None,
            scl: Lsn::ZERO,
            gauges: self.shared.metrics.of_segment(id),
        };
        self.segments.insert(id, held);
        self.touched.insert(id);
    }

    /// Takes a segment out.
    pub(crate) fn release(&mut self, id: SegmentId) {
        self.segments.remove(&id);
        self.touched.remove(&id);
        self.unwritten.forget(id);
        self.pace.forget(id);
        self.shared.withdraw(id);
        self.shared.metrics.dropped(id);
    }

    /// Works until told to stop. An error means that the node must end: it no longer acknowledges.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        self.lines.listen(&mut self.listener).context("cannot watch the listening socket")?;
        while !self.shared.stopping() && self.turn()? {}
        Ok(())
    }

    /// One turn; false to stop.
    fn turn(&mut self) -> anyhow::Result<bool> {
        let look = self.outrun.then_some(self.look);
        let due = self.pace.next().into_iter().chain(self.unwritten.again()).chain(look).min();
        let woken = self.lines.wait(due).context("cannot wait for events")?;
        let begin = Instant::now();
        if woken.accepting {
            self.accept();
        }
        if woken.mail && !self.read_mail() {
            return Ok(false);
        }
        let batches = self.receive();
        self.tick(begin);
        if begin >= self.look && (batches > 0 || self.outrun) {
            self.look_behind(begin);
        }
        self.settle()?;
        self.publish();
        self.send();
        if batches > 0 && !self.unwritten.is_waiting() {
            let seconds = begin.elapsed().as_secs_f64();
            (0..batches).for_each(|_| self.shared.metrics.ack_seconds.observe(seconds));
        }
        Ok(true)
    }

    fn accept(&mut self) {
        loop {
            let (stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors, or the peer is gone already: nothing of ours is lost.
                    tracing::warn!(%error, "cannot accept a connection");
                    return;
                }
            };
            let line = self.fresh_line();
            let accepted = Connection::accept(stream, from, &self.shared.host)
                .map_err(anyhow::Error::from)
                .and_then(|connection| Ok(self.lines.add(line, connection)?));
            match accepted {
                Ok(()) => {
                    self.shared.metrics.connections.inc();
                }
                Err(error) => tracing::warn!(%from, %error, "connection not taken"),
            }
        }
    }

    fn fresh_line(&mut self) -> LineId {
        self.lines_made += 1;
        self.lines_made
    }

    fn read_mail(&mut self) -> bool {
        while let Ok(mail) = self.mail.try_recv() {
            match mail {
                Mail::Stop => return false,
                Mail::Ask { from, message } => self.take(from, message),
                Mail::Answer { line, bytes } => self.lines.send_bytes(line, bytes),
                Mail::Assigned(places) => self.assigned(&places),
                Mail::Deleted(volumes) => self.drop_deleted(volumes),
                Mail::Hydrated { segment, since, report, flushed }
                    if self.copy_since(segment) == Some(since) =>
                {
                    self.inputs.push_back((segment, Input::Hydrated { report, flushed }));
                    self.pace.hurry(segment, Instant::now());
                }
                Mail::Hydrated { segment, .. } => {
                    tracing::info!(%segment, "files were copied for a copy that is given up");
                }
                Mail::NotHydrated { segment, peer } => {
                    self.inputs.push_back((segment, Input::NotHydrated { peer }));
                }
                Mail::CopyWhole { segment, peer } => self.copy_whole(segment, peer),
                Mail::Handover { .. } | Mail::Chain { .. } => {
                    tracing::error!("the log loop got a reader's mail");
                }
            }
        }
        true
    }

    /// Reads what has come; returns how many batches were among it.
    fn receive(&mut self) -> usize {
        let mut asked = Vec::new();
        let bytes = self.turns.bytes(Instant::now());
        let ended = self.lines.receive(bytes, |line, messages| asked.push((line, messages)));
        let before = self.shared.metrics.batches.get();
        for (line, messages) in asked {
            self.take_all(line, messages);
        }
        self.ended(ended);
        (self.shared.metrics.batches.get() - before) as usize
    }

    fn tick(&mut self, now: Instant) {
        for segment in self.pace.due(now) {
            // What gossip would bring now could only wait, too.
            if !self.unwritten.is_waiting() {
                self.inputs.push_back((segment, Input::Tick));
            }
        }
        let mut silent = self.peers.silent(now);
        silent.extend(self.lines.speechless(now));
        for line in &silent {
            tracing::info!(line, "no answer or greeting on a connection; hanging up");
        }
        silent.extend(self.lines.left());
        for line in silent {
            self.lines.remove(line);
            self.line_ended(line);
        }
    }

    /// Writers wait for background work that they have outrun: memory and log have no other bound (N16).
    fn look_behind(&mut self, now: Instant) {
        self.look = now + LOOK;
        let outrun = !self.hold && self.shared.store.is_behind();
        if std::mem::replace(&mut self.outrun, outrun) == outrun {
            return;
        }
        if outrun {
            self.shared.metrics.writer_waits.inc();
            tracing::warn!("background work is far behind; writers wait for it");
        } else {
            tracing::info!("background work has caught up");
            self.read_writers();
        }
    }

    /// Reads from all writers again when there is nothing left to wait for.
    fn read_writers(&mut self) {
        if !self.unwritten.is_waiting() && !self.outrun {
            self.lines.resume();
        }
    }

    /// Feeds the segments and persists, until neither leads to more.
    fn settle(&mut self) -> anyhow::Result<()> {
        loop {
            while let Some((id, input)) = self.inputs.pop_front() {
                self.handle(id, input);
            }
            if !self.unwritten.is_due(Instant::now()) {
                return Ok(());
            }
            self.persist()?;
        }
    }

    fn handle(&mut self, id: SegmentId, input: Input) {
        let Some(held) = self.segments.get_mut(&id) else { return };
        let mut out = Vec::new();
        held.segment.handle(input, &mut out);
        self.touched.insert(id);
        for output in out {
            self.carry_out(id, output);
        }
    }

    fn carry_out(&mut self, id: SegmentId, output: Output) {
        match output {
            Output::Persist { seq, entry } => self.unwritten.push(id, seq, entry),
            Output::Reply { to, message } => self.reply(to, message),
            Output::Ask { peer, message } => {
                self.shared.metrics.pulls.inc();
                let made = &mut self.lines_made;
                let fresh = || {
                    *made += 1;
                    *made
                };
                let party = &self.shared.party;
                if !self.peers.ask(&mut self.lines, party, fresh, (peer, id), &message) {
                    self.inputs.push_back((id, Input::PeerRefused { peer, refusal: None }));
                }
            }
            Output::Read { to, after, upto, bytes_max, report } => {
                let Some(to) = self.asks.find(to) else { return };
                let job = ChainJob { segment: id, report, after, upto, bytes_max };
                let reader = self.reader_of(to.line);
                if !self.post.post(reader, Mail::Chain { to, job }) {
                    tracing::warn!(segment = %id, "a peer's question was dropped; it will ask again");
                }
            }
            Output::Void { history } => {
                if let Err(error) = self.shared.store.void(id, &history) {
                    tracing::error!(segment = %id, %error, "cannot drop void parts from the index");
                }
            }
            Output::Hydrate { peer, history } => self.order_copy(id, peer, history),
        }
    }

    fn order_copy(&mut self, segment: SegmentId, peer: NodeId, history: History) {
        if !self.order(segment, peer, history) {
            self.inputs.push_back((segment, Input::NotHydrated { peer }));
        }
    }

    /// Puts a peer's files in the place of all that a damaged segment has. It keeps what its log has above
    /// them, and all that it has promised.
    fn copy_whole(&mut self, segment: SegmentId, peer: NodeId) {
        let Some(held) = self.segments.get(&segment) else { return };
        let history = held.segment.report().history;
        if self.order(segment, peer, history) {
            tracing::warn!(%segment, %peer, "damage cannot be mended by pages; all files are copied");
        }
    }

    /// Orders a copy; false when it is not to be had now, or one is under way.
    fn order(&self, segment: SegmentId, peer: NodeId, history: History) -> bool {
        let address = self.peers.address(peer).map(str::to_owned);
        address.zip(self.copy_since(segment)).is_some_and(|(address, since)| {
            self.hydrator.order(Order { segment, since, peer, address, history })
        })
    }

    /// The member set that gave this node its present copy of the segment.
    pub(crate) fn copy_since(&self, segment: SegmentId) -> Option<MembershipEpoch> {
        self.segments.get(&segment).map(|held| held.spec.since(self.shared.host.welcome.node))
    }

    /// Queues an answer. Of several acknowledgements of one segment to one line only the last leaves:
    /// it covers the earlier ones (rule F6).
    fn reply(&mut self, to: protocol::Asker, message: Message) {
        let Some(asker) = self.asks.find(to) else { return };
        if let Message::Ack { segment, .. } = &message {
            let key = (asker.at, asker.line, *segment);
            if let Some(slot) = self.acks.get(&key).and_then(|index| self.replies.get_mut(*index)) {
                *slot = (asker, message);
                return;
            }
            self.acks.insert(key, self.replies.len());
        }
        if let Message::Refused(refusal) = &message {
            self.shared.metrics.refusals.inc();
            tracing::debug!(line = asker.line, %refusal, "refused");
        }
        self.replies.push((asker, message));
    }

    /// One durable write for everything that any segment wants persisted.
    fn persist(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let written = self.unwritten.write(&self.shared.store).context(
            "the hot log cannot be written, so nothing more is acknowledged by this node: if its \
             disk is broken, replace it and the segments are rebuilt from their peers",
        )?;
        self.shared.metrics.disk_full.set(i64::from(self.unwritten.is_waiting()));
        if self.unwritten.is_waiting() {
            return Ok(());
        }
        self.read_writers();
        self.shared.metrics.syncs.inc();
        self.shared.metrics.sync_seconds.observe(begin.elapsed().as_secs_f64());
        for (id, seq) in written {
            self.inputs.push_back((id, Input::Persisted { seq }));
        }
        Ok(())
    }

    /// Makes known what the touched segments hold, to readers and to the store.
    fn publish(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(held) = self.segments.get_mut(&id) else { continue };
            let report = held.segment.report();
            let marks = (report.vdl, report.low_water, report.watermark);
            if marks != held.marks {
                held.marks = marks;
                self.shared.store.advance(id, &report);
            }
            if held.is_behind(&report) {
                self.pace.hurry(id, Instant::now());
            }
            held.gauges.set(&report);
            self.shared.publish(id, report);
        }
    }

    fn send(&mut self) {
        self.acks.clear();
        for (to, message) in std::mem::take(&mut self.replies) {
            self.answer(to, &message);
        }
        let ended = self.lines.flush();
        self.ended(ended);
    }

    /// Sends an answer where its asker is.
    pub(crate) fn answer(&mut self, to: Asker, message: &Message) {
        if to.at == LOG_LOOP {
            self.lines.send(to.line, to.request, message);
            return;
        }
        let bytes = wire::frame::encode(to.request, message);
        if !self.post.post(to.at, Mail::Answer { line: to.line, bytes }) {
            tracing::warn!(at = to.at, "an answer was lost; its asker will ask again");
        }
    }

    /// The reader loop that serves a line's questions.
    pub(crate) fn reader_of(&self, line: LineId) -> usize {
        1 + usize::try_from(line).unwrap_or(0) % (self.post.loops() - 1)
    }

    fn ended(&mut self, ended: Vec<(LineId, LinkError)>) {
        for (line, error) in ended {
            match &error {
                _ if self.peers.of_line(line).is_some() => {
                    tracing::debug!(%error, "connection to a peer ended");
                }
                LinkError::Closed { .. } => tracing::debug!(%error, "connection ended"),
                LinkError::Wire { .. } | LinkError::TurnedAway { .. } => {
                    tracing::warn!(%error, "connection ended");
                }
                _ => tracing::info!(%error, "connection ended"),
            }
            self.line_ended(line);
        }
    }

    fn line_ended(&mut self, line: LineId) {
        self.log_lines.remove(&line);
        match self.peers.ended(line) {
            Some((peer, segments)) => {
                for id in segments {
                    self.inputs.push_back((id, Input::PeerRefused { peer, refusal: None }));
                }
            }
            None => {
                self.shared.metrics.connections.dec();
            }
        }
    }
}
