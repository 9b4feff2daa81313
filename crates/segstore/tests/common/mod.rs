//! A toy engine, and a naive segment in memory that the store must agree with.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use env::{Disk, MemDisk};
use segstore::{
    Chain, Identity, LogEntry, Options, RestoredSegment, SegmentState, Store, StoreError,
};
use types::{
    ClusterId, Engine, EngineError, Epoch, EpochStart, GroupId, History, Holder, Incarnation, Lsn,
    MembershipEpoch, PageKey, SegmentId, Span, Timeline, VolumeId,
};
use wire::{
    Batch, BatchHeader, Change, PageAnswer, Part, PartMeta, Peer, SegmentReport, SegmentSpec,
};

/// A page is a digest of everything applied to it, in order, then filler: any part lost, repeated
/// or out of order shows.
pub struct Toy;

pub const PAGE: usize = 256;

fn digest(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

impl Engine for Toy {
    fn apply(
        &self,
        key: &PageKey,
        page: &mut Vec<u8>,
        span: Span,
        body: &[u8],
    ) -> Result<(), EngineError> {
        if body.first() == Some(&0xee) {
            return Err(EngineError { key: key.to_string(), span, what: "unknown".to_owned() });
        }
        if self.replaces(key, body) {
            page.clear();
        }
        let mut hash = digest(0xcbf2_9ce4_8422_2325, page);
        hash = digest(hash, &span.end.0.to_le_bytes());
        hash = digest(hash, body);
        page.clear();
        page.extend_from_slice(&hash.to_le_bytes());
        page.resize(PAGE, hash as u8);
        Ok(())
    }

    fn replaces(&self, _key: &PageKey, body: &[u8]) -> bool {
        body.first() == Some(&1)
    }

    fn describe(&self, key: &PageKey) -> String {
        key.to_string()
    }
}

pub fn key(number: u64) -> PageKey {
    let mut key = PageKey::MIN;
    key.0[12..].copy_from_slice(&number.to_be_bytes());
    key
}

pub const SEGMENT: SegmentId = SegmentId { volume: VolumeId(7), group: GroupId(3) };
pub const OTHER: SegmentId = SegmentId { volume: VolumeId(7), group: GroupId(4) };

pub fn identity() -> Identity {
    Identity {
        cluster: ClusterId(1),
        node: "a1".parse().expect("name"),
        incarnation: Incarnation(0x1234_5678_9abc),
    }
}

pub fn small() -> Options {
    Options {
        log_file_bytes: 16 << 10,
        log_retain_bytes: 48 << 10,
        flush_bytes: 4 << 10,
        flush_total_bytes: 64 << 10,
        fold_parts: 4,
        block_bytes: 512,
        base_bytes_min: 1 << 10,
        merge_step_bytes: 2 << 10,
        reserve_bytes: 0,
    }
}

pub fn spec(segment: SegmentId) -> SegmentSpec {
    let membership = MembershipEpoch::FIRST;
    let peer = |name: &str| Peer {
        holder: Holder { node: name.parse().expect("name"), since: membership },
        address: format!("127.0.0.1:{}", name.len()),
    };
    let members = ["a1", "a2", "b1", "b2", "c1", "c2"].into_iter().map(peer).collect();
    SegmentSpec { segment, membership, members, joining: Vec::new(), fresh: true }
}

pub fn first_state() -> SegmentState {
    SegmentState {
        sealed: Epoch(1),
        history: history(&[(1, 0)]),
        membership: MembershipEpoch(1),
        full: true,
        ..SegmentState::default()
    }
}

pub fn history(entries: &[(u64, u64)]) -> History {
    let entries = entries.iter().map(|(epoch, begins)| EpochStart {
        epoch: Epoch(*epoch),
        begins: Lsn(*begins),
        timeline: Timeline(1),
    });
    History::new(entries.collect()).expect("ordered")
}

pub fn dir() -> &'static Path {
    Path::new("node/store")
}

