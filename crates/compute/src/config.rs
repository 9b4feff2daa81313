//! What the `sixfold compute` process is told.

use std::path::PathBuf;
use std::time::Duration;

use types::{Az, NodeId};

/// Everything the daemon needs to know. Nothing is read from the environment.
#[derive(Debug, Clone)]
pub struct ComputeConfig {
    /// The instance's name, unique in its cluster.
    pub name: NodeId,
    /// Its directory: a cache that may be thrown away while it is stopped. Absolute.
    pub dir: PathBuf,
    /// Address of the control plane, `host:port`.
    pub control: String,
    /// Name of the volume; made when there is none.
    pub volume: String,
    /// Bytes of pages in one group, when the volume is made.
    pub group_bytes: Option<u64>,
    /// PostgreSQL's port.
    pub port: u16,
    /// Address for PostgreSQL to listen on.
    pub listen: String,
    /// Directory of PostgreSQL's binaries.
    pub pg_bin: PathBuf,
    /// The preload library.
    pub shim: PathBuf,
    /// Local bytes of pages to keep, as a target.
    pub cache_size: u64,
    /// Local bytes of pages never to be exceeded.
    pub cache_limit: u64,
    /// Availability zone of this host.
    pub az: Option<Az>,
    /// Round trip to be added between zones.
    pub az_latency: Duration,
    /// Address for metrics, `host:port`; port 0 chooses one.
    pub http: String,
    /// The user's PostgreSQL settings.
    pub settings: Vec<(String, String)>,
    /// Test mode: evict whatever may be evicted, at once, and compare it with storage first.
    pub evict_everything: bool,
}
