//! Present to absent: lets blocks go that the log can give back, and only those (rule R4).
//!
//! The order is the rule. (1) Clear the candidates' WRITTEN marks. (2) Only then ask how far
//! PostgreSQL has inserted, and wait until that is durable: whatever it had logged when it last wrote
//! a candidate is durable now (R4c). (3) Compare LSNs with storage (R4b) and with the running
//! transactions (R4d). (4) Claim each block, which fails if it was written since (1); look at its LSN
//! once more; make it absent; punch; release.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use seam::{Claimant, NoRoom};
use types::Lsn;

use crate::cache::local::{BLOCK, Local};
use crate::cache::page::{self, HEADER};
use crate::cache::resident::{self, Candidates, Clock};
use crate::cache::{CacheStats, Claimants, FetchError, Log, PageSource, fork_of};

/// Blocks let go at once: one wait for the log serves them all.
const BATCH_BLOCKS: usize = 2048;
/// Blocks asked about at once.
const ASK_BLOCKS: usize = 256;
/// Longest wait for the log to become durable up to where PostgreSQL has inserted.
const DURABLE_LIMIT: Duration = Duration::from_secs(5);
/// Pause between looks at what fills have added meanwhile.
const GLANCE: Duration = Duration::from_millis(10);
/// How long PostgreSQL may take to flush of its own accord.
const UNHURRIED: Duration = Duration::from_millis(300);
/// Pause between looks at the cache's size.
const PAUSE: Duration = Duration::from_millis(200);
/// How long eviction may fail before it is reported; a server that starts cannot be asked yet.
const COMPLAIN_AFTER: Duration = Duration::from_secs(10);
/// LSN of pages that a GiST build has not logged yet (`GistBuildLSN`, `access/gist.h`).
const GIST_BUILD_LSN: Lsn = Lsn(1);
/// WAL page headers: in front of a page, and of a segment's first page.
const WAL_PAGE: u64 = 8192;
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// How large the cache may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes aimed at.
    pub cache_size: u64,
    /// Bytes past which relation files may not grow (PostgreSQL's own out-of-space error).
    pub cache_limit: u64,
}

/// What an eviction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evicted {
    /// Blocks made absent.
    pub blocks: u64,
    /// Blocks kept because rule R4 pins them.
    pub pinned: u64,
    /// Blocks kept because they differ from storage: a defect.
    pub different: u64,
}

/// Why an eviction was given up; nothing is lost by it, the blocks stay.
#[derive(Debug, thiserror::Error)]
pub enum EvictError {
    /// A file of the cache.
    #[error("a file of the cache: {0}")]
    Io(#[from] io::Error),
    /// Storage does not answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// PostgreSQL cannot be asked, or its log does not become durable.
    #[error("the log: {0}")]
    Log(String),
}

/// See the module's description.
pub struct Evictor {
    claimants: Arc<Claimants>,
    source: Arc<dyn PageSource>,
    log: Arc<dyn Log>,
    stats: Arc<CacheStats>,
    limits: Limits,
    /// Let everything go that may go, whatever the size, compared with storage first (test mode).
    everything: bool,
    clock: Clock,
}

impl std::fmt::Debug for Evictor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evictor").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A candidate with the LSN it must still have when it goes, and storage's page if it is compared.
struct Verdict {
    block: u32,
    lsn: Lsn,
    stored: Option<Bytes>,
}

/// What the log said: durable to, looked through to, oldest running transaction's first record.
#[derive(Clone, Copy)]
struct Bounds {
    durable: Lsn,
    routed: Lsn,
    oldest_running: Lsn,
}

impl Evictor {
    /// An evictor that keeps the cache within `limits`.
    #[must_use]
    pub fn new(
        claimants: Arc<Claimants>,
        source: Arc<dyn PageSource>,
        log: Arc<dyn Log>,
        stats: Arc<CacheStats>,
        limits: Limits,
    ) -> Evictor {
        let (everything, clock) = (false, Clock::default());
        Evictor { claimants, source, log, stats, limits, everything, clock }
    }

