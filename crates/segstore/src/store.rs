//! The front of the store: every operation that a node calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use env::{Disk, DiskError, ErrorKind, Operation, recipes};
use types::{Engine, History, Lsn, PageKey, SegmentId};
use wire::{Batch, PageAnswer, SegmentReport, SegmentSpec};

use crate::background::Work;
use crate::damage::{Damage, Known};
use crate::entry::{self, HeldPart, LogEntry, SegmentState};
use crate::error::StoreError;
use crate::hydrate::{Export, Install};
use crate::identity::Identity;
use crate::index::Index;
use crate::ledger::{self, Noted};
use crate::log::{Entry, Lives, Log, LogError};
use crate::manifest::Manifest;
use crate::mend::Mend;
use crate::options::Options;
use crate::pages::PageFile;
use crate::recover::{self, first_manifest};
use crate::scrub::Scrub;
use crate::segment::{NewFiles, Segment, dir_name};
use crate::stats::{Counters, Stats, Usage};

/// All segments of one node. Shared between threads.
pub struct Store {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    dir: PathBuf,
    pub(crate) log: Mutex<Log>,
    pub(crate) lives: Lives,
    segments: RwLock<BTreeMap<SegmentId, Arc<Segment>>>,
    poison: OnceLock<String>,
    /// Held by whatever changes a segment's files.
    pub(crate) work: Mutex<Work>,
    pub(crate) counters: Counters,
    pub(crate) known_damage: Mutex<Known>,
}

/// A segment as the disk gave it back.
#[derive(Clone, Debug)]
pub struct RestoredSegment {
    /// The segment and its members; no members when the manifest was damaged.
    pub spec: SegmentSpec,
    /// Its state; `full` is false when acknowledged parts may be missing (see `damage`).
    pub state: SegmentState,
    /// Every live part that ends at or below is held, in page files: the chain begins here.
    pub flushed: Lsn,
    /// Live parts above `flushed` that the log holds, by end.
    pub held: Vec<HeldPart>,
    /// What was found damaged: the segment is to be rebuilt from its peers.
    pub damage: Option<String>,
}

/// Answer of [`Store::read_chain`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Live batches in chain order.
    Batches(Vec<Batch>),
    /// The log no longer reaches back that far; it does to this position.
    Forgotten(Lsn),
}

