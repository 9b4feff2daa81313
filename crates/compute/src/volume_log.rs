//! The volume's log as its writer sees it: records in, six links out, acknowledgements back.
//!
//! The shell round `protocol::Writer`: it carries batches to sockets, tells the writer what nodes
//! answer, adopts nodes that come back, and keeps the shared view up to date. It is used by the
//! hot loop and by the import, and knows neither PostgreSQL nor its board.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{GroupSetup, Held, Opened, Writer, WriterState};
use registry::{Filled, GroupInfo, Member};
use types::{Epoch, GroupId, Holder, Lsn, Members, MembershipEpoch, NodeId, Place, Span};
use wire::{BatchHeader, Message, Refusal};

use crate::links::{LinkEvent, Links};
use crate::metrics::DriverMetrics;
use crate::suspicion::Suspicion;
use crate::volume_view::{GroupView, Shared};

/// Quiet time after which the nodes are told the durable point.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(100);
/// Longest sleep.
const IDLE: Duration = Duration::from_millis(500);
/// Between two attempts to make a member follow this epoch.
const ADOPT_EVERY: Duration = Duration::from_millis(200);
/// Bytes that may wait for a node's socket: beyond, it gets nothing more until it has taken some (D28).
const QUEUED_BYTES_MAX: usize = 4 << 20;
/// Between two looks at how quickly the nodes acknowledge.
const JUDGE_EVERY: Duration = Duration::from_millis(250);
/// A node that said nothing for so long is asked, whether or not anything is written; a suspect one
/// at every look.
const ASK_AFTER: Duration = Duration::from_secs(3);
/// Age of the durable point that becomes the low-water mark.
const LOW_WATER_AGE: Duration = Duration::from_secs(8);

/// Why the log cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A newer writer exists.
    #[error("fenced: epoch {current} has been opened, this writer's is {ours}")]
    Fenced {
        /// Ours.
        ours: Epoch,
        /// The newer one.
        current: Epoch,
    },
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// See the module's description.
pub struct VolumeLog {
    links: Links,
    writer: Writer,
    opened: Opened,
    shared: Arc<Shared>,
    metrics: DriverMetrics,
    groups: Vec<GroupId>,
    /// Some place is being handed over.
    joint: bool,
    /// The nodes, and the bytes that each was sent.
    nodes: Vec<(NodeId, u64)>,
    events: Vec<LinkEvent>,
    announced: Lsn,
    last_sent: Instant,
    marks: VecDeque<(Instant, Lsn)>,
    low_water: Lsn,
    adopt_at: Instant,
    suspicion: Suspicion,
    judge_at: Instant,
}

impl std::fmt::Debug for VolumeLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VolumeLog at {}", self.writer.vdl())
    }
}

/// A group's members; `None` when there are not six, or a node has two places.
#[must_use]
pub fn members(info: &GroupInfo) -> Option<Members> {
    let holder = |of: &Member| Holder { node: of.node, since: MembershipEpoch(of.since) };
    let place = |(index, member): (usize, &Member)| {
        let joins = info.joining.iter().find(|joining| joining.place == index);
        let joining = joins.map(|joining| holder(&joining.member));
        Place { present: holder(member), joining }
    };
    let places: Vec<Place> = info.members.iter().enumerate().map(place).collect();
    Members::new(<[Place; 6]>::try_from(places.as_slice()).ok()?)
}

impl VolumeLog {
    /// The log of a volume just opened, on the links that opened it.
    #[must_use]
    pub fn new(
        links: Links,
        opened: Opened,
        groups: &[GroupInfo],
        shared: Arc<Shared>,
        metrics: DriverMetrics,
    ) -> VolumeLog {
        let writer = Writer::new(
            shared.volume(),
            shared.epoch(),
            opened.tails.clone(),
            opened.vdl,
            opened.watermark,
        );
        let mut log = VolumeLog {
            links,
            writer,
            low_water: opened.low_water,
            opened,
            shared,
            metrics,
            groups: Vec::new(),
            joint: false,
            nodes: Vec::new(),
            events: Vec::new(),
            announced: Lsn::ZERO,
            last_sent: Instant::now(),
            marks: VecDeque::new(),
            adopt_at: Instant::now(),
            suspicion: Suspicion::default(),
            judge_at: Instant::now(),
        };
        log.groups = groups.iter().map(|info| GroupId(info.id)).collect();
        log.joint = groups.iter().any(|info| !info.joining.is_empty());
        log.nodes = log.links.nodes().map(|node| (node, 0)).collect();
        for (node, _) in &log.nodes {
            if log.links.is_up(*node) {
                log.writer.link_up(*node);
            } else {
                log.suspicion.away(*node, Instant::now());
            }
        }
        log.adopt();
        log
    }

