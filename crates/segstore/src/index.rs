//! What memory knows of one segment: parts that are not yet in page files, by page and by chain;
//! where the log holds each batch; which page files hold the rest.
//!
//! Invariants: `links` ascend by end and are live; every part at or below `flushed` is in `files`;
//! `contiguous` is the end of the unbroken chain from `flushed`; versions at or below `flushed` may
//! linger and are ignored. One lock holds all of it, so a reader sees one moment.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use types::{Epoch, History, Lsn, PageKey, Span};
use wire::{Batch, Change};

use crate::entry::SegmentState;
use crate::log::{Location, Position};
use crate::pages::PageFile;
use crate::version::{RangeDelete, Version, What};

/// Memory a version takes besides its bytes, about.
const OVERHEAD: u64 = 100;

fn change_bytes(change: &Change) -> u64 {
    let image = if let Change::Put(_, bytes) = change { bytes.len() as u64 } else { 0 };
    OVERHEAD + image
}

/// A live part above `flushed`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// End of the group's part before it.
    base: Lsn,
    span: Span,
    epoch: Epoch,
    bytes: u64,
}

/// A batch in the log with live parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) base: Lsn,
    /// End of its last live part.
    pub(crate) last: Lsn,
    /// Start of its first part.
    start: Lsn,
    pub(crate) epoch: Epoch,
    pub(crate) location: Location,
}

/// The whole of it.
pub(crate) struct Index {
    pub(crate) state: SegmentState,
    /// Position of the last log entry applied here.
    pub(crate) applied: Position,
    /// Position of the last state entry applied here.
    pub(crate) state_at: Position,
    pub(crate) flushed: Lsn,
    pub(crate) horizon: Lsn,
    /// Newest first.
    pub(crate) files: Arc<Vec<Arc<PageFile>>>,
    pub(crate) versions: BTreeMap<PageKey, Vec<Version>>,
    pub(crate) deletes: Vec<RangeDelete>,
    contiguous: Lsn,
    links: VecDeque<Link>,
    runs: VecDeque<Run>,
    /// The log holds every live part above this.
    floor: Lsn,
    /// Bytes of parts above `flushed`.
    pub(crate) bytes: u64,
    /// Why the files are not to be merged or copied any more.
    pub(crate) damage: Option<String>,
}

impl Index {
    pub(crate) fn new(
        state: SegmentState,
        flushed: Lsn,
        horizon: Lsn,
        files: Vec<Arc<PageFile>>,
    ) -> Index {
        Index {
            state,
            applied: Position::default(),
            state_at: Position::default(),
            flushed,
            horizon,
            files: Arc::new(files),
            versions: BTreeMap::new(),
            deletes: Vec::new(),
            contiguous: flushed,
            links: VecDeque::new(),
            runs: VecDeque::new(),
            floor: flushed,
            bytes: 0,
            damage: None,
        }
    }

    fn is_live(&self, epoch: Epoch, start: Lsn) -> bool {
        epoch >= self.state.history.last_epoch() || self.state.history.is_live(epoch, start)
    }

    /// Raises the marks as told under the history that ends with `epoch`. Under a history older than
    /// that, parts held here below the durable point may be void, so it is not believed yet (S6).
    pub(crate) fn advance_under(
        &mut self,
        epoch: Epoch,
        vdl: Span,
        low_water: Lsn,
        watermark: u64,
    ) {
        if epoch <= self.state.history.last_epoch() {
            self.advance(vdl, low_water, watermark);
        }
    }

    /// Raises the marks; they never go back.
    fn advance(&mut self, vdl: Span, low_water: Lsn, watermark: u64) {
        let state = &mut self.state;
        if vdl.end > state.vdl.end {
            state.vdl = vdl;
        }
        state.low_water = state.low_water.max(low_water);
        state.watermark = state.watermark.max(watermark);
    }

    /// Takes a batch that the log now holds. Parts already known only change place.
    pub(crate) fn insert(&mut self, batch: &Batch, location: Location) {
        let header = &batch.header;
        self.advance_under(header.epoch, header.vdl, header.low_water, header.watermark);
        let mut base = header.base;
        let mut fresh = false;
        for part in &batch.parts {
            let span = part.meta.span;
            if !self.is_live(header.epoch, span.start) {
                break;
            }
            let bytes = part.body.len() as u64 + part.changes.iter().map(change_bytes).sum::<u64>();
            let link = Link { base, span, epoch: header.epoch, bytes };
            if span.end > self.flushed && self.insert_link(link) {
                fresh = true;
                self.bytes += bytes;
                for (number, change) in part.changes.iter().enumerate() {
                    self.insert_change(change, span, number as u32, header.epoch, &part.body);
                }
            }
            base = span.end;
        }
        if base > header.base
            && let Some(first) = batch.parts.first()
        {
            let start = first.meta.span.start;
            let epoch = header.epoch;
            self.insert_run(Run { base: header.base, last: base, start, epoch, location });
        }
        if fresh {
            self.extend();
        }
    }

