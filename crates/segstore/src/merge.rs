//! Merging neighbouring page files into one, a step at a time.
//!
//! Files hold disjoint, ascending ranges of the log, so that of one page's versions those in a newer
//! file are all newer. Only neighbours are merged, which keeps it so. A merge of all files may carry a
//! [`Patch`]: pages from peers in the place of versions that are damaged.

use std::ops::Range;
use std::sync::Arc;

use env::DiskError;
use types::{Engine, Lsn, PageKey};

use crate::error::StoreError;
use crate::fold::Folder;
use crate::pages::{Cursor, PageFile, PageWriter};
use crate::segment::Segment;
use crate::version::{Place, RangeDelete};

/// The deletions that cover keys asked for in ascending order.
pub(crate) struct Sweep {
    /// By `from`, descending.
    waiting: Vec<RangeDelete>,
    active: Vec<RangeDelete>,
}

impl Sweep {
    pub(crate) fn new(mut deletes: Vec<RangeDelete>) -> Sweep {
        deletes.sort_by_key(|delete| std::cmp::Reverse(delete.from));
        Sweep { waiting: deletes, active: Vec::new() }
    }

    pub(crate) fn covering(&mut self, key: &PageKey) -> Vec<Place> {
        while let Some(delete) = self.waiting.pop_if(|delete| delete.from <= *key) {
            self.active.push(delete);
        }
        self.active.retain(|delete| *key < delete.to);
        self.active.iter().map(RangeDelete::place).collect()
    }
}

/// Why a step failed.
pub(crate) enum StepError {
    /// An input is damaged; it remembers where.
    Input,
    /// The output could not be written.
    Output(DiskError),
}

/// The pages of certain keys as of one read point, as peers have them. They stand for every version of
/// those keys at or below it.
pub(crate) struct Patch {
    /// The keys, in order.
    pub(crate) holes: Vec<Range<PageKey>>,
    pub(crate) read_point: Lsn,
    /// Their pages; `None` when none exists.
    pub(crate) file: Option<Arc<PageFile>>,
}

impl Patch {
    fn covers(&self, key: &PageKey) -> bool {
        let after = self.holes.partition_point(|hole| hole.start <= *key);
        after.checked_sub(1).and_then(|at| self.holes.get(at)).is_some_and(|hole| *key < hole.end)
    }
}

/// A merge under way.
pub(crate) struct MergeJob {
    pub(crate) segment: Arc<Segment>,
    /// Newest first.
    pub(crate) inputs: Vec<Arc<PageFile>>,
    /// Oldest first.
    cursors: Vec<Cursor>,
    older: Vec<Arc<PageFile>>,
    sweep: Sweep,
    writer: PageWriter,
    patch: Option<(Patch, Option<Cursor>)>,
    pub(crate) low_water: Lsn,
    pub(crate) refused: u64,
}

/// What came of a merge.
pub(crate) struct Merged {
    pub(crate) inputs: Vec<Arc<PageFile>>,
    pub(crate) output: Result<Option<PageFile>, DiskError>,
    /// Lowest read point that the output answers.
    pub(crate) horizon: Lsn,
    pub(crate) patch: Option<Patch>,
}

impl MergeJob {
    /// Opens the inputs. `writer` has been created for the range that they span.
    pub(crate) fn new(
        segment: Arc<Segment>,
        inputs: Vec<Arc<PageFile>>,
        older: Vec<Arc<PageFile>>,
        mut writer: PageWriter,
        low_water: Lsn,
    ) -> Result<MergeJob, Box<PageWriter>> {
        let mut deletes = Vec::new();
        let mut cursors = Vec::new();
        for file in inputs.iter().rev() {
            let opened = file.loaded().and_then(|loaded| {
                deletes.extend(loaded.deletes.iter().cloned());
                Cursor::new(Arc::clone(file), &PageKey::MIN)
            });
            match opened {
                Ok(cursor) => cursors.push(cursor),
                Err(_) => return Err(Box::new(writer)),
            }
        }
        for delete in &deletes {
            if !(older.is_empty() && delete.span.end <= low_water) {
                writer.delete(delete.clone());
            }
        }
        let (sweep, patch, refused) = (Sweep::new(deletes), None, 0);
        Ok(MergeJob { segment, inputs, cursors, older, sweep, writer, patch, low_water, refused })
    }