    /// The links, to be watched with more than nodes.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The protocol's writer.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The durable point.
    #[must_use]
    pub fn vdl(&self) -> Span {
        self.writer.vdl()
    }

    /// Hands what is pending to the sockets, and makes the durable point known in this process.
    pub fn send(&mut self) {
        self.writer.flush();
        let mut sent = false;
        let now = Instant::now();
        for (node, bytes) in &mut self.nodes {
            while self.links.queued_bytes(*node) < QUEUED_BYTES_MAX
                && let Some(batch) = self.writer.poll_send(*node)
            {
                self.metrics.sent_bytes.inc_by(batch.len() as u64);
                *bytes += batch.len() as u64;
                let head = BatchHeader::peek(&batch).map(|(head, _)| head).ok();
                let group = head.as_ref().map_or(GroupId(0), |head| head.segment.group);
                sent |= self.links.send_batch(*node, group.0, batch);
                if let Some(head) = head.filter(|_| !self.writer.is_rebuilt(group, *node)) {
                    self.suspicion.sent(*node, group, head.last, now);
                }
            }
        }
        if sent {
            self.last_sent = now;
            self.announced = self.writer.vdl().end;
            self.links.flush(&mut self.events);
        }
        self.share();
    }

    /// Copies the durable point and the groups' tails to the shared view.
    fn share(&mut self) {
        let vdl = self.writer.vdl();
        let mut positions = self.shared.positions_mut();
        if positions.vdl == vdl {
            return;
        }
        positions.vdl = vdl;
        positions.vcl = self.writer.vcl();
        positions.low_water = self.low_water;
        for group in &self.groups {
            let tail = self.writer.group_tail_at(*group, vdl.end);
            positions.groups.entry(*group).or_default().tail = tail;
        }
    }

    /// Waits up to `timeout` for the nodes (or whatever else the links watch) and takes in what
    /// they say. True when the bell rang.
    ///
    /// # Errors
    /// When a newer epoch exists.
    pub fn turn(&mut self, timeout: Duration) -> Result<bool, LogError> {
        let timeout = if self.events.is_empty() { timeout } else { Duration::ZERO };
        self.links.turn(timeout, &mut self.events)?;
        let mut rang = false;
        for event in std::mem::take(&mut self.events) {
            match event {
                LinkEvent::Up(node) => {
                    self.writer.link_up(node);
                    self.adopt_at = Instant::now();
                }
                LinkEvent::Down(node) => {
                    self.writer.link_down(node);
                    self.suspicion.away(node, Instant::now());
                }
                LinkEvent::Message(node, tag, message) => self.message(node, tag, message)?,
                LinkEvent::Barred(node, why) => tracing::error!(%node, why, "a node refuses us"),
                LinkEvent::Bell => rang = true,
                LinkEvent::Woken => {}
            }
        }
        if self.adopt_at <= Instant::now() {
            self.adopt();
        }
        if self.judge_at <= Instant::now() {
            self.judge(Instant::now());
        }
        // A gap that gossip fills is acknowledged only when the writer speaks: with two members away
        // a commit would wait for the next one's batch.
        if self.writer.lead_bytes() > 0 && self.last_sent.elapsed() >= ANNOUNCE_AFTER {
            self.writer.announce();
            self.send();
        }
        self.share();
        Ok(rang)
    }

