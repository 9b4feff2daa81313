//! Numbers for metrics.

use std::sync::atomic::AtomicU64;

use types::SegmentId;

use crate::index::Index;

/// Counted as it happens.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) log_writes: AtomicU64,
    pub(crate) log_bytes_written: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) flushed_bytes: AtomicU64,
    pub(crate) merges: AtomicU64,
    pub(crate) merged_bytes: AtomicU64,
    pub(crate) cold_parts_max: AtomicU64,
    pub(crate) engine_errors: AtomicU64,
    pub(crate) mends: AtomicU64,
    pub(crate) damage_found: AtomicU64,
    pub(crate) damage_mended: AtomicU64,
}

/// A store in numbers, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Appends to the log.
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
    /// Most parts from page files that one read of a page has applied.
    pub cold_parts_max: u64,
    /// Chains that the engine could not fold.
    pub engine_errors: u64,
    /// Segments with damage that is not mended yet.
    pub damaged: u64,
    /// Damaged places found: blocks, indexes, manifests, log files, segments that began again.
    pub damage_found: u64,
    /// Of those, mended or written again.
    pub damage_mended: u64,
    /// Merges that put pages from peers in the place of damaged ones.
    pub mends: u64,
}

/// What one segment takes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes of its page files.
    pub file_bytes: u64,
    /// Bytes of its batches in the log, those kept for peers included.
    pub log_bytes: u64,
}

impl Usage {
    pub(crate) fn of(segment: SegmentId, index: &Index) -> Usage {
        let file_bytes = index.files.iter().map(|file| file.meta.bytes).sum();
        Usage { segment, file_bytes, log_bytes: index.log_bytes }
    }
}

impl Stats {
    pub(crate) fn add(&mut self, index: &Index) {
        self.unflushed_bytes += index.bytes;
        self.damaged += u64::from(index.is_damaged());
        for file in index.files.iter() {
            self.files += 1;
            self.file_bytes += file.meta.bytes;
            self.images += file.meta.images;
            self.deltas += file.meta.deltas;
        }
    }
}
