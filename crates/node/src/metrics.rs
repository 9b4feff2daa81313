//! The node's metrics. Names are a contract with dashboards and benchmarks.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use telemetry::Metrics;
use types::SegmentId;
use wire::SegmentReport;

type Labels = [(&'static str, String); 2];

/// Counters of one node; clones share.
#[derive(Clone)]
pub(crate) struct NodeMetrics {
    pub(crate) batches: Counter,
    pub(crate) batch_bytes: Counter,
    pub(crate) syncs: Counter,
    pub(crate) sync_seconds: Histogram,
    pub(crate) ack_seconds: Histogram,
    pub(crate) pages: Counter,
    pub(crate) page_failures: Counter,
    pub(crate) read_seconds: Histogram,
    pub(crate) scans: Counter,
    pub(crate) pulls: Counter,
    pub(crate) filled_batches: Counter,
    pub(crate) hydrations: Counter,
    pub(crate) refusals: Counter,
    pub(crate) connections: Gauge,
    pub(crate) disk_full: Gauge,
    pub(crate) writer_waits: Counter,
    pub(crate) scrubs: Counter,
    pub(crate) scrubbed_bytes: Counter,
    pub(crate) mend_failures: Counter,
    scl: Family<Labels, Gauge>,
    full: Family<Labels, Gauge>,
    store: Arc<StoreGauges>,
}

/// Gauges of one segment.
pub(crate) struct SegmentGauges {
    scl: Gauge,
    full: Gauge,
}

impl SegmentGauges {
    pub(crate) fn set(&self, report: &SegmentReport) {
        self.scl.set(report.scl.0 as i64);
        self.full.set(i64::from(report.full));
    }
}

struct StoreGauges {
    log_bytes: Gauge,
    log_writes: Gauge,
    log_written_bytes: Gauge,
    flushed_bytes: Gauge,
    merged_bytes: Gauge,
    cold_parts_max: Gauge,
    unflushed_bytes: Gauge,
    files: Gauge,
    file_bytes: Gauge,
    images: Gauge,
    deltas: Gauge,
    engine_errors: Gauge,
    damaged: Gauge,
    damage_found: Gauge,
    damage_mended: Gauge,
}

impl NodeMetrics {
    pub(crate) fn new(metrics: &Metrics) -> NodeMetrics {
        let scl: Family<Labels, Gauge> = Family::default();
        let full: Family<Labels, Gauge> = Family::default();
        metrics.register(|registry| {
            registry.register("segment_scl_lsn", "Complete and durable to here", scl.clone());
            registry.register("segment_full", "1 when it votes and serves", full.clone());
        });
        let store = StoreGauges {
            log_bytes: metrics.gauge("node_log_bytes", "Hot log in use"),
            log_writes: metrics.gauge("node_log_writes", "Durable writes to the hot log"),
            log_written_bytes: metrics
                .gauge("node_log_written_bytes", "Bytes written to the hot log, padding included"),
            flushed_bytes: metrics
                .gauge("node_flushed_bytes", "Bytes of page files written by flushes"),
            merged_bytes: metrics
                .gauge("node_merged_bytes", "Bytes of page files written by merges"),
            cold_parts_max: metrics
                .gauge("node_cold_parts_max", "Most parts from page files applied for one page"),
            unflushed_bytes: metrics.gauge("node_unflushed_bytes", "Parts not yet in page files"),
            files: metrics.gauge("node_page_files", "Page files"),
            file_bytes: metrics.gauge("node_page_file_bytes", "Bytes of page files"),
            images: metrics.gauge("node_images", "Page images in page files"),
            deltas: metrics.gauge("node_deltas", "Unfolded parts in page files"),
            engine_errors: metrics.gauge("node_engine_errors", "Chains that did not fold"),
            damaged: metrics.gauge("node_damaged_segments", "Segments with damaged files"),
            damage_found: metrics.gauge("node_damage_found", "Damaged places found"),
            damage_mended: metrics.gauge("node_damage_mended", "Of those, mended"),
        };
        NodeMetrics {
            batches: metrics.counter("node_batches", "Batches received"),
            batch_bytes: metrics.counter("node_batch_bytes", "Bytes of parts received in batches"),
            syncs: metrics.counter("node_syncs", "Durable writes for batches and state"),
            sync_seconds: metrics.seconds("node_sync_seconds", "Duration of a durable write"),
            ack_seconds: metrics
                .seconds("node_ack_seconds", "From having read a batch to sending its answer"),
            pages: metrics.counter("node_page_reads", "Pages asked for"),
            page_failures: metrics.counter("node_page_failures", "Pages not served"),
            read_seconds: metrics.seconds("node_read_seconds", "Duration of a page request"),
            scans: metrics.counter("node_scans", "Scans"),
            pulls: metrics.counter("node_gossip_pulls", "Questions to peers"),
            filled_batches: metrics.counter("node_gossip_batches", "Batches got from peers"),
            hydrations: metrics.counter("node_hydrations", "Segments copied from a peer"),
            refusals: metrics.counter("node_refusals", "Requests refused"),
            connections: metrics.gauge("node_connections", "Open connections of the log loop"),
            writer_waits: metrics.counter(
                "node_writer_waits",
                "Times that writers waited because background work was far behind",
            ),
            disk_full: metrics
                .gauge("node_disk_full", "1 while the log waits for room on the disk"),
            scrubs: metrics.counter("node_scrubs", "Passes over everything that is stored"),
            scrubbed_bytes: metrics.counter("node_scrubbed_bytes", "Bytes checked by them"),
            mend_failures: metrics.counter("node_mend_failures", "Mends to be tried again"),
            scl,
            full,
            store: Arc::new(store),
        }
    }

    /// A segment's own gauges, to be set without looking them up.
    pub(crate) fn of_segment(&self, segment: SegmentId) -> SegmentGauges {
        let labels = labels(segment);
        SegmentGauges {
            scl: self.scl.get_or_create(&labels).clone(),
            full: self.full.get_or_create(&labels).clone(),
        }
    }

    pub(crate) fn dropped(&self, segment: SegmentId) {
        self.scl.remove(&labels(segment));
        self.full.remove(&labels(segment));
    }

    pub(crate) fn store(&self, stats: &segstore::Stats) {
        let gauges = &self.store;
        gauges.log_bytes.set(stats.log_bytes as i64);
        gauges.log_writes.set(stats.log_writes as i64);
        gauges.log_written_bytes.set(stats.log_bytes_written as i64);
        gauges.flushed_bytes.set(stats.flushed_bytes as i64);
        gauges.merged_bytes.set(stats.merged_bytes as i64);
        gauges.cold_parts_max.set(stats.cold_parts_max as i64);
        gauges.unflushed_bytes.set(stats.unflushed_bytes as i64);
        gauges.files.set(stats.files as i64);
        gauges.file_bytes.set(stats.file_bytes as i64);
        gauges.images.set(stats.images as i64);
        gauges.deltas.set(stats.deltas as i64);
        gauges.engine_errors.set(stats.engine_errors as i64);
        gauges.damaged.set(stats.damaged as i64);
        gauges.damage_found.set(stats.damage_found as i64);
        gauges.damage_mended.set(stats.damage_mended as i64);
    }
}

fn labels(segment: SegmentId) -> Labels {
    [("volume", segment.volume.to_string()), ("group", segment.group.to_string())]
}
