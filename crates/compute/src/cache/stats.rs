//! What the cache has done, as plain counters for metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cache::local::BLOCK;

/// Counters, all monotonic except the gauges at the end.
#[derive(Debug, Default)]
pub struct CacheStats {
    /// Blocks filled because PostgreSQL waited for them.
    pub demanded: AtomicU64,
    /// Blocks filled ahead of need.
    pub prefetched: AtomicU64,
    /// Pages fetched and found no longer wanted (rule R2a).
    pub too_late: AtomicU64,
    /// Times that pages could not be had and were asked for again.
    pub retries: AtomicU64,
    /// Requests sent to a second node because the first was late.
    pub hedged: AtomicU64,
    /// Blocks evicted.
    pub evicted: AtomicU64,
    /// Candidates kept because rule R4 pins them.
    pub pinned: AtomicU64,
    /// Blocks that a comparing eviction found to differ from storage: a defect if not zero.
    pub different: AtomicU64,
    /// Gauge: bytes of relation files on the local disk, as measured last and changed since by
    /// fills and evictions.
    pub resident_bytes: AtomicU64,
    /// Gauge: bytes that eviction can get down to: the size aimed at, or what rule R4 left last
    /// time; zero before the first look.
    pub reachable_bytes: AtomicU64,
    /// Gauge: 1 while relation files may not grow.
    pub full: AtomicU64,
}

impl CacheStats {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }

    /// Whether the cache is larger than eviction can make it, by `spare` bytes or more.
    #[must_use]
    pub fn is_crowded(&self, spare: u64) -> bool {
        let reachable = self.reachable_bytes.load(Relaxed);
        reachable > 0 && self.resident_bytes.load(Relaxed) > reachable + spare
    }

    /// Notes blocks that came to the local disk.
    pub(crate) fn came(&self, blocks: u64) {
        self.resident_bytes.fetch_add(blocks * BLOCK as u64, Relaxed);
    }

    /// Notes blocks that went from the local disk.
    pub(crate) fn went(&self, blocks: u64) {
        let bytes = blocks * BLOCK as u64;
        let less = |resident: u64| Some(resident.saturating_sub(bytes));
        // The closure always gives a value, so this does not fail.
        self.resident_bytes.fetch_update(Relaxed, Relaxed, less).ok();
    }
}
