//! Absent to present: fetches pages and puts them in place under claims (rule R2a).
//!
//! A block is fetched once however many ask for it: those who come later wait for the first. No
//! claim is held while storage is asked, so PostgreSQL's own writes never wait for the network; the
//! block's word, noted before asking, tells afterwards whether the page is still wanted (rule H5).

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use seam::{Claimant, SegmentName, State};

use crate::cache::local::{BLOCK, Local};
use crate::cache::{CacheStats, Claimants, FetchError, PageSource, fork_of};

/// Most blocks asked for at once.
const BATCH_BLOCKS: usize = 64;
/// Pause before storage is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// By how much a reader may crowd the cache before it gives eviction time, and how much at most.
const SPARE_BYTES: u64 = 16 << 20;
const GIVE_WAY: Duration = Duration::from_millis(20);
/// How often a wait for storage is reported.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

type Flying = BTreeSet<(SegmentName, u32)>;

/// See the module's description.
pub struct Filler {
    claimants: Arc<Claimants>,
    source: Arc<dyn PageSource>,
    stats: Arc<CacheStats>,
    flying: Mutex<Flying>,
    landed: Condvar,
    stopped: AtomicBool,
}

impl std::fmt::Debug for Filler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filler").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// Blocks that this caller fetches; landed on drop, fetched or not.
struct Flight<'a> {
    filler: &'a Filler,
    name: SegmentName,
    blocks: Vec<u32>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flying = self.filler.flying();
        for block in &self.blocks {
            flying.remove(&(self.name, *block));
        }
        drop(flying);
        self.filler.landed.notify_all();
    }
}

impl Filler {
    /// A filler of this instance's files from `source`.
    #[must_use]
    pub fn new(
        claimants: Arc<Claimants>,
        source: Arc<dyn PageSource>,
        stats: Arc<CacheStats>,
    ) -> Arc<Filler> {
        Arc::new(Filler {
            claimants,
            source,
            stats,
            flying: Mutex::default(),
            landed: Condvar::new(),
            stopped: AtomicBool::new(false),
        })
    }

