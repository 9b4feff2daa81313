//! How the threads of a node speak to each other: a bounded box and a waker for each event loop.
//!
//! Loop 0 owns the segments and the log; the others serve reads. A full box means that a loop is far
//! behind: what cannot be posted is reported to the poster, who closes the line it concerns rather
//! than wait (no loop ever waits for another).

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use bytes::Bytes;
use link::Connection;
use mio::Waker;
use registry::SegmentPlace;
use types::{Lsn, MembershipEpoch, NodeId, SegmentId, VolumeId};
use wire::{Message, SegmentReport};

use crate::lines::LineId;

/// Letters a box holds.
const LETTERS_MAX: usize = 8192;

/// The event loop that owns the segments.
pub(crate) const LOG_LOOP: usize = 0;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asker {
    pub(crate) at: usize,
    pub(crate) line: LineId,
    pub(crate) request: u64,
}

/// One letter.
pub(crate) enum Mail {
    /// A connection that turned out to belong here, with what it has said already.
    Handover { line: LineId, connection: Box<Connection>, messages: Vec<(u64, Message)> },
    /// A request that another loop received.
    Ask { from: Asker, message: Message },
    /// An answer to be sent on a line of this loop.
    Answer { line: LineId, bytes: Bytes },
    /// Read the group's chain from the store and send it as a `Fill`.
    Chain { to: Asker, job: ChainJob },
    /// The control plane's list of this node's segments.
    Assigned(Vec<SegmentPlace>),
    /// Volumes of which something is held here, and which were deleted.
    Deleted(Vec<VolumeId>),
    /// Files of this node's copy of a segment, the one given to it by the member set `since`, were
    /// copied from a peer; everything to `flushed` is held.
    Hydrated { segment: SegmentId, since: MembershipEpoch, report: SegmentReport, flushed: Lsn },
    /// Copying failed; the segment asks again at its next turn.
    NotHydrated { segment: SegmentId, peer: NodeId },
    /// A damaged segment's pages cannot be had any more: its files are to be copied from this peer.
    CopyWhole { segment: SegmentId, peer: NodeId },
    /// End the loop.
    Stop,
}

/// Which part of a chain to send.
pub(crate) struct ChainJob {
    pub(crate) segment: SegmentId,
    pub(crate) report: SegmentReport,
    pub(crate) after: Lsn,
    pub(crate) upto: Lsn,
    pub(crate) bytes_max: u32,
}

/// Every loop's box, to post into.
#[derive(Clone)]
pub(crate) struct Post {
    boxes: Arc<Vec<(SyncSender<Mail>, Waker)>>,
}

/// Boxes for loops with these wakers.
pub(crate) fn boxes(wakers: Vec<Waker>) -> (Post, Vec<Receiver<Mail>>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = wakers
        .into_iter()
        .map(|waker| {
            let (sender, receiver) = sync_channel(LETTERS_MAX);
            ((sender, waker), receiver)
        })
        .unzip();
    (Post { boxes: Arc::new(senders) }, receivers)
}

impl Post {
    /// How many loops there are.
    pub(crate) fn loops(&self) -> usize {
        self.boxes.len()
    }

    /// Puts a letter into a loop's box and wakes it. False when the box is full or the loop ended.
    pub(crate) fn post(&self, to: usize, mail: Mail) -> bool {
        let Some((sender, waker)) = self.boxes.get(to) else { return false };
        match sender.try_send(mail) {
            Ok(()) => waker
                .wake()
                .inspect_err(|error| tracing::error!(%error, to, "cannot wake an event loop"))
                .is_ok(),
            Err(TrySendError::Full(_)) => {
                tracing::warn!(to, "an event loop is {LETTERS_MAX} letters behind");
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}
