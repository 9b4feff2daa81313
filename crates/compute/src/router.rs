//! Splits the log by group: a decoded record becomes parts, each with the changes one group makes.
//!
//! Rules:
//! - D1: every record's bytes are in at least one part, so the log can be rebuilt byte for byte.
//! - D2: a part carries the record's bytes wherever redo must apply them.
//! - D3: what redo cannot know (sizes, extents, what exists) is written out as `Put` and `Delete`.
//! - D4: a record that is not known ends the writer; nothing is skipped.
//!
//! - D19: a record that copies a database finds the pages in the volume already (see
//!   [`crate::copies`]); it only makes them a database's.
//!
//! Pure.

use pgwal::effects::{CatalogChange, CheckpointKind, Effects, Truncated};
use pgwal::keys::{Fork, Key, Slru};
use pgwal::layout::op;
use pgwal::slru::SlruTruncate;
use pgwal::{WalError, vm};
use types::{GroupId, PageKey, Span};
use wire::Change;

use crate::catalog::Catalog;
use crate::draft::{CATALOG, Draft};
use crate::free_space::Signs;
use crate::riders::{Riders, is_carrier};
use crate::xids::Xids;

/// Where `xl_parameter_change` has `track_commit_timestamp`: after six counts and a flag.
const TRACK_COMMIT_TIMESTAMP_AT: usize = 25;
/// Pages of an SLRU segment file.
const SLRU_SEGMENT_PAGES: u32 = 32;

/// A record that cannot be routed (D4).
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// It is not known, or malformed.
    #[error(transparent)]
    Record(#[from] WalError),
    /// It makes a database of pages that are not there.
    #[error(
        "record {span} copies database {database} into tablespace {tablespace}, but its pages are \
         not all in the volume; restart the writer, and use CREATE DATABASE ... STRATEGY wal_log"
    )]
    NotCopied {
        /// The record.
        span: Span,
        /// Tablespace copied to.
        tablespace: u32,
        /// Database copied to.
        database: u32,
    },
}

/// The catalog and the transactions, moved along the log record by record.
#[derive(Debug)]
pub struct Router {
    /// The catalog at the last record routed.
    pub catalog: Catalog,
    /// Transactions seen.
    pub xids: Xids,
    /// `track_commit_timestamp`, as the server was started with.
    pub commit_timestamps: bool,
    /// What waits for a carrier.
    pub riders: Riders,
    /// What concerns free space maps.
    pub signs: Signs,
}

impl Router {
    /// A router that goes on from this catalog.
    #[must_use]
    pub fn new(catalog: Catalog, xids: Xids, commit_timestamps: bool) -> Router {
        let (riders, signs) = (Riders::default(), Signs::default());
        Router { catalog, xids, commit_timestamps, riders, signs }
    }

    /// Splits one record. Records come in log order.
    ///
    /// # Errors
    /// When the record is not known or malformed, or copies what is not there (D4).
    pub fn route(&mut self, record: &pgwal::Record) -> Result<protocol::Record, RouteError> {
        let mut effects = Effects::default();
        effects.read(record)?;
        let mut draft = Draft::new();
        for block in &record.blocks {
            let group = self.catalog.touch(&mut draft, block.rel, block.fork, block.block);
            draft.apply(group, Key::Block(block.rel, block.fork, block.block).encode());
        }
        self.implicit_pages(&mut draft, &effects);
        for change in &effects.catalog {
            self.catalog_change(&mut draft, change, record.span)?;
        }
        if effects.checkpoint == Some(CheckpointKind::Shutdown) {
            self.catalog.void_copies(&mut draft); // every process of before has ended
        }
        if is_carrier(record) {
            self.riders.board(&mut self.catalog, &mut draft);
        }
        self.note_signs(record, &effects);
        self.xids.note(record.span, record.xid, &effects);
        self.note_parameters(record);
        Ok(finish(draft, record))
    }

    /// Whether commits set timestamps is what the log last said, as in recovery.
    fn note_parameters(&mut self, record: &pgwal::Record) {
        let change = record.rmid == op::rm::XLOG && record.op() == op::xlog::PARAMETER_CHANGE;
        if change && let Some(on) = record.main.get(TRACK_COMMIT_TIMESTAMP_AT) {
            self.commit_timestamps = *on != 0;
        }
    }

    /// VACUUM marks pages as all-visible, frees their line pointers, and at its end changes the
    /// table's row in place.
    fn note_signs(&mut self, record: &pgwal::Record, effects: &Effects) {
        let vacuum = match record.rmid {
            op::rm::HEAP2 => {
                let kind = record.info & op::heap_flags::OP_MASK;
                kind == op::heap2::VISIBLE || kind == op::heap2::VACUUM
            }
            op::rm::HEAP => record.info & op::heap_flags::OP_MASK == op::heap::INPLACE,
            _ => false,
        };
        self.signs.vacuum += u64::from(vacuum);
        self.signs.checkpoints += u64::from(effects.checkpoint.is_some());
    }

    fn implicit_pages(&mut self, draft: &mut Draft, effects: &Effects) {
        for clear in &effects.vm_clear {
            let block = vm::place(clear.heap_block).block;
            if let Some(group) = self.catalog.group_of(clear.rel, Fork::Vm, block)
                && self.catalog.blocks(clear.rel, Fork::Vm).is_some_and(|blocks| block < blocks)
            {
                draft.apply(group, Key::Block(clear.rel, Fork::Vm, block).encode());
            }
        }
        for (slru, page) in &effects.slru {
            draft.apply(CATALOG, Key::Slru(*slru, *page).encode());
        }
        if self.commit_timestamps
            && let Some(xact) = &effects.xact
        {
            for page in xact.commit_ts_pages() {
                draft.apply(CATALOG, Key::Slru(Slru::CommitTs, page).encode());
            }
        }
        for truncate in &effects.slru_truncate {
            for range in slru_ranges(*truncate) {
                draft.delete(CATALOG, range);
            }
        }
        if effects.state {
            draft.apply(CATALOG, Key::State.encode());
        }
    }

