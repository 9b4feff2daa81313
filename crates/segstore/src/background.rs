//! Work that yields to reads and appends: flush, recycle, merge, remove; one unit at a time.
//!
//! One unit runs at a time (the `work` lock), so file sets change in one place. Every failed write
//! stops the store; a damaged input stops only the work on its segment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use env::{DiskError, ErrorKind};
use types::{Lsn, SegmentId};

use crate::choose::{self, Merge, Unflushed};
use crate::error::StoreError;
use crate::fold::Folder;
use crate::layers::Layers;
use crate::log;
use crate::log::ring::Recycled;
use crate::mend::Mended;
use crate::merge::{MergeJob, Merged, Sources, StepError, Sweep};
use crate::pages::bad::united;
use crate::pages::block::Binding;
use crate::pages::{PageFile, PageWriter};
use crate::segment::{NewFiles, Segment};
use crate::store::{Store, lock};
use crate::version::RangeDelete;

/// Flushes are owed above so many times the bytes at which they are due.
const OWED_TOTALS: u64 = 4;

/// What background work remembers between units.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) merge: Option<MergeJob>,
    /// Mends whose pages are here and whose merge has not begun.
    pub(crate) mended: VecDeque<Mended>,
    /// Files no manifest names, to be removed once nobody reads them.
    pub(crate) graveyard: Vec<(Arc<Segment>, Arc<PageFile>)>,
    /// Where the last merge choice looked, so that segments take turns.
    turn: usize,
}

impl Store {
    pub(crate) fn work_unit(&self, work: &mut Work) -> Result<bool, StoreError> {
        if self.bury(work)? || self.tidy_log()? {
            return Ok(true);
        }
        if let Some(segment) = self.choose_flush() {
            // What is not flushed yet costs memory, and is bounded by `is_behind`; files cost every read.
            if !(is_piled_up(&segment) && self.merge(work)?) {
                self.flush(work, &segment)?;
            }
            return Ok(true);
        }
        if self.retire_damaged(work)? || self.retire(work)? {
            return Ok(true);
        }
        self.merge(work)
    }

    fn bury(&self, work: &mut Work) -> Result<bool, StoreError> {
        let unused = |(_, file): &(Arc<Segment>, Arc<PageFile>)| Arc::strong_count(file) == 1;
        let Some(at) = work.graveyard.iter().position(unused) else { return Ok(false) };
        let (segment, file) = work.graveyard.swap_remove(at);
        env::recipes::remove_all(&*self.disk, &segment.dir, &[file.name()])
            .map_err(|error| self.fatal(&error))?;
        Ok(true)
    }

    fn tidy_log(&self) -> Result<bool, StoreError> {
        // Appends wait for this lock, so files are removed and zeroed outside of it.
        let (recycled, wanted) = {
            let mut log = lock(&self.log);
            let recycled = log.recycle();
            let wanted = if recycled.is_none() { log.spare_wanted() } else { None };
            (recycled, wanted)
        };
        match recycled {
            Some(Recycled::Kept) => return Ok(true),
            Some(Recycled::Remove(name)) => {
                env::recipes::remove_all(&*self.disk, &self.log_dir(), &[name])
                    .map_err(|error| self.fatal(&error))?;
                return Ok(true);
            }
            None => {}
        }
        let Some(name) = wanted else { return Ok(false) };
        let bytes = self.options.log_file_bytes;
        match log::ring::create(&*self.disk, &self.log_dir(), name, bytes) {
            Ok(file) => lock(&self.log).add_spare(file),
            // Other work may free a file.
            Err(error) if error.kind == ErrorKind::Full => return Ok(false),
            Err(error) => return Err(self.fatal(&error)),
        }
        Ok(true)
    }

    /// Whether far more waits to be flushed than ever should: nothing but time for background work is
    /// missing, and what is appended meanwhile makes it worse.
    pub(crate) fn owes_flushes(&self) -> bool {
        let limit = self.options.flush_total_bytes.saturating_mul(OWED_TOTALS);
        let segments = self.all_segments();
        let bytes: u64 = segments.iter().map(|segment| segment.read().bytes).sum();
        if bytes <= limit {
            return false;
        }
        // Only what `choose::flush` would take: the rest waits for a durable point or a missing part, and
        // appending is what brings them.
        let sizes = segments.iter().map(|segment| unflushed(segment));
        let owed = sizes.filter(|size| size.is_worth_a_file()).map(|size| size.flushable);
        owed.sum::<u64>() > limit
    }

