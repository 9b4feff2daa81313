//! Who handles which message that reaches the log loop.
//!
//! | message | goes to |
//! |---|---|
//! | `Append`, `Seal`, `Adopt`, `AskReport`, `AskTail`, `Pull` | the segment |
//! | `Fill`, `Report`, `Refused` on a line we opened | the segment that asked |
//! | pages, versions, scans, files | a reader loop; the whole line when it begins with one |
//! | `CreateSegment`, `DropSegment`, `ListSegments` | here |

use std::time::Instant;

use protocol::{Input, Segment};
use registry::{Member, SegmentPlace};
use types::{GroupId, Holder, MembershipEpoch, NodeId, SegmentId, VolumeId};
use wire::{Message, Peer, Refusal, SegmentSpec};

use crate::lines::LineId;
use crate::log_loop::LogLoop;
use crate::mail::{Asker, LOG_LOOP, Mail};
use crate::serve;

impl LogLoop {
    /// Handles what one line said in this turn.
    pub(crate) fn take_all(&mut self, line: LineId, messages: Vec<(u64, Message)>) {
        if let Some(peer) = self.peers.of_line(line) {
            for (request, message) in messages {
                self.take_answer(peer, request, message);
            }
            return;
        }
        let reads = messages.first().is_some_and(|(_, message)| serve::is_read(message));
        if reads && !self.log_lines.contains(&line) {
            return self.hand_over(line, messages);
        }
        self.log_lines.insert(line);
        for (request, message) in messages {
            self.take(Asker { at: LOG_LOOP, line, request }, message);
        }
    }

    /// Gives a line that begins with a read to a reader loop, for good.
    fn hand_over(&mut self, line: LineId, messages: Vec<(u64, Message)>) {
        let Some(connection) = self.lines.remove(line) else { return };
        self.shared.metrics.connections.dec();
        let connection = Box::new(connection);
        let mail = Mail::Handover { line, connection, messages };
        if !self.post.post(self.reader_of(line), mail) {
            tracing::warn!(line, "a reading connection was closed: the readers are too far behind");
        }
    }

    /// Handles one request.
    pub(crate) fn take(&mut self, from: Asker, message: Message) {
        if matches!(message, Message::AskManifest { .. } | Message::AskFile { .. }) {
            let own = "files are read on a connection that begins with AskManifest".to_owned();
            return self.refuse(from, Refusal::Malformed(own));
        }
        if serve::is_read(&message) {
            if !self.post.post(self.reader_of(from.line), Mail::Ask { from, message }) {
                let busy = "the readers are too far behind; ask another node".to_owned();
                self.refuse(from, Refusal::Malformed(busy));
            }
            return;
        }
        match message {
            Message::CreateSegment(spec) => self.create(from, spec),
            Message::DropSegment { segment, membership } => {
                self.drop_segment(from, segment, membership);
            }
            Message::ListSegments => {
                let segments = self.segments.iter();
                let reports = segments.map(|(id, held)| (*id, held.segment.report())).collect();
                self.answer(from, &Message::Segments(reports));
            }
            other => self.take_for_segment(from, other),
        }
    }

