//! Logs, metrics and the HTTP side of every process.
//!
//! Nothing here is on a data path: HTTP runs on a current-thread runtime in a thread of its own.
//!
//! Reading order: [`logging`], [`metrics`], [`http`].

mod http;
mod logging;
mod metrics;

pub use http::{HttpServer, serve_http};
pub use logging::{init_logging, stop_on_panic};
pub use metrics::Metrics;
