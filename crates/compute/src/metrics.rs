//! The driver's metrics; names as in `docs/metrics.md`.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use telemetry::Metrics;

use crate::cache::CacheStats;

/// Counters that the hot loop moves, and gauges read from the shared view now and then.
#[derive(Clone, Debug)]
pub struct DriverMetrics {
    /// Records routed.
    pub records: Counter,
    /// Bytes of batches handed to sockets, all copies.
    pub sent_bytes: Counter,
    /// The durable point.
    pub vdl: Gauge,
    /// The low-water mark.
    pub low_water: Gauge,
    /// Bytes of log routed and not yet durable.
    pub lead_bytes: Gauge,
    /// Groups of the volume.
    pub groups: Gauge,
    /// The writer's epoch.
    pub epoch: Gauge,
    /// Bytes that wait for the socket of the node that takes the least.
    pub queued_bytes: Gauge,
    /// Nodes far slower than the others.
    pub suspect_nodes: Gauge,
    /// Records of VACUUM routed.
    pub free_space_seen: Gauge,
    /// Of those: what they found is in the volume.
    pub free_space_kept: Gauge,
    /// The cache's counters, in the order of [`CACHE`].
    cache: [Gauge; CACHE.len()],
}

/// One of the cache's counters.
type Field = fn(&CacheStats) -> &AtomicU64;

/// Names and meanings of the cache's counters.
const CACHE: [(&str, &str, Field); 10] = [
    ("cache_demanded_blocks", "Blocks filled because PostgreSQL waited", |s| &s.demanded),
    ("cache_prefetched_blocks", "Blocks filled ahead of need", |s| &s.prefetched),
    ("cache_too_late_blocks", "Pages fetched and no longer wanted", |s| &s.too_late),
    ("cache_retries", "Times that pages were asked for again", |s| &s.retries),
    ("cache_hedged", "Requests sent to a second node", |s| &s.hedged),
    ("cache_evicted_blocks", "Blocks evicted", |s| &s.evicted),
    ("cache_pinned_blocks", "Candidates kept by rule R4", |s| &s.pinned),
    ("cache_different_blocks", "Blocks unlike storage's: a defect", |s| &s.different),
    ("cache_resident_bytes", "Bytes of relation files on this host", |s| &s.resident_bytes),
    ("cache_full", "Relation files may not grow", |s| &s.full),
];

impl DriverMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> DriverMetrics {
        DriverMetrics {
            records: metrics.counter("records", "WAL records routed to groups"),
            sent_bytes: metrics.counter("sent_bytes", "Bytes of batches sent, all copies"),
            vdl: metrics.gauge("vdl_lsn", "Durable point of the volume"),
            low_water: metrics.gauge("low_water_lsn", "Low-water mark"),
            lead_bytes: metrics.gauge("lead_bytes", "Log routed and not yet durable"),
            groups: metrics.gauge("groups", "Protection groups of the volume"),
            epoch: metrics.gauge("epoch", "Epoch of this writer"),
            queued_bytes: metrics.gauge("queued_bytes", "Most bytes that wait for a node's socket"),
            suspect_nodes: metrics.gauge("suspect_nodes", "Nodes far slower than the others"),
            free_space_seen: metrics.gauge("free_space_seen", "Records of VACUUM routed"),
            free_space_kept: metrics
                .gauge("free_space_kept", "Of those: the free space found is in the volume"),
            cache: CACHE.map(|(name, help, _)| metrics.gauge(name, help)),
        }
    }

    /// Shows what the cache has done.
    pub fn show(&self, stats: &CacheStats) {
        for (gauge, (_, _, field)) in self.cache.iter().zip(CACHE) {
            gauge.set(CacheStats::get(field(stats)).cast_signed());
        }
    }
}
