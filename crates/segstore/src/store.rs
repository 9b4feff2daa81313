//! The front of the store: every operation that a node calls.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use env::Disk;
use types::{Engine, Epoch, History, Lsn, PageKey, SegmentId};
use wire::{Batch, PageAnswer, PartMeta, SegmentSpec};

use crate::entry::{LogEntry, SegmentState};
use crate::error::StoreError;
use crate::identity::Identity;
use crate::options::Options;

/// All segments of one node. Shared between threads.
pub struct Store {
    disk: Arc<dyn Disk>,
    engine: Arc<dyn Engine>,
    options: Options,
}

/// A segment as the disk gave it back.
#[derive(Clone, Debug)]
pub struct RestoredSegment {
    /// The segment and its members.
    pub spec: SegmentSpec,
    /// Its state; `full` is false when acknowledged parts may be missing (see `damage`).
    pub state: SegmentState,
    /// Every live part that ends at or below is held, in page files: the chain begins here.
    pub flushed: Lsn,
    /// Live parts above `flushed` that the log holds, by end: epoch, end of the group's part before
    /// it, meta.
    pub held: Vec<(Epoch, Lsn, PartMeta)>,
    /// What was found damaged.
    pub damage: Option<String>,
}

/// Answer of [`Store::read_chain`].
#[derive(Clone, Debug)]
pub enum Chain {
    /// Live batches in chain order.
    Batches(Vec<Batch>),
    /// The log no longer reaches back that far; it does to this position.
    Forgotten(Lsn),
}

/// Counters for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Durable writes to the log.
    pub log_writes: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes_written: u64,
    /// Bytes of log files that hold live or retained content.
    pub log_bytes: u64,
    /// Parts' bytes not yet in page files.
    pub unflushed_bytes: u64,
    /// Page files.
    pub files: u64,
    /// Bytes of page files.
    pub file_bytes: u64,
    /// Images in page files.
    pub images: u64,
    /// Parts in page files.
    pub deltas: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Bytes written by flushes.
    pub flushed_bytes: u64,
    /// Merges done.
    pub merges: u64,
    /// Bytes written by merges.
    pub merged_bytes: u64,
    /// Chains that the engine could not fold.
    pub engine_errors: u64,
    /// Segments with damaged files.
    pub damaged: u64,
}

/// Bytes of an immutable file that an install needs next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// The file's number in the source's manifest.
    pub file: u64,
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u32,
}

/// A segment's files, pinned while this lives, to be copied by a peer.
pub struct Export {
    /// The manifest's own encoding.
    pub manifest: Bytes,
}

impl Export {
    /// Bytes of a file; short only at its end.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub fn read(&self, file: u64, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        Err(StoreError::Invalid(format!("no file {file} at {offset}, {length}")))
    }
}

/// A segment being copied from a peer: ask for [`Install::want`], hand it to [`Install::supply`]
/// until nothing is wanted, then [`Store::finish_install`].
pub struct Install {
    want: Option<Want>,
}

impl Install {
    /// What is needed next; `None` when all is here.
    #[must_use]
    pub fn want(&self) -> Option<Want> {
        self.want
    }

    /// Takes the bytes last wanted.
    ///
    /// # Errors
    /// When they are too few, fail their checks, or cannot be written.
    pub fn supply(&mut self, bytes: &Bytes) -> Result<(), StoreError> {
        Err(StoreError::Invalid(format!("{} bytes", bytes.len())))
    }
}

fn later<T>() -> Result<T, StoreError> {
    Err(StoreError::Invalid("not in this build".to_owned()))
}

#[expect(unused_variables, reason = "signatures first")]
impl Store {
    /// Creates an empty store in `dir`, which may not hold one.
    ///
    /// # Errors
    /// When there is a store, or the disk fails.
    pub fn create(
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
        dir: &Path,
        identity: Identity,
        options: Options,
    ) -> Result<Store, StoreError> {
        Ok(Store { disk, engine, options })
    }

