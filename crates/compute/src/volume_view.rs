//! What the rest of the daemon sees of the volume while the driver's thread moves it on.
//!
//! The driver's thread is the only writer, but for riders, which others add. The router is behind a lock that it holds while it
//! routes a run of records; positions are copied here whenever they change, so a reader never
//! waits for the network.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use registry::{Filled, NodeSeen};
use types::{Epoch, GroupId, Lsn, NodeId, SegmentId, Span, VolumeId};

use crate::catalog::BLOCK_BYTES;
use crate::router::Router;

/// One group as a reader of pages needs it.
#[derive(Debug, Clone, Default)]
pub struct GroupView {
    /// End of the group's last part at or below the durable point: a reader's `complete_to`.
    pub tail: Lsn,
    /// Each member's SCL.
    pub members: Vec<(NodeId, Lsn)>,
}

/// Positions at one moment.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    /// The durable point.
    pub vdl: Span,
    /// Everything below has all parts at four copies.
    pub vcl: Lsn,
    /// Low-water mark.
    pub low_water: Lsn,
    /// The groups.
    pub groups: BTreeMap<GroupId, GroupView>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Shared {
    volume: VolumeId,
    epoch: Epoch,
    router: RwLock<Router>,
    positions: Mutex<Positions>,
    addresses: Mutex<BTreeMap<NodeId, String>>,
    filled: Mutex<Vec<Filled>>,
    seen: Mutex<Vec<NodeSeen>>,
    /// End of the last record routed.
    routed: AtomicU64,
    /// See [`crate::xids::Xids::oldest_running`].
    oldest_running: AtomicU64,
    /// End of the log bytes that PostgreSQL was told are durable.
    published: AtomicU64,
    /// Bytes of batches made for one copy.
    shipped: AtomicU64,
    /// Bytes of pages beyond which the volume may not grow.
    limit: AtomicU64,
}

impl Shared {
    /// A view of a volume just opened.
    #[must_use]
    pub fn new(volume: VolumeId, epoch: Epoch, router: Router, positions: Positions) -> Shared {
        let oldest_running = AtomicU64::new(router.xids.oldest_running().0);
        Shared {
            volume,
            epoch,
            routed: AtomicU64::new(positions.vdl.end.0),
            oldest_running,
            published: AtomicU64::new(u64::MAX),
            shipped: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            router: RwLock::new(router),
            positions: Mutex::new(positions),
            addresses: Mutex::new(BTreeMap::new()),
            filled: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The writer's epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A group's segment.
    #[must_use]
    pub fn segment(&self, group: GroupId) -> SegmentId {
        SegmentId { volume: self.volume, group }
    }

    /// The router, to look things up in its catalog.
    pub fn router(&self) -> RwLockReadGuard<'_, Router> {
        self.router.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn router_mut(&self) -> RwLockWriteGuard<'_, Router> {
        self.router.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn positions_mut(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of pages that exist in the volume, as of the last record routed.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.router().catalog.filled().values().sum::<u64>() * BLOCK_BYTES
    }

    /// Bytes of pages beyond which the volume may not grow.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Notes the volume's limit; none is no bound.
    pub fn set_limit(&self, bytes: Option<u64>) {
        self.limit.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Positions at this moment.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.positions_mut().clone()
    }

    /// Joining nodes that are whole, for the control plane.
    #[must_use]
    pub fn filled(&self) -> Vec<Filled> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_filled(&self, filled: Vec<Filled>) {
        *self.filled.lock().unwrap_or_else(PoisonError::into_inner) = filled;
    }

    /// How the writer finds its nodes, for the control plane.
    #[must_use]
    pub fn seen(&self) -> Vec<NodeSeen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_seen(&self, seen: Vec<NodeSeen>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Nodes that are suspect.
    #[must_use]
    pub fn suspects(&self) -> Vec<NodeId> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let suspect = seen.iter().filter(|seen| seen.suspect_ms.is_some());
        suspect.map(|seen| seen.node).collect()
    }

    /// The durable point.
    #[must_use]
    pub fn vdl(&self) -> Span {
        self.positions_mut().vdl
    }

    /// The read point and, for one group, the position it must be complete to and who is.
    #[must_use]
    pub fn readers(&self, group: GroupId) -> (Lsn, Lsn, Vec<NodeId>) {
        let positions = self.positions_mut();
        let view = positions.groups.get(&group);
        let tail = view.map_or(Lsn::ZERO, |view| view.tail);
        let complete = |view: &GroupView| {
            let able = view.members.iter().filter(|(_, scl)| *scl >= tail);
            able.map(|(node, _)| *node).collect()
        };
        (positions.vdl.end, tail, view.map(complete).unwrap_or_default())
    }

    /// Where nodes are.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes where a node is; true when that is news.
    pub fn set_address(&self, node: NodeId, address: &str) -> bool {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.insert(node, address.to_owned()).as_deref() != Some(address)
    }

    /// End of the last record routed, and the first record of the oldest transaction that was
    /// running then (rule R4d).
    #[must_use]
    pub fn running(&self) -> (Lsn, Lsn) {
        // Routed first: what runs is then known at least up to there.
        let routed = Lsn(self.routed.load(Ordering::SeqCst));
        (routed, Lsn(self.oldest_running.load(Ordering::SeqCst)))
    }

    /// End of the log bytes that PostgreSQL was told are durable; its flush position must not be
    /// beyond (rule R3). [`Lsn::MAX`] before it was told anything.
    #[must_use]
    pub fn published(&self) -> Lsn {
        Lsn(self.published.load(Ordering::SeqCst))
    }

    /// Bytes of batches made for one copy since the daemon started: what the best connected node
    /// was sent. Exact while every node holds every group.
    #[must_use]
    pub fn shipped(&self) -> u64 {
        self.shipped.load(Ordering::Relaxed)
    }

    pub(crate) fn set_shipped(&self, bytes: u64) {
        self.shipped.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_published(&self, end: Lsn) {
        self.published.store(end.0, Ordering::SeqCst);
    }

    pub(crate) fn set_running(&self, routed: Lsn, oldest: Lsn) {
        self.oldest_running.store(oldest.0, Ordering::SeqCst);
        self.routed.store(routed.0, Ordering::SeqCst);
    }
}