    /// The test mode: [`Evictor::run`] lets everything go that may go, all the time.
    #[must_use]
    pub fn of_everything(self) -> Evictor {
        Evictor { everything: true, ..self }
    }

    /// Works until told to stop. Troubles are reported and tried again.
    pub fn run(mut self, stop: &AtomicBool) {
        let mut failing_since: Option<Instant> = None;
        while !stop.load(Ordering::SeqCst) {
            let turned = if self.everything { self.evict_everything() } else { self.turn() };
            match (turned, failing_since) {
                (Ok(_), _) => failing_since = None,
                (Err(_), None) => failing_since = Some(Instant::now()),
                (Err(error), Some(since)) if since.elapsed() > COMPLAIN_AFTER => {
                    tracing::warn!(%error, "the cache cannot let blocks go; trying on");
                    failing_since = Some(Instant::now());
                }
                (Err(_), Some(_)) => {}
            }
            let paused = Instant::now();
            let pause = if self.everything { GLANCE } else { PAUSE };
            while paused.elapsed() < pause && !self.stats.is_crowded(0) {
                std::thread::sleep(GLANCE);
            }
            if paused.elapsed() < GLANCE {
                std::thread::sleep(GLANCE);
            }
        }
    }

    /// One look at the cache's size; lets go what is too much.
    ///
    /// # Errors
    /// When nothing could be let go although something should.
    pub fn turn(&mut self) -> Result<Evicted, EvictError> {
        let mut total = Evicted::default();
        loop {
            let resident = self.measure()?;
            // Once at it, an eighth more: readers then have room until the next turn.
            let size = self.limits.cache_size;
            let surplus = if resident > size { resident - (size - size / 8) } else { 0 };
            let want = usize::try_from(surplus.div_ceil(BLOCK as u64)).unwrap_or(usize::MAX);
            if want == 0 {
                self.stats.reachable_bytes.store(self.limits.cache_size, Ordering::Relaxed);
                return Ok(total);
            }
            let picked = self.clock.pick(self.claimants.instance(), want.min(BATCH_BLOCKS))?;
            let done = self.evict(&picked, false)?;
            total.blocks += done.blocks;
            total.pinned += done.pinned;
            total.different += done.different;
            // Fills have to wait only while they undo what was reached: what is pinned, or much, as
            // after a large transaction, takes its time.
            let now = CacheStats::get(&self.stats.resident_bytes);
            let reachable = now.max(self.limits.cache_size);
            self.stats.reachable_bytes.store(reachable, Ordering::Relaxed);
            if done.blocks == 0 {
                return Ok(total);
            }
        }
    }

    /// Lets everything go that rule R4 allows, comparing each block with storage before (the test
    /// mode of rule R4).
    ///
    /// # Errors
    /// When files, storage or the log do not allow it; what has gone by then is gone.
    pub fn evict_everything(&self) -> Result<Evicted, EvictError> {
        let all = resident::everything(self.claimants.instance())?;
        let done = self.evict(&all, true);
        self.measure()?;
        done
    }

    /// Measures the cache and tells PostgreSQL's processes whether relation files may grow.
    fn measure(&self) -> Result<u64, EvictError> {
        let resident = resident::resident_bytes(self.claimants.instance())?;
        let full = resident >= self.limits.cache_limit;
        self.claimants.board().set_no_room(NoRoom::Cache, full);
        self.stats.resident_bytes.store(resident, Ordering::Relaxed);
        self.stats.full.store(u64::from(full), Ordering::Relaxed);
        Ok(resident)
    }

