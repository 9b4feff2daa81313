//! What the cache has done, as plain counters for metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters, all monotonic except the two gauges at the end.
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
    /// Gauge: bytes of relation files on the local disk.
    pub resident_bytes: AtomicU64,
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
}