    fn choose_flush(&self) -> Option<Arc<Segment>> {
        let segments = self.all_segments();
        let sizes: Vec<Unflushed> = segments.iter().map(|segment| unflushed(segment)).collect();
        choose::flush(&sizes, &self.options).map(|at| Arc::clone(&segments[at]))
    }

    pub(crate) fn writer(
        &self,
        segment: &Segment,
        range: (Lsn, Lsn),
    ) -> Result<PageWriter, StoreError> {
        self.create_file(segment, range).map_err(|error| self.unless_full(&error))
    }

    fn create_file(&self, segment: &Segment, range: (Lsn, Lsn)) -> Result<PageWriter, DiskError> {
        let number = segment.next_file();
        let salt = self.identity.incarnation.0 as u64;
        let binding = Binding { segment: segment.id, birth: salt.rotate_left(32) ^ number };
        let bytes = self.options.block_bytes;
        PageWriter::create(Arc::clone(&self.disk), &segment.dir, number, binding, range, bytes)
    }

    /// Moves what may be flushed to a page file; false when there is nothing.
    pub(crate) fn flush(
        &self,
        work: &mut Work,
        segment: &Arc<Segment>,
    ) -> Result<bool, StoreError> {
        let (upto, flushed, low_water, files, deletes) = {
            let index = segment.read();
            let (upto, flushed) = (index.flush_point(), index.flushed);
            let wanted = |d: &&RangeDelete| d.span.end > flushed && d.span.end <= upto;
            let deletes: Vec<_> = index.deletes.iter().filter(wanted).cloned().collect();
            let low_water = index.state.low_water.min(upto);
            (upto, flushed, low_water, Arc::clone(&index.files), deletes)
        };
        if upto <= flushed {
            return Ok(false);
        }
        let mut writer = self.writer(segment, (flushed, upto))?;
        for delete in &deletes {
            if !(files.is_empty() && delete.span.end <= low_water) {
                writer.delete(delete.clone());
            }
        }
        let mut sweep = Sweep::new(deletes);
        let fold_parts = self.options.fold_parts;
        let engine = &*self.engine;
        let (older, tight) = (Layers::of(&files), false);
        let mut folder = Folder { engine, low_water, fold_parts, tight, older, refused: 0 };
        let table = segment.write().freeze();
        for key in table.sorted_keys() {
            let mut versions: Vec<_> = table.newest_first(&key, flushed, upto).collect();
            versions.reverse();
            for version in folder.fold(&key, versions, &sweep.covering(&key)) {
                if let Err(error) = writer.push(&key, &version) {
                    return Err(self.give_up(writer, &error));
                }
            }
        }
        self.counters.engine_errors.fetch_add(folder.refused, Ordering::Relaxed);
        let file = writer.finish().map_err(|error| self.unless_full(&error))?.map(Arc::new);
        let bytes = file.as_ref().map_or(0, |file| file.meta.bytes);
        let all: Vec<_> = file.iter().chain(files.iter()).cloned().collect();
        drop(files);
        let change = NewFiles { files: all, flushed: upto, horizon: low_water };
        self.commit(work, segment, change, Vec::from_iter(file))?;
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.counters.flushed_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }

    /// Ends a file that could not be written: of a full disk nothing is left but the error.
    fn give_up(&self, writer: PageWriter, error: &DiskError) -> StoreError {
        match writer.abandon() {
            Ok(()) => self.unless_full(error),
            Err(error) => self.fatal(&error),
        }
    }

    /// Puts a new set of files in place; when there is no room even for the manifest that says so, those
    /// that are new among them are removed.
    pub(crate) fn commit(
        &self,
        work: &mut Work,
        segment: &Arc<Segment>,
        change: NewFiles,
        new: Vec<Arc<PageFile>>,
    ) -> Result<(), StoreError> {
        let gone = match self.save(segment, Some(change), |_| {}) {
            Ok(gone) => gone,
            Err(error) => {
                work.graveyard.extend(new.into_iter().map(|file| (Arc::clone(segment), file)));
                return Err(error);
            }
        };
        work.graveyard.extend(gone.into_iter().map(|file| (Arc::clone(segment), file)));
        Ok(())
    }

