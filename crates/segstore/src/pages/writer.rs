//! Writes one page file, streaming: blocks as they fill, then index, filter, deletions, footer.
//!
//! The file has its final name from the start; until a manifest names it, it is garbage that the next
//! open removes.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use env::{Disk, DiskError, ErrorKind, File, Mode, recipes};
use types::{Lsn, PageKey};

use super::block::{self, Binding, BlockAt, CRC, Footer, Section};
use super::file::{FileMeta, PageFile};
use crate::version::{RangeDelete, Version, What};

const BUFFER: usize = 1 << 20;

/// Writes one page file.
pub(crate) struct PageWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn File>,
    binding: Binding,
    meta: FileMeta,
    block_bytes: usize,
    /// Bytes not yet handed to the file.
    buffer: Vec<u8>,
    written: u64,
    block: Vec<u8>,
    block_first: PageKey,
    last: Option<PageKey>,
    in_block: Option<PageKey>,
    blocks: Vec<BlockAt>,
    hashes: Vec<u64>,
    deletes: Vec<RangeDelete>,
}

/// Name of a page file in its segment's directory.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:08}.pages")
}

impl PageWriter {
    /// Begins a file that will hold versions with ends in `(low, high]`.
    pub(crate) fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        number: u64,
        binding: Binding,
        (low, high): (Lsn, Lsn),
        block_bytes: usize,
    ) -> Result<PageWriter, DiskError> {
        let path = dir.join(file_name(number));
        let file = disk.open(&path, Mode::Create)?;
        let meta = FileMeta { number, birth: binding.birth, low, high, ..FileMeta::default() };
        Ok(PageWriter {
            disk,
            path,
            file,
            binding,
            meta,
            block_bytes,
            buffer: Vec::new(),
            written: 0,
            block: Vec::new(),
            block_first: PageKey::MIN,
            last: None,
            in_block: None,
            blocks: Vec::new(),
            hashes: Vec::new(),
            deletes: Vec::new(),
        })
    }

    /// Adds a version; keys ascend, and places within a key.
    pub(crate) fn push(&mut self, key: &PageKey, version: &Version) -> Result<(), DiskError> {
        assert!(self.last.is_none_or(|last| last <= *key), "keys ascend in a page file");
        if self.last != Some(*key) {
            self.hashes.push(block::key_hash(key));
            self.last = Some(*key);
        }
        if self.in_block.is_none() {
            self.block_first = *key;
        }
        block::put_entry(&mut self.block, self.in_block.as_ref(), key, version);
        self.in_block = Some(*key);
        match version.what {
            What::Apply(_) => self.meta.deltas += 1,
            What::Put(_) | What::Image(_) => self.meta.images += 1,
        }
        if self.block.len() >= self.block_bytes { self.end_block() } else { Ok(()) }
    }

    /// Makes it a base file: it has all that there is from this key on, be it nothing.
    pub(crate) fn base_from(&mut self, key: PageKey) {
        self.meta.from = Some(key);
    }

    /// Bytes of versions so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.written + (self.buffer.len() + self.block.len()) as u64
    }

    /// Adds a deletion, in any order.
    pub(crate) fn delete(&mut self, delete: RangeDelete) {
        self.deletes.push(delete);
    }

    fn end_block(&mut self) -> Result<(), DiskError> {
        if self.in_block.take().is_none() {
            return Ok(());
        }
        let content = std::mem::take(&mut self.block);
        let section = self.section(content)?;
        let length = u32::try_from(section.length).expect("a block is about one version long");
        self.blocks.push(BlockAt { first: self.block_first, offset: section.offset, length });
        Ok(())
    }

    fn section(&mut self, mut content: Vec<u8>) -> Result<Section, DiskError> {
        let offset = self.written + self.buffer.len() as u64;
        let length = (content.len() + CRC) as u64;
        self.binding.seal(offset, &mut content);
        self.buffer.append(&mut content);
        if self.buffer.len() >= BUFFER {
            self.drain()?;
        }
        Ok(Section { offset, length })
    }

    fn drain(&mut self) -> Result<(), DiskError> {
        self.file.write_at(self.written, &[IoSlice::new(&self.buffer)])?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Finishes and makes the file durable; `None` when nothing was added (the file is removed, as it is
    /// when the disk is full).
    pub(crate) fn finish(mut self) -> Result<Option<PageFile>, DiskError> {
        match self.complete() {
            Ok(true) => Ok(Some(PageFile::new(self.file, self.path, self.binding, self.meta))),
            Ok(false) => self.abandon().map(|()| None),
            Err(error) if error.kind == ErrorKind::Full => self.abandon().and(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// Writes what is left, durably; false when there is nothing in the file.
    fn complete(&mut self) -> Result<bool, DiskError> {
        self.end_block()?;
        if self.blocks.is_empty() && self.deletes.is_empty() && self.meta.from.is_none() {
            return Ok(false);
        }
        self.deletes.sort_by_key(|delete| (delete.from, delete.place()));
        self.meta.deletes = self.deletes.len() as u64;
        let index = self.section(block::put_index(&self.blocks))?;
        let filter = self.section(block::filter(&self.hashes))?;
        let deletes = self.section(block::put_deletes(&self.deletes))?;
        let at = self.written + self.buffer.len() as u64;
        let footer = Footer { index, filter, deletes }.encode(self.binding, at);
        self.buffer.extend_from_slice(&footer);
        self.drain()?;
        recipes::publish(&*self.disk, &self.path, &*self.file)?;
        self.meta.bytes = self.written;
        Ok(true)
    }

    /// Removes the unfinished file, if an install has not done so.
    pub(crate) fn abandon(self) -> Result<(), DiskError> {
        match self.disk.remove(&self.path) {
            Err(error) if error.kind != ErrorKind::Missing => Err(error),
            _ => Ok(()),
        }
    }
}
