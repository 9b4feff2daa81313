//! A running node: its threads, and how it ends.
//!
//! Threads: `log` (segments and hot log), `read-N` (pages), `hydrate-N`, `background`, `scrub`,
//! `registrar`, `http`. A thread that fails ends the node with its reason: half a node would answer as if it
//! were whole, and peers handle a dead one.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use anyhow::{Context as _, bail};
use env::Disk;
use link::{Host, Party, letter};
use mio::net::TcpListener;
use registry::Client;
use telemetry::{HttpServer, Metrics};
use types::Engine;
use wire::{Speaker, Welcome};

use crate::config::NodeConfig;
use crate::lines::Lines;
use crate::log_loop::{LogLoop, Parts};
use crate::mail::{self, Mail, Post};
use crate::metrics::NodeMetrics;
use crate::reader::Reader;
use crate::shared::Shared;
use crate::start::{self, Addresses, Started};
use crate::{background, check, hydrate, registrar, scrub};

/// Why and whether a node has ended.
#[derive(Default)]
struct End {
    outcome: Mutex<Option<anyhow::Result<()>>>,
    changed: Condvar,
}

impl End {
    /// The first outcome counts: later ones are its consequences.
    fn set(&self, outcome: anyhow::Result<()>) {
        let mut slot = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(outcome);
        self.changed.notify_all();
    }
}

/// Ends a node from another thread.
#[derive(Clone)]
pub struct Stopper {
    shared: Arc<Shared>,
    post: Post,
    end: Arc<End>,
    sleepers: Arc<Mutex<Vec<Thread>>>,
}

impl Stopper {
    /// Asks the node to end cleanly; returns at once.
    pub fn stop(&self) {
        self.finish(Ok(()));
    }

    fn finish(&self, outcome: anyhow::Result<()>) {
        self.end.set(outcome);
        self.shared.stop();
        for loop_number in 0..self.post.loops() {
            // A loop whose box is full or that ended sees `stopping`, or needs no telling.
            self.post.post(loop_number, Mail::Stop);
        }
        let sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers.iter().for_each(Thread::unpark);
    }
}

/// A running node.
pub struct Node {
    address: SocketAddr,
    http: Option<HttpServer>,
    stopper: Stopper,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts a node with this engine on this disk; returns when it serves.
    ///
    /// # Errors
    /// When the directory belongs to another node or cluster, the store cannot be opened, or an
    /// address cannot be bound.
    pub fn start(
        config: &NodeConfig,
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
    ) -> anyhow::Result<Node> {
        Node::start_unless(config, disk, engine, &|| false)
    }

