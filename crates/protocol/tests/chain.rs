//! The chain against a naive model that remembers every part.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use protocol::{Chain, HeldPart};
use types::{Epoch, EpochStart, History, Lsn, Span, Timeline};
use wire::PartMeta;

/// The `n`-th part of a chain of parts of ten bytes each.
fn part(n: u64, epoch: u64) -> HeldPart {
    let span = Span { start: Lsn(n * 10), end: Lsn(n * 10 + 10) };
    let meta = PartMeta { span, prev: Lsn(n.saturating_sub(1) * 10), shared: Vec::new().into() };
    HeldPart { epoch: Epoch(epoch), base: Lsn(n * 10), meta }
}

fn history(entries: &[(u64, u64)]) -> History {
    let entry = |(epoch, begins): &(u64, u64)| EpochStart {
        epoch: Epoch(*epoch),
        begins: Lsn(*begins),
        timeline: Timeline(1),
    };
    History::new(entries.iter().map(entry).collect()).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// Parts of the current epoch, from this number, so many.
    Insert(u64, u64),
    /// Everything below this part's end is durable, if held without a gap by the model's quorum.
    Settle(u64),
    /// A new epoch begins at this part, unless something above is durable.
    Open(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..40_u64, 1..6_u64).prop_map(|(from, count)| Step::Insert(from, count)),
        2 => (0..40_u64).prop_map(Step::Settle),
        1 => (0..40_u64).prop_map(Step::Open),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn the_scl_is_where_the_first_part_is_missing(steps in steps()) {
        let mut chain = Chain::new(Lsn::ZERO);
        let mut held = std::collections::BTreeMap::new();
        let mut entries = vec![(1, 0)];
        let mut durable = 0;
        for step in steps {
            let epoch = entries.len() as u64;
            match step {
                Step::Insert(from, count) => {
                    let begins = entries.last().unwrap().1 / 10;
                    let parts = (from.max(begins)..from.max(begins) + count).map(|n| part(n, epoch));
                    for part in parts.clone() {
                        held.entry(part.meta.span.end).or_insert(part);
                    }
                    chain.insert(parts);
                }
                Step::Settle(n) => {
                    // Durable parts are on this epoch's log, whether or not this segment has them.
                    durable = durable.max(n * 10);
                    chain.settle(Lsn(durable));
                }
                Step::Open(n) => {
                    let begins = n * 10;
                    if begins >= durable && begins >= entries.last().unwrap().1 {
                        entries.push((epoch + 1, begins));
                        let history = history(&entries);
                        held.retain(|_, part: &mut HeldPart| history.is_live(part.epoch, part.meta.span.start));
                        chain.void(&history);
                    }
                }
            }
            chain.invariants();
            let scl = (0..).map(|n| Lsn(n * 10)).find(|at| !held.contains_key(&Lsn(at.0 + 10))).unwrap();
            prop_assert_eq!(chain.scl(), scl);
            for n in 0..50 {
                let end = Lsn(n * 10 + 10);
                prop_assert_eq!(chain.holds(end), held.contains_key(&end), "part ending at {}", end);
            }
        }
    }
}

#[test]
fn memory_shrinks_to_an_interval_a_gap_once_parts_are_durable() {
    let mut chain = Chain::new(Lsn::ZERO);
    chain.insert((0..1000).filter(|n| n % 100 != 7).map(|n| part(n, 1)));
    assert_eq!(chain.scl(), Lsn(70));
    chain.settle(Lsn(10_000));
    assert_eq!(chain.loose(), 10);
    chain.insert((0..1000).filter(|n| n % 100 == 7).map(|n| part(n, 1)));
    assert_eq!((chain.scl(), chain.loose()), (Lsn(10_000), 0));
    chain.invariants();
}

#[test]
fn files_from_a_peer_lift_the_chain_over_its_gaps() {
    let mut chain = Chain::new(Lsn::ZERO);
    chain.insert([part(3, 1), part(9, 1), part(11, 1)]);
    chain.raise_floor(Lsn(90));
    chain.invariants();
    assert_eq!(chain.scl(), Lsn(100));
    assert!(chain.holds(Lsn(120)) && !chain.holds(Lsn(110)));
}