    fn take_for_segment(&mut self, from: Asker, message: Message) {
        let late = matches!(message, Message::Adopt { .. });
        let number = self.asks.number(from, late);
        let input = match message {
            Message::Append(batch) => {
                self.shared.metrics.batches.inc();
                let bytes: usize = batch.parts.iter().map(|part| part.body.len()).sum();
                self.shared.metrics.batch_bytes.inc_by(bytes as u64);
                if let Some(held) = self.segments.get_mut(&batch.header.segment) {
                    held.note_sent(&batch.header);
                    self.turns.note(batch.header.segment.volume, Instant::now());
                }
                if self.unwritten.is_heavy() || self.outrun {
                    self.lines.pause(from.line);
                }
                (batch.header.segment, Input::Append { from: number, batch })
            }
            Message::Seal { segment, epoch } => (segment, Input::Seal { from: number, epoch }),
            Message::Adopt { segment, history, vdl, until, peer } => {
                self.pace.hurry(segment, Instant::now());
                (segment, Input::Adopt { from: number, history, vdl, until, peer })
            }
            Message::AskReport { segment } => (segment, Input::AskReport { from: number }),
            Message::AskTail { segment, epoch, history, after } => {
                (segment, Input::AskTail { from: number, epoch, history, after })
            }
            Message::Pull { segment, history, after, bytes_max } => {
                (segment, Input::Pull { from: number, history, after, bytes_max })
            }
            other => {
                let what = format!("message kind {} is not a request to a node", other.kind());
                return self.refuse(from, Refusal::Malformed(what));
            }
        };
        if self.segments.contains_key(&input.0) {
            self.inputs.push_back(input);
        } else {
            self.refuse(from, self.why_not_held(input.0));
        }
    }

    fn refuse(&mut self, to: Asker, refusal: Refusal) {
        self.shared.metrics.refusals.inc();
        self.answer(to, &Message::Refused(refusal));
    }

    /// A peer's answer to a question of ours.
    fn take_answer(&mut self, peer: NodeId, request: u64, message: Message) {
        let Some(asked) = self.peers.answered(peer, request) else { return };
        let now = Instant::now();
        let (segment, input) = match message {
            // Asked for before the disk was full; it is asked for again.
            Message::Fill { .. } if self.unwritten.is_waiting() => {
                (asked, Input::PeerRefused { peer, refusal: None })
            }
            Message::Fill { segment, report, batches } => {
                if !batches.is_empty() {
                    self.shared.metrics.filled_batches.inc_by(batches.len() as u64);
                    if self.segments.get(&segment).is_some_and(|held| !held.is_fed(now)) {
                        self.pace.hurry(segment, now);
                    }
                }
                (segment, Input::Filled { from_peer: peer, report, batches })
            }
            Message::Report { segment, report } => {
                (segment, Input::Filled { from_peer: peer, report, batches: Vec::new() })
            }
            Message::Refused(refusal) => {
                (asked, Input::PeerRefused { peer, refusal: Some(refusal) })
            }
            other => {
                tracing::warn!(%peer, kind = other.kind(), "a peer's answer makes no sense");
                (asked, Input::PeerRefused { peer, refusal: None })
            }
        };
        if segment == asked {
            self.inputs.push_back((segment, input));
        } else {
            tracing::warn!(%peer, %segment, %asked, "a peer answered for another segment");
        }
    }

    /// The control plane's list: what is missing is created; members and addresses are learnt.
    pub(crate) fn assigned(&mut self, places: &[SegmentPlace]) {
        self.peers.learn_places(places);
        let mut met = true;
        for place in places {
            if let Err(refusal) = self.hold_as_told(spec_of(place)) {
                tracing::error!(%refusal, "an assigned segment cannot be created");
                met = false;
            }
        }
        self.shared.note_assigned(met);
    }

    fn create(&mut self, from: Asker, spec: SegmentSpec) {
        match self.hold_as_told(spec) {
            Ok(()) => self.answer(from, &Message::Done),
            Err(refusal) => self.refuse(from, refusal),
        }
    }

