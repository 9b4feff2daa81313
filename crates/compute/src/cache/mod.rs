//! The local page cache: relation files that are filled when PostgreSQL reads them and emptied when
//! they take too much room. Rules C1.. are this directory's README's.
//!
//! Reading order: [`local`] (one segment file and its map), [`claimants`], [`fill`] (absent to
//! present), [`server`] (requests from PostgreSQL's processes), `pace`, `pool` and [`storage`] (pages
//! from storage nodes), [`resident`] (what is there, and what goes next), [`evict`] (present to
//! absent), [`page`] (what eviction looks at in a page), [`writer`] (what a writer's cache knows of its
//! volume), [`start`] (all of it together).

pub mod claimants;
pub mod evict;
pub mod fill;
pub mod local;
mod pace;
pub mod page;
mod pool;
pub mod resident;
pub mod server;
pub mod start;
pub mod stats;
pub mod storage;
pub mod writer;

use bytes::Bytes;
use pgwal::keys::{Fork, Rel};
use seam::SegmentName;
use types::Lsn;

pub use claimants::Claimants;
pub use evict::{Evictor, Limits};
pub use fill::Filler;
pub use server::Server;
pub use start::{Cache, CacheConfig};
pub use stats::CacheStats;
pub use storage::{Route, StorageReader, VolumeView};
pub use writer::WriterLog;

/// Why pages could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Nobody can serve them now: try again (rule C3: a reader waits, loudly).
    #[error("no storage node can serve {what} now: {why}")]
    Unavailable {
        /// The pages.
        what: String,
        /// What each of those asked said.
        why: String,
    },
    /// Trying again will not help: the reader gets an error.
    #[error("{what} cannot be read: {why}")]
    Broken {
        /// The pages.
        what: String,
        /// Why.
        why: String,
    },
}

/// Where pages come from: the volume at the read point of the moment (a writer's is the durable
/// point, a replica's its replay position).
pub trait PageSource: Send + Sync {
    /// The blocks' content, in their order; `None` where no version exists, which reads as zeros.
    ///
    /// # Errors
    /// When one of them cannot be had.
    fn pages(&self, rel: Rel, fork: Fork, blocks: &[u32])
    -> Result<Vec<Option<Bytes>>, FetchError>;

    /// End of the newest record that changed each block, without building it.
    ///
    /// # Errors
    /// When one of them cannot be told.
    fn versions(
        &self,
        rel: Rel,
        fork: Fork,
        blocks: &[u32],
    ) -> Result<Vec<Option<Lsn>>, FetchError>;
}

/// What eviction must know of the log (rule R4).
pub trait Log: Send + Sync {
    /// The durable point (a replica: its replay position).
    fn durable(&self) -> Lsn;

    /// Up to where PostgreSQL has inserted into its log by now (`pg_current_wal_insert_lsn()`; a
    /// replica: its replay position).
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked: nothing is evicted then.
    fn insert_position(&self) -> anyhow::Result<Lsn>;

    /// Makes PostgreSQL flush what it has inserted: records that no commit follows, such as a
    /// read's pruning, may otherwise stay in its memory for as long as nobody writes.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    fn hurry(&self) -> anyhow::Result<()>;

    /// A position up to which the log has been looked through, and the start of the first record of
    /// the oldest transaction that was running there ([`Lsn::MAX`]: none; [`Lsn::ZERO`]: unknown).
    /// A replica runs none.
    fn running(&self) -> (Lsn, Lsn);
}

/// The relation and fork that a segment file belongs to.
#[must_use]
pub fn fork_of(name: &SegmentName) -> (Rel, Fork) {
    let rel = Rel { tablespace: name.tablespace, database: name.database, relation: name.relation };
    let fork = u8::try_from(name.fork).ok().and_then(Fork::from_number).unwrap_or(Fork::Main);
    (rel, fork)
}
