//! Makes the server write the records that riders ride on, and waits until those are durable.
//!
//! One session, connected when first needed and again after failures. Whoever comes while it is at
//! work waits: what is carried is small or has time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use postgres::error::SqlState;

use crate::riders::{LOAD_BYTES, PREFIX, Rider};
use crate::supervise::ServerConfig;
use crate::volume_view::Shared;

/// Attempts at a server that cannot be talked to, and the pause between them.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It starts, or replays its log.
    Recovering,
    /// It serves and writes.
    Running,
}

/// See the module's description.
pub struct Carrier {
    shared: Arc<Shared>,
    server: ServerConfig,
    session: Mutex<Option<postgres::Client>>,
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Carrier")
    }
}

impl Carrier {
    /// A carrier to this server's log.
    #[must_use]
    pub fn new(shared: Arc<Shared>, server: ServerConfig) -> Carrier {
        Carrier { shared, server, session: Mutex::new(None) }
    }

    /// Puts the riders into the volume; returns when they are durable there.
    ///
    /// # Errors
    /// When the server cannot be made to write; some of the riders may then be in the volume.
    pub fn carry(&self, riders: Vec<Rider>) -> anyhow::Result<()> {
        if riders.is_empty() {
            return Ok(());
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = riders.iter().map(Rider::bytes).sum();
        // Before any record is asked for: the driver's thread finds them when it routes it.
        let last = self.shared.router_mut().riders.add(riders);
        let mut attempt = 1;
        // Only a transaction of ours that began its commit after the last rider had left says that all
        // are durable: they may have left with a carrier whose session ended before its commit was,
        // or with a message of somebody else's that has our prefix.
        loop {
            match self.write_messages(&mut session, bytes / LOAD_BYTES + 1) {
                Ok(()) if self.shared.router().riders.has_left(last) => return Ok(()),
                Ok(()) => {}
                Err(error) if attempt == ATTEMPTS => {
                    self.shared.router_mut().riders.withdraw();
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "the carriers' session ended");
                    *session = None;
                    attempt += 1;
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Whether the server runs or is in recovery, when it takes no connections or writes nothing.
    ///
    /// # Errors
    /// When that cannot be found out within `patience`.
    pub fn mood(&self, patience: Duration) -> anyhow::Result<Mood> {
        let begun = Instant::now();
        loop {
            let asked = self.server.connect().and_then(|mut client| {
                client.query_one("SELECT pg_is_in_recovery()", &[])?.try_get(0)
            });
            match asked {
                Ok(true) => return Ok(Mood::Recovering),
                Ok(false) => return Ok(Mood::Running),
                Err(error) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
                    // It says so when it stops, too, and did so in its lock file before.
                    let stopping = self.server.says().is_some_and(|status| status == "stopping");
                    ensure!(!stopping, "PostgreSQL is stopping");
                    return Ok(Mood::Recovering);
                }
                Err(error) if begun.elapsed() > patience => {
                    return Err(error).context("cannot connect to PostgreSQL");
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Has so many carriers written, in one transaction whose commit waits for the quorum.
    fn write_messages(
        &self,
        session: &mut Option<postgres::Client>,
        count: usize,
    ) -> anyhow::Result<()> {
        if session.is_none() {
            let mut client = self.server.connect().context("cannot connect to PostgreSQL")?;
            client.batch_execute("SET synchronous_commit = local")?;
            *session = Some(client);
        }
        let client = session.as_mut().context("just connected")?;
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let sql = "SELECT count(pg_logical_emit_message(true, $2::text, '')) \
                   FROM generate_series(1, $1::int4)";
        client.query_one(sql, &[&count, &PREFIX]).context("cannot write to PostgreSQL's log")?;
        Ok(())
    }
}