    /// One step of the merge under way, or the choice of the next.
    fn merge(&self, work: &mut Work) -> Result<bool, StoreError> {
        let Some(mut job) = work.merge.take() else { return self.begin_merge(work) };
        let (fold_parts, bytes) = (self.options.fold_parts, self.options.merge_step_bytes);
        let (segment, range) = (Arc::clone(&job.segment), job.sources.range());
        let create = || self.create_file(&segment, range);
        match job.step(&*self.engine, fold_parts, bytes, &create) {
            Ok(false) => work.merge = Some(job),
            Ok(true) => self.end_merge(work, job)?,
            Err(StepError::Output(error)) => {
                self.abandon(work, job)?;
                return Err(self.unless_full(&error));
            }
            // The file remembers what it is; the segment is merged again when it has been mended.
            Err(StepError::Input) => self.abandon(work, job)?,
        }
        Ok(true)
    }

    pub(crate) fn abandon(&self, work: &mut Work, job: MergeJob) -> Result<(), StoreError> {
        let segment = Arc::clone(&job.segment);
        let (files, patch) = job.abandon().map_err(|error| self.fatal(&error))?;
        work.graveyard.extend(files.into_iter().map(|file| (Arc::clone(&segment), file)));
        patch.into_iter().for_each(|patch| work.discard(&segment, patch));
        Ok(())
    }

    /// Ends the merge that is under way if it is this segment's: its files are about to change.
    pub(crate) fn abandon_merge(&self, work: &mut Work, id: SegmentId) -> Result<(), StoreError> {
        match work.merge.take_if(|job| job.segment.id == id) {
            Some(job) => self.abandon(work, job),
            None => Ok(()),
        }
    }

    /// Whether a merge that reads so many bytes has room.
    pub(crate) fn has_room(&self, segment: &Segment, needed: u64) -> Result<bool, StoreError> {
        Ok(self.disk.free_bytes(&segment.dir)? >= needed + self.options.reserve_bytes)
    }

    fn begin_merge(&self, work: &mut Work) -> Result<bool, StoreError> {
        if self.merge_mend(work)? {
            return Ok(true);
        }
        let segments = self.all_segments();
        for step in 0..segments.len() {
            let at = (work.turn + step) % segments.len();
            let segment = &segments[at];
            let (files, low_water, damaged) = {
                let index = segment.read();
                (Arc::clone(&index.files), index.state.low_water, index.is_damaged())
            };
            let Some(what) = self.choose_merge(&files, low_water).filter(|_| !damaged) else {
                continue;
            };
            let sources = Sources { files: files.to_vec(), what };
            if !self.has_room(segment, sources.bytes())? {
                continue;
            }
            work.turn = at + 1;
            let low_water = low_water.min(sources.range().1);
            let piece = self.piece(&files);
            // What cannot be read remembers that, and is mended first.
            work.merge = MergeJob::new(Arc::clone(segment), sources, low_water, piece, None).ok();
            return Ok(true);
        }
        Ok(false)
    }

    fn choose_merge(&self, files: &[Arc<PageFile>], low_water: Lsn) -> Option<Merge> {
        let layers = Layers::of(files);
        let metas = |files: &[Arc<PageFile>]| files.iter().map(|f| f.meta).collect::<Vec<_>>();
        let frees = freed_by_deletes(layers, low_water);
        let (uppers, base) = (metas(layers.uppers), metas(layers.base));
        choose::merge(&uppers, &base, &frees, self.options.base_bytes_min)
    }

    /// Bytes of one of a segment's base files.
    pub(crate) fn piece(&self, files: &[Arc<PageFile>]) -> u64 {
        let base = Layers::of(files).base.iter().map(|file| file.meta.bytes).sum();
        choose::piece(base, self.options.base_bytes_min)
    }