    /// How long to sleep when there is nothing to do; announces the durable point when it is time.
    pub fn idle(&mut self) -> Duration {
        let vdl = self.writer.vdl().end;
        let now = Instant::now();
        let stale = |(at, _): &(Instant, Lsn)| now.duration_since(*at) > Duration::from_secs(1);
        if self.marks.back().is_none_or(stale) {
            self.age(now, vdl);
        }
        if vdl <= self.announced {
            return if self.writer.lead_bytes() > 0 { ANNOUNCE_AFTER } else { IDLE };
        }
        let quiet = now.duration_since(self.last_sent);
        if quiet < ANNOUNCE_AFTER {
            return ANNOUNCE_AFTER - quiet;
        }
        self.writer.announce();
        self.send();
        IDLE
    }

    /// Moves the low-water mark to where the durable point was a while ago.
    fn age(&mut self, now: Instant, vdl: Lsn) {
        self.marks.push_back((now, vdl));
        while self.marks.front().is_some_and(|(at, _)| now.duration_since(*at) > LOW_WATER_AGE) {
            if let Some((_, mark)) = self.marks.pop_front() {
                self.low_water = self.low_water.max(mark);
            }
        }
        self.writer.set_low_water(self.low_water);
        self.metrics.vdl.set(vdl.0.cast_signed());
        self.metrics.low_water.set(self.low_water.0.cast_signed());
        self.metrics.lead_bytes.set(self.writer.lead_bytes().cast_signed());
        self.shared.set_shipped(self.nodes.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0));
        self.metrics.groups.set(self.groups.len() as i64);
        self.tell_filled();
    }

    /// Which nodes are suspect now; those that said nothing lately are asked (rule D27).
    fn judge(&mut self, now: Instant) {
        self.judge_at = now + JUDGE_EVERY;
        let (writer, nodes) = (&self.writer, &self.nodes);
        let known = |node| nodes.iter().any(|(of, _)| *of == node) && writer.is_holder(node);
        self.suspicion.retain(known, |node, group| writer.is_rebuilt(group, node));
        for (node, suspect) in self.suspicion.judge(now) {
            if suspect {
                tracing::warn!(%node, "far slower than the others: the node is suspect");
            } else {
                tracing::info!(%node, "the node is suspect no more");
            }
        }
        let suspects = self.suspicion.suspects().collect::<Vec<_>>();
        let quiet = self.suspicion.quiet(now.checked_sub(ASK_AFTER).unwrap_or(now));
        let asked: Vec<NodeId> = quiet.filter(|node| !suspects.contains(node)).collect();
        for node in asked.into_iter().chain(suspects.iter().copied()) {
            self.writer.ask(node);
        }
        let queued = self.nodes.iter().map(|(node, _)| self.links.queued_bytes(*node));
        self.metrics.queued_bytes.set(queued.max().unwrap_or(0) as i64);
        self.metrics.suspect_nodes.set(suspects.len() as i64);
        self.shared.set_seen(self.suspicion.seen(now));
        self.send();
    }

    /// While places are handed over: asks how far the joining nodes are, and makes known which of them
    /// are whole.
    fn tell_filled(&mut self) {
        if self.joint {
            self.writer.announce();
            self.send();
        }
        let filled = self.writer.filled().map(|(group, membership, node)| Filled {
            group: group.0,
            membership_epoch: membership.0,
            node,
        });
        self.shared.set_filled(filled.collect());
    }

    /// Corrects a node's address.
    pub fn set_address(&mut self, node: NodeId, address: &str) {
        self.links.add(node, address);
    }

    /// The volume has one more group: from now on batches and extents may go there.
    pub fn add_group(&mut self, info: &GroupInfo) {
        let group = GroupId(info.id);
        if self.groups.contains(&group) {
            return;
        }
        let Some(members) = self.know_members(info) else { return };
        let membership = MembershipEpoch(info.membership_epoch);
        let setup = GroupSetup { group, membership, members, tail: Lsn::ZERO };
        self.opened.tails.push(setup.clone());
        self.writer.add_group(setup);
        self.groups.push(group);
        self.shared.positions_mut().groups.insert(group, GroupView::default());
        for node in members.present() {
            if self.links.is_up(node) {
                self.writer.link_up(node);
            }
        }
        self.adopt();
        self.shared.router_mut().catalog.add_group(group);
        tracing::info!(%group, "the volume has one more group");
    }

    /// A group's members, with a link to each; none when the control plane's answer makes no sense.
    fn know_members(&mut self, info: &GroupInfo) -> Option<Members> {
        let Some(members) = members(info) else {
            tracing::error!(group = info.id, ?info, "a group needs six members");
            return None;
        };
        for member in info.holders() {
            self.links.add(member.node, &member.address);
            if !self.nodes.iter().any(|(node, _)| *node == member.node) {
                self.nodes.push((member.node, 0));
            }
        }
        Some(members)
    }

    /// Places of a group have been handed over, or are going to be.
    pub fn set_members(&mut self, info: &GroupInfo) {
        let (group, membership) = (GroupId(info.id), MembershipEpoch(info.membership_epoch));
        let old = |setup: &GroupSetup| setup.group == group && setup.membership < membership;
        if !self.writer.groups().any(old) {
            return;
        }
        let Some(members) = self.know_members(info) else { return };
        self.writer.set_members(group, membership, members);
        let joint = |setup: &GroupSetup| setup.members.holders().count() > types::COPIES;
        self.joint = self.writer.groups().any(joint);
        {
            let mut positions = self.shared.positions_mut();
            let view = positions.groups.entry(group).or_default();
            view.members.retain(|(node, _)| members.holders().any(|(_, of)| of.node == *node));
        }
        tracing::info!(%group, %membership, joining = info.joining.len(), "the group's members have changed");
        self.adopt();
        self.share();
    }

    /// Makes every reachable member that does not yet follow this epoch do so.
    fn adopt(&mut self) {
        self.adopt_at = Instant::now() + ADOPT_EVERY;
        let wanting: Vec<_> = self.writer.to_adopt().collect();
        for (node, group) in wanting {
            if let Some(message) = self.writer.adopt_message(group, &self.opened.history) {
                self.links.send(node, group.0, &message);
            }
        }
        self.links.flush(&mut self.events);
    }

    fn fenced(&self, current: Epoch) -> LogError {
        LogError::Fenced { ours: self.shared.epoch(), current }
    }

    fn message(&mut self, node: NodeId, tag: u32, message: Message) -> Result<(), LogError> {
        let epoch = self.shared.epoch();
        match message {
            Message::Ack { segment, epoch, scl, since, full } => {
                self.writer.on_ack(node, segment.group, epoch, Held { scl, since, full });
                self.note_scl(segment.group, node);
                self.suspicion.acknowledged(node, segment.group, scl, Instant::now());
            }
            Message::Report { report, .. } if report.sealed > epoch => {
                return Err(self.fenced(report.sealed));
            }
            Message::Report { segment, report } => {
                // One that is being rebuilt too: only batches and announcements make it whole.
                if report.history.last_epoch() == epoch {
                    self.writer.on_ack(node, segment.group, epoch, Held::from(&report));
                    self.note_scl(segment.group, node);
                }
            }
            Message::Refused(Refusal::Deleted(volume)) if volume == self.shared.volume() => {
                return Err(anyhow::anyhow!("volume {volume} was deleted").into());
            }
            Message::Refused(refusal) => {
                let state = self.writer.on_refused(node, GroupId(tag), &refusal);
                if let WriterState::Fenced(current) = state {
                    return Err(self.fenced(current));
                }
                tracing::debug!(%node, group = tag, %refusal, "a node declined");
            }
            other => tracing::debug!(%node, ?other, "unasked message"),
        }
        Ok(())
    }

    fn note_scl(&mut self, group: GroupId, node: NodeId) {
        let scl = self.writer.scl(group, node);
        let mut positions = self.shared.positions_mut();
        let view = positions.groups.entry(group).or_default();
        match view.members.iter_mut().find(|(member, _)| *member == node) {
            Some((_, known)) => *known = scl,
            None => view.members.push((node, scl)),
        }
    }
}