    fn evict(&self, candidates: &[Candidates], compare: bool) -> Result<Evicted, EvictError> {
        for Candidates { local, blocks } in candidates {
            for block in blocks {
                local.map.clear_written(*block);
            }
        }
        self.await_log()?;
        let mut done = Evicted::default();
        for Candidates { local, blocks } in candidates {
            for blocks in blocks.chunks(ASK_BLOCKS) {
                let verdicts = self.judge(local, blocks, compare)?;
                let (routed, oldest_running) = self.log.running();
                let bounds = Bounds { durable: self.log.durable(), routed, oldest_running };
                done.pinned += (blocks.len() - verdicts.len()) as u64;
                for verdict in &verdicts {
                    self.let_go(local, verdict, bounds, compare, &mut done)?;
                }
            }
        }
        self.stats.went(done.blocks);
        CacheStats::add(&self.stats.evicted, done.blocks);
        CacheStats::add(&self.stats.pinned, done.pinned);
        CacheStats::add(&self.stats.different, done.different);
        Ok(done)
    }

    /// Rule R4c: waits until everything inserted by now is durable.
    fn await_log(&self) -> Result<(), EvictError> {
        let inserted =
            self.log.insert_position().map_err(|error| EvictError::Log(format!("{error:#}")))?;
        let inserted = record_end(inserted, self.claimants.board().wal_segment_bytes());
        let began = Instant::now();
        let mut hurried = false;
        while self.log.durable() < inserted {
            if !hurried && began.elapsed() > UNHURRIED {
                hurried = true;
                self.log.hurry().map_err(|error| EvictError::Log(format!("{error:#}")))?;
            }
            if began.elapsed() > DURABLE_LIMIT {
                let durable = self.log.durable();
                return Err(EvictError::Log(format!(
                    "durable to {durable}, inserted to {inserted}"
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Rule R4b: those blocks of which storage has the local copy's state or a later one.
    ///
    /// A later one is as good. A record may change a page without moving its LSN. Or PostgreSQL
    /// holds the newer page in its buffers and has not written it yet (a page by which it has grown
    /// a relation is all zeros until then): nobody reads this copy before it does.
    fn judge(
        &self,
        local: &Local,
        blocks: &[u32],
        compare: bool,
    ) -> Result<Vec<Verdict>, EvictError> {
        let (rel, fork) = fork_of(&local.name);
        let in_fork = |blocks: &[u32]| -> Vec<u32> {
            blocks.iter().map(|block| local.name.first_block() + block).collect()
        };
        let versions = self.source.versions(rel, fork, &in_fork(blocks))?;
        let mut verdicts = Vec::new();
        let mut doubtful = Vec::new();
        for (block, version) in blocks.iter().copied().zip(versions) {
            let mut content = [0; BLOCK];
            match local.read(block, &mut content) {
                Ok(()) => {}
                // Truncated meanwhile.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(error.into()),
            }
            let Some(version) = version.filter(|_| !page::is_sequence(&content)) else { continue };
            let lsn = page::lsn_of(&content);
            let verdict = Verdict { block, lsn, stored: None };
            let logged = lsn > GIST_BUILD_LSN;
            if logged && version < lsn {
                // An imported page carries its old server's LSN, its version the import's.
                doubtful.push(verdict);
            } else if logged || content.iter().all(|byte| *byte == 0) {
                verdicts.push(verdict);
            }
        }
        let undoubted = verdicts.len();
        verdicts.append(&mut doubtful);
        let first_asked = if compare { 0 } else { undoubted };
        let asked: Vec<u32> =
            verdicts.iter().skip(first_asked).map(|verdict| verdict.block).collect();
        if asked.is_empty() {
            return Ok(verdicts);
        }
        let pages = self.source.pages(rel, fork, &in_fork(&asked))?;
        for (verdict, stored) in verdicts.iter_mut().skip(first_asked).zip(pages) {
            // Only versions of one LSN can be compared.
            verdict.stored = stored.filter(|stored| page::lsn_of(stored) == verdict.lsn);
        }
        let mut index = 0;
        verdicts.retain(|verdict| {
            index += 1;
            index <= undoubted || verdict.stored.is_some()
        });
        Ok(verdicts)
    }

    fn let_go(
        &self,
        local: &Local,
        verdict: &Verdict,
        bounds: Bounds,
        compare: bool,
        done: &mut Evicted,
    ) -> Result<(), EvictError> {
        // Rule R4d: older than the first record of every transaction still running.
        let Bounds { durable, routed, oldest_running } = bounds;
        if verdict.lsn > oldest_running || verdict.lsn > routed || verdict.lsn > durable {
            done.pinned += 1;
            return Ok(());
        }
        let compare = compare.then_some(verdict.stored.as_deref()).flatten();
        let outcome =
            self.claimants.with(|claimant| claim_and_punch(local, verdict, compare, claimant));
        match outcome.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ENFILE)))? {
            Outcome::Gone => done.blocks += 1,
            Outcome::Kept => done.pinned += 1,
            Outcome::Different(how) => {
                done.different += 1;
                let segment = &local.name;
                tracing::error!(?segment, block = verdict.block, lsn = %verdict.lsn, how,
                    "a local page differs from storage's; it stays");
            }
        }
        Ok(())
    }
}

enum Outcome {
    Gone,
    Kept,
    Different(String),
}

fn claim_and_punch(
    local: &Local,
    verdict: &Verdict,
    compare: Option<&[u8]>,
    claimant: Claimant<'_>,
) -> io::Result<Outcome> {
    claimant.publish(&local.name, verdict.block, 1);
    if !local.map.claim_evict(verdict.block, claimant) {
        claimant.retire();
        return Ok(Outcome::Kept);
    }
    let outcome = punch_if_same(local, verdict, compare);
    local.map.release_unchanged(verdict.block);
    claimant.retire();
    outcome
}

fn punch_if_same(local: &Local, verdict: &Verdict, compare: Option<&[u8]>) -> io::Result<Outcome> {
    let mut content = [0; BLOCK];
    let wanted = if compare.is_some() { BLOCK } else { HEADER };
    let Some(content) = content.get_mut(..wanted) else { return Ok(Outcome::Kept) };
    local.read(verdict.block, content)?;
    if page::lsn_of(content) != verdict.lsn {
        return Ok(Outcome::Kept);
    }
    if let Some(stored) = compare {
        let block = local.name.first_block() + verdict.block;
        match page::difference(content, stored, block) {
            Ok(None) => {}
            Ok(Some(how)) => return Ok(Outcome::Different(how)),
            Err(corrupt) => return Ok(Outcome::Different(corrupt)),
        }
    }
    local.map.make_absent(verdict.block);
    // If this fails the block is absent all the same, and only its room is not given back.
    local.punch(verdict.block)?;
    Ok(Outcome::Gone)
}

/// The end of the last record inserted. PostgreSQL reports where the next one goes: at the beginning
/// of a log page that is behind the page's header.
fn record_end(inserted: Lsn, segment_bytes: u64) -> Lsn {
    let in_page = inserted.0 % WAL_PAGE;
    let in_segment = inserted.0.checked_rem(segment_bytes).unwrap_or(u64::MAX);
    if in_segment == LONG_HEADER {
        Lsn(inserted.0 - LONG_HEADER)
    } else if in_page == SHORT_HEADER && in_segment != SHORT_HEADER {
        Lsn(inserted.0 - SHORT_HEADER)
    } else {
        inserted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_position_behind_a_page_header_means_the_end_of_the_page_before() {
        const SEGMENT: u64 = 16 << 20;
        assert_eq!(record_end(Lsn(SEGMENT + 40), SEGMENT), Lsn(SEGMENT));
        assert_eq!(record_end(Lsn(SEGMENT + 8192 + 24), SEGMENT), Lsn(SEGMENT + 8192));
        assert_eq!(record_end(Lsn(SEGMENT + 8192 + 40), SEGMENT), Lsn(SEGMENT + 8192 + 40));
        assert_eq!(record_end(Lsn(SEGMENT + 8192), SEGMENT), Lsn(SEGMENT + 8192));
    }
}
