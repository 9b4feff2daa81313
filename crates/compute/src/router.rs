//! Splits the log by group: a decoded record becomes parts, each with the changes one group makes.
//!
//! Rules:
//! - D1: every record's bytes are in at least one part, so the log can be rebuilt byte for byte.
//! - D2: a part carries the record's bytes wherever redo must apply them.
//! - D3: what redo cannot know (sizes, extents, what exists) is written out as `Put` and `Delete`.
//! - D4: a record that is not known ends the writer; nothing is skipped.
//!
//! Pure. The one thing it cannot do itself is to copy a database ([`Routed::Copy`]): that needs
//! pages from storage.

use pgwal::effects::{CatalogChange, Effects, Truncated};
use pgwal::keys::{Fork, Key, Slru};
use pgwal::layout::op;
use pgwal::slru::SlruTruncate;
use pgwal::{WalError, vm};
use types::{GroupId, PageKey};
use wire::Change;

use crate::catalog::Catalog;
use crate::draft::{CATALOG, Draft};
use crate::xids::Xids;

/// Where `xl_parameter_change` has `track_commit_timestamp`: after six counts and a flag.
const TRACK_COMMIT_TIMESTAMP_AT: usize = 25;
/// Pages of an SLRU segment file.
const SLRU_SEGMENT_PAGES: u32 = 32;

/// What has become of a record.
#[derive(Debug)]
pub enum Routed {
    /// Ready to be submitted.
    Record(protocol::Record),
    /// A database is copied by this record: its pages are to be read and added first.
    Copy(DatabaseCopy),
}

/// A record that copies a database directory (`STRATEGY file_copy`, `SET TABLESPACE`).
#[derive(Debug)]
pub struct DatabaseCopy {
    /// The record without the copied blocks.
    pub record: protocol::Record,
    /// Forks to copy: source, destination, length in blocks.
    pub forks: Vec<(pgwal::keys::Rel, pgwal::keys::Rel, Fork, u32)>,
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
    /// Small files waiting for a record to ride on.
    pub files: Vec<(u32, bytes::Bytes)>,
}

impl Router {
    /// A router that goes on from this catalog.
    #[must_use]
    pub fn new(catalog: Catalog, xids: Xids, commit_timestamps: bool) -> Router {
        Router { catalog, xids, commit_timestamps, files: Vec::new() }
    }

    /// Splits one record. Records come in log order.
    ///
    /// # Errors
    /// When the record is not known or malformed (D4).
    pub fn route(&mut self, record: &pgwal::Record) -> Result<Routed, WalError> {
        let effects = pgwal::effects(record)?;
        let mut draft = Draft::new();
        for block in &record.blocks {
            let group = self.catalog.touch(&mut draft, block.rel, block.fork, block.block);
            draft.apply(group, Key::Block(block.rel, block.fork, block.block).encode());
        }
        self.implicit_pages(&mut draft, &effects);
        let mut copies = Vec::new();
        for change in &effects.catalog {
            self.catalog_change(&mut draft, change, &mut copies);
        }
        for (number, content) in std::mem::take(&mut self.files) {
            self.catalog.put_file(&mut draft, number, content);
        }
        self.xids.note(record.span, record.xid, &effects);
        self.note_parameters(record);
        let record = finish(draft, record);
        Ok(if copies.is_empty() {
            Routed::Record(record)
        } else {
            Routed::Copy(DatabaseCopy { record, forks: copies })
        })
    }

    /// Whether commits set timestamps is what the log last said, as in recovery.
    fn note_parameters(&mut self, record: &pgwal::Record) {
        let change = record.rmid == op::rm::XLOG && record.op() == op::xlog::PARAMETER_CHANGE;
        if change && let Some(on) = record.main.get(TRACK_COMMIT_TIMESTAMP_AT) {
            self.commit_timestamps = *on != 0;
        }
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
        copies: &mut Vec<(pgwal::keys::Rel, pgwal::keys::Rel, Fork, u32)>,
    ) {
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
                catalog.drop_database(draft, *tablespace, *database);
                catalog.create_database(draft, *tablespace, *database);
                if let Some(map) = catalog.maps().get(&(*from_tablespace, *from_database)).cloned()
                {
                    catalog.put_map(draft, *tablespace, *database, map);
                }
                let source = catalog.forks_of_database(*from_tablespace, *from_database);
                copies.extend(source.map(|(from, fork, blocks)| {
                    let to = pgwal::keys::Rel {
                        tablespace: *tablespace,
                        database: *database,
                        relation: from.relation,
                    };
                    (from, to, fork, blocks)
                }));
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