    /// Holds the segment from now on. One that is held stays: what it has promised counts, not what an
    /// order repeats. Only a copy whose place was given away, and given back since, is begun anew.
    fn hold_as_told(&mut self, spec: SegmentSpec) -> Result<(), Refusal> {
        let (id, me) = (spec.segment, self.shared.host.welcome.node);
        if self.deleted.contains(&id.volume) {
            return Err(Refusal::Deleted(id.volume)); // a late order
        }
        if spec.members.len() != types::COPIES {
            let count = spec.members.len();
            return Err(Refusal::Malformed(format!("segment {id} with {count} members, not six")));
        }
        let since = spec.since(me);
        if since == MembershipEpoch(0) {
            return Err(Refusal::Malformed(format!("segment {id} is not to be held by {me}")));
        }
        if self.given_away.is_over(id, since) {
            return Err(Refusal::NoSegment(id)); // a late order, too
        }
        let held = self.copy_since(id);
        // One whose manifest was damaged has forgotten since when it is held.
        let same = held.is_some_and(|held| held == since || held == MembershipEpoch(0));
        match held {
            Some(held) if !same && held > since => return Ok(()),
            Some(_) if same => return self.learn_members(spec),
            Some(_) => self.forget(id)?,
            None => {}
        }
        let segment = match spec.fresh && held.is_none() {
            true => Segment::fresh(me, spec.clone()),
            false => Segment::blank(me, spec.clone()),
        };
        let added = self.shared.store.add_segment(&spec, segment.state());
        added.map_err(|error| error.refusal(types::Lsn::ZERO))?;
        tracing::info!(segment = %id, fresh = spec.fresh, "segment created");
        self.hold(spec, segment);
        Ok(())
    }

    fn why_not_held(&self, id: SegmentId) -> Refusal {
        match self.deleted.contains(&id.volume) {
            true => Refusal::Deleted(id.volume),
            false => Refusal::NoSegment(id),
        }
    }

    /// A held segment's members are remembered, for a start without the control plane, and told to it.
    fn learn_members(&mut self, spec: SegmentSpec) -> Result<(), Refusal> {
        self.peers.learn(&spec);
        let Some(held) = self.segments.get_mut(&spec.segment) else { return Ok(()) };
        let known = (&held.spec.members, &held.spec.joining) == (&spec.members, &spec.joining);
        if known || spec.membership < held.spec.membership {
            return Ok(());
        }
        let kept = self.shared.store.add_segment(&spec, held.segment.state());
        kept.map_err(|error| error.refusal(types::Lsn::ZERO))?;
        held.spec = spec.clone();
        self.inputs.push_back((spec.segment, Input::Members(spec)));
        Ok(())
    }

    /// Another node has the place, by this member set.
    fn drop_segment(&mut self, from: Asker, id: SegmentId, by: MembershipEpoch) {
        self.given_away.note(id, by);
        let older = self.copy_since(id).is_some_and(|held| held < by);
        match if older { self.forget(id) } else { Ok(()) } {
            Ok(()) => self.answer(from, &Message::Done),
            Err(refusal) => self.refuse(from, refusal),
        }
    }

    fn forget(&mut self, id: SegmentId) -> Result<(), Refusal> {
        self.release(id);
        let dropped = self.shared.store.drop_segment(id);
        dropped.map_err(|error| error.refusal(types::Lsn::ZERO))?;
        tracing::info!(segment = %id, "segment dropped");
        Ok(())
    }

    /// Volumes that the control plane says were deleted: their segments speak no more from here on,
    /// and their disk is freed by a thread that may take its time (N11). Called between turns, when
    /// nothing of theirs waits to be persisted.
    pub(crate) fn drop_deleted(&mut self, volumes: Vec<VolumeId>) {
        for volume in volumes {
            self.deleted.insert(volume);
            self.given_away.forget(|id| id.volume == volume);
            let held = self.segments.keys().copied().filter(|id| id.volume == volume);
            for id in held.collect::<Vec<_>>() {
                tracing::info!(segment = %id, "its volume was deleted; dropping it");
                self.release(id);
                self.shared.drop_later(id);
            }
        }
    }
}

fn spec_of(place: &SegmentPlace) -> SegmentSpec {
    let peer = |member: &Member| Peer {
        holder: Holder { node: member.node, since: MembershipEpoch(member.since) },
        address: member.address.clone(),
    };
    SegmentSpec {
        segment: SegmentId { volume: place.volume, group: GroupId(place.group) },
        membership: MembershipEpoch(place.membership_epoch),
        members: place.members.iter().map(peer).collect(),
        joining: place.joining.iter().map(|joining| peer(&joining.member)).collect(),
        fresh: place.fresh,
    }
}
