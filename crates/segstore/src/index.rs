//! What memory knows of one segment: parts that are not yet in page files, by page and by chain;
//! where the log holds each batch; which page files hold the rest.
//!
//! Invariants: `links` ascend by end and are live; every part at or below `flushed` is in `files`;
//! `contiguous` is the end of the unbroken chain from `flushed`; versions at or below `flushed` may
//! linger and are ignored. While a flush is under way its versions stand still in `frozen`, which a
//! void cannot reach (S6). One lock holds all of it, so a reader sees one moment.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use types::{Engine, Epoch, History, Lsn, PageKey, Span};
use wire::{Batch, Change};

use crate::entry::SegmentState;
use crate::log::{Location, Position};
use crate::pages::PageFile;
use crate::table::Table;
use crate::version::{Found, RangeDelete, Version, What, newest_delete};

/// Memory a change takes besides its bytes, about.
const OVERHEAD: u64 = 72;

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

/// Versions that are being flushed: those with ends at or below `upto`; others in `table` are ignored.
pub(crate) struct Frozen {
    table: Arc<Table>,
    upto: Lsn,
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
    /// Versions above those in `frozen`, and no others while there are any: a read meets it first.
    table: Table,
    frozen: Option<Frozen>,
    pub(crate) deletes: Vec<RangeDelete>,
    contiguous: Lsn,
    links: VecDeque<Link>,
    runs: VecDeque<Run>,
    /// The log holds every live part above this.
    floor: Lsn,
    /// Bytes of parts above `flushed`.
    pub(crate) bytes: u64,
    /// Bytes of `runs` in the log.
    pub(crate) log_bytes: u64,
    /// Why the segment begins again: it holds less than it once did, and is rebuilt by its peers.
    pub(crate) lost: Option<String>,
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
            table: Table::default(),
            frozen: None,
            deletes: Vec::new(),
            contiguous: flushed,
            links: VecDeque::new(),
            runs: VecDeque::new(),
            floor: flushed,
            bytes: 0,
            log_bytes: 0,
            lost: None,
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
                // What continues the chain needs no search for where it goes on.
                fresh |= !self.continues(&link);
                self.bytes += bytes;
                self.table.insert(span, header.epoch, &part.changes, &part.body);
                self.insert_deletes(span, header.epoch, &part.changes);
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
        self.log_bytes += u64::from(run.location.length);
        if self.runs.back().is_none_or(|last| key(last) < key(&run)) {
            self.runs.push_back(run);
            return;
        }
        match self.runs.binary_search_by_key(&key(&run), key) {
            Ok(at) => {
                let before = std::mem::replace(&mut self.runs[at], run);
                self.log_bytes -= u64::from(before.location.length);
            }
            Err(at) => self.runs.insert(at, run),
        }
    }

    fn insert_deletes(&mut self, span: Span, epoch: Epoch, changes: &[Change]) {
        for (number, change) in changes.iter().enumerate() {
            if let Change::Delete { from, to } = change {
                let number = number as u32;
                self.deletes.push(RangeDelete { from: *from, to: *to, span, number, epoch });
            }
        }
    }

    /// Versions of a page above `flushed` and at or below the read point, newest first.
    fn newest_first(&self, key: &PageKey, read_point: Lsn) -> impl Iterator<Item = Version> {
        let frozen = self.frozen.iter().flat_map(move |frozen| {
            frozen.table.newest_first(key, self.flushed, read_point.min(frozen.upto))
        });
        self.table.newest_first(key, self.flushed, read_point).chain(frozen)
    }

    /// What memory knows of a page at or below the read point.
    pub(crate) fn collect(&self, engine: &dyn Engine, key: &PageKey, read_point: Lsn) -> Found {
        let mut found = Found::default();
        let deletes = self.deletes.iter().filter(|delete| delete.span.end > self.flushed);
        let deleted = newest_delete(deletes, key, read_point);
        found.walk(engine, key, self.newest_first(key, read_point), deleted);
        found.close(deleted);
        found
    }

    /// Keys that memory knows in a range, in no order; some may lie at or below `flushed`.
    pub(crate) fn keys(&self, range: Range<PageKey>) -> Vec<PageKey> {
        let frozen = self.frozen.iter().flat_map(|frozen| frozen.table.keys(range.clone()));
        self.table.keys(range.clone()).chain(frozen).collect()
    }

    /// Keeps an image built by a read, unless its version has gone meanwhile, or is being flushed:
    /// later parts may be frozen with it, and an image in `table` would hide them.
    pub(crate) fn keep_image(&mut self, key: &PageKey, version: Lsn, bytes: bytes::Bytes) {
        if self.frozen.as_ref().is_some_and(|frozen| version <= frozen.upto) {
            return;
        }
        let newest = self.newest_first(key, version).next();
        let Some(newest) = newest.filter(|newest| newest.span.end == version) else { return };
        if matches!(newest.what, What::Image(_)) {
            return;
        }
        self.bytes += bytes.len() as u64;
        self.table.insert_image(*key, &newest, bytes);
    }

    /// Takes the newest link as the chain's end, if it follows on.
    fn continues(&mut self, link: &Link) -> bool {
        let newest = self.links.back() == Some(link);
        let follows = newest && link.base <= self.contiguous;
        if follows {
            self.contiguous = self.contiguous.max(link.span.end);
        }
        follows
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
            self.lost = None;
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
        self.table = self.table.filtered(live);
        let mut runs = std::mem::take(&mut self.runs);
        runs.retain_mut(|run| {
            run.last = self.live_end(run);
            history.is_live(run.epoch, run.start) && run.last > run.base
        });
        runs.make_contiguous().sort_by_key(|run| (run.last, run.base));
        self.runs = runs;
        self.count_log_bytes();
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

    /// Up to where the next flush goes: where the last one was to go, if a full disk kept it from that.
    pub(crate) fn flush_point(&self) -> Lsn {
        self.frozen.as_ref().map_or_else(|| self.flushable().0, |frozen| frozen.upto)
    }

    /// Sets the versions up to the flush point apart for a flush; they are read from there until
    /// [`Index::publish`] says that files hold them.
    pub(crate) fn freeze(&mut self) -> Arc<Table> {
        if let Some(frozen) = &self.frozen {
            return Arc::clone(&frozen.table);
        }
        let upto = self.flush_point();
        let later = self.table.filtered(|_, span| span.end > upto);
        let table = Arc::new(std::mem::replace(&mut self.table, later));
        self.frozen = Some(Frozen { table: Arc::clone(&table), upto });
        table
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
        self.frozen.take_if(|frozen| frozen.upto <= flushed);
        self.contiguous = self.contiguous.max(flushed);
        self.extend();
    }

    /// The log no longer holds this life.
    pub(crate) fn forget_life(&mut self, life: u64) {
        self.runs.retain(|run| run.location.life > life);
        self.count_log_bytes();
        self.find_floor();
    }

    fn count_log_bytes(&mut self) {
        self.log_bytes = self.runs.iter().map(|run| u64::from(run.location.length)).sum();
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

    /// Goes on without its files, as if it had never had any.
    pub(crate) fn begin_again(&mut self) {
        self.files = Arc::default();
        (self.flushed, self.horizon) = (Lsn::ZERO, Lsn::ZERO);
        self.contiguous = Lsn::ZERO;
        self.extend();
    }

    /// Whether something is missing here or cannot be read, so that nothing is to be made from it.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damage().is_some()
    }

    /// What is missing or cannot be read.
    pub(crate) fn damage(&self) -> Option<String> {
        self.lost.clone().or_else(|| self.files.iter().find_map(|file| file.damage()))
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use types::{EngineError, EpochStart, GroupId, MembershipEpoch, SegmentId, Timeline, VolumeId};
    use wire::{BatchHeader, Part, PartMeta};

    use super::*;

    /// A page is the list of what was applied to it.
    struct List;

    impl Engine for List {
        fn apply(
            &self,
            _: &PageKey,
            page: &mut Vec<u8>,
            _: Span,
            body: &[u8],
        ) -> Result<(), EngineError> {
            page.extend_from_slice(body);
            Ok(())
        }

        fn replaces(&self, _: &PageKey, _: &[u8]) -> bool {
            false
        }

        fn describe(&self, key: &PageKey) -> String {
            key.to_string()
        }
    }

    const KEY: PageKey = PageKey::MIN;

    /// Part `number` of ten bytes of log, durable, which adds its number to the page.
    fn add(index: &mut Index, number: u64) {
        let span = Span { start: Lsn(number * 10), end: Lsn(number * 10 + 10) };
        let meta = PartMeta { span, prev: Lsn::ZERO, shared: Default::default() };
        let body = Bytes::from(vec![number as u8]);
        let part = Part { meta, changes: vec![Change::Apply(KEY)], body };
        let header = BatchHeader {
            segment: SegmentId { volume: VolumeId(1), group: GroupId(0) },
            epoch: Epoch(1),
            membership: MembershipEpoch(1),
            base: span.start,
            last: span.end,
            vdl: span,
            low_water: Lsn::ZERO,
            watermark: 0,
        };
        let location = Location { life: 1, offset: number * 100, length: 100 };
        index.insert(&Batch { header, parts: vec![part] }, location);
    }

    fn page(index: &Index, read_point: u64) -> (Lsn, Bytes) {
        let found = index.collect(&List, &KEY, Lsn(read_point));
        found.build(&List, &KEY).expect("applies").expect("is there")
    }

    #[test]
    fn an_image_kept_while_its_version_is_flushed_hides_no_later_part() {
        let first = EpochStart { epoch: Epoch(1), begins: Lsn::ZERO, timeline: Timeline(1) };
        let history = History::new(vec![first]).expect("ordered");
        let state = SegmentState { history, full: true, ..SegmentState::default() };
        let mut index = Index::new(state, Lsn::ZERO, Lsn::ZERO, Vec::new());
        (0..4).for_each(|number| add(&mut index, number));
        // A reader has built the page and comes back late: two parts more, and a flush under way.
        let (version, image) = page(&index, 40);
        (4..6).for_each(|number| add(&mut index, number));
        assert_eq!(index.flush_point(), Lsn(60));
        index.freeze();
        index.keep_image(&KEY, version, image);
        add(&mut index, 6);
        for read_point in [40, 50, 60, 70] {
            let expected: Vec<u8> = (0..read_point as u8 / 10).collect();
            assert_eq!(page(&index, read_point), (Lsn(read_point), Bytes::from(expected)));
        }
        // Of what came after the flush began, images are kept as ever.
        let (version, image) = page(&index, 70);
        index.keep_image(&KEY, version, image);
        assert_eq!(index.collect(&List, &KEY, Lsn(70)).part_count(), 0);
    }
}
