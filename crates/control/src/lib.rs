//! The control plane: which nodes there are, which volumes, who writes them, who holds their groups.
//!
//! One process over one small store. It is never on the path of a commit or of a page read: data
//! stays safe without it because the nodes enforce epochs themselves; what stops without it is
//! change (opening, adding a group, new nodes).
//!
//! Reading order: [`state`] (what is remembered), [`placement`], [`decide`], [`volumes`] (limits and
//! deletions) and [`replace`] (members), pure: state and wish in, changes and answer out; [`store`]
//! (changes made durable), [`accounts`] and [`found`] (what is told), [`service`] (the order of these),
//! [`nodes`] (segments created at nodes), [`api`] (HTTP).

mod accounts;
mod api;
mod decide;
mod found;
mod nodes;
mod placement;
mod replace;
#[doc(hidden)]
pub mod scale;
mod service;
mod state;
mod store;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use telemetry::{HttpServer, Metrics, serve_http};

pub use nodes::{LinkNodes, Nodes};
use service::Patience;
pub use service::Service;

/// How to run a control plane.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Its directory; created when missing.
    pub dir: PathBuf,
    /// Where it listens, `host:port`.
    pub listen: String,
    /// A node silent for this long is taken for lost: its segments are rebuilt on others of its zone.
    pub replace_after: Duration,
    /// A node that its writers find far slower than the others for this long is replaced in the same way.
    pub replace_slow_after: Duration,
}

/// [`ControlConfig::replace_after`] unless said otherwise: longer than a restart of the machine takes.
pub const REPLACE_AFTER_DEFAULT: Duration = Duration::from_secs(300);
/// [`ControlConfig::replace_slow_after`] unless said otherwise: a slow node is of more use than one that is
/// gone, and most recover.
pub const REPLACE_SLOW_AFTER_DEFAULT: Duration = Duration::from_secs(900);

/// A running control plane; it stops when this is dropped.
#[derive(Debug)]
pub struct Control {
    http: HttpServer,
    service: Arc<Service>,
}

impl Control {
    /// Opens the store and listens.
    ///
    /// # Errors
    /// When the directory is not a control plane's, is in use, or the address is taken.
    pub fn start(config: &ControlConfig, nodes: Arc<dyn Nodes>) -> anyhow::Result<Control> {
        let metrics = Metrics::new("control", "control");
        let store = store::Store::open(&config.dir)?;
        let patience = Patience {
            replace_after: config.replace_after,
            replace_slow_after: config.replace_slow_after,
        };
        let service = Arc::new(Service::new(store, nodes, &metrics, patience)?);
        let http = serve_http(&config.listen, &metrics, api::routes(Arc::clone(&service)))?;
        service.start_retries()?;
        tracing::info!(address = %http.address(), cluster = %service.cluster(), "control plane listens");
        Ok(Control { http, service })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.http.address()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.service.stop();
    }
}

/// Runs a control plane until `wait_for_stop` returns.
///
/// # Errors
/// Those of [`Control::start`].
pub fn run(config: &ControlConfig, wait_for_stop: impl FnOnce()) -> anyhow::Result<()> {
    let control = Control::start(config, Arc::new(LinkNodes))?;
    wait_for_stop();
    drop(control);
    tracing::info!("control plane stopped");
    Ok(())
}
