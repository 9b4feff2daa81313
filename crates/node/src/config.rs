//! What the operator decides about a node.

use std::path::PathBuf;
use std::time::Duration;

use types::{Az, NodeId};

/// Rot is found within a week.
pub const SCRUB_INTERVAL_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Settings of one node. The cluster's id is not among them: the control plane tells it once, and
/// the data directory remembers it.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeId,
    /// Its availability zone.
    pub az: Az,
    /// Where it listens, `host:port`; port 0 for any.
    pub listen: String,
    /// Where others reach it, when that is not where it listens.
    pub advertise: Option<String>,
    /// Where the control plane is, `host:port`.
    pub control: String,
    /// Its data directory; created when missing.
    pub data_dir: PathBuf,
    /// Where its metrics are served, `host:port`; nowhere when none.
    pub http_listen: Option<String>,
    /// Round trip added to traffic with other zones.
    pub az_latency: Duration,
    /// Threads that serve pages.
    pub reader_threads: usize,
    /// Measurements only: nothing is flushed, merged or freed.
    pub hold_background: bool,
    /// Everything stored is read and checked once in so long.
    pub scrub_interval: Duration,
    /// Sizes of its store.
    pub store: segstore::Options,
}

impl NodeConfig {
    /// Settings with defaults for everything that has one.
    #[must_use]
    pub fn new(name: NodeId, az: Az, listen: &str, control: &str, data_dir: PathBuf) -> NodeConfig {
        NodeConfig {
            name,
            az,
            listen: listen.to_owned(),
            advertise: None,
            control: control.to_owned(),
            data_dir,
            http_listen: None,
            az_latency: Duration::ZERO,
            reader_threads: 2,
            hold_background: false,
            scrub_interval: SCRUB_INTERVAL_DEFAULT,
            store: segstore::Options::default(),
        }
    }
}