    fn catalog_change(
        &mut self,
        draft: &mut Draft,
        change: &CatalogChange,
        span: Span,
    ) -> Result<(), RouteError> {
        let catalog = &mut self.catalog;
        match change {
            CatalogChange::Created(rel, fork) => catalog.create_fork(draft, *rel, *fork),
            CatalogChange::Dropped(rel) => catalog.drop_relation(draft, *rel),
            CatalogChange::Truncated(truncated) => truncate(catalog, draft, truncated),
            CatalogChange::DatabaseCreated { tablespace, database } => {
                catalog.create_database(draft, *tablespace, *database);
            }
            CatalogChange::DatabaseCopied {
                tablespace,
                database,
                from_tablespace,
                from_database,
            } => {
                let (tablespace, database) = (*tablespace, *database);
                let from = (*from_tablespace, *from_database);
                if !catalog.adopt_copy(draft, from, (tablespace, database)) {
                    return Err(RouteError::NotCopied { span, tablespace, database });
                }
            }
            CatalogChange::DatabaseDropped { tablespace, database } => {
                catalog.drop_database(draft, *tablespace, *database);
            }
            CatalogChange::TablespaceCreated { tablespace, path } => {
                catalog.create_tablespace(draft, *tablespace, path);
            }
            CatalogChange::TablespaceDropped(oid) => catalog.drop_tablespace(draft, *oid),
            CatalogChange::RelMap { tablespace, database, file } => {
                catalog.put_map(draft, *tablespace, *database, file.clone());
            }
            CatalogChange::Prepared { xid, file } => {
                catalog.put_prepared(draft, *xid, file.clone());
            }
            CatalogChange::PreparedEnded(xid) => catalog.end_prepared(draft, *xid),
            // Progress of subscriptions, and rewrite maps of logical slots, stay with the host, as
            // the slots and subscriptions' workers themselves do: not yet part of the volume.
            CatalogChange::Origin { .. } | CatalogChange::LogicalMapping(_) => {}
        }
        Ok(())
    }
}

fn truncate(catalog: &mut Catalog, draft: &mut Draft, cut: &Truncated) {
    if cut.heap {
        catalog.truncate(draft, cut.rel, Fork::Main, cut.blocks);
    }
    if cut.vm {
        let (kept, partial) = vm::truncated(cut.blocks);
        if partial && let Some(group) = catalog.group_of(cut.rel, Fork::Vm, kept - 1) {
            draft.apply(group, Key::Block(cut.rel, Fork::Vm, kept - 1).encode());
        }
        catalog.truncate(draft, cut.rel, Fork::Vm, kept);
    }
    if cut.fsm {
        let (kept, partial) = pgwal::fsm::truncated(cut.blocks);
        if partial.is_some()
            && let Some(group) = catalog.group_of(cut.rel, Fork::Fsm, kept - 1)
        {
            draft.apply(group, Key::Block(cut.rel, Fork::Fsm, kept - 1).encode());
        }
        catalog.truncate(draft, cut.rel, Fork::Fsm, kept);
    }
}

/// Gives the parts their bytes (D1, D2).
fn finish(draft: Draft, record: &pgwal::Record) -> protocol::Record {
    let mut parts: Vec<(GroupId, Vec<Change>, bytes::Bytes)> = draft
        .into_parts()
        .into_iter()
        .map(|(group, changes)| {
            let applies = changes.iter().any(|change| matches!(change, Change::Apply(_)));
            let body = if applies { record.bytes.clone() } else { bytes::Bytes::new() };
            (group, changes, body)
        })
        .collect();
    if parts.is_empty() {
        parts.push((CATALOG, Vec::new(), bytes::Bytes::new()));
    }
    if parts.iter().all(|(_, _, body)| body.is_empty())
        && let Some((_, _, body)) = parts.first_mut()
    {
        *body = record.bytes.clone();
    }
    protocol::Record { span: record.span, prev: record.prev, parts }
}

/// Key ranges of the pages that a truncation removes.
fn slru_ranges(truncate: SlruTruncate) -> Vec<(PageKey, PageKey)> {
    let (slru, from, to) = match truncate {
        SlruTruncate::Before { slru, page } => {
            // Everything in the half of the circle before the segment of the first page needed.
            let pages = slru_pages(slru);
            let to = page - page % SLRU_SEGMENT_PAGES;
            (slru, (to + pages - pages / 2) % pages, to)
        }
        SlruTruncate::Members { from_page, to_page } => {
            let segment = |page: u32| page - page % SLRU_SEGMENT_PAGES;
            (Slru::MultiMembers, segment(from_page), segment(to_page))
        }
    };
    let range = |from: u32, to: u32| (Key::Slru(slru, from).encode(), Key::Slru(slru, to).encode());
    if from <= to { vec![range(from, to)] } else { vec![range(from, u32::MAX), range(0, to)] }
}

/// Pages of an area before its numbers wrap round.
fn slru_pages(slru: Slru) -> u32 {
    let per_page: u64 = match slru {
        Slru::Xact => 32_768,
        Slru::MultiOffsets => 2_048,
        Slru::MultiMembers => 1_636,
        Slru::CommitTs => 819,
    };
    u32::try_from((1u64 << 32).div_ceil(per_page)).expect("fewer pages than entries")
}
