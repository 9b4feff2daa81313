//! Facts about sets and points, by enumeration of all sets of six.

use quorum::{Ledger, MemberSet, Rule, Scls, by_place, gcl, reached_by};
use types::{GroupId, Holder, Lsn, MemberIndex, Members, MembershipEpoch, Place, Span};

const RULE: Rule = Rule::FourOfSix;

#[test]
fn every_deciding_set_meets_every_write_set() {
    for write in MemberSet::subsets().filter(|set| RULE.writes(*set)) {
        for read in MemberSet::subsets().filter(|set| RULE.decides(*set)) {
            assert!(!read.intersection(write).is_empty(), "{read:?} misses {write:?}");
        }
        for other in MemberSet::subsets().filter(|set| RULE.writes(*set)) {
            assert!(!other.intersection(write).is_empty(), "{other:?} misses {write:?}");
        }
    }
}

#[test]
fn two_or_three_missing_members_do_what_the_table_says() {
    // Members left: may write, may decide.
    let table =
        [(6, true, true), (5, true, true), (4, true, true), (3, false, true), (2, false, false)];
    for (left, writes, decides) in table {
        for set in MemberSet::subsets().filter(|set| set.count() == left) {
            assert_eq!((RULE.writes(set), RULE.decides(set)), (writes, decides), "{set:?}");
        }
    }
    assert_eq!(MemberSet::subsets().filter(|set| RULE.writes(*set)).count(), 15 + 6 + 1);
    assert_eq!(MemberSet::subsets().filter(|set| RULE.decides(*set)).count(), 20 + 15 + 6 + 1);
}

#[test]
fn a_zone_and_one_more_lost_leaves_a_deciding_set() {
    for zone in 0..3 {
        for more in MemberIndex::all() {
            let lost = [2 * zone, 2 * zone + 1].map(|i| MemberIndex::new(i).unwrap());
            let left = MemberIndex::all().filter(|m| !lost.contains(m) && *m != more);
            assert!(RULE.decides(left.collect()));
        }
    }
}

#[test]
fn the_gcl_is_the_largest_position_held_by_a_write_set() {
    // All SCL vectors over three values: 729 cases against the definition.
    for case in 0..3_u64.pow(6) {
        let scls: Scls = std::array::from_fn(|i| Lsn(case / 3_u64.pow(i as u32) % 3));
        let holders = |at: Lsn| -> MemberSet {
            MemberIndex::all().filter(|m| scls[m.index()] >= at).collect()
        };
        let best = (0..3).map(Lsn).filter(|at| RULE.writes(holders(*at))).max().unwrap();
        assert_eq!(gcl(&scls), best, "{scls:?}");
        let known = (0..3).map(Lsn).filter(|at| RULE.decides(holders(*at))).max().unwrap();
        assert_eq!(reached_by(3, &scls), known);
    }
}

/// Two places joint: four of six are asked for in each of the four member sets that may come of it.
#[test]
fn joint_places_count_as_four_of_six_in_every_member_set_that_may_come_of_them() {
    let holder = |index: usize| Holder {
        node: format!("n{index}").parse().unwrap(),
        since: MembershipEpoch::FIRST,
    };
    let joining = |place: usize| (place >= 4).then(|| holder(place + 2));
    let place = |index| Place { present: holder(index), joining: joining(index) };
    let members = Members::new(std::array::from_fn(place)).unwrap();
    let order: Vec<usize> =
        members.holders().map(|(_, of)| of.node.as_str()[1..].parse().unwrap()).collect();
    for holding in 0..1_u32 << 8 {
        let has = |node: usize| holding & 1 << node != 0;
        let scls = by_place(&members, order.iter().map(|node| Lsn(u64::from(has(*node)))));
        let four_of = |set: [usize; 6]| set.into_iter().filter(|node| has(*node)).count() >= 4;
        let sets = [(4, 5), (4, 7), (6, 5), (6, 7)].map(|(e, f)| [0, 1, 2, 3, e, f]);
        assert_eq!(gcl(&scls) == Lsn(1), sets.into_iter().all(four_of), "{holding:08b}");
    }
}

fn span(start: u64, end: u64) -> Span {
    Span { start: Lsn(start), end: Lsn(end) }
}

#[test]
fn the_papers_example_odd_and_even_groups() {
    // Odd positions go to group 1, even ones to group 2; 105 and 106 have three copies of six.
    let mut ledger = Ledger::new(span(100, 101));
    ledger.add_group(GroupId(1), Lsn(101));
    ledger.add_group(GroupId(2), Lsn::ZERO);
    for start in 101..106 {
        ledger.record(span(start, start + 1), [GroupId(2 - start as u32 % 2)]);
    }
    ledger.advance(GroupId(1), Lsn(104));
    ledger.advance(GroupId(2), Lsn(105));
    ledger.invariants();
    assert_eq!(ledger.vcl(), Lsn(105));
    assert_eq!(ledger.vdl(), span(104, 105));
}

#[test]
fn a_shared_record_waits_for_every_one_of_its_groups() {
    let mut ledger = Ledger::new(Span::ZERO);
    ledger.add_group(GroupId(0), Lsn::ZERO);
    ledger.add_group(GroupId(1), Lsn::ZERO);
    ledger.record(span(0, 10), [GroupId(0), GroupId(1)]);
    ledger.record(span(10, 20), [GroupId(0)]);
    assert!(!ledger.advance(GroupId(0), Lsn(20)));
    assert_eq!(ledger.vdl(), Span::ZERO);
    assert!(ledger.advance(GroupId(1), Lsn(10)));
    assert_eq!(ledger.vdl(), span(10, 20));
    assert_eq!((ledger.tail(GroupId(0)), ledger.tail(GroupId(1))), (Lsn(20), Lsn(10)));
}

#[test]
fn an_idle_group_does_not_hold_the_volume_back() {
    let mut ledger = Ledger::new(span(90, 100));
    ledger.add_group(GroupId(0), Lsn(100));
    ledger.add_group(GroupId(1), Lsn(8));
    ledger.record(span(100, 110), [GroupId(0)]);
    assert!(ledger.advance(GroupId(0), Lsn(110)));
    assert_eq!(ledger.vdl(), span(100, 110));
    assert!(!ledger.advance(GroupId(0), Lsn(105)), "an older acknowledgement changes nothing");
    assert_eq!(ledger.gcl(GroupId(0)), Lsn(110));
}

#[test]
fn the_tail_at_a_read_point_is_the_last_part_at_or_below_it() {
    let mut ledger = Ledger::new(span(90, 100));
    ledger.add_group(GroupId(0), Lsn(96));
    ledger.record(span(100, 110), [GroupId(0)]);
    ledger.record(span(110, 120), [GroupId(0)]);
    assert_eq!(ledger.tail_at(GroupId(0), Lsn(100)), Lsn(96));
    assert_eq!(ledger.tail_at(GroupId(0), Lsn(115)), Lsn(110));
    assert_eq!(ledger.tail_at(GroupId(0), Lsn(50)), Lsn(50));
}

#[test]
#[should_panic(expected = "does not follow")]
fn records_are_noted_in_log_order() {
    let mut ledger = Ledger::new(span(90, 100));
    ledger.add_group(GroupId(0), Lsn(96));
    ledger.record(span(99, 110), [GroupId(0)]);
}
