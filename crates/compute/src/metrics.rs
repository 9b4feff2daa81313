//! The driver's metrics; names as in `docs/metrics.md`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use telemetry::Metrics;

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
}

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
        }
    }
}