    /// Opens the store in `dir`: manifests, then the log's tail.
    ///
    /// # Errors
    /// When there is none, it belongs to another node, or it cannot be read at all.
    pub fn open(
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
        dir: &Path,
        identity: Identity,
        options: Options,
    ) -> Result<(Store, Vec<RestoredSegment>), StoreError> {
        later()
    }

    /// Holds a segment from now on, durably; for one already held, replaces its spec and state.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn add_segment(&self, spec: &SegmentSpec, state: &SegmentState) -> Result<(), StoreError> {
        later()
    }

    /// Forgets a segment and frees its space.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn drop_segment(&self, segment: SegmentId) -> Result<(), StoreError> {
        later()
    }

    /// Makes entries durable, all in one write, and readable. A state entry's history voids at once.
    ///
    /// # Errors
    /// Poisoned: this and every later call fails.
    pub fn append(&self, entries: &[(SegmentId, LogEntry)]) -> Result<(), StoreError> {
        later()
    }

    /// Tells marks that came without a persisted batch: what may be flushed and folded.
    pub fn advance(&self, segment: SegmentId, vdl: Lsn, low_water: Lsn) {}

    /// The page's newest version at or below the read point. The caller has checked that the
    /// segment is complete to there.
    #[must_use]
    pub fn read_page(&self, segment: SegmentId, key: &PageKey, read_point: Lsn) -> PageAnswer {
        PageAnswer::Absent
    }

    /// End of the newest record that changed the page; `None` where no version exists.
    ///
    /// # Errors
    /// Forgotten, damaged, or no such segment.
    pub fn read_version(
        &self,
        segment: SegmentId,
        key: &PageKey,
        read_point: Lsn,
    ) -> Result<Option<Lsn>, StoreError> {
        later()
    }

    /// Pages that exist in `from..to`, in key order, up to about `bytes_max`, and the first key not
    /// looked at (`None` at the end of the range).
    ///
    /// # Errors
    /// Forgotten, damaged, or no such segment.
    #[expect(clippy::type_complexity, reason = "the wire's shape")]
    pub fn scan(
        &self,
        segment: SegmentId,
        from: &PageKey,
        to: &PageKey,
        read_point: Lsn,
        bytes_max: usize,
    ) -> Result<(Vec<(PageKey, Lsn, Bytes)>, Option<PageKey>), StoreError> {
        later()
    }

    /// Live batches that hold the parts with ends in `(after, upto]`, up to about `bytes_max` (at
    /// least one batch). The first may begin at or before `after`.
    ///
    /// # Errors
    /// Damaged, or no such segment.
    pub fn read_chain(
        &self,
        segment: SegmentId,
        after: Lsn,
        upto: Lsn,
        bytes_max: usize,
    ) -> Result<Chain, StoreError> {
        later()
    }

    /// Drops parts that this history voids from the index. (A persisted state entry does so too.)
    ///
    /// # Errors
    /// No such segment.
    pub fn void(&self, segment: SegmentId, history: &History) -> Result<(), StoreError> {
        later()
    }

    /// Pins the segment's files for copying.
    ///
    /// # Errors
    /// No such segment.
    pub fn export(&self, segment: SegmentId) -> Result<Export, StoreError> {
        later()
    }

    /// Begins to copy a segment that is held here blank, from a peer's manifest.
    ///
    /// # Errors
    /// When the manifest is malformed or of another segment.
    pub fn begin_install(
        &self,
        segment: SegmentId,
        manifest: &Bytes,
    ) -> Result<Install, StoreError> {
        later()
    }

    /// Verifies every block of the copied files and puts them in place, durably. Returns the
    /// position up to which the segment now holds everything; parts above it in the log stay.
    ///
    /// # Errors
    /// When something is missing or damaged; the segment is as before.
    pub fn finish_install(&self, install: Install) -> Result<Lsn, StoreError> {
        later()
    }

    /// Does one unit of background work (flush, recycle, merge, remove) and says whether there may
    /// be more. For a low-priority thread, while appends and reads go on.
    ///
    /// # Errors
    /// Poisoned.
    pub fn background(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Checks every block of a segment's files.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verify(&self, segment: SegmentId) -> Result<(), StoreError> {
        later()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Why the store is stopped, if it is.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        None
    }
}