    /// Ends every wait for storage; readers get EIO. For a driver that is being stopped after
    /// PostgreSQL.
    pub fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.landed.notify_all();
    }

    fn flying(&self) -> MutexGuard<'_, Flying> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes blocks of a segment file present; returns when all of them have been.
    ///
    /// # Errors
    /// The errno for the reader.
    pub fn fetch(&self, name: &SegmentName, first: u32, count: u32) -> Result<(), i32> {
        let Some(local) = self.open(name)? else { return Ok(()) };
        loop {
            let absent = absent_of(&local, first, count);
            if absent.is_empty() {
                return Ok(());
            }
            if self.stopped.load(SeqCst) {
                return Err(libc::EIO);
            }
            let flight = self.take_off(name, &absent);
            if flight.blocks.is_empty() {
                self.wait_for_landing(name, &absent);
                continue;
            }
            for batch in flight.blocks.chunks(BATCH_BLOCKS) {
                self.give_way();
                let seen = look(&local, batch);
                let pages = self.pages_at_last(name, batch)?;
                let filled = self.put(&local, &seen, &pages)?;
                CacheStats::add(&self.stats.demanded, filled);
            }
            // Those that were not put in place belong to somebody who writes, evicts or discards
            // them; or were made absent once more: both show in the next look.
        }
    }

    /// Makes blocks present that nobody is fetching yet; comes to nothing if storage is not there.
    pub fn prefetch(&self, name: &SegmentName, first: u32, count: u32) {
        let Ok(Some(local)) = self.open(name) else { return };
        let absent = absent_of(&local, first, count);
        let flight = self.take_off(name, &absent);
        let (rel, fork) = fork_of(name);
        for batch in flight.blocks.chunks(BATCH_BLOCKS) {
            if self.stats.is_crowded(SPARE_BYTES / 2) {
                return; // it was only a guess
            }
            let seen = look(&local, batch);
            let Ok(pages) = self.source.pages(rel, fork, &in_fork(name, batch)) else { return };
            match self.put(&local, &seen, &pages) {
                Ok(filled) => CacheStats::add(&self.stats.prefetched, filled),
                Err(_errno) => return,
            }
        }
    }

    /// Lets eviction catch up with readers, for a bounded time: the cache's size is an aim, a page
    /// that PostgreSQL waits for is not.
    fn give_way(&self) {
        let began = Instant::now();
        while self.stats.is_crowded(SPARE_BYTES) && began.elapsed() < GIVE_WAY {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn open(&self, name: &SegmentName) -> Result<Option<Local>, i32> {
        Local::open(self.claimants.instance(), name).map_err(|error| {
            tracing::error!(segment = ?name, %error, "cannot open a segment file of the cache");
            error.raw_os_error().unwrap_or(libc::EIO)
        })
    }

    /// Takes on those blocks that nobody else is fetching.
    fn take_off(&self, name: &SegmentName, absent: &[u32]) -> Flight<'_> {
        let mut flying = self.flying();
        let mine = absent.iter().filter(|block| flying.insert((*name, **block)));
        let blocks = mine.copied().collect();
        drop(flying);
        Flight { filler: self, name: *name, blocks }
    }

    /// Waits until one of these blocks is no longer being fetched.
    fn wait_for_landing(&self, name: &SegmentName, blocks: &[u32]) {
        let flying = self.flying();
        if blocks.iter().all(|block| flying.contains(&(*name, *block))) {
            let waited = self.landed.wait_timeout(flying, RETRY_PAUSE);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Asks storage until it answers (rule C3).
    fn pages_at_last(&self, name: &SegmentName, blocks: &[u32]) -> Result<Vec<Option<Bytes>>, i32> {
        let (rel, fork) = fork_of(name);
        let began = Instant::now();
        let mut complained = began;
        loop {
            let error = match self.source.pages(rel, fork, &in_fork(name, blocks)) {
                Ok(pages) if pages.len() == blocks.len() => return Ok(pages),
                Ok(pages) => FetchError::Broken {
                    what: format!("{} blocks of {rel}", blocks.len()),
                    why: format!("{} pages were answered", pages.len()),
                },
                Err(error) => error,
            };
            if let FetchError::Broken { .. } = error {
                tracing::error!(%error, "a read by PostgreSQL fails");
                return Err(libc::EIO);
            }
            CacheStats::add(&self.stats.retries, 1);
            if complained.elapsed() > COMPLAIN_EVERY {
                complained = Instant::now();
                let waited = began.elapsed().as_secs();
                tracing::warn!(%error, waited_s = waited, "PostgreSQL waits for a page; trying on");
            }
            if self.stopped.load(SeqCst) {
                return Err(libc::EIO);
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Puts pages in place where they are still wanted; returns how many.
    fn put(
        &self,
        local: &Local,
        seen: &[(u32, State)],
        pages: &[Option<Bytes>],
    ) -> Result<u64, i32> {
        let mut filled = 0;
        for ((block, state), page) in seen.iter().zip(pages) {
            let done = self
                .claimants
                .with(|claimant| put_one(local, *block, *state, page.as_deref(), claimant));
            match done.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ENFILE))) {
                Ok(true) => filled += 1,
                Ok(false) => CacheStats::add(&self.stats.too_late, 1),
                Err(error) => {
                    tracing::error!(segment = ?local.name, block, %error, "cannot fill the cache");
                    return Err(error.raw_os_error().unwrap_or(libc::EIO));
                }
            }
        }
        self.stats.came(filled);
        Ok(filled)
    }
}

fn absent_of(local: &Local, first: u32, count: u32) -> Vec<u32> {
    let end = first.saturating_add(count).min(seam::BLOCKS_PER_SEGMENT);
    (first..end).filter(|block| local.map.state(*block).is_absent()).collect()
}

fn look(local: &Local, blocks: &[u32]) -> Vec<(u32, State)> {
    blocks.iter().map(|block| (*block, local.map.state(*block))).collect()
}

fn in_fork(name: &SegmentName, blocks: &[u32]) -> Vec<u32> {
    blocks.iter().map(|block| name.first_block() + block).collect()
}

/// Puts one page in place under a claim; `false` when it is no longer wanted.
fn put_one(
    local: &Local,
    block: u32,
    seen: State,
    page: Option<&[u8]>,
    claimant: Claimant<'_>,
) -> io::Result<bool> {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let page = page.unwrap_or(&ZEROS);
    if page.len() != BLOCK {
        let what = format!("a page of {} bytes", page.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    // Somebody at work on the block decides; after it the look repeats.
    local.map.wait_unclaimed(block, claimant);
    claimant.publish(&local.name, block, 1);
    let claimed = local.map.claim_fill(block, seen, claimant);
    let mut result = Ok(claimed);
    if claimed {
        match local.write(block, page) {
            Ok(()) => local.map.release_present(block),
            Err(error) => {
                local.map.release_unchanged(block);
                result = Err(error);
            }
        }
    }
    claimant.retire();
    result
}
