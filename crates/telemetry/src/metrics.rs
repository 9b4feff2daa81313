//! The metrics of one process: names in, Prometheus text out.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The process's metrics. Every name begins `sixfold_`; every line is labelled with role and name.
/// Clones share.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    looks: Arc<Mutex<Vec<Look>>>,
}

type Look = Box<dyn Fn() + Send>;

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// No metrics yet, for a process of this role and name.
    #[must_use]
    pub fn new(role: &str, name: &str) -> Metrics {
        let labels = [("role", role), ("name", name)]
            .map(|(key, value)| (key.to_owned().into(), value.to_owned().into()));
        let registry = Registry::with_prefix_and_labels("sixfold", labels.into_iter());
        Metrics { registry: Arc::new(Mutex::new(registry)), looks: Arc::default() }
    }

    /// A count of events. Name without the prefix and without `_total`, which Prometheus adds.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.register(|registry| registry.register(name, help, counter.clone()));
        counter
    }

    /// A value that goes up and down. Unit last in the name (`_bytes`, `_lsn`).
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.register(|registry| registry.register(name, help, gauge.clone()));
        gauge
    }

    /// A distribution of durations in seconds, 50 microseconds to about 13 seconds.
    #[must_use]
    pub fn seconds(&self, name: &str, help: &str) -> Histogram {
        let histogram = Histogram::new(exponential_buckets(50e-6, 2.0, 18));
        self.register(|registry| registry.register(name, help, histogram.clone()));
        histogram
    }

    /// Anything else: families with labels, collectors.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        // A panic while registering leaves whole entries only, so a poisoned lock is usable.
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Has gauges set anew whenever somebody reads them: for what is known only by looking.
    pub fn look_before_render(&self, look: impl Fn() + Send + 'static) {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(look));
    }

    /// All of them as Prometheus (OpenMetrics) text.
    #[must_use]
    pub fn render(&self) -> String {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|look| look());
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing to a String does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_rendered_with_prefix_and_labels() {
        let metrics = Metrics::new("node", "a1");
        metrics.counter("appends", "Batches persisted").inc();
        metrics.gauge("scl_lsn", "SCL").set(7);
        metrics.seconds("sync_seconds", "Data sync").observe(0.001);
        let text = metrics.render();
        assert!(text.contains("sixfold_appends_total{role=\"node\",name=\"a1\"} 1"), "{text}");
        assert!(text.contains("sixfold_scl_lsn{role=\"node\",name=\"a1\"} 7"), "{text}");
        assert!(text.contains("sixfold_sync_seconds_bucket"), "{text}");
    }

    #[test]
    fn what_is_rendered_was_looked_at_for_it() {
        let metrics = Metrics::new("node", "a1");
        let gauge = metrics.gauge("files", "Files");
        metrics.look_before_render(move || {
            gauge.inc();
        });
        assert!(metrics.render().contains("sixfold_files{role=\"node\",name=\"a1\"} 1"));
        assert!(metrics.render().contains("sixfold_files{role=\"node\",name=\"a1\"} 2"));
    }
}
