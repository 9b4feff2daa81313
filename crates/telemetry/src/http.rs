//! A small HTTP server in a thread of its own: `/metrics`, `/healthz`, and the caller's routes.

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use anyhow::Context as _;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::sync::oneshot;

use crate::Metrics;

/// A running server; it stops when this is dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Where it listens (the port chosen, when port 0 was asked for).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop = None; // its receiver wakes, which ends the server
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the HTTP thread had panicked");
        }
    }
}

/// Listens at `address` (`host:port`) and serves the routes, `/metrics` and `/healthz`.
///
/// Handlers that block must use `tokio::task::spawn_blocking`: there is one thread.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve_http(address: &str, metrics: &Metrics, routes: Router) -> anyhow::Result<HttpServer> {
    let listener = TcpListener::bind(address).with_context(|| {
        format!("cannot listen for HTTP at {address}; free it or choose another")
    })?;
    listener.set_nonblocking(true).context("cannot make the HTTP socket non-blocking")?;
    let local = listener.local_addr().context("the HTTP socket has no address")?;
    let metrics = metrics.clone();
    let router = routes
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(move || async move { render(&metrics) }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the HTTP runtime")?;
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, router, stopped)) {
                tracing::error!(%error, "HTTP server failed");
            }
            runtime.shutdown_background();
        })
        .context("cannot start the HTTP thread")?;
    Ok(HttpServer { address: local, stop: Some(stop), thread: Some(thread) })
}

/// Serves until told to stop; connections still open are dropped then.
async fn serve(
    listener: TcpListener,
    router: Router,
    stopped: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::select! {
        result = async { axum::serve(listener, router).await } => result,
        _ = stopped => Ok(()),
    }
}

fn render(metrics: &Metrics) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], metrics.render())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).expect("the server listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[test]
    fn metrics_health_and_own_routes_answer_until_dropped() {
        let metrics = Metrics::new("test", "t");
        metrics.counter("events", "Events").inc();
        let own = Router::new().route("/own", get(|| async { "mine" }));
        let server = serve_http("127.0.0.1:0", &metrics, own).expect("a free port");
        let address = server.address();
        assert!(ask(address, "/metrics").contains("sixfold_events_total"));
        assert!(ask(address, "/healthz").ends_with("ok\n"));
        assert!(ask(address, "/own").ends_with("mine"));
        drop(server);
        assert!(TcpListener::bind(address).is_ok(), "the port is free again");
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound").to_string();
        let error =
            serve_http(&address, &Metrics::new("t", "t"), Router::new()).expect_err("taken");
        assert!(error.to_string().contains(&address), "{error}");
    }
}
