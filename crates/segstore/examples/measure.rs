//! What an append, a read, a flush and a restart cost on this machine's disk:
//! `cargo run --release -p sixfold-segstore --example measure -- DIR`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use env::RealDisk;
use segstore::{Identity, LogEntry, Options, SegmentState, Store};
use types::{
    ClusterId, Engine, EngineError, Epoch, EpochStart, GroupId, History, Incarnation, Lsn,
    MembershipEpoch, PageKey, SegmentId, Span, Timeline, VolumeId,
};
use wire::{Batch, BatchHeader, Change, Part, PartMeta, SegmentReport, SegmentSpec};

/// A page of 8 KiB with a hash of what was applied in front.
struct Sum;

impl Engine for Sum {
    fn apply(
        &self,
        _: &PageKey,
        page: &mut Vec<u8>,
        _: Span,
        body: &[u8],
    ) -> Result<(), EngineError> {
        page.resize(8192, 0);
        page[0] = page[0].wrapping_add(body.first().copied().unwrap_or(0));
        Ok(())
    }

    fn replaces(&self, _: &PageKey, _: &[u8]) -> bool {
        false
    }

    fn describe(&self, key: &PageKey) -> String {
        key.to_string()
    }
}

const SEGMENT: SegmentId = SegmentId { volume: VolumeId(1), group: GroupId(0) };
const PAGES: u64 = 40_000;

fn key(number: u64) -> PageKey {
    let mut key = PageKey::MIN;
    key.0[12..].copy_from_slice(&number.to_be_bytes());
    key
}

struct Source {
    next: u64,
    random: u64,
}

impl Source {
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 33
    }

    fn batch(&mut self, parts: usize) -> Batch {
        let base = Lsn(self.next);
        let parts = (0..parts)
            .map(|_| {
                let start = Lsn(self.next);
                self.next += 128;
                let span = Span { start, end: Lsn(self.next) };
                let meta = PartMeta { span, prev: start, shared: Default::default() };
                let changes = vec![Change::Apply(key(self.random() % PAGES))];
                Part { meta, changes, body: Bytes::from(vec![7; 100]) }
            })
            .collect();
        let header = BatchHeader {
            segment: SEGMENT,
            epoch: Epoch(1),
            membership: MembershipEpoch(1),
            base,
            last: Lsn(self.next),
            vdl: Span { start: base, end: base },
            low_water: base,
            watermark: 0,
        };
        Batch { header, parts }
    }
}

fn report(state: &SegmentState, vdl: Lsn) -> SegmentReport {
    SegmentReport {
        scl: vdl,
        sealed: state.sealed,
        history: state.history.clone(),
        vdl: Span { start: vdl, end: vdl },
        low_water: vdl,
        watermark: 0,
        membership: state.membership,
        since: state.membership,
        full: true,
    }
}

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).expect("a directory"));
    let identity = Identity {
        cluster: ClusterId(1),
        node: "a1".parse().expect("name"),
        incarnation: Incarnation(1),
    };
    let new = || (Arc::new(RealDisk), Arc::new(Sum), identity, Options::default());
    let (disk, engine, identity, options) = new();
    let store = Store::create(disk, engine, &dir, identity, options).expect("creates");
    let start = EpochStart { epoch: Epoch(1), begins: Lsn(0), timeline: Timeline(1) };
    let state = SegmentState {
        sealed: Epoch(1),
        history: History::new(vec![start]).expect("one"),
        full: true,
        ..SegmentState::default()
    };
    let (members, joining) = (Vec::new(), Vec::new());
    let membership = MembershipEpoch::FIRST;
    let spec = SegmentSpec { segment: SEGMENT, membership, members, joining, fresh: true };
    store.add_segment(&spec, &state).expect("adds");
    let mut source = Source { next: 0, random: 1 };

    let time = |what: &str, count: u64, work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        let micros = begun.elapsed().as_secs_f64() * 1e6;
        println!("{what}: {count} in {:.0} ms, {:.2} us each", micros / 1e3, micros / count as f64);
    };
    let small: Vec<Batch> = (0..2000).map(|_| source.batch(1)).collect();
    time("append, one part", 2000, &mut || {
        for batch in &small {
            store.append(&[(SEGMENT, LogEntry::Batch(batch.clone()))]).expect("appends");
        }
    });
    let large: Vec<Batch> = (0..400).map(|_| source.batch(1000)).collect();
    time("append, parts of batches of 1000", 400_000, &mut || {
        for batch in &large {
            store.append(&[(SEGMENT, LogEntry::Batch(batch.clone()))]).expect("appends");
        }
    });
    let end = Lsn(source.next);
    time("read from memory", 20_000, &mut || {
        for number in 0..20_000 {
            std::hint::black_box(store.read_page(SEGMENT, &key(number), end));
        }
    });
    store.advance(SEGMENT, &report(&state, end));
    let mut units = 0;
    time("background, all parts", 402_000, &mut || {
        while store.background().expect("works") {
            units += 1;
        }
    });
    time("read from files", 20_000, &mut || {
        for number in 0..20_000 {
            std::hint::black_box(store.read_page(SEGMENT, &key(number), end));
        }
    });
    println!("{units} units; {:?}", store.stats());
    drop(store);
    let (disk, engine, identity, options) = new();
    time("restart", 1, &mut || {
        std::hint::black_box(
            Store::open(disk.clone(), engine.clone(), &dir, identity, options.clone())
                .expect("opens"),
        );
    });
}