    /// Opens all files of a segment, passing over what is damaged there; `patch` has the keys'
    /// versions that it hides.
    pub(crate) fn mending(
        segment: Arc<Segment>,
        inputs: Vec<Arc<PageFile>>,
        mut writer: PageWriter,
        low_water: Lsn,
        patch: Patch,
    ) -> Result<MergeJob, Box<(PageWriter, Patch)>> {
        let opened = || -> Result<_, StoreError> {
            let (mut deletes, mut cursors) = (Vec::new(), Vec::new());
            for file in inputs.iter().rev() {
                // Without its index the whole file is one hole, its deletions included.
                let Ok(loaded) = file.loaded() else { continue };
                deletes.extend(loaded.deletes.iter().cloned());
                let without = file.damaged_places().into_iter().collect();
                cursors.push(Cursor::without(Arc::clone(file), &PageKey::MIN, without)?);
            }
            let pages = patch.file.clone().map(|file| Cursor::new(file, &PageKey::MIN));
            Ok((deletes, cursors, pages.transpose()?))
        };
        let (deletes, cursors, pages) = match opened() {
            Ok(opened) => opened,
            Err(_) => return Err(Box::new((writer, patch))),
        };
        for delete in deletes.iter().filter(|delete| delete.span.end > low_water) {
            writer.delete(delete.clone());
        }
        let (older, sweep, patch) = (Vec::new(), Sweep::new(deletes), Some((patch, pages)));
        let refused = 0;
        Ok(MergeJob { segment, inputs, cursors, older, sweep, writer, patch, low_water, refused })
    }

    /// Whether it puts pages from peers in the place of damaged ones.
    pub(crate) fn is_mend(&self) -> bool {
        self.patch.is_some()
    }

    /// Merges until about `bytes` more were read; true when all is written.
    pub(crate) fn step(
        &mut self,
        engine: &dyn Engine,
        fold_parts: usize,
        bytes: u64,
    ) -> Result<bool, StepError> {
        let read = |cursors: &[Cursor]| cursors.iter().map(|c| c.bytes_read).sum::<u64>();
        let limit = read(&self.cursors) + bytes;
        let mut folder = Folder {
            engine,
            low_water: self.low_water,
            fold_parts,
            older: &self.older,
            refused: 0,
        };
        let mut done = false;
        while read(&self.cursors) < limit {
            let mut next: Option<PageKey> = None;
            let pages = self.patch.iter_mut().filter_map(|(_, pages)| pages.as_mut());
            for cursor in self.cursors.iter_mut().chain(pages) {
                let key = cursor.peek().map_err(|_| StepError::Input)?;
                next = [next, key].into_iter().flatten().min();
            }
            let Some(key) = next else {
                done = true;
                break;
            };
            let mut versions = Vec::new();
            for cursor in &mut self.cursors {
                cursor.take(&key, &mut versions).map_err(|_| StepError::Input)?;
            }
            let deletes = self.sweep.covering(&key);
            if let Some((patch, pages)) = &mut self.patch {
                let mut page = Vec::new();
                if let Some(pages) = pages {
                    pages.take(&key, &mut page).map_err(|_| StepError::Input)?;
                }
                if patch.covers(&key) {
                    // Deletions up to the read point have done their work in the patch.
                    versions.retain(|version| version.span.end > patch.read_point);
                }
                versions.splice(..0, page);
            }
            for version in folder.fold(&key, versions, &deletes) {
                self.writer.push(&key, &version).map_err(StepError::Output)?;
            }
        }
        self.refused += folder.refused;
        Ok(done)
    }

    /// Finishes the output.
    pub(crate) fn finish(self) -> Merged {
        let patch = self.patch.map(|(patch, _)| patch);
        let read_point = patch.as_ref().map_or(Lsn::ZERO, |patch| patch.read_point);
        let (inputs, output) = (self.inputs, self.writer.finish());
        Merged { inputs, output, horizon: self.low_water.max(read_point), patch }
    }

    /// Removes the output.
    pub(crate) fn abandon(self) -> Result<Option<Patch>, DiskError> {
        self.writer.abandon()?;
        Ok(self.patch.map(|(patch, _)| patch))
    }
}
