//! A node's disk and the real store on it: begun, written, and cut off by a loss of power.

use std::io::IoSlice;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use env::{Disk as _, DiskError, MemDisk, Mode, Operation, Survive, recipes};
use segstore::{Chain, Identity, LogEntry, Options, RestoredSegment, Store, StoreError};
use types::{ClusterId, Engine, Incarnation, Lsn, NodeId, SegmentId};
use wire::{Message, Refusal, SegmentReport};

use crate::engine::Digest;
use crate::rng::Rng;

static ENGINE: LazyLock<Arc<dyn Engine>> = LazyLock::new(|| Arc::new(Digest));

/// Bytes that a `Fill` carries, about: few, so that catching up takes several.
const FILL_BYTES_MAX: usize = 1500;

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

    /// A segment's directory is found as it was on an earlier image.
    pub fn put_back_directory(&mut self, image: &MemDisk, rng: &mut Rng) -> Result<(), DiskError> {
        let all = Path::new("store/seg");
        let names = image.list(all).unwrap_or_default();
        let Some(name) = rng.pick(&names) else { return Ok(()) };
        let directory = all.join(name);
        // Whoever does that does it on a disk that works.
        self.disk.set_capacity(None);
        self.disk.set_failing(None);
        recipes::create_dir(&self.disk, &directory)?;
        recipes::remove_all(&self.disk, &directory, &self.disk.list(&directory)?)?;
        for name in image.list(&directory)? {
            let path = directory.join(name);
            let content = recipes::read_all(image, &path)?.unwrap_or_default();
            let file = self.disk.open(&path, Mode::Create)?;
            file.write_at(0, &[IoSlice::new(&content)])?;
            recipes::publish(&self.disk, &path, &*file)?;
        }
        self.apply();
        Ok(())
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

    /// The process ends: in the middle of background work, of writing these entries, of a start, or of
    /// nothing. With its power the disk loses some of what was on its way.
    pub fn end(&mut self, power: bool, unfinished: &Entries, rng: &mut Rng) {
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
        if !power {
            self.disk.thaw();
            return;
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

/// What a store's log gives a peer that pulls.
pub fn chain(
    store: &Store,
    segment: SegmentId,
    report: SegmentReport,
    (after, upto): (Lsn, Lsn),
) -> Message {
    match store.read_chain(segment, after, upto, FILL_BYTES_MAX) {
        Ok(Chain::Batches(batches)) => Message::Fill { segment, report, batches },
        Ok(Chain::Forgotten(horizon)) => {
            Message::Refused(Refusal::Forgotten { horizon, asked: after })
        }
        Err(error) => Message::Refused(error.refusal(after)),
    }
}