/// Answer of [`Store::scan`]: key, version and content of pages; first key not looked at.
pub type ScanPage = (Vec<(PageKey, Lsn, Bytes)>, Option<PageKey>);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Creates an empty store in `dir`, which may not hold one.
    ///
    /// # Errors
    /// When there is a store, or the disk fails.
    pub fn create(
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
        dir: &Path,
        identity: Identity,
        options: Options,
    ) -> Result<Store, StoreError> {
        if Identity::load(&*disk, dir)?.is_some() {
            let what = dir.display();
            return Err(StoreError::Foreign(format!("{what} holds a store already; open it")));
        }
        recipes::create_dir(&*disk, dir)?;
        for place in ["log", "seg"] {
            recipes::create_dir(&*disk, &dir.join(place))?;
        }
        identity.save(&*disk, dir)?;
        Store::open(disk, engine, dir, identity, options).map(|(store, _)| store)
    }

    /// Opens the store in `dir`: manifests, then the log's tail.
    ///
    /// # Errors
    /// When there is none, it belongs to another node, or it cannot be read at all.
    pub fn open(
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
        dir: &Path,
        identity: Identity,
        options: Options,
    ) -> Result<(Store, Vec<RestoredSegment>), StoreError> {
        let found = Identity::load(&*disk, dir)?
            .ok_or_else(|| StoreError::Foreign(format!("{} holds no store", dir.display())))?;
        if found != identity {
            return Err(StoreError::Foreign(format!(
                "{} belongs to node {} of cluster {}, incarnation {}",
                dir.display(),
                found.node,
                found.cluster,
                found.incarnation
            )));
        }
        let log_dir = dir.join("log");
        let seg_dir = dir.join("seg");
        let mut openings = recover::load_segments(&*disk, &seg_dir)?;
        let incarnation = identity.incarnation;
        let replayed = recover::replay_log(&*disk, &log_dir, &seg_dir, incarnation, &mut openings)?;
        let bytes = options.log_file_bytes;
        let log = Log::start(Arc::clone(&disk), log_dir, incarnation, bytes, replayed.tail)?;
        let (mut segments, mut restored) = (BTreeMap::new(), Vec::new());
        for (id, opening) in openings {
            let (segment, told) = opening.finish();
            segments.insert(id, Arc::new(segment));
            restored.push(told);
        }
        let store = Store {
            disk,
            engine,
            options,
            identity,
            dir: dir.to_owned(),
            lives: log.lives(),
            log: Mutex::new(log),
            segments: RwLock::new(segments),
            poison: OnceLock::new(),
            work: Mutex::new(Work::default()),
            counters: Counters::default(),
            known_damage: Mutex::default(),
        };
        // What has been lost stays so, whatever becomes of the log or the files that told.
        for told in restored.iter().filter(|told| told.damage.is_some()) {
            store.save(&*store.segment(told.spec.segment)?, None, |_| {})?;
        }
        recipes::remove_all(&*store.disk, &store.log_dir(), &replayed.unreadable)?;
        Ok((store, restored))
    }

    /// The newest life of the log in `dir`, without opening the store; none when that cannot be told. Lives
    /// only ascend: a disk whose newest is older than one seen before is an earlier copy, put back.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn life_found(
        disk: &dyn Disk,
        dir: &Path,
        identity: &Identity,
    ) -> Result<Option<u64>, StoreError> {
        Ok(crate::log::replay::newest_life(disk, &dir.join("log"), identity.incarnation)?)
    }

    /// The newest life of the log, which is durable.
    #[must_use]
    pub fn life(&self) -> u64 {
        lock(&self.log).position().life
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(crate) fn segment(&self, id: SegmentId) -> Result<Arc<Segment>, StoreError> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.get(&id).cloned().ok_or(StoreError::NoSegment(id))
    }

    pub(crate) fn all_segments(&self) -> Vec<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().cloned().collect()
    }

    /// Stops the store for good after a failed write.
    pub(crate) fn fatal(&self, error: &DiskError) -> StoreError {
        StoreError::Poisoned(self.poison.get_or_init(|| error.to_string()).clone())
    }

    /// The error of a write to a file that nothing refers to yet: when the disk is full, nothing is lost
    /// but that file. Anything else stops the store.
    pub(crate) fn unless_full(&self, error: &DiskError) -> StoreError {
        match error.kind {
            ErrorKind::Full => StoreError::Full(error.to_string()),
            _ => self.fatal(error),
        }
    }

    /// The same for an append.
    pub(crate) fn log_failed(&self, error: LogError) -> StoreError {
        match error {
            LogError::NoRoom(error) => StoreError::Full(error.to_string()),
            LogError::Failed(error) => self.fatal(&error),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            Some(why) => Err(StoreError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    /// Holds a segment from now on, durably; for one already held, replaces only its spec.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn add_segment(&self, spec: &SegmentSpec, state: &SegmentState) -> Result<(), StoreError> {
        self.check()?;
        let id = spec.segment;
        if let Ok(segment) = self.segment(id) {
            self.save(&segment, None, |manifest| manifest.spec = spec.clone())?;
            return Ok(());
        }
        let origin = lock(&self.log).position();
        let dir = self.dir.join("seg").join(dir_name(id));
        // Until it is noted, it is as if it had not been.
        recipes::create_dir(&*self.disk, &dir).map_err(|error| self.replaced(&error))?;
        let manifest = first_manifest(spec, state, origin);
        manifest.save(&*self.disk, &dir).map_err(|error| self.replaced(&error))?;
        self.note(Noted::of(&manifest).entry())?;
        let mut index = Index::new(state.clone(), Lsn::ZERO, Lsn::ZERO, Vec::new());
        (index.state_at, index.applied) = (origin, origin);
        let segment = Arc::new(Segment::new(id, dir, index, manifest));
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(id, segment);
        Ok(())
    }

    /// Forgets a segment and frees its space; nothing when it is not held.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn drop_segment(&self, id: SegmentId) -> Result<(), StoreError> {
        self.check()?;
        let fatal = |error: DiskError| self.fatal(&error);
        let mut work = lock(&self.work);
        let removed = self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let Some(segment) = removed else { return Ok(()) };
        self.abandon_merge(&mut work, id)?;
        work.graveyard.retain(|(owner, _)| owner.id != id);
        // The log knows first, then the manifest goes: without it the rest is garbage. (Had the log no
        // room to know, an opening before its next life finds the segment gone, and thus not full.)
        self.note_soon(ledger::dropped(id))?;
        let dir = &segment.dir;
        recipes::remove_all(&*self.disk, dir, &[crate::manifest::NAME.to_owned()])
            .map_err(fatal)?;
        let names = self.disk.list(dir).map_err(fatal)?;
        recipes::remove_all(&*self.disk, dir, &names).map_err(fatal)?;
        self.disk.remove_dir(dir).map_err(fatal)?;
        self.disk.sync_dir(&self.dir.join("seg")).map_err(fatal)
    }

    /// Makes a segment's state and file set durable, then visible, and then noted in the log: an
    /// earlier directory is noticed from then on. Returns the files that are no longer part of it.
    pub(crate) fn save(
        &self,
        segment: &Segment,
        change: Option<NewFiles>,
        edit: impl FnOnce(&mut Manifest),
    ) -> Result<Vec<Arc<PageFile>>, StoreError> {
        let gone = segment.commit(&*self.disk, change, edit).map_err(|e| self.replaced(&e))?;
        self.note_soon(Noted::of(&segment.manifest()).entry())?;
        Ok(gone)
    }

    /// The error of replacing a manifest: while the new one is written aside, a full disk costs nothing.
    fn replaced(&self, error: &DiskError) -> StoreError {
        match error.operation {
            Operation::Rename | Operation::SyncDir => self.fatal(error),
            _ => self.unless_full(error),
        }
    }

    /// Notes what is so already; without room for it, the next life of the log will begin with it.
    fn note_soon(&self, entry: Entry) -> Result<(), StoreError> {
        match self.note(entry.clone()) {
            Err(StoreError::Full(_)) => {
                lock(&self.log).note_later(entry);
                Ok(())
            }
            other => other,
        }
    }

    fn note(&self, entry: Entry) -> Result<(), StoreError> {
        let mut log = lock(&self.log);
        let (_, bytes) = log.append(&[entry]).map_err(|error| self.log_failed(error))?;
        self.counters.log_bytes_written.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Makes entries durable, all in one write, and readable. A state entry's history voids at once.
    ///
    /// # Errors
    /// No such segment: nothing was written. Full: nothing is acknowledged, and the same entries may be
    /// appended again. Poisoned: this and every later call fails.
    pub fn append(&self, entries: &[(SegmentId, LogEntry)]) -> Result<(), StoreError> {
        self.check()?;
        let segments: Vec<Arc<Segment>> =
            entries.iter().map(|(id, _)| self.segment(*id)).collect::<Result<_, _>>()?;
        let raw: Vec<Entry> = entries.iter().map(|(id, entry)| entry::encode(*id, entry)).collect();
        let mut log = lock(&self.log);
        self.check()?;
        let (locations, bytes) = log.append(&raw).map_err(|error| self.log_failed(error))?;
        // Indexed in the log's order, before another append may pass.
        for ((segment, (_, entry)), location) in segments.iter().zip(entries).zip(locations) {
            let mut index = segment.write();
            index.applied = location.position();
            match entry {
                LogEntry::Batch(batch) => index.insert(batch, location),
                LogEntry::State(state) => {
                    index.set_state(state);
                    index.state_at = location.position();
                }
            }
        }
        drop(log);
        self.counters.log_writes.fetch_add(1, Ordering::Relaxed);
        self.counters.log_bytes_written.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Tells marks that came without a persisted batch: what may be flushed and folded. They count
    /// only once the report's history is persisted here.
    pub fn advance(&self, segment: SegmentId, report: &SegmentReport) {
        if let Ok(segment) = self.segment(segment) {
            let epoch = report.history.last_epoch();
            let mut index = segment.write();
            index.advance_under(epoch, report.vdl, report.low_water, report.watermark);
        }
    }

    /// The page's newest version at or below the read point. The caller has checked that the
    /// segment is complete to there.
    #[must_use]
    pub fn read_page(&self, segment: SegmentId, key: &PageKey, read_point: Lsn) -> PageAnswer {
        self.answer(segment, key, read_point)
    }

    /// End of the newest record that changed the page; `None` where no version exists.
    ///
    /// # Errors
    /// Forgotten, damaged, or no such segment.
    pub fn read_version(
        &self,
        segment: SegmentId,
        key: &PageKey,
        read_point: Lsn,
    ) -> Result<Option<Lsn>, StoreError> {
        self.version(segment, key, read_point)
    }

    /// Pages that exist in `from..to`, in key order, up to about `bytes_max`, and the first key not
    /// looked at (`None` at the end of the range).
    ///
    /// # Errors
    /// Forgotten, damaged, or no such segment.
    pub fn scan(
        &self,
        segment: SegmentId,
        from: &PageKey,
        to: &PageKey,
        read_point: Lsn,
        bytes_max: usize,
    ) -> Result<ScanPage, StoreError> {
        self.pages_between(segment, (from, to), read_point, bytes_max)
    }

    /// Live batches that hold the parts with ends in `(after, upto]`, up to about `bytes_max` (at
    /// least one batch), without gap. The first may begin before `after`.
    ///
    /// # Errors
    /// Damaged, or no such segment.
    pub fn read_chain(
        &self,
        segment: SegmentId,
        after: Lsn,
        upto: Lsn,
        bytes_max: usize,
    ) -> Result<Chain, StoreError> {
        self.chain(segment, after, upto, bytes_max)
    }

    /// Drops parts that this history voids from the index. (A persisted state entry does so too.)
    ///
    /// # Errors
    /// No such segment.
    pub fn void(&self, segment: SegmentId, history: &History) -> Result<(), StoreError> {
        self.segment(segment)?.write().void_by(history);
        Ok(())
    }

    /// Pins the segment's files for copying.
    ///
    /// # Errors
    /// No such segment, or its files are damaged.
    pub fn export(&self, segment: SegmentId) -> Result<Export, StoreError> {
        self.export_files(segment)
    }

    /// Begins to copy a segment that is held here, blank or damaged, from a peer's manifest.
    ///
    /// # Errors
    /// When the manifest is malformed or of another segment.
    pub fn begin_install(
        &self,
        segment: SegmentId,
        manifest: &Bytes,
    ) -> Result<Install, StoreError> {
        self.check()?;
        self.install(segment, manifest)
    }

    /// Puts the copied files in place, durably; every block of them was checked when it came. Returns the
    /// position up to which the segment now holds everything; parts above it in the log stay.
    ///
    /// # Errors
    /// When something is missing; the segment is as before.
    pub fn finish_install(&self, install: Install) -> Result<Lsn, StoreError> {
        self.check()?;
        self.put_in_place(install)
    }

    /// Does one unit of background work (flush, recycle, merge, remove) and says whether there may
    /// be more. For a low-priority thread, while appends and reads go on.
    ///
    /// # Errors
    /// Poisoned.
    pub fn background(&self) -> Result<bool, StoreError> {
        self.check()?;
        self.work_unit(&mut lock(&self.work))
    }

    /// Whether background work is so far behind that appending should wait for it: memory and log have no
    /// other bound.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.owes_flushes()
    }

    /// Flushes what may be flushed of one segment now, whatever its size.
    ///
    /// # Errors
    /// No such segment, or poisoned.
    pub fn flush_segment(&self, segment: SegmentId) -> Result<bool, StoreError> {
        self.check()?;
        let segment = self.segment(segment)?;
        self.flush(&mut lock(&self.work), &segment)
    }

    /// Begins to check all that the store keeps, or only these segments' files, and the log.
    #[must_use]
    pub fn begin_scrub(&self, only: Option<&dyn Fn(SegmentId) -> bool>) -> Scrub {
        self.plan_scrub(only)
    }

    /// Checks about so many bytes more; false when all has been. Damage is remembered: it is not
    /// read, merged or copied from then on.
    ///
    /// # Errors
    /// Poisoned, when something damaged could not be written again.
    pub fn scrub(&self, scrub: &mut Scrub, bytes_max: u64) -> Result<bool, StoreError> {
        self.check()?;
        self.scrub_on(scrub, bytes_max)
    }

    /// Checks a segment's files and the log at once.
    ///
    /// # Errors
    /// When anything is damaged.
    pub fn verify(&self, id: SegmentId) -> Result<(), StoreError> {
        let segment = self.segment(id)?;
        let mut scrub = self.begin_scrub(Some(&|other| other == id));
        while self.scrub(&mut scrub, u64::MAX)? {}
        let log = self.damage().log.into_iter().next();
        match segment.read().damage().or(log) {
            Some(why) => Err(StoreError::Damaged { what: format!("segment {id}"), why }),
            None => Ok(()),
        }
    }

    /// Everything that is known to be damaged and not yet mended.
    #[must_use]
    pub fn damage(&self) -> Damage {
        self.survey_damage()
    }

    /// Begins to mend a segment that has damaged blocks, with pages from its peers; `None` when there
    /// is nothing to do, or a mend is under way.
    ///
    /// # Errors
    /// No such segment, or poisoned.
    pub fn begin_mend(&self, segment: SegmentId) -> Result<Option<Mend>, StoreError> {
        self.check()?;
        self.plan_mend(segment)
    }

    /// Has background work put the pages in place. If more was found damaged meanwhile, nothing comes
    /// of it, and the segment is to be mended again.
    ///
    /// # Errors
    /// When pages are still wanted, or poisoned.
    pub fn finish_mend(&self, mend: Mend) -> Result<(), StoreError> {
        self.check()?;
        self.end_mend(mend)
    }

    /// Gives a mend up.
    ///
    /// # Errors
    /// Poisoned.
    pub fn abandon_mend(&self, mend: Mend) -> Result<(), StoreError> {
        self.check()?;
        self.drop_mend(mend)
    }

    /// A segment's members, and where they were last known to be.
    ///
    /// # Errors
    /// No such segment.
    pub fn spec(&self, segment: SegmentId) -> Result<SegmentSpec, StoreError> {
        Ok(self.segment(segment)?.manifest().spec.clone())
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let oldest = lock(&self.log).oldest_needed();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut stats = Stats {
            log_writes: load(&self.counters.log_writes),
            log_bytes_written: load(&self.counters.log_bytes_written),
            log_bytes: self.lives.bytes_from(oldest),
            flushes: load(&self.counters.flushes),
            flushed_bytes: load(&self.counters.flushed_bytes),
            merges: load(&self.counters.merges),
            merged_bytes: load(&self.counters.merged_bytes),
            cold_parts_max: load(&self.counters.cold_parts_max),
            engine_errors: load(&self.counters.engine_errors),
            damage_found: load(&self.counters.damage_found),
            damage_mended: load(&self.counters.damage_mended),
            mends: load(&self.counters.mends),
            ..Stats::default()
        };
        for segment in self.all_segments() {
            stats.add(&segment.read());
        }
        stats
    }

    /// What each segment takes on the disk.
    #[must_use]
    pub fn usage(&self) -> Vec<Usage> {
        let segments = self.all_segments();
        segments.iter().map(|segment| Usage::of(segment.id, &segment.read())).collect()
    }

    /// Why the store is stopped, if it is.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.poison.get().cloned()
    }
}
