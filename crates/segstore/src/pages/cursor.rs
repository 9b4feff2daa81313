//! Reads a page file in key order, one block in memory at a time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use types::PageKey;

use super::file::{Loaded, PageFile};
use crate::error::StoreError;
use crate::version::Version;

/// A position in a page file.
pub(crate) struct Cursor {
    file: Arc<PageFile>,
    loaded: Arc<Loaded>,
    next_block: usize,
    entries: VecDeque<(PageKey, Version)>,
    /// Blocks that are passed over.
    without: BTreeSet<u64>,
    /// Bytes of blocks read.
    pub(crate) bytes_read: u64,
}

impl Cursor {
    /// Stands before the first entry with a key at or above `from`.
    pub(crate) fn new(file: Arc<PageFile>, from: &PageKey) -> Result<Cursor, StoreError> {
        Cursor::without(file, from, BTreeSet::new())
    }

    /// The same, passing over the blocks at these offsets.
    pub(crate) fn without(
        file: Arc<PageFile>,
        from: &PageKey,
        without: BTreeSet<u64>,
    ) -> Result<Cursor, StoreError> {
        let loaded = file.loaded()?;
        let next_block = loaded.blocks.partition_point(|b| b.first < *from).saturating_sub(1);
        let entries = VecDeque::new();
        let mut cursor = Cursor { file, loaded, next_block, entries, without, bytes_read: 0 };
        while cursor.peek()?.is_some_and(|key| key < *from) {
            cursor.entries.pop_front();
        }
        Ok(cursor)
    }

    /// Key of the next entry.
    pub(crate) fn peek(&mut self) -> Result<Option<PageKey>, StoreError> {
        while self.entries.is_empty() {
            let Some(at) = self.loaded.blocks.get(self.next_block) else { return Ok(None) };
            if !self.without.contains(&at.offset) {
                self.entries = self.file.block(at)?.into();
                self.bytes_read += u64::from(at.length);
            }
            self.next_block += 1;
        }
        Ok(self.entries.front().map(|(key, _)| *key))
    }

    /// Moves every version of `key`, if it is next, to `out`.
    pub(crate) fn take(&mut self, key: &PageKey, out: &mut Vec<Version>) -> Result<(), StoreError> {
        while self.peek()?.is_some_and(|next| next == *key) {
            out.extend(self.entries.pop_front().map(|(_, version)| version));
        }
        Ok(())
    }
}

impl Cursor {
    /// Passes every version of `key`, if it is next.
    pub(crate) fn skip(&mut self, key: &PageKey) -> Result<(), StoreError> {
        while self.peek()?.is_some_and(|next| next == *key) {
            self.entries.pop_front();
        }
        Ok(())
    }
}
