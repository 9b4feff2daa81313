//! Copies segments' files from peers, in threads of their own, some segments at a time: which peer each
//! comes from its gossip decides, which begins with another one in every group.
//!
//! Invariant: a segment is ordered once at a time, so no two threads put files into one directory.
//!
//! A crash at any moment leaves the segment blank as before: the store puts the files in place in
//! one step at the end, after it verified every block.

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use link::Client;
use segstore::Want;
use types::{History, Lsn, MembershipEpoch, NodeId, SegmentId};
use wire::{Message, SegmentReport};

use crate::background::yield_to_everybody;
use crate::mail::{LOG_LOOP, Mail, Post};
use crate::shared::Shared;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Segments waiting to be copied at once; more are asked for again by their segments.
const ORDERS_MAX: usize = 1024;
/// Segments copied at the same time.
pub(crate) const COPIES_MAX: usize = 4;
/// Pieces of files that a copy has asked for and not taken yet: one is read and sent while another is checked
/// and written. More would keep the peer's readers from others for longer.
const ASKED_MAX: usize = 2;

/// A segment to copy.
pub(crate) struct Order {
    pub(crate) segment: SegmentId,
    /// Which copy of it.
    pub(crate) since: MembershipEpoch,
    pub(crate) peer: NodeId,
    /// Where the peer is.
    pub(crate) address: String,
    /// The history that the segment follows: a copy under a newer one is of no use to it.
    pub(crate) history: History,
}

/// Segments that are ordered and not done.
type Open = Arc<Mutex<BTreeSet<SegmentId>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where segments to copy are ordered.
pub(crate) struct Hydrator {
    orders: SyncSender<Order>,
    open: Open,
}

/// Where the copying threads get them from.
#[derive(Clone)]
pub(crate) struct Orders {
    orders: Arc<Mutex<Receiver<Order>>>,
    open: Open,
}

/// Both ends.
pub(crate) fn orders() -> (Hydrator, Orders) {
    let (send, orders) = sync_channel(ORDERS_MAX);
    let open = Open::default();
    let orders = Orders { orders: Arc::new(Mutex::new(orders)), open: Arc::clone(&open) };
    (Hydrator { orders: send, open }, orders)
}

impl Hydrator {
    /// Orders a copy; false when the segment must ask again, because too many are waiting or it is being
    /// copied still: for what it was before it was dropped and begun again.
    pub(crate) fn order(&self, order: Order) -> bool {
        let segment = order.segment;
        if !lock(&self.open).insert(segment) {
            return false;
        }
        let ordered = self.orders.try_send(order).is_ok();
        if !ordered {
            lock(&self.open).remove(&segment);
        }
        ordered
    }
}

impl Orders {
    /// The next one, once there is one; none when there will be no more.
    fn next(&self) -> Option<Order> {
        lock(&self.orders).recv().ok()
    }

    fn done(&self, segment: SegmentId) {
        lock(&self.open).remove(&segment);
    }
}

/// Copies what is ordered until the orders end.
pub(crate) fn run(shared: &Arc<Shared>, post: &Post, orders: &Orders) {
    yield_to_everybody();
    while let Some(Order { segment, since, peer, address, history }) = orders.next() {
        if shared.stopping() {
            return;
        }
        let begin = Instant::now();
        let mail = match copy(shared, segment, &address, &history) {
            Ok((report, flushed, bytes)) => {
                shared.metrics.hydrations.inc();
                tracing::info!(%segment, address, bytes, %flushed, seconds = begin.elapsed().as_secs_f64(), "segment copied from peer");
                Mail::Hydrated { segment, since, report, flushed }
            }
            Err(error) => {
                tracing::warn!(%segment, address, error = format!("{error:#}"), "segment not copied; will try again");
                Mail::NotHydrated { segment, peer }
            }
        };
        orders.done(segment);
        if !post.post(LOG_LOOP, mail) {
            tracing::warn!(%segment, "the log loop did not take the news of a copied segment");
        }
    }
}

fn copy(
    shared: &Arc<Shared>,
    segment: SegmentId,
    address: &str,
    history: &History,
) -> anyhow::Result<(SegmentReport, Lsn, u64)> {
    let mut peer = Client::connect(address, &shared.party, TIMEOUT)?;
    let answer = peer.call(&Message::AskManifest { segment })?;
    let Message::Manifest { segment: named, report, manifest } = answer else {
        bail!("{address} answered with message kind {} to AskManifest", answer.kind());
    };
    if named != segment {
        bail!("{address} sent the manifest of segment {named}");
    }
    if report.history.last_epoch() > history.last_epoch() {
        bail!("{address} follows a newer history; gossip brings it first");
    }
    let mut install = shared.store.begin_install(segment, &manifest).context("begin to install")?;
    let (mut copied, mut asked) = (0, VecDeque::new());
    loop {
        if shared.stopping() {
            bail!("the node is stopping");
        }
        while asked.len() < ASKED_MAX
            && let Some(Want { file, offset, length }) = install.want()
        {
            let request = peer.send(&Message::AskFile { segment, file, offset, length })?;
            asked.push_back((request, file, offset));
        }
        let Some((request, file, offset)) = asked.pop_front() else { break };
        let answer = peer.answer_to(request)?;
        let Message::Chunk(bytes) = answer else {
            bail!("{address} answered with message kind {} to AskFile", answer.kind());
        };
        copied += bytes.len() as u64;
        install.supply(&bytes).with_context(|| format!("file {file} at {offset}"))?;
    }
    let flushed = shared.store.finish_install(install).context("put the copied files in place")?;
    Ok((report, flushed, copied))
}

#[cfg(test)]
mod tests {
    use types::{GroupId, VolumeId};

    use super::*;

    fn order(group: u32) -> Order {
        Order {
            segment: SegmentId { volume: VolumeId(1), group: GroupId(group) },
            since: MembershipEpoch::FIRST,
            peer: "a1".parse().expect("valid"),
            address: String::new(),
            history: History::default(),
        }
    }

    #[test]
    fn a_segment_is_ordered_once_until_it_is_done_and_no_more_than_fit() {
        let (hydrator, orders) = orders();
        assert!(hydrator.order(order(7)) && hydrator.order(order(8)));
        assert!(!hydrator.order(order(7)), "it waits");
        let first = orders.next().expect("ordered").segment;
        assert!(!hydrator.order(order(7)), "it is being copied");
        orders.done(first);
        assert!(hydrator.order(order(7)));
        let taken = (0..ORDERS_MAX as u32).filter(|group| hydrator.order(order(100 + group)));
        assert_eq!(taken.count(), ORDERS_MAX - 2);
        orders.next().expect("ordered");
        assert!(hydrator.order(order(100 + ORDERS_MAX as u32)), "one that did not fit fits now");
    }
}
