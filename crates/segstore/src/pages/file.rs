//! A finished page file: lookups by key. Index and filter are read on first use, so that opening a
//! store does not depend on how much it holds. Whatever fails a check is remembered here ([`Bad`]).

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use env::{Disk, DiskError, ErrorKind, File, Mode};
use types::{Engine, Lsn, PageKey};

use super::bad::{Bad, after};
use super::block::{self, Binding, BlockAt, FOOTER, Footer, Section};
use super::writer::file_name;
use crate::codec::Malformed;
use crate::error::StoreError;
use crate::version::{Found, Place, RangeDelete, Version, newest_delete};

/// What the manifest knows of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FileMeta {
    /// Its name here.
    pub(crate) number: u64,
    /// Bound into its checksums.
    pub(crate) birth: u64,
    pub(crate) bytes: u64,
    /// Versions end in `(low, high]`.
    pub(crate) low: Lsn,
    pub(crate) high: Lsn,
    pub(crate) images: u64,
    pub(crate) deltas: u64,
    pub(crate) deletes: u64,
    /// Of a base file, the key at which its range begins; none in an upper (`layers`).
    pub(crate) from: Option<PageKey>,
}

/// A finished page file.
pub(crate) struct PageFile {
    file: Arc<dyn File>,
    path: PathBuf,
    binding: Binding,
    pub(crate) meta: FileMeta,
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// The block looked up last, by its offset: the file never changes, and scans and neighbouring
    /// reads ask for it again.
    recent: Mutex<Option<(u64, Entries)>>,
    bad: Mutex<Bad>,
}

/// A block, decoded.
type Entries = Arc<Vec<(PageKey, Version)>>;

/// What lookups need in memory.
pub(crate) struct Loaded {
    pub(crate) blocks: Vec<BlockAt>,
    filter: Bytes,
    pub(crate) deletes: Vec<RangeDelete>,
}

impl PageFile {
    pub(crate) fn new(
        file: Arc<dyn File>,
        path: PathBuf,
        binding: Binding,
        meta: FileMeta,
    ) -> PageFile {
        let (loaded, recent, bad) = Default::default();
        PageFile { file, path, binding, meta, loaded, recent, bad }
    }