    /// The same; a wait for the control plane ends, with an error, when `stopping` says so.
    pub(crate) fn start_unless(
        config: &NodeConfig,
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
        stopping: &dyn Fn() -> bool,
    ) -> anyhow::Result<Node> {
        let listener = bind(&config.listen)?;
        let address = listener.local_addr().context("the listening socket has no address")?;
        let metrics = Metrics::new("node", config.name.as_str());
        let (http, desk) = (config.http_listen.as_ref(), Arc::<check::Desk>::default());
        let http = http
            .map(|http| telemetry::serve_http(http, &metrics, check::routes(Arc::clone(&desk))))
            .transpose()?;
        let addresses = Addresses {
            wire: reached_at(config, address)?,
            http: http.as_ref().map(|http| http.address().to_string()),
        };
        let client = Client::new(&config.control);
        let started = start::start(config, disk, engine, addresses, &client, stopping)?;
        let Started { store, identity, segments, registration, registered } = started;
        let welcome = Welcome {
            node: identity.node,
            incarnation: identity.incarnation,
            az: letter(Some(config.az)),
        };
        let from = Speaker::Node { node: identity.node, incarnation: identity.incarnation };
        let (cluster, az_latency) = (identity.cluster, config.az_latency);
        let host = Host { cluster, welcome, az_latency };
        let party = Party { cluster, from, az: Some(config.az), az_latency };
        let shared = Arc::new(Shared::new(store, host, party, NodeMetrics::new(&metrics)));
        let looked_at = Arc::downgrade(&shared);
        metrics.look_before_render(move || {
            if let Some(shared) = looked_at.upgrade() {
                shared.metrics.store(&shared.store.stats());
            }
        });

        let loops: Vec<Lines> = (0..=config.reader_threads.max(1))
            .map(|_| Lines::new())
            .collect::<Result<_, _>>()
            .context("cannot create an event loop")?;
        let wakers = loops.iter().map(Lines::waker).collect::<Result<_, _>>();
        let (post, boxes) = mail::boxes(wakers.context("cannot create an event loop's waker")?);
        let stopper = Stopper {
            shared: Arc::clone(&shared),
            post: post.clone(),
            end: Arc::default(),
            sleepers: Arc::default(),
        };
        let mut node = Node { address, http, stopper, threads: Vec::new() };
        let (hydrator, orders) = hydrate::orders();
        let mut loops = loops.into_iter().zip(boxes).enumerate();
        if let Some((_, (lines, mail))) = loops.next() {
            let (shared, post) = (Arc::clone(&shared), post.clone());
            let hold = config.hold_background;
            let parts = Parts { shared, lines, post, mail, listener, hydrator, hold };
            let log = LogLoop::new(parts, segments);
            node.spawn("log", move || log.run())?;
        }
        for (at, (lines, mail)) in loops {
            let reader = Reader::new(at, Arc::clone(&shared), lines, post.clone(), mail);
            node.spawn(&format!("read-{at}"), move || reader.run())?;
        }
        for at in 0..hydrate::COPIES_MAX {
            let (with, mailbox, orders) = (Arc::clone(&shared), post.clone(), orders.clone());
            node.spawn(&format!("hydrate-{at}"), move || {
                hydrate::run(&with, &mailbox, &orders);
                Ok(())
            })?;
        }
        let (with, hold) = (Arc::clone(&shared), config.hold_background);
        node.spawn("background", move || background::run(&with, hold))?;
        let (with, interval) = (Arc::clone(&shared), config.scrub_interval);
        let mailbox = post.clone();
        node.spawn("scrub", move || scrub::run(&with, &mailbox, &desk, interval))?;
        let stopper = node.stopper();
        node.spawn_detached("registrar", move || {
            let outcome = registrar::run(&shared, &post, &client, &registration, registered);
            if let Err(error) = outcome {
                tracing::error!(reason = format!("{error:#}"), "the node ends");
                stopper.finish(Err(error));
            }
        })?;
        let (name, az) = (config.name, config.az);
        tracing::info!(%name, %az, %address, cluster = %cluster, "node serves");
        Ok(node)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (stopper, thread_name) = (self.stopper.clone(), name.to_owned());
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Err(error) = work() {
                let reason = format!("{error:#}");
                tracing::error!(thread = thread_name, reason, "the node ends");
                stopper.finish(Err(error));
            }
        });
        let thread = thread.with_context(|| format!("cannot start the {name} thread"))?;
        self.remember(&thread);
        self.threads.push(thread);
        Ok(())
    }

    /// A thread that may hang in a request to somebody else when the node ends: not waited for.
    fn spawn_detached(
        &mut self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> anyhow::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        let thread = thread.with_context(|| format!("cannot start the {name} thread"))?;
        self.remember(&thread);
        Ok(())
    }

    fn remember(&self, thread: &JoinHandle<()>) {
        let mut sleepers = self.stopper.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers.push(thread.thread().clone());
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its metrics are.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpServer::address)
    }

    /// A handle that ends it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until it has ended, by order or by failure.
    ///
    /// # Errors
    /// The failure.
    pub fn wait(self) -> anyhow::Result<()> {
        let end = Arc::clone(&self.stopper.end);
        let mut outcome = end.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        while outcome.is_none() {
            outcome = end.changed.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
        let result = outcome.take().unwrap_or(Ok(()));
        drop(outcome);
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("a").to_owned();
            if thread.join().is_err() {
                bail!("the {name} thread panicked");
            }
        }
        result
    }

    /// Ends it cleanly.
    ///
    /// # Errors
    /// When it had failed.
    pub fn stop(self) -> anyhow::Result<()> {
        self.stopper.stop();
        self.wait()
    }
}

fn bind(listen: &str) -> anyhow::Result<TcpListener> {
    let address = link::resolve(listen)?;
    TcpListener::bind(address)
        .with_context(|| format!("cannot listen at {listen}; free it or choose another"))
}

/// The address that others are told.
fn reached_at(config: &NodeConfig, bound: SocketAddr) -> anyhow::Result<String> {
    match &config.advertise {
        Some(advertise) => Ok(advertise.clone()),
        None if bound.ip().is_unspecified() => {
            bail!("others cannot reach {bound}; say where they can (advertise), as host:port")
        }
        None => Ok(bound.to_string()),
    }
}
