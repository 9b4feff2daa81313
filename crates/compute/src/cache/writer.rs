//! What the cache knows of a writer's volume and log, from the driver's shared view and from
//! PostgreSQL itself.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use pgwal::keys::{Fork, Rel};
use types::{GroupId, Lsn, VolumeId};

use crate::cache::{Log, Route, VolumeView};
use crate::supervise::ServerConfig;
use crate::volume_view::Shared;

impl VolumeView for Shared {
    fn volume(&self) -> VolumeId {
        Shared::volume(self)
    }

    fn group_of(&self, rel: Rel, fork: Fork, block: u32) -> Option<GroupId> {
        self.router().catalog.group_of(rel, fork, block)
    }

    fn route(&self, group: GroupId) -> Route {
        let (read_point, complete_to, nodes) = self.readers(group);
        let addresses = self.addresses();
        let address = |node| addresses.get(&node).map(|address| (node, address.clone()));
        let readers = nodes.into_iter().filter_map(address).collect();
        Route { read_point, complete_to, readers, suspects: self.suspects() }
    }
}

/// A writer's log, as eviction sees it.
pub struct WriterLog {
    shared: Arc<Shared>,
    server: ServerConfig,
    session: Mutex<Option<postgres::Client>>,
}

impl std::fmt::Debug for WriterLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterLog").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl WriterLog {
    /// Asks this server where it inserts; connects when first needed, and again after failures.
    #[must_use]
    pub fn new(shared: Arc<Shared>, server: ServerConfig) -> WriterLog {
        WriterLog { shared, server, session: Mutex::new(None) }
    }
}

impl WriterLog {
    /// Runs a query whose one result is a log position.
    fn ask(&self, query: &str) -> anyhow::Result<Lsn> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if session.is_none() {
            *session = Some(self.server.connect().context("cannot connect to PostgreSQL")?);
        }
        let Some(client) = session.as_mut() else { anyhow::bail!("not connected to PostgreSQL") };
        let row = client.query_one(query, &[]);
        if row.is_err() {
            *session = None;
        }
        let text: String = row?.try_get(0)?;
        Ok(text.parse()?)
    }
}

impl Log for WriterLog {
    fn durable(&self) -> Lsn {
        self.shared.vdl().end
    }

    fn insert_position(&self) -> anyhow::Result<Lsn> {
        self.ask("select pg_current_wal_insert_lsn()::text")
            .context("cannot ask PostgreSQL where it inserts")
    }

    fn hurry(&self) -> anyhow::Result<()> {
        // A transaction's message: its commit flushes everything before it.
        self.ask("select pg_logical_emit_message(true, 'sixfold', '')::text")
            .map(drop)
            .context("cannot make PostgreSQL flush its log")
    }

    fn running(&self) -> (Lsn, Lsn) {
        self.shared.running()
    }
}
