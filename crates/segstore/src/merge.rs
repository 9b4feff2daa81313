//! Merging page files, a step at a time: neighbouring uppers into one, or a range of the base with all that
//! uppers have for its keys into new base files (`layers`). A merge of all files may carry a [`Patch`]: pages
//! from peers in the place of versions that are damaged.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use env::DiskError;
use types::{Engine, Lsn, PageKey};

use crate::choose::Merge;
use crate::error::StoreError;
use crate::fold::Folder;
use crate::layers::Layers;
use crate::pages::{Cursor, PageFile, PageWriter};
use crate::segment::Segment;
use crate::version::{Place, RangeDelete, Version};

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

/// What a merge reads, and what its output takes the place of.
pub(crate) struct Sources {
    /// All files of the segment, as they were when it began.
    pub(crate) files: Vec<Arc<PageFile>>,
    pub(crate) what: Merge,
}

impl Sources {
    /// The files that the outputs replace. Uppers that a base merge has read stay until every base file
    /// has passed them.
    pub(crate) fn replaced(&self) -> &[Arc<PageFile>] {
        let uppers = Layers::of(&self.files).uppers.len();
        match &self.what {
            Merge::Uppers(range) => &self.files[range.clone()],
            Merge::Base(range) => &self.files[uppers + range.start..uppers + range.end],
        }
    }

    /// What is written holds versions with ends in this range.
    pub(crate) fn range(&self) -> (Lsn, Lsn) {
        let ends = |files: &[Arc<PageFile>]| {
            let low = files.last().map_or(Lsn::ZERO, |file| file.meta.low);
            (low, files.first().map_or(Lsn::ZERO, |file| file.meta.high))
        };
        match self.what {
            Merge::Uppers(_) => ends(self.replaced()),
            // Where there are no uppers, nothing has been written above the newest base file.
            Merge::Base(_) => {
                (Lsn::ZERO, self.files.iter().map(|file| file.meta.high).max().unwrap_or_default())
            }
        }
    }

    /// Keys that the outputs are for: from the first, up to the second or to the end.
    pub(crate) fn keys(&self) -> (PageKey, Option<PageKey>) {
        let Merge::Base(range) = &self.what else { return (PageKey::MIN, None) };
        let from = |at: usize| Layers::of(&self.files).base.get(at).and_then(|file| file.meta.from);
        (from(range.start).unwrap_or(PageKey::MIN), from(range.end))
    }

    /// Bytes that are read, about.
    pub(crate) fn bytes(&self) -> u64 {
        let replaced: u64 = self.replaced().iter().map(|file| file.meta.bytes).sum();
        if matches!(self.what, Merge::Uppers(_)) {
            return replaced;
        }
        let (from, until) = self.keys();
        let keys = from..until.unwrap_or(PageKey::MAX);
        let uppers = Layers::of(&self.files).uppers.iter();
        let of = |file: &Arc<PageFile>| file.bytes_in(std::slice::from_ref(&keys)).unwrap_or(0);
        replaced + uppers.map(of).sum::<u64>()
    }

    /// Uppers that are read, newest first.
    fn uppers(&self) -> &[Arc<PageFile>] {
        match &self.what {
            Merge::Uppers(range) => &self.files[range.clone()],
            Merge::Base(_) => Layers::of(&self.files).uppers,
        }
    }

    /// What lies below what is written.
    fn below(&self) -> Layers<'_> {
        let layers = Layers::of(&self.files);
        match &self.what {
            Merge::Uppers(range) => Layers { uppers: &layers.uppers[range.end..], ..layers },
            Merge::Base(_) => Layers::default(),
        }
    }
}

/// Makes the next output file.
pub(crate) type Create<'a> = &'a dyn Fn() -> Result<PageWriter, DiskError>;

/// A merge under way.
pub(crate) struct MergeJob {
    pub(crate) segment: Arc<Segment>,
    pub(crate) sources: Sources,
    /// Of base files; the keys of one are below those of the next.
    base: Vec<Cursor>,
    /// Of uppers, oldest first.
    uppers: Vec<Cursor>,
    sweep: Sweep,
    /// Deletions that outputs carry.
    deletes: Vec<RangeDelete>,
    patch: Option<(Patch, Option<Cursor>)>,
    pub(crate) low_water: Lsn,
    pub(crate) refused: u64,
    writer: Option<PageWriter>,
    done: Vec<Arc<PageFile>>,
    /// Bytes at which an output is followed by another.
    cut_at: u64,
}