    fn insert_link(&mut self, link: Link) -> bool {
        if self.links.back().is_none_or(|last| last.span.end < link.span.end) {
            self.links.push_back(link);
            return true;
        }
        match self.links.binary_search_by_key(&link.span.end, |known| known.span.end) {
            Ok(_) => false,
            Err(at) => {
                self.links.insert(at, link);
                true
            }
        }
    }

    fn insert_run(&mut self, run: Run) {
        let key = |run: &Run| (run.last, run.base);
        if self.runs.back().is_none_or(|last| key(last) < key(&run)) {
            self.runs.push_back(run);
            return;
        }
        match self.runs.binary_search_by_key(&key(&run), key) {
            Ok(at) => self.runs[at] = run,
            Err(at) => self.runs.insert(at, run),
        }
    }

    fn insert_change(
        &mut self,
        change: &Change,
        span: Span,
        number: u32,
        epoch: Epoch,
        body: &bytes::Bytes,
    ) {
        let (key, what) = match change {
            Change::Apply(key) => (*key, What::Apply(body.clone())),
            Change::Put(key, bytes) => (*key, What::Put(bytes.clone())),
            Change::Delete { from, to } => {
                self.deletes.push(RangeDelete { from: *from, to: *to, span, number, epoch });
                return;
            }
        };
        self.insert_version(key, Version { span, number, epoch, what });
    }

    /// Puts a version in its place.
    pub(crate) fn insert_version(&mut self, key: PageKey, version: Version) {
        let versions = self.versions.entry(key).or_default();
        if versions.last().is_none_or(|last| last.order() < version.order()) {
            versions.push(version);
            return;
        }
        if let Err(at) = versions.binary_search_by_key(&version.order(), Version::order) {
            versions.insert(at, version);
        }
    }

    /// Keeps an image built by a read, unless its version has gone meanwhile.
    pub(crate) fn keep_image(&mut self, key: &PageKey, version: Lsn, bytes: bytes::Bytes) {
        let Some(versions) = self.versions.get_mut(key) else { return };
        let newest = versions.iter().rposition(|known| known.span.end == version);
        let Some(at) = newest else { return };
        if version <= self.flushed || matches!(versions[at].what, What::Image(_)) {
            return;
        }
        self.bytes += bytes.len() as u64;
        let image = Version { what: What::Image(bytes), ..versions[at].clone() };
        versions.insert(at + 1, image);
    }

    /// Follows the chain on from where it stood.
    fn extend(&mut self) {
        let mut at = self.links.partition_point(|link| link.span.end <= self.contiguous);
        while let Some(link) = self.links.get(at)
            && link.base <= self.contiguous
        {
            self.contiguous = link.span.end;
            at += 1;
        }
    }

    /// Follows a new state from here on, dropping what its history voids.
    pub(crate) fn set_state(&mut self, state: &SegmentState) {
        let changed = state.history != self.state.history;
        let (vdl, low_water) = (self.state.vdl, self.state.low_water);
        let watermark = self.state.watermark;
        if state.full && !self.state.full {
            // Rebuilt. Damage that is still there is met again.
            self.damage = None;
        }
        self.state = state.clone();
        self.advance(vdl, low_water, watermark);
        if changed {
            self.void();
        }
    }

    /// Drops what the history voids.
    pub(crate) fn void_by(&mut self, history: &History) {
        if history.last_epoch() >= self.state.history.last_epoch() {
            self.state.history = history.clone();
            self.void();
        }
    }

    fn void(&mut self) {
        let history = self.state.history.clone();
        let live = |epoch: Epoch, span: Span| history.is_live(epoch, span.start);
        self.links.retain(|link| live(link.epoch, link.span));
        self.deletes.retain(|delete| live(delete.epoch, delete.span));
        self.versions.retain(|_, versions| {
            versions.retain(|version| live(version.epoch, version.span));
            !versions.is_empty()
        });
        let mut runs = std::mem::take(&mut self.runs);
        runs.retain_mut(|run| {
            run.last = self.live_end(run);
            history.is_live(run.epoch, run.start) && run.last > run.base
        });
        runs.make_contiguous().sort_by_key(|run| (run.last, run.base));
        self.runs = runs;
        self.bytes = self.links.iter().map(|link| link.bytes).sum();
        self.contiguous = self.flushed;
        self.extend();
    }

    /// Where the live parts of a run end, now that dead links are gone.
    fn live_end(&self, run: &Run) -> Lsn {
        if run.last <= self.flushed {
            return run.last;
        }
        let upto = self.links.partition_point(|link| link.span.end <= run.last);
        let mine = |link: &&Link| link.epoch == run.epoch && link.base >= run.base;
        let last = self.links.iter().take(upto).rev().find(mine).map(|link| link.span.end);
        last.unwrap_or(Lsn::ZERO).max(self.flushed.min(run.last))
    }