pub fn create(disk: &MemDisk, options: Options) -> Store {
    let store = try_create(disk, options).expect("creates");
    store.add_segment(&spec(SEGMENT), &first_state()).expect("adds");
    store
}

pub fn try_create(disk: &MemDisk, options: Options) -> Result<Store, StoreError> {
    disk.create_dir(Path::new("node"))?;
    Store::create(Arc::new(disk.clone()), Arc::new(Toy), dir(), identity(), options)
}

pub fn open(disk: &MemDisk, options: Options) -> Result<(Store, Vec<RestoredSegment>), StoreError> {
    Store::open(Arc::new(disk.clone()), Arc::new(Toy), dir(), identity(), options)
}

/// The naive segment: live parts in order.
#[derive(Clone, Debug)]
pub struct Model {
    pub parts: Vec<(Epoch, Lsn, Part)>,
    pub epochs: Vec<(u64, u64)>,
    pub next: u64,
    pub vdl: Span,
    pub low_water: Lsn,
}

impl Model {
    pub fn new() -> Model {
        Model {
            parts: Vec::new(),
            epochs: vec![(1, 0)],
            next: 8,
            vdl: Span::ZERO,
            low_water: Lsn::ZERO,
        }
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epochs.last().expect("an epoch").0)
    }

    pub fn tail(&self) -> Lsn {
        self.parts.last().map_or(Lsn::ZERO, |(_, _, part)| part.meta.span.end)
    }

    /// A batch of new parts, one for each body and its changes.
    pub fn batch(&mut self, parts: Vec<(Vec<Change>, Bytes)>) -> Batch {
        let base = self.tail();
        let epoch = self.epoch();
        let mut made = Vec::new();
        for (changes, body) in parts {
            let start = Lsn(self.next);
            let span = Span { start, end: start.plus(32 + body.len() as u64) };
            self.next = span.end.aligned().0 + 8;
            let meta = PartMeta { span, prev: Lsn(start.0 - 8), shared: Default::default() };
            let part = Part { meta, changes, body };
            self.parts.push((epoch, self.tail(), part.clone()));
            made.push(part);
        }
        let header = BatchHeader {
            segment: SEGMENT,
            epoch,
            membership: MembershipEpoch(1),
            base,
            last: self.tail(),
            vdl: self.vdl,
            low_water: self.low_water,
            watermark: self.next,
        };
        Batch { header, parts: made }
    }

    /// Everything so far is durable; no read point below `low_water` comes any more.
    pub fn settle(&mut self, low_water: Lsn) {
        if let Some((_, _, part)) = self.parts.last() {
            self.vdl = part.meta.span;
        }
        self.low_water = self.low_water.max(low_water).min(self.vdl.end);
    }

    /// A new epoch opens at the durable point.
    pub fn reopen(&mut self) -> SegmentState {
        let begins = self.vdl.end;
        self.parts.retain(|(_, _, part)| part.meta.span.start < begins);
        self.epochs.push((self.epoch().0 + 1, begins.0));
        self.next = begins.aligned().0 + 16;
        self.state()
    }

    pub fn state(&self) -> SegmentState {
        SegmentState {
            sealed: self.epoch(),
            history: history(&self.epochs),
            vdl: self.vdl,
            low_water: self.low_water,
            ..first_state()
        }
    }

    pub fn report(&self) -> SegmentReport {
        let state = self.state();
        SegmentReport {
            scl: self.tail(),
            sealed: state.sealed,
            history: state.history,
            vdl: state.vdl,
            low_water: state.low_water,
            watermark: self.next,
            membership: state.membership,
            since: state.membership,
            full: true,
        }
    }

    /// The page at a read point, by applying everything from the beginning.
    pub fn page(&self, key: &PageKey, read_point: Lsn) -> Option<(Lsn, Vec<u8>)> {
        let mut page: Option<(Lsn, Vec<u8>)> = None;
        for (_, _, part) in &self.parts {
            let end = part.meta.span.end;
            if end > read_point {
                break;
            }
            for change in &part.changes {
                match change {
                    Change::Apply(at) if at == key => {
                        let mut bytes = page.take().map(|(_, bytes)| bytes).unwrap_or_default();
                        Toy.apply(key, &mut bytes, part.meta.span, &part.body).expect("applies");
                        page = Some((end, bytes));
                    }
                    Change::Put(at, bytes) if at == key => page = Some((end, bytes.to_vec())),
                    Change::Delete { from, to } if from <= key && key < to => page = None,
                    _ => {}
                }
            }
        }
        page
    }

    /// Compares every page at every given read point, in every way the store can be asked.
    pub fn check(&self, store: &Store, keys: u64, read_points: &[Lsn]) {
        for read_point in read_points {
            let mut expected = Vec::new();
            for number in 0..keys {
                let key = key(number);
                let page = self.page(&key, *read_point);
                let answer = store.read_page(SEGMENT, &key, *read_point);
                match (&page, &answer) {
                    (None, PageAnswer::Absent) => {}
                    (Some((version, bytes)), PageAnswer::Page { version: v, bytes: b }) => {
                        assert_eq!((version, bytes.as_slice()), (v, &b[..]), "page {number}");
                        expected.push((key, *version, Bytes::from(bytes.clone())));
                    }
                    _ => panic!("page {number} at {read_point}: {page:?} is {answer:?}"),
                }
                let version = store.read_version(SEGMENT, &key, *read_point).expect("version");
                assert_eq!(version, page.map(|(version, _)| version), "version of {number}");
            }
            assert_eq!(scan(store, *read_point), expected, "scan at {read_point}");
        }
    }

    /// Compares the chain from `after` on.
    pub fn check_chain(&self, store: &Store, after: Lsn) {
        let mut at = after;
        let mut found = Vec::new();
        while at < self.tail() {
            match store.read_chain(SEGMENT, at, self.tail(), 600).expect("chain") {
                Chain::Forgotten(floor) => {
                    assert!(at == after && floor > after, "only what is old is forgotten");
                    return;
                }
                Chain::Batches(batches) => {
                    assert!(!batches.is_empty(), "chain breaks off at {at}");
                    for batch in batches {
                        assert!(batch.header.base <= at, "a gap at {at}");
                        let epoch = batch.header.epoch;
                        found.extend(
                            batch
                                .parts
                                .into_iter()
                                .filter(|p| p.meta.span.end > at)
                                .map(|p| (epoch, p)),
                        );
                        at = batch.header.last.max(at);
                    }
                }
            }
        }
        let above = self.parts.iter().filter(|(_, _, part)| part.meta.span.end > after);
        let expected: Vec<_> = above.map(|(epoch, _, part)| (*epoch, part.clone())).collect();
        assert_eq!(found, expected, "chain after {after}");
    }
}

pub fn scan(store: &Store, read_point: Lsn) -> Vec<(PageKey, Lsn, Bytes)> {
    let mut from = PageKey::MIN;
    let mut all = Vec::new();
    loop {
        let (entries, next) =
            store.scan(SEGMENT, &from, &PageKey::MAX, read_point, 700).expect("scans");
        all.extend(entries);
        match next {
            Some(next) => from = next,
            None => return all,
        }
    }
}

pub fn batch_entry(batch: Batch) -> (SegmentId, LogEntry) {
    (SEGMENT, LogEntry::Batch(batch))
}

pub fn apply(number: u64) -> Change {
    Change::Apply(key(number))
}

pub fn body(tag: u64, length: usize) -> Bytes {
    let mut body = vec![2; length.max(9)];
    body[1..9].copy_from_slice(&tag.to_le_bytes());
    Bytes::from(body)
}

/// Background work until there is none.
pub fn work_off(store: &Store) {
    for _ in 0..10_000 {
        if !store.background().expect("works") {
            return;
        }
    }
    panic!("background work never ends");
}

/// A small generator: the same seed, the same run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