    fn end_merge(&self, work: &mut Work, job: MergeJob) -> Result<(), StoreError> {
        let segment = Arc::clone(&job.segment);
        self.counters.engine_errors.fetch_add(job.refused, Ordering::Relaxed);
        let Merged { sources, outputs, horizon, patch } = job.finish();
        let mends = patch.is_some();
        patch.into_iter().for_each(|patch| work.discard(&segment, patch));
        let (files, flushed) = {
            let index = segment.read();
            (Arc::clone(&index.files), index.flushed)
        };
        let bytes: u64 = outputs.iter().map(|file| file.meta.bytes).sum();
        let all = merged(&files, &sources, &outputs);
        drop((files, sources));
        self.commit(work, &segment, NewFiles { files: all, flushed, horizon }, outputs)?;
        self.counters.mends.fetch_add(u64::from(mends), Ordering::Relaxed);
        self.counters.merges.fetch_add(1, Ordering::Relaxed);
        self.counters.merged_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// The files after a merge: its outputs in the place of what they replace, without the uppers that every
/// base file has passed. Flushes may have come meanwhile, on top.
fn merged(
    files: &[Arc<PageFile>],
    sources: &Sources,
    outputs: &[Arc<PageFile>],
) -> Vec<Arc<PageFile>> {
    let replaced = |file: &Arc<PageFile>| sources.replaced().iter().any(|r| Arc::ptr_eq(r, file));
    let is_base = matches!(sources.what, Merge::Base(_));
    let Layers { uppers, base } = Layers::of(files);
    let place = |layer: &[Arc<PageFile>], mine: bool| {
        let mut kept: Vec<_> = layer.iter().filter(|file| !replaced(file)).cloned().collect();
        if mine {
            // Uppers are newest first, the base is in the order of keys.
            let newer = |file: &Arc<PageFile>, new: &Arc<PageFile>| match is_base {
                true => file.meta.from < new.meta.from,
                false => file.meta.low >= new.meta.high,
            };
            let at = |new: &Arc<PageFile>| kept.partition_point(|file| newer(file, new));
            let at = outputs.first().map_or(0, at);
            kept.splice(at..at, outputs.iter().cloned());
        }
        kept
    };
    let (mut uppers, base) = (place(uppers, !is_base), place(base, is_base));
    let passed = Layers { uppers: &[], base: &base }.covered_everywhere();
    uppers.retain(|file| file.meta.high > passed);
    uppers.extend(base);
    uppers
}

/// Whether so many uppers lie on a segment that they are merged before another one is put there.
pub(crate) fn is_piled_up(segment: &Segment) -> bool {
    let files = Arc::clone(&segment.read().files);
    Layers::of(&files).uppers.len() > 2 * choose::UPPERS_MAX
}

/// What a flush of this segment would be worth.
fn unflushed(segment: &Segment) -> Unflushed {
    let (bytes, flushable, deletes, files) = {
        let index = segment.read();
        let bytes = index.bytes;
        // Links are not gone through where nothing can come of it.
        let (upto, flushable) = if bytes > 0 { index.flushable() } else { (index.flushed, 0) };
        let deletes = index.deletes.iter().filter(|delete| delete.span.end <= upto);
        (bytes, flushable, deletes.cloned().collect::<Vec<_>>(), Arc::clone(&index.files))
    };
    let in_files = files.iter().map(|file| file.meta.bytes).sum();
    Unflushed { bytes, flushable, frees: bytes_in(&files, &deletes), files: in_files }
}

/// Bytes of files that lie under these deletions, about; none of what cannot be read.
fn bytes_in(files: &[Arc<PageFile>], deletes: &[RangeDelete]) -> u64 {
    if deletes.is_empty() {
        return 0;
    }
    let ranges = united(deletes.iter().map(|delete| delete.from..delete.to).collect());
    files.iter().map(|file| file.bytes_in(&ranges).unwrap_or(0)).sum()
}

/// Bytes of each base file that lie under deletions at or below the low-water mark that it has not taken in.
fn freed_by_deletes(layers: Layers<'_>, low_water: Lsn) -> Vec<u64> {
    let settled = |file: &Arc<PageFile>, after: Lsn| {
        let loaded = (file.meta.deletes > 0).then(|| file.loaded().ok()).flatten();
        let deletes = loaded.iter().flat_map(|loaded| &loaded.deletes);
        let wanted = |d: &&RangeDelete| d.span.end > after && d.span.end <= low_water;
        deletes.filter(wanted).cloned().collect::<Vec<_>>()
    };
    let above: Vec<RangeDelete> =
        layers.uppers.iter().flat_map(|file| settled(file, Lsn::ZERO)).collect();
    let freed = |base: &Arc<PageFile>| {
        let news = above.iter().filter(|delete| delete.span.end > base.meta.high).cloned();
        let deletes: Vec<_> = news.chain(settled(base, Lsn::ZERO)).collect();
        bytes_in(std::slice::from_ref(base), &deletes)
    };
    layers.base.iter().map(freed).collect()
}
