//! Turns a stopped PostgreSQL data directory into the records that create a volume.
//!
//! - D15: import records are synthetic: no bytes of a log, only `Put`s, at positions below the
//!   directory's last checkpoint. The checkpoint record itself, with its bytes, comes last; the
//!   volume holds a whole database once that one is durable, and not before.
//! - D16: an import that was interrupted starts over: its first record deletes whatever an earlier
//!   attempt left in any group.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use pgwal::keys::{Fork, Key, Rel, Slru};
use pgwal::layout::BLOCK_SIZE;
use seam::name::{FileKind, GLOBAL_TABLESPACE, classify};
use types::{GroupId, Lsn, PageKey, Span};
use wire::Change;

use crate::catalog::{Catalog, file};
use crate::draft::{CATALOG, Draft};

/// Bytes of pages put by one record.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes that a synthetic record takes in the log's positions.
const STEP: u64 = 8;

/// The log positions and the consumer of an import.
pub struct Import<'a> {
    /// Root of the data directory.
    directory: PathBuf,
    catalog: &'a mut Catalog,
    last: Span,
    draft: Draft,
    bytes: usize,
    submit: &'a mut dyn FnMut(protocol::Record) -> anyhow::Result<()>,
}

impl std::fmt::Debug for Import<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Import of {} at {}", self.directory.display(), self.last)
    }
}

/// Imports `directory`, whose last checkpoint is the record `checkpoint` (its bytes in `body`).
/// `last` is the volume's last record so far. `state` is the first content of `Key::State`.
///
/// # Errors
/// When a file cannot be read, or `submit` says so.
pub fn import(
    directory: &Path,
    catalog: &mut Catalog,
    groups: &[GroupId],
    last: Span,
    state: Bytes,
    checkpoint: (Span, Bytes),
    submit: &mut dyn FnMut(protocol::Record) -> anyhow::Result<()>,
) -> anyhow::Result<Span> {
    let mut import = Import {
        directory: directory.to_owned(),
        catalog,
        last,
        draft: Draft::new(),
        bytes: 0,
        submit,
    };
    for group in groups {
        import.draft.delete(*group, (PageKey::MIN, PageKey::MAX));
    }
    import.record()?;
    import.small_files(state)?;
    import.relations("global")?;
    for entry in import.list("base")? {
        let path = format!("base/{entry}");
        if entry.bytes().all(|byte| byte.is_ascii_digit()) {
            import.relations(&path)?;
        }
    }
    for slru in Slru::ALL {
        import.slru(slru)?;
    }
    import.record()?;
    let (span, body) = checkpoint;
    if import.last.end > span.start {
        bail!(
            "the import needs more log positions ({}) than lie below the checkpoint at {}",
            import.last.end,
            span.start
        );
    }
    let record = protocol::Record {
        span,
        prev: import.last.start,
        parts: vec![(CATALOG, Vec::new(), body)],
    };
    (import.submit)(record)?;
    Ok(span)
}

impl Import<'_> {
    fn list(&self, path: &str) -> anyhow::Result<Vec<String>> {
        let full = self.directory.join(path);
        let read = || -> std::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&full)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names)
        };
        read().with_context(|| format!("cannot list {}", full.display()))
    }

    fn read(&self, path: &str) -> anyhow::Result<Bytes> {
        let full = self.directory.join(path);
        fs::read(&full).map(Bytes::from).with_context(|| format!("cannot read {}", full.display()))
    }

    /// Submits what was collected.
    fn record(&mut self) -> anyhow::Result<()> {
        let draft = std::mem::take(&mut self.draft);
        self.bytes = 0;
        if draft.is_empty() {
            return Ok(());
        }
        let start = self.last.end.aligned().max(Lsn(STEP));
        let span = Span { start, end: start.plus(STEP) };
        let parts = draft
            .into_parts()
            .into_iter()
            .map(|(group, changes)| (group, changes, Bytes::new()))
            .collect();
        (self.submit)(protocol::Record { span, prev: self.last.start, parts })?;
        self.last = span;
        Ok(())
    }

    fn put(&mut self, group: GroupId, key: PageKey, content: Bytes) -> anyhow::Result<()> {
        self.bytes += content.len();
        self.draft.push(group, Change::Put(key, content));
        if self.bytes >= CHUNK_BYTES { self.record() } else { Ok(()) }
    }

    fn small_files(&mut self, state: Bytes) -> anyhow::Result<()> {
        let version = self.read("PG_VERSION")?;
        let control = self.read("global/pg_control")?;
        let auto = self.read("postgresql.auto.conf")?;
        let extent = self.catalog.extent_blocks().to_le_bytes().to_vec();
        let files = [
            (file::PG_VERSION, version),
            (file::CONTROL_TEMPLATE, control),
            (file::AUTO_CONF, auto),
            (file::GEOMETRY, extent.into()),
        ];
        for (number, content) in files {
            self.catalog.put_file(&mut self.draft, number, content);
        }
        self.draft.put(Key::State, state);
        self.record()
    }

    /// One directory of relation files, with its map.
    fn relations(&mut self, directory: &str) -> anyhow::Result<()> {
        let (tablespace, database) = match directory.strip_prefix("base/") {
            Some(oid) => (seam::name::DEFAULT_TABLESPACE, oid.parse().context("a database's oid")?),
            None => (GLOBAL_TABLESPACE, 0),
        };
        self.catalog.create_database(&mut self.draft, tablespace, database);
        for name in self.list(directory)? {
            let path = format!("{directory}/{name}");
            if name == "pg_filenode.map" {
                let map = self.read(&path)?;
                self.catalog.put_map(&mut self.draft, tablespace, database, map);
            } else if let FileKind::Relation(segment) = classify(path.as_bytes()) {
                let rel = Rel { tablespace, database, relation: segment.relation };
                let fork = u8::try_from(segment.fork).ok().and_then(Fork::from_number);
                let fork = fork.context("a fork that PostgreSQL 15 does not have")?;
                self.blocks(rel, fork, segment.first_block(), &path)?;
            }
        }
        Ok(())
    }

    fn blocks(&mut self, rel: Rel, fork: Fork, first: u32, path: &str) -> anyhow::Result<()> {
        let content = self.read(path)?;
        self.catalog.create_fork(&mut self.draft, rel, fork);
        let blocks = u32::try_from(content.len() / BLOCK_SIZE).unwrap_or(u32::MAX);
        if blocks > 0 {
            // The last block first: the fork's length is then put once.
            self.catalog.touch(&mut self.draft, rel, fork, first + blocks - 1);
        }
        for (index, block) in (first..).zip(content.chunks_exact(BLOCK_SIZE)) {
            if block.iter().all(|byte| *byte == 0) {
                continue; // what was never put reads as zeros
            }
            let group = self.catalog.touch(&mut self.draft, rel, fork, index);
            let key = Key::Block(rel, fork, index).encode();
            self.put(group, key, Bytes::copy_from_slice(block))?;
        }
        Ok(())
    }

    fn slru(&mut self, slru: Slru) -> anyhow::Result<()> {
        for name in self.list(slru.directory())? {
            let Ok(segment) = u32::from_str_radix(&name, 16) else { continue };
            let content = self.read(&format!("{}/{name}", slru.directory()))?;
            for (index, page) in (0u32..).zip(content.chunks_exact(BLOCK_SIZE)) {
                let key = Key::Slru(slru, segment * 32 + index).encode();
                self.put(CATALOG, key, Bytes::copy_from_slice(page))?;
            }
        }
        Ok(())
    }
}