    /// Up to where parts may move to page files: held without gap, and never to be void.
    pub(crate) fn flushable(&self) -> (Lsn, u64) {
        let limit = self.contiguous.min(self.state.vdl.end);
        let mut found = (self.flushed, 0);
        for link in self.links.iter().take_while(|link| link.span.end <= limit) {
            found = (link.span.end, found.1 + link.bytes);
        }
        found
    }

    /// Versions with keys at or above `from` that a flush up to `upto` writes: about `count` keys,
    /// and the key to go on from.
    pub(crate) fn chunk(
        &self,
        from: Bound<PageKey>,
        upto: Lsn,
        count: usize,
    ) -> (Vec<(PageKey, Vec<Version>)>, Option<PageKey>) {
        let mut out = Vec::new();
        let mut last = None;
        for (key, versions) in self.versions.range((from, Bound::Unbounded)).take(count) {
            last = Some(*key);
            let wanted = |v: &&Version| v.span.end > self.flushed && v.span.end <= upto;
            let versions: Vec<Version> = versions.iter().filter(wanted).cloned().collect();
            if !versions.is_empty() {
                out.push((*key, versions));
            }
        }
        (out, last)
    }

    /// Puts a new set of files in place that holds everything up to `flushed`.
    pub(crate) fn publish(&mut self, files: Vec<Arc<PageFile>>, flushed: Lsn, horizon: Lsn) {
        self.files = Arc::new(files);
        self.horizon = self.horizon.max(horizon);
        if flushed <= self.flushed {
            return;
        }
        self.flushed = flushed;
        while self.links.front().is_some_and(|link| link.span.end <= flushed) {
            self.links.pop_front();
        }
        self.bytes = self.links.iter().map(|link| link.bytes).sum();
        self.deletes.retain(|delete| delete.span.end > flushed);
        self.contiguous = self.contiguous.max(flushed);
        self.extend();
    }

    /// Frees versions at or below `flushed`, of about `count` keys from `from`; returns the key to
    /// go on from.
    pub(crate) fn free(&mut self, from: Bound<PageKey>, count: usize) -> Option<PageKey> {
        let flushed = self.flushed;
        let keys = self.versions.range_mut((from, Bound::Unbounded)).take(count);
        let mut empty = Vec::new();
        let mut last = None;
        for (key, versions) in keys {
            last = Some(*key);
            let gone = versions.partition_point(|version| version.span.end <= flushed);
            versions.drain(..gone);
            if versions.is_empty() {
                empty.push(*key);
            }
        }
        for key in empty {
            self.versions.remove(&key);
        }
        last
    }

    /// The log no longer holds this life.
    pub(crate) fn forget_life(&mut self, life: u64) {
        self.runs.retain(|run| run.location.life > life);
        self.find_floor();
    }

    /// Finds how far back from `flushed` the log's batches link up.
    pub(crate) fn find_floor(&mut self) {
        let mut floor = self.flushed;
        for run in self.runs.iter().rev() {
            if run.last < floor {
                break;
            }
            floor = floor.min(run.base);
        }
        self.floor = floor;
    }

    pub(crate) fn floor(&self) -> Lsn {
        self.floor
    }

    /// Runs that the page files do not cover yet and that lie in `life` or before.
    pub(crate) fn unflushed_in(&self, life: u64) -> Vec<Run> {
        let old = |run: &&Run| run.last > self.flushed && run.location.life <= life;
        self.runs.iter().filter(old).copied().collect()
    }

    /// Bytes of the above in the log.
    pub(crate) fn unflushed_bytes_in(&self, life: u64) -> u64 {
        self.unflushed_in(life).iter().map(|run| u64::from(run.location.length)).sum()
    }

    /// Everything of this segment before this position is in the manifest or in page files.
    pub(crate) fn covered(&self, flushed: Lsn) -> Position {
        let lives = self.runs.iter().filter(|run| run.last > flushed);
        let first = lives.map(|run| run.location.life).min();
        first.map_or(self.applied, |life| Position { life, offset: 0 })
    }

    /// Batches that lead on from `after`, in chain order; see [`crate::Store::read_chain`].
    pub(crate) fn chain(&self, after: Lsn, upto: Lsn, bytes_max: usize) -> Vec<Run> {
        let mut out = Vec::new();
        let (mut at, mut bytes) = (after, 0);
        while at < upto && (out.is_empty() || bytes < bytes_max) {
            let from = self.runs.partition_point(|run| run.last <= at);
            let Some(run) = self.runs.range(from..).find(|run| run.base <= at) else { break };
            out.push(*run);
            bytes += run.location.length as usize;
            at = run.last;
        }
        out
    }

    /// Every batch that the log still holds.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs.iter().copied().collect()
    }

    pub(crate) fn has_run(&self, run: &Run) -> bool {
        self.runs.contains(run)
    }

    /// Whether this is a live part above `flushed`.
    pub(crate) fn holds(&self, epoch: Epoch, span: Span) -> bool {
        let found = self.links.binary_search_by_key(&span.end, |link| link.span.end);
        found.is_ok_and(|at| self.links[at].epoch == epoch)
    }
}