    /// Opens a file that a manifest names. Its content is checked as it is used.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        binding: Binding,
        meta: FileMeta,
    ) -> Result<PageFile, DiskError> {
        let path = dir.join(file_name(meta.number));
        let file = disk.open(&path, Mode::Read)?;
        Ok(PageFile::new(file, path, binding, meta))
    }

    pub(crate) fn name(&self) -> String {
        file_name(self.meta.number)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the file has now.
    pub(crate) fn length(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    pub(crate) fn damaged(&self, offset: u64, why: &str) -> StoreError {
        let what = format!("{} at offset {offset}", self.path.display());
        StoreError::Damaged { what, why: why.to_owned() }
    }

    fn bad(&self) -> MutexGuard<'_, Bad> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found damaged, for people; `None` while nothing was.
    pub(crate) fn damage(&self) -> Option<String> {
        self.bad().why().map(str::to_owned)
    }

    /// Every damaged place found so far: offsets of blocks, or [`super::bad::WHOLE`].
    pub(crate) fn damaged_places(&self) -> Vec<u64> {
        self.bad().places().collect()
    }

    /// Keys of which versions cannot be read.
    pub(crate) fn holes(&self) -> Vec<Range<PageKey>> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.bad().holes(loaded)
    }

    /// Raw bytes, short at the end of the file.
    pub(crate) fn raw(&self, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let length = length.min(self.meta.bytes.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        match self.file.read_at(offset, &mut bytes) {
            Ok(()) => Ok(Bytes::from(bytes)),
            Err(error) if error.kind == ErrorKind::Eof => Err(self.damaged(offset, "cut short")),
            // What the medium does not give back is as good as damaged: it is on other nodes.
            Err(error) => Err(self.damaged(offset, &error.to_string())),
        }
    }

    fn section(&self, section: Section) -> Result<Bytes, StoreError> {
        let raw = self.raw(section.offset, section.length)?;
        let opened = self.binding.open(section.offset, raw);
        opened.map_err(|Malformed(why)| self.damaged(section.offset, why))
    }

    /// Index, filter and deletions.
    pub(crate) fn loaded(&self) -> Result<Arc<Loaded>, StoreError> {
        let mut place = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = &*place {
            return Ok(Arc::clone(loaded));
        }
        let loaded = Arc::new(self.read_sections().inspect_err(|error| {
            self.note_sections(error);
        })?);
        *place = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    /// Checks what [`PageFile::loaded`] may know from memory.
    pub(super) fn read_sections_again(&self) -> Result<(), StoreError> {
        self.uncache(0, self.meta.bytes);
        self.read_sections().map(drop)
    }

    /// Makes the next read of these bytes ask the medium.
    pub(super) fn uncache(&self, offset: u64, length: u64) {
        self.file.uncache(offset, length);
    }

    pub(super) fn note_sections(&self, error: &StoreError) -> bool {
        self.bad().add_sections(error.to_string())
    }

    fn read_sections(&self) -> Result<Loaded, StoreError> {
        let at = self.meta.bytes.checked_sub(FOOTER as u64);
        let at = at.ok_or_else(|| self.damaged(0, "too short for a page file"))?;
        let bad = |offset| move |Malformed(why)| self.damaged(offset, why);
        let footer = self.raw(at, FOOTER as u64)?;
        let footer = Footer::decode(self.binding, at, footer).map_err(bad(at))?;
        let index = self.section(footer.index)?;
        let deletes = self.section(footer.deletes)?;
        Ok(Loaded {
            blocks: block::get_index(&index, self.meta.bytes).map_err(bad(footer.index.offset))?,
            filter: self.section(footer.filter)?,
            deletes: block::get_deletes(&deletes).map_err(bad(footer.deletes.offset))?,
        })
    }

    /// Bytes of blocks that begin in these ranges, which are in order.
    pub(crate) fn bytes_in(&self, ranges: &[Range<PageKey>]) -> Result<u64, StoreError> {
        let blocks = &self.loaded()?.blocks;
        let begun = |key: &PageKey| blocks.partition_point(|block| block.first < *key);
        let of = |range: &Range<PageKey>| &blocks[begun(&range.start)..begun(&range.end)];
        Ok(ranges.iter().flat_map(of).map(|block| u64::from(block.length)).sum())
    }

    /// Entries of one block, checked.
    pub(crate) fn block(&self, at: &BlockAt) -> Result<Vec<(PageKey, Version)>, StoreError> {
        self.read_block(at).inspect_err(|error| {
            self.note_block(at, error);
        })
    }

    pub(super) fn read_block(&self, at: &BlockAt) -> Result<Vec<(PageKey, Version)>, StoreError> {
        let content = self.section(Section { offset: at.offset, length: u64::from(at.length) })?;
        block::entries(&content).map_err(|Malformed(why)| self.damaged(at.offset, why))
    }

    /// Remembers that a block is damaged, and which keys' versions it held: from its first key to the
    /// next block's, both included, since a key's versions may run over several blocks.
    pub(super) fn note_block(&self, at: &BlockAt, error: &StoreError) -> bool {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let next = loaded.and_then(|loaded| {
            let next = loaded.blocks.partition_point(|block| block.offset <= at.offset);
            loaded.blocks.get(next).map(|block| after(&block.first))
        });
        self.bad().add_block(at.offset, at.first..next.unwrap_or(PageKey::MAX), error.to_string())
    }

    /// [`PageFile::block`], unless it is the one looked up last.
    fn block_again(&self, at: &BlockAt) -> Result<Entries, StoreError> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((offset, entries)) = &*recent()
            && *offset == at.offset
        {
            return Ok(Arc::clone(entries));
        }
        let entries = Arc::new(self.block(at)?);
        *recent() = Some((at.offset, Arc::clone(&entries)));
        Ok(entries)
    }

    /// Adds to `found` what this file knows of the page above `after` and at or below the read point.
    pub(crate) fn collect(
        &self,
        engine: &dyn Engine,
        key: &PageKey,
        (after, read_point): (Lsn, Lsn),
        found: &mut Found,
    ) -> Result<(), StoreError> {
        if self.meta.low >= read_point {
            return Ok(());
        }
        let loaded = self.loaded()?;
        let deleted: Option<Place> = newest_delete(&loaded.deletes, key, read_point);
        let deleted = deleted.filter(|(end, _)| *end > after);
        if block::filter_may_hold(&loaded.filter, block::key_hash(key)) {
            // A key's versions may run over several blocks; the newest are in the last.
            let next = loaded.blocks.partition_point(|block| block.first <= *key);
            for at in loaded.blocks[..next].iter().rev() {
                let entries = self.block_again(at)?;
                let from = entries.partition_point(|(k, _)| k < key);
                let upto = entries.partition_point(|(k, _)| k <= key);
                let newest_first = entries[from..upto].iter().rev().map(|(_, version)| version);
                let wanted =
                    |version: &&Version| after < version.span.end && version.span.end <= read_point;
                let seen = newest_first.filter(wanted).cloned();
                found.walk(engine, key, seen, deleted);
                if found.is_done() || at.first < *key {
                    break;
                }
            }
        }
        found.close(deleted);
        Ok(())
    }
}
