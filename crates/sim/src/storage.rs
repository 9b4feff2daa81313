//! A node's disk and the real store on it: begun, written, and cut off by a loss of power.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use env::{MemDisk, Operation, Survive};
use segstore::{Identity, LogEntry, Options, RestoredSegment, Store, StoreError};
use types::{ClusterId, Engine, Incarnation, NodeId, SegmentId};

use crate::engine::Digest;
use crate::rng::Rng;

static ENGINE: LazyLock<Arc<dyn Engine>> = LazyLock::new(|| Arc::new(Digest));

/// Entries of a node's segments, in the order in which they are to be durable.
pub type Entries = Vec<(SegmentId, LogEntry)>;

/// A disk, and the store on it while its node runs.
pub struct Storage {
    disk: MemDisk,
    store: Option<Store>,
    identity: Identity,
    options: Options,
    /// What it does not do for the time being: take more, or this.
    stopped: Option<Option<Operation>>,
}

impl Storage {
    /// An empty disk. No other life of any disk has this incarnation.
    #[must_use]
    pub fn blank(node: NodeId, incarnation: Incarnation, options: Options) -> Storage {
        let identity = Identity { cluster: ClusterId(1), node, incarnation };
        Storage { disk: MemDisk::new(), store: None, identity, options, stopped: None }
    }

    /// The store, while the node runs.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &MemDisk {
        &self.disk
    }

    /// Another disk is found in this one's place.
    pub fn put_back(&mut self, disk: MemDisk) {
        self.disk = disk;
        self.apply();
    }

    /// The disk is full from now on, or fails at this.
    pub fn stop(&mut self, what: Option<Operation>) {
        self.stopped = Some(what);
        self.apply();
    }

    /// The disk works again.
    pub fn relieve(&mut self) {
        self.stopped = None;
        self.apply();
    }

    /// Whether the disk does not do all that it should.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    fn apply(&self) {
        let full = self.stopped == Some(None);
        self.disk.set_capacity(full.then(|| self.disk.used_bytes()));
        self.disk.set_failing(self.stopped.flatten());
    }

    /// Opens the store, or creates it on an empty disk.
    ///
    /// # Errors
    /// The store's.
    pub fn start(&mut self) -> Result<Vec<RestoredSegment>, StoreError> {
        let dir = Path::new("store");
        let disk = Arc::new(self.disk.clone());
        let (engine, options) = (Arc::clone(&ENGINE), self.options.clone());
        let (store, restored) = match Identity::load(&self.disk, dir)? {
            Some(_) => Store::open(disk, engine, dir, self.identity, options)?,
            None => (Store::create(disk, engine, dir, self.identity, options)?, Vec::new()),
        };
        self.store = Some(store);
        Ok(restored)
    }

    /// Power is lost: in the middle of background work, of writing these entries, of a start, or of
    /// nothing. What remains is what the disk held, and some of what was on its way.
    pub fn lose_power(&mut self, unfinished: &Entries, rng: &mut Rng) {
        self.disk.freeze_at(self.disk.sync_points() + rng.below(6));
        // What fails here has nobody left to tell.
        match self.store.take() {
            Some(store) => {
                if rng.chance(400) {
                    (0..3).for_each(|_| drop(store.background()));
                }
                if rng.chance(700) && !unfinished.is_empty() {
                    drop(store.append(unfinished));
                }
            }
            None => {
                drop(self.start());
                self.store = None;
            }
        }
        let survive = match rng.below(10) {
            0..3 => Survive::Nothing,
            3 => Survive::Everything,
            4 => Survive::Prefix(512 * rng.below(8) as usize),
            _ => Survive::Random(rng.next_u64()),
        };
        self.disk = self.disk.crash(survive);
        self.apply();
    }
}