/// What came of a merge.
pub(crate) struct Merged {
    pub(crate) sources: Sources,
    pub(crate) outputs: Vec<Arc<PageFile>>,
    /// Lowest read point that the outputs answer.
    pub(crate) horizon: Lsn,
    pub(crate) patch: Option<Patch>,
}

impl MergeJob {
    /// Opens the sources. With a patch, what is damaged there is passed over: it has the keys' versions that
    /// are hidden. Outputs of a base merge are about `piece` bytes long.
    pub(crate) fn new(
        segment: Arc<Segment>,
        sources: Sources,
        low_water: Lsn,
        piece: u64,
        patch: Option<Patch>,
    ) -> Result<MergeJob, Option<Patch>> {
        match MergeJob::open(&sources, patch.as_ref()) {
            Ok((base, uppers, deletes, pages)) => {
                let bytes = sources.bytes();
                let pieces = (bytes / piece.max(1)).max(1);
                let kept = deletes.iter().filter(|delete| sources.keeps(delete, low_water));
                Ok(MergeJob {
                    segment,
                    base,
                    uppers,
                    deletes: kept.cloned().collect(),
                    sweep: Sweep::new(deletes),
                    patch: patch.map(|patch| (patch, pages)),
                    low_water,
                    refused: 0,
                    writer: None,
                    done: Vec::new(),
                    cut_at: bytes / pieces + 1,
                    sources,
                })
            }
            Err(_) => Err(patch),
        }
    }

    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    fn open(
        sources: &Sources,
        patch: Option<&Patch>,
    ) -> Result<(Vec<Cursor>, Vec<Cursor>, Vec<RangeDelete>, Option<Cursor>), StoreError> {
        let (from, _) = sources.keys();
        let mut deletes = Vec::new();
        let mut open = |file: &Arc<PageFile>| -> Result<Option<Cursor>, StoreError> {
            let loaded = match file.loaded() {
                Ok(loaded) => loaded,
                // Without its index the whole file is one hole, its deletions included.
                Err(_) if patch.is_some() => return Ok(None),
                Err(error) => return Err(error),
            };
            deletes.extend(loaded.deletes.iter().cloned());
            let without = match patch {
                Some(_) => file.damaged_places().into_iter().collect(),
                None => BTreeSet::new(),
            };
            Cursor::without(Arc::clone(file), &from, without).map(Some)
        };
        let mut cursors = |files: &mut dyn Iterator<Item = &Arc<PageFile>>| {
            files.filter_map(|file| open(file).transpose()).collect::<Result<Vec<_>, _>>()
        };
        let base = match sources.what {
            Merge::Uppers(_) => Vec::new(),
            Merge::Base(_) => cursors(&mut sources.replaced().iter())?,
        };
        let uppers = cursors(&mut sources.uppers().iter().rev())?;
        let pages = patch.and_then(|patch| patch.file.clone());
        let pages = pages.map(|file| Cursor::new(file, &PageKey::MIN)).transpose()?;
        Ok((base, uppers, deletes, pages))
    }

    /// Whether it puts pages from peers in the place of damaged ones.
    pub(crate) fn is_mend(&self) -> bool {
        self.patch.is_some()
    }

    fn bytes_read(&self) -> u64 {
        self.base.iter().chain(&self.uppers).map(|cursor| cursor.bytes_read).sum()
    }

    /// Merges until about `bytes` more were read; true when all is written.
    pub(crate) fn step(
        &mut self,
        engine: &dyn Engine,
        fold_parts: usize,
        bytes: u64,
        create: Create<'_>,
    ) -> Result<bool, StepError> {
        let limit = self.bytes_read() + bytes;
        while self.bytes_read() < limit {
            let Some(key) = self.next_key()? else {
                self.finish_output(create).map_err(StepError::Output)?;
                return Ok(true);
            };
            let (versions, deletes) = self.take(&key)?;
            let mut folder = Folder {
                engine,
                low_water: self.low_water,
                fold_parts,
                tight: matches!(self.sources.what, Merge::Base(_)),
                older: self.sources.below(),
                refused: 0,
            };
            let versions = folder.fold(&key, versions, &deletes);
            self.refused += folder.refused;
            self.write(&key, &versions, create).map_err(StepError::Output)?;
        }
        Ok(false)
    }

