//! What a record changes besides the blocks it references, for every built-in resource manager of
//! PostgreSQL 15. A record that is not known is an error: nothing is ever skipped.
//!
//! The rules are those of recovery (`rm_redo`), not of normal running: what recovery would change
//! on replaying the record is what the volume must change. Not listed, on purpose: free space maps
//! (not in the log; recovery's updates are hints) and `pg_subtrans` (empty after every start).

use std::collections::BTreeSet;

use bytes::Bytes;
use smallvec::SmallVec;
use types::Lsn;

use crate::error::WalError;
use crate::keys::{Fork, Rel, Slru};
use crate::layout::op::{self, rm};
use crate::record::{Record, Source};
use crate::slru::{self, SlruTruncate};
use crate::{fsm, vm};

mod catalog;
mod heap;
mod slrus;
mod xact;
mod xlog;

/// Everything a record changes besides its explicit block references.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Visibility-map bits that redo must clear.
    pub vm_clear: SmallVec<[VmClear; 2]>,
    /// SLRU pages that redo must apply the record to, each once. Commit timestamps set by commit
    /// records are not here: see [`Xact::commit_ts_pages`].
    pub slru: SmallVec<[(Slru, u32); 2]>,
    /// SLRU pages that the record removes.
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
        /// The progress may move backwards. The local position that belongs to it is the record's
        /// end.
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

impl Effects {
    /// As [`effects`], into effects that are empty so far: for whoever meets every record of a log, since
    /// handing the struct on costs more than most records do.
    ///
    /// # Errors
    /// As [`effects`]; then what is here is of no use.
    pub fn read(&mut self, record: &Record<impl Source>) -> Result<(), WalError> {
        let op = kind(record)?;
        self.saw_xid(record.xid);
        if let Some(xid) = record.top_xid {
            self.saw_xid(xid);
        }
        let read = match record.rmid {
            rm::XLOG => xlog::read(record, op, self),
            rm::XACT => xact::read(record, op, self),
            rm::SMGR => catalog::smgr(record, op, self),
            rm::CLOG => slrus::clog(record, op, self),
            rm::DBASE => catalog::dbase(record, op, self),
            rm::TBLSPC => catalog::tblspc(record, op, self),
            rm::MULTIXACT => slrus::multixact(record, op, self),
            rm::RELMAP => catalog::relmap(record, self),
            rm::STANDBY => xlog::standby(record, op, self),
            rm::HEAP2 => heap::heap2(record, op, self),
            rm::HEAP => heap::heap(record, op, self),
            rm::COMMIT_TS => slrus::commit_ts(record, op, self),
            rm::REPLORIGIN => catalog::replorigin(record, op, self),
            // Indexes, sequences and generic records change the blocks they reference, and messages
            // nothing.
            _ => Some(()),
        };
        read.ok_or_else(|| malformed(record, "its data ends too early or contradicts itself"))
    }

    /// Blocks that the record changes without referencing them, each once: pages of visibility
    /// maps whose bits it clears, and the last page that a truncation leaves of a map. Redo must
    /// apply the record to those that exist.
    #[must_use]
    pub fn implicit_blocks(&self) -> BTreeSet<(Rel, Fork, u32)> {
        let mut blocks: BTreeSet<_> =
            self.vm_clear.iter().map(|clear| (clear.rel, Fork::Vm, clear.vm_block())).collect();
        for change in &self.catalog {
            if let CatalogChange::Truncated(cut) = change {
                blocks.extend(cut.tails().map(|(fork, block)| (cut.rel, fork, block)));
            }
        }
        blocks
    }

    /// Whether the record changes nothing besides its block references.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.vm_clear.is_empty()
            && self.slru.is_empty()
            && self.slru_truncate.is_empty()
            && !self.state
            && self.catalog.is_empty()
            && self.xact.is_none()
    }

    /// The record makes up a shutdown checkpoint: no transaction runs at its end.
    #[must_use]
    pub fn is_shutdown_checkpoint(&self) -> bool {
        self.checkpoint == Some(CheckpointKind::Shutdown)
    }

    fn saw_xid(&mut self, xid: u32) {
        self.latest_xid = slru::xid_latest(self.latest_xid, xid);
    }

    fn saw_xids(&mut self, xids: &[u32]) {
        for xid in xids {
            self.saw_xid(*xid);
        }
    }

    /// All transactions before this one may be assigned. (Just after a wraparound that says nothing
    /// new: the last one before it has records of its own.)
    fn saw_next_xid(&mut self, next: u32) {
        self.saw_xid(next.saturating_sub(1));
    }
}

impl VmClear {
    /// Block of the map fork that holds the bits.
    #[must_use]
    pub fn vm_block(&self) -> u32 {
        vm::place(self.heap_block).block
    }
}

impl Truncated {
    /// Blocks that stay of a fork; `None` when the record does not cut it.
    #[must_use]
    pub fn blocks_of(&self, fork: Fork) -> Option<u32> {
        match fork {
            Fork::Main => self.heap.then_some(self.blocks),
            Fork::Vm => self.vm.then(|| vm::truncated(self.blocks).0),
            Fork::Fsm => self.fsm.then(|| fsm::truncated(self.blocks).0),
            Fork::Init => None,
        }
    }

    /// Map blocks that stay but lose entries: the record must be applied to them, if they exist.
    pub fn tails(&self) -> impl Iterator<Item = (Fork, u32)> {
        let (vm_blocks, vm_partial) = vm::truncated(self.blocks);
        let (fsm_blocks, fsm_partial) = fsm::truncated(self.blocks);
        let vm = (self.vm && vm_partial).then(|| (Fork::Vm, vm_blocks - 1));
        let fsm = (self.fsm && fsm_partial.is_some()).then(|| (Fork::Fsm, fsm_blocks - 1));
        vm.into_iter().chain(fsm)
    }
}

impl Xact {
    /// Pages of `pg_commit_ts` that redo must apply the record to when `track_commit_timestamp` is
    /// on (the record cannot tell); each once, none unless it is a commit.
    #[must_use]
    pub fn commit_ts_pages(&self) -> SmallVec<[u32; 2]> {
        if !self.kind.is_commit() {
            return SmallVec::new();
        }
        slru::pages_of(self.xid, &self.subxacts, slru::commit_ts_page)
    }
}

/// What `record` changes besides its block references.
///
/// # Errors
/// [`WalError::Unknown`], [`WalError::CustomManager`] or [`WalError::Malformed`].
pub fn effects(record: &Record<impl Source>) -> Result<Effects, WalError> {
    let mut effects = Effects::default();
    effects.read(record)?;
    Ok(effects)
}

/// The record's type with the manager's flag bits taken off, if PostgreSQL 15 has it.
///
/// # Errors
/// [`WalError::Unknown`] or [`WalError::CustomManager`].
pub fn kind(record: &Record<impl Source>) -> Result<u8, WalError> {
    let (start, rmid, info) = (record.span.start, record.rmid, record.info);
    match op::identify(rmid, info) {
        Some(op) => Ok(op),
        None if rmid >= op::CUSTOM_FIRST => Err(WalError::CustomManager { start, rmid }),
        None => Err(WalError::Unknown { start, rmid, manager: op::name(rmid), info }),
    }
}

fn malformed(record: &Record<impl Source>, what: &'static str) -> WalError {
    let (start, rmid, info) = (record.span.start, record.rmid, record.info);
    WalError::Malformed { start, rmid, info, what }
}
