//! Checks a page file, a block at a time: from the medium, as scrubbing does, or as it was just written, as
//! copying does.

use std::sync::Arc;

use env::{Disk, ErrorKind, Mode};
use types::PageKey;

use super::block::FOOTER;
use super::file::{Loaded, PageFile};
use crate::error::StoreError;
use crate::version::What;

/// A file being checked.
pub(crate) struct FileCheck {
    file: Arc<PageFile>,
    /// Known once the sections have been checked.
    loaded: Option<Arc<Loaded>>,
    next_block: usize,
    last: Option<PageKey>,
    images: u64,
    deltas: u64,
    from_medium: bool,
}

/// One step of it.
pub(crate) struct Step {
    /// Bytes read.
    pub(crate) bytes: u64,
    /// What failed, and whether that is news.
    pub(crate) damage: Option<(StoreError, bool)>,
}

impl FileCheck {
    /// A check of what the medium has.
    pub(crate) fn new(file: Arc<PageFile>) -> FileCheck {
        let (last, from_medium) = (None, true);
        FileCheck { file, loaded: None, next_block: 0, last, images: 0, deltas: 0, from_medium }
    }

    /// Checks the next piece; `None` when there is none. Damage is remembered in the file, and what
    /// lies behind it is checked all the same.
    pub(crate) fn step(&mut self, disk: &dyn Disk) -> Option<Step> {
        let Some(loaded) = self.loaded.clone() else {
            if self.next_block > 0 {
                return None; // neither medium nor memory has an index
            }
            let named = self.file.has_its_name(disk);
            return Some(self.sections(named.and_then(|()| self.file.read_sections_again())));
        };
        self.next(&loaded)
    }

    fn next(&mut self, loaded: &Loaded) -> Option<Step> {
        let at = loaded.blocks.get(self.next_block)?;
        self.next_block += 1;
        let damage = self.block(at).err().map(|error| {
            let news = self.file.note_block(at, &error);
            (error, news)
        });
        Some(Step { bytes: u64::from(at.length), damage })
    }

    fn sections(&mut self, checked: Result<(), StoreError>) -> Step {
        let damage = checked.err().map(|error| {
            let news = self.file.note_sections(&error);
            (error, news)
        });
        self.loaded = self.file.loaded().ok();
        self.next_block = usize::from(self.loaded.is_none());
        let blocks = self.loaded.iter().flat_map(|loaded| &loaded.blocks);
        let blocks: u64 = blocks.map(|block| u64::from(block.length)).sum();
        let rest = self.file.meta.bytes.saturating_sub(blocks).max(FOOTER as u64);
        Step { bytes: rest, damage }
    }

    fn block(&mut self, at: &super::block::BlockAt) -> Result<(), StoreError> {
        if self.from_medium {
            self.file.uncache(at.offset, u64::from(at.length));
        }
        let meta = self.file.meta;
        for (key, version) in self.file.read_block(at)? {
            let end = version.span.end;
            if self.last.is_some_and(|last| last > key) || end <= meta.low || end > meta.high {
                return Err(self.file.damaged(at.offset, "entries out of order"));
            }
            self.last = Some(key);
            match version.what {
                What::Apply(_) => self.deltas += 1,
                What::Put(_) | What::Image(_) => self.images += 1,
            }
        }
        Ok(())
    }

    /// Whether the file held as much as its manifest says, once all of it was found sound.
    fn complete(&self) -> Result<(), StoreError> {
        let meta = self.file.meta;
        let deletes = self.loaded.as_ref().map_or(0, |loaded| loaded.deletes.len() as u64);
        if (self.images, self.deltas, deletes) == (meta.images, meta.deltas, meta.deletes) {
            return Ok(());
        }
        Err(self.file.damaged(0, "it holds less than its manifest says"))
    }
}

impl PageFile {
    /// Checks every byte as it was just written, and that nothing is missing. What the medium makes of it
    /// is for scrubs and readers to find, as with every other file.
    pub(crate) fn verify_written(self: &Arc<PageFile>) -> Result<(), StoreError> {
        let loaded = self.loaded()?;
        let mut check = FileCheck { from_medium: false, ..FileCheck::new(Arc::clone(self)) };
        check.loaded = Some(Arc::clone(&loaded));
        while let Some(step) = check.next(&loaded) {
            if let Some((error, _)) = step.damage {
                return Err(error);
            }
        }
        check.complete()
    }

    /// Whether a restart would find the file, and find it whole.
    fn has_its_name(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        let found = disk.open(self.path(), Mode::Read).and_then(|file| file.len());
        match found {
            Ok(length) if length == self.meta.bytes => Ok(()),
            Ok(length) => Err(self.damaged(length.min(self.meta.bytes), "its length is wrong")),
            Err(error) if error.kind == ErrorKind::Missing => Err(self.damaged(0, "it is gone")),
            Err(_) => Ok(()), // nothing is known of it
        }
    }
}
