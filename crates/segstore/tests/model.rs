//! Whatever is appended, voided, flushed, merged and restarted: the store answers as the model does.

mod common;

use bytes::Bytes;
use common::*;
use env::MemDisk;
use proptest::prelude::*;
use segstore::{LogEntry, Store};
use types::Lsn;
use wire::{Batch, Change};

const KEYS: u64 = 12;

#[derive(Clone, Debug)]
enum Op {
    /// Parts with these seeds, as one batch; sometimes late or twice.
    Append {
        parts: Vec<u64>,
        late: bool,
        twice: bool,
    },
    /// All so far is durable; the low-water mark follows by this many parts.
    Settle {
        lag: usize,
    },
    Reopen,
    Background {
        units: u8,
    },
    Flush,
    Restart,
    Check {
        back: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (prop::collection::vec(any::<u64>(), 1..12), prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(parts, late, twice)| Op::Append { parts, late, twice }),
        4 => (0usize..30).prop_map(|lag| Op::Settle { lag }),
        1 => Just(Op::Reopen),
        3 => (1u8..20).prop_map(|units| Op::Background { units }),
        2 => Just(Op::Flush),
        1 => Just(Op::Restart),
        3 => (0usize..20).prop_map(|back| Op::Check { back }),
    ]
}

fn changes(seed: u64) -> (Vec<Change>, Bytes) {
    let mut random = Random(seed);
    let mut changes = Vec::new();
    for _ in 0..random.below(4) {
        let at = random.below(KEYS);
        changes.push(match random.below(12) {
            0 => Change::Put(key(at), Bytes::from(vec![seed as u8; 40 + at as usize])),
            1 => Change::Delete { from: key(at), to: key(at + 1 + random.below(4)) },
            _ => apply(at),
        });
    }
    let mut content = body(seed, 9 + random.below(60) as usize).to_vec();
    if random.below(10) == 0 {
        content[0] = 1;
    }
    (changes, content.into())
}

struct World {
    disk: MemDisk,
    store: Store,
    model: Model,
    late: Vec<Batch>,
}

impl World {
    fn deliver(&mut self) {
        let late: Vec<_> = self.late.drain(..).rev().map(batch_entry).collect();
        self.store.append(&late).expect("appends");
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Append { parts, late, twice } => {
                let batch = self.model.batch(parts.iter().map(|seed| changes(*seed)).collect());
                if *twice {
                    self.store.append(&[batch_entry(batch.clone())]).expect("appends");
                }
                if *late {
                    self.late.push(batch);
                } else {
                    self.store.append(&[batch_entry(batch)]).expect("appends");
                }
            }
            Op::Settle { lag } => {
                let parts = &self.model.parts;
                let at = parts.len().saturating_sub(1 + lag);
                let low = parts.get(at).map_or(Lsn::ZERO, |(_, _, part)| part.meta.span.end);
                self.model.settle(low);
                self.store.advance(SEGMENT, &self.model.report());
            }
            Op::Reopen => {
                self.late.retain(|batch| batch.header.last <= self.model.vdl.end);
                self.deliver();
                let state = self.model.reopen();
                self.store.append(&[(SEGMENT, LogEntry::State(state))]).expect("appends");
            }
            Op::Background { units } => {
                for _ in 0..*units {
                    self.store.background().expect("works");
                }
            }
            Op::Flush => {
                self.store.flush_segment(SEGMENT).expect("flushes");
            }
            Op::Restart => self.restart(),
            Op::Check { back } => self.check(*back),
        }
    }

    fn restart(&mut self) {
        let (store, restored) = open(&self.disk, small()).expect("opens");
        self.store = store;
        let told = &restored[0];
        assert_eq!(told.damage, None);
        assert_eq!(told.state.history, self.model.state().history);
        assert!(told.state.full && told.state.vdl.end >= told.flushed);
        let mut held = told.held.iter().filter(|part| part.meta.span.end > told.flushed);
        let ends: Vec<Lsn> = held.by_ref().map(|part| part.meta.span.end).collect();
        let late = |end: Lsn| self.late.iter().any(|b| b.header.base < end && end <= b.header.last);
        let expected = self.model.parts.iter().filter(|(_, _, p)| p.meta.span.end > told.flushed);
        for (epoch, base, part) in expected {
            let at = ends.iter().position(|end| *end == part.meta.span.end);
            match at.map(|at| &told.held[at]) {
                Some(held) => assert_eq!((held.epoch, held.base), (*epoch, *base)),
                None => assert!(late(part.meta.span.end), "a part is lost"),
            }
        }
        self.store.advance(SEGMENT, &self.model.report());
    }

    fn check(&mut self, back: usize) {
        self.deliver();
        let ends = || self.model.parts.iter().rev().map(|(_, _, part)| part.meta.span.end);
        let old = ends().nth(back).unwrap_or(Lsn::ZERO);
        let points = [self.model.low_water, old.max(self.model.low_water), Lsn::MAX];
        self.model.check(&self.store, KEYS + 5, &points);
        for after in [Lsn::ZERO, old, self.model.vdl.end] {
            self.model.check_chain(&self.store, after);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_the_model_does(ops in prop::collection::vec(op(), 1..90)) {
        let disk = MemDisk::new();
        let store = create(&disk, small());
        let mut world = World { disk, store, model: Model::new(), late: Vec::new() };
        for op in &ops {
            world.run(op);
        }
        world.check(7);
        world.restart();
        world.check(3);
        work_off(&world.store);
        world.check(5);
        world.store.verify(SEGMENT).expect("every block is whole");
    }
}