    fn next_key(&mut self) -> Result<Option<PageKey>, StepError> {
        let (_, until) = self.sources.keys();
        let pages = self.patch.iter_mut().filter_map(|(_, pages)| pages.as_mut());
        let mut next: Option<PageKey> = None;
        for cursor in self.base.iter_mut().chain(&mut self.uppers).chain(pages) {
            let key = cursor.peek().map_err(|_| StepError::Input)?;
            next = [next, key].into_iter().flatten().min();
        }
        Ok(next.filter(|key| until.is_none_or(|until| *key < until)))
    }

    /// Takes a key's versions and the deletions that cover it.
    fn take(&mut self, key: &PageKey) -> Result<(Vec<Version>, Vec<Place>), StepError> {
        let mut versions = Vec::new();
        for cursor in &mut self.base {
            cursor.take(key, &mut versions).map_err(|_| StepError::Input)?;
        }
        // What the base has already is not taken from uppers again (S18).
        let covered = Layers::of(&self.sources.files).covered(key);
        let mut above = Vec::new();
        for cursor in &mut self.uppers {
            cursor.take(key, &mut above).map_err(|_| StepError::Input)?;
        }
        versions.extend(above.into_iter().filter(|version| version.span.end > covered));
        let mut deletes = self.sweep.covering(key);
        if matches!(self.sources.what, Merge::Uppers(_)) {
            deletes.retain(|(end, _)| *end > covered);
        }
        if let Some((patch, pages)) = &mut self.patch {
            let mut page = Vec::new();
            if let Some(pages) = pages {
                pages.take(key, &mut page).map_err(|_| StepError::Input)?;
            }
            if patch.covers(key) {
                // Deletions up to the read point have done their work in the patch.
                versions.retain(|version| version.span.end > patch.read_point);
            }
            versions.splice(..0, page);
        }
        Ok((versions, deletes))
    }

    fn write(
        &mut self,
        key: &PageKey,
        versions: &[Version],
        create: Create<'_>,
    ) -> Result<(), DiskError> {
        let is_base = matches!(self.sources.what, Merge::Base(_));
        if is_base && self.writer.as_ref().is_some_and(|writer| writer.bytes() >= self.cut_at) {
            self.close()?;
        }
        for version in versions {
            self.output(Some(key), create)?.push(key, version)?;
        }
        Ok(())
    }

    /// The file being written; a new one is for this key on, or for the first one.
    fn output(
        &mut self,
        key: Option<&PageKey>,
        create: Create<'_>,
    ) -> Result<&mut PageWriter, DiskError> {
        if self.writer.is_none() {
            let mut writer = create()?;
            let (first, _) = self.sources.keys();
            let from = key.copied().filter(|_| !self.done.is_empty()).unwrap_or(first);
            if matches!(self.sources.what, Merge::Base(_)) {
                writer.base_from(from);
            }
            self.deletes.iter().for_each(|delete| writer.delete(delete.clone()));
            self.writer = Some(writer);
        }
        Ok(self.writer.as_mut().expect("made above"))
    }

    fn close(&mut self) -> Result<(), DiskError> {
        if let Some(writer) = self.writer.take() {
            self.done.extend(writer.finish()?.map(Arc::new));
        }
        Ok(())
    }

    /// Closes the last output. A range of the base has one even when nothing is left in it.
    fn finish_output(&mut self, create: Create<'_>) -> Result<(), DiskError> {
        if self.done.is_empty() {
            self.output(None, create)?;
        }
        self.close()
    }

    /// What all steps together have written.
    pub(crate) fn finish(self) -> Merged {
        let patch = self.patch.map(|(patch, _)| patch);
        let read_point = patch.as_ref().map_or(Lsn::ZERO, |patch| patch.read_point);
        let horizon = self.low_water.max(read_point);
        Merged { sources: self.sources, outputs: self.done, horizon, patch }
    }

    /// Removes the output under way; the others are to be removed, as the patch is.
    pub(crate) fn abandon(self) -> Result<(Vec<Arc<PageFile>>, Option<Patch>), DiskError> {
        self.writer.map_or(Ok(()), PageWriter::abandon)?;
        Ok((self.done, self.patch.map(|(patch, _)| patch)))
    }
}

impl Sources {
    /// Whether a deletion is still to be known by who reads the outputs.
    fn keeps(&self, delete: &RangeDelete, low_water: Lsn) -> bool {
        match self.what {
            Merge::Uppers(_) => {
                let below = self.below();
                delete.span.end > below.covered_everywhere()
                    && !(below.is_empty() && delete.span.end <= low_water)
            }
            Merge::Base(_) => {
                let (from, until) = self.keys();
                let meets = from < delete.to && until.is_none_or(|until| delete.from < until);
                delete.span.end > low_water && meets
            }
        }
    }
}
