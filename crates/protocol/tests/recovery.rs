//! Recovery alone, fed by hand: whom it believes, where the log ends, when the volume is open.
#![expect(clippy::unwrap_used, reason = "tests")]

use protocol::{Command, Event, Recovery, RecoveryError, Timelines};
use types::{
    Epoch, EpochStart, GroupId, History, Lsn, Members, MembershipEpoch, NodeId, SegmentId, Span,
    Timeline, VolumeId,
};
use wire::{Message, PartMeta, Refusal, SegmentReport};

const EPOCH: Epoch = Epoch(5);
const ONE: GroupId = GroupId(0);
const TWO: GroupId = GroupId(1);

fn node(index: usize) -> NodeId {
    format!("n{index}").parse().unwrap()
}

fn history(entries: &[(u64, u64)]) -> History {
    let entry = |(epoch, begins): &(u64, u64)| EpochStart {
        epoch: Epoch(*epoch),
        begins: Lsn(*begins),
        timeline: Timeline(*epoch as u32),
    };
    History::new(entries.iter().map(entry).collect()).unwrap()
}

fn report(scl: u64) -> SegmentReport {
    SegmentReport {
        scl: Lsn(scl),
        sealed: EPOCH,
        history: history(&[(1, 0)]),
        vdl: Span { start: Lsn(92), end: Lsn(100) },
        low_water: Lsn::ZERO,
        watermark: scl,
        membership: MembershipEpoch(1),
        since: MembershipEpoch(1),
        full: true,
    }
}

/// Ten-byte records from 100 on; `shared` lists the other groups.
fn meta(start: u64, prev: u64, shared: &[GroupId]) -> PartMeta {
    let span = Span { start: Lsn(start), end: Lsn(start + 10) };
    PartMeta { span, prev: Lsn(prev), shared: shared.to_vec().into() }
}

fn recovery(groups: &[GroupId]) -> Recovery {
    let members = Members::first(std::array::from_fn(node)).unwrap();
    let groups = groups.iter().map(|group| (*group, MembershipEpoch(1), members)).collect();
    Recovery::new(VolumeId(1), EPOCH, groups, Timelines::NextAfterOr(Timeline(1)))
}

fn commands(recovery: &mut Recovery) -> Vec<(NodeId, Message)> {
    std::iter::from_fn(|| recovery.poll())
        .map(|Command::Send { node, message }| (node, message))
        .collect()
}

fn tell(recovery: &mut Recovery, index: usize, group: GroupId, report: SegmentReport) {
    recovery.handle(Event::Report { node: node(index), group, report });
}

fn tail(recovery: &mut Recovery, index: usize, group: GroupId, parts: Vec<PartMeta>) {
    let (history, after, base) = (Epoch(1), Lsn(100), Lsn(96));
    recovery.handle(Event::Tail { node: node(index), group, history, after, base, parts });
}

/// Whose tail is asked for.
fn asked_tail(recovery: &mut Recovery) -> Vec<NodeId> {
    let tails =
        commands(recovery).into_iter().filter(|(_, m)| matches!(m, Message::AskTail { .. }));
    tails.map(|(node, _)| node).collect()
}

#[test]
fn nothing_is_asked_but_seals_until_four_have_sealed() {
    let mut recovery = recovery(&[ONE]);
    let seals = commands(&mut recovery);
    assert_eq!(seals.len(), 6);
    assert!(seals.iter().all(|(_, message)| matches!(message, Message::Seal { epoch: EPOCH, .. })));
    for index in 0..3 {
        tell(&mut recovery, index, ONE, report(100));
    }
    // Not in answer to this epoch's seal: it does not count.
    tell(&mut recovery, 3, ONE, SegmentReport { sealed: Epoch(4), ..report(100) });
    assert!(commands(&mut recovery).is_empty());
    assert!(recovery.waiting_for().contains("3 of 6 segments sealed"));
    tell(&mut recovery, 3, ONE, report(110));
    assert_eq!(asked_tail(&mut recovery), [node(3)]);
}

#[test]
fn four_sealed_of_which_two_are_being_rebuilt_decide_nothing() {
    let mut recovery = recovery(&[ONE]);
    for index in 0..4 {
        tell(&mut recovery, index, ONE, SegmentReport { full: index < 2, ..report(110) });
    }
    assert!(asked_tail(&mut recovery).is_empty());
    tell(&mut recovery, 4, ONE, report(100));
    assert_eq!(asked_tail(&mut recovery).len(), 1);
}

#[test]
fn a_sleeper_with_the_largest_scl_is_measured_by_the_newest_history() {
    let mut recovery = recovery(&[ONE]);
    for index in 0..3 {
        let history = history(&[(1, 0), (3, 105)]);
        tell(&mut recovery, index, ONE, SegmentReport { history, ..report(110 + index as u64) });
    }
    tell(&mut recovery, 3, ONE, report(900));
    assert_eq!(asked_tail(&mut recovery), [node(2)]);
}

#[test]
fn the_walk_ends_where_a_sharer_lacks_its_part_and_the_volume_opens_there() {
    let mut recovery = recovery(&[ONE, TWO]);
    for group in [ONE, TWO] {
        (0..4).for_each(|index| tell(&mut recovery, index, group, report(150)));
    }
    commands(&mut recovery);
    let shared = |other| vec![meta(100, 92, &[other])];
    let mut of_one = shared(TWO);
    of_one.extend([meta(110, 100, &[]), meta(120, 110, &[TWO]), meta(130, 120, &[])]);
    (0..4).for_each(|index| tail(&mut recovery, index, ONE, of_one.clone()));
    (0..4).for_each(|index| tail(&mut recovery, index, TWO, shared(ONE)));
    assert_eq!(recovery.decided(), Some(Span { start: Lsn(110), end: Lsn(120) }));
    let adopts = commands(&mut recovery);
    assert_eq!(adopts.len(), 12);
    for (_, message) in &adopts {
        let Message::Adopt { segment, history, until, .. } = message else { panic!("{message:?}") };
        let tail = if segment.group == ONE { 120 } else { 110 };
        assert_eq!((history.last_epoch(), *until), (EPOCH, Lsn(tail)));
        assert_eq!(history.entries().last().unwrap().begins, Lsn(120));
    }
    let adopted = |scl| SegmentReport { history: history(&[(1, 0), (5, 120)]), ..report(scl) };
    (0..4).for_each(|index| tell(&mut recovery, index, TWO, adopted(110)));
    (0..3).for_each(|index| tell(&mut recovery, index, ONE, adopted(120)));
    // It follows, but does not hold enough yet.
    tell(&mut recovery, 3, ONE, adopted(110));
    assert!(recovery.outcome().is_none());
    assert!(recovery.waiting_for().contains("3 of 6 segments hold the log"));
    tell(&mut recovery, 3, ONE, adopted(120));
    let opened = recovery.outcome().unwrap().unwrap();
    assert_eq!((opened.vdl.end, opened.timeline()), (Lsn(120), Timeline(2)));
    let tails: Vec<Lsn> = opened.tails.iter().map(|setup| setup.tail).collect();
    assert_eq!(tails, [Lsn(120), Lsn(110)]);
    assert!(matches!(opened.adopt_message(ONE), Some(Message::Adopt { .. })));
}

#[test]
fn a_group_without_recent_parts_ends_where_its_candidate_says() {
    let mut recovery = recovery(&[ONE]);
    (0..4).for_each(|index| tell(&mut recovery, index, ONE, report(96)));
    commands(&mut recovery);
    (0..4).for_each(|index| tail(&mut recovery, index, ONE, Vec::new()));
    assert_eq!(recovery.decided(), Some(Span { start: Lsn(92), end: Lsn(100) }));
    let adopt = commands(&mut recovery).remove(0).1;
    assert!(matches!(adopt, Message::Adopt { until: Lsn(96), .. }), "{adopt:?}");
}

#[test]
fn a_tail_counts_only_as_far_as_the_report_whose_watermark_covers_it() {
    // Found by the simulator: gossip had brought the part at 110 after the seal's report, and its
    // transaction ids, above the watermark reported, would have been given out again.
    let mut recovery = recovery(&[ONE]);
    (0..4).for_each(|index| tell(&mut recovery, index, ONE, report(110)));
    commands(&mut recovery);
    let parts = vec![meta(100, 92, &[]), meta(110, 100, &[])];
    (0..4).for_each(|index| tail(&mut recovery, index, ONE, parts.clone()));
    assert_eq!(recovery.decided().unwrap().end, Lsn(110));
}

#[test]
fn a_candidate_that_cannot_be_reached_any_more_is_replaced() {
    let mut recovery = recovery(&[ONE]);
    (0..4).for_each(|index| tell(&mut recovery, index, ONE, report(100 + 10 * index as u64)));
    assert_eq!(asked_tail(&mut recovery), [node(3)]);
    recovery.handle(Event::Unreachable { node: node(3) });
    assert!(asked_tail(&mut recovery).is_empty(), "three sealed are too few to go on");
    tell(&mut recovery, 4, ONE, report(100));
    assert_eq!(asked_tail(&mut recovery), [node(2)]);
}

#[test]
fn a_moved_durable_point_is_learnt_by_sealing_again() {
    let mut recovery = recovery(&[ONE]);
    (0..4).for_each(|index| tell(&mut recovery, index, ONE, report(110)));
    let asked = asked_tail(&mut recovery)[0];
    let refusal = Refusal::Forgotten { horizon: Lsn(110), asked: Lsn(100) };
    recovery.handle(Event::Refused { node: asked, group: ONE, refusal });
    let again = commands(&mut recovery);
    assert!(matches!(again.as_slice(), [(to, Message::Seal { .. })] if *to == asked), "{again:?}");
}

#[test]
fn unanswered_questions_are_asked_again_each_turn() {
    let mut recovery = recovery(&[ONE]);
    commands(&mut recovery);
    (0..2).for_each(|index| tell(&mut recovery, index, ONE, report(110)));
    recovery.handle(Event::Unreachable { node: node(5) });
    recovery.handle(Event::Tick);
    let asked: Vec<NodeId> = commands(&mut recovery).into_iter().map(|(node, _)| node).collect();
    assert_eq!(asked, [node(2), node(3), node(4)]);
}

#[test]
fn a_newer_epoch_or_an_unknown_group_ends_the_attempt() {
    let mut fenced = recovery(&[ONE]);
    let segment = SegmentId { volume: VolumeId(1), group: ONE };
    fenced.handle(Event::Refused {
        node: node(0),
        group: ONE,
        refusal: Refusal::Hydrating(segment),
    });
    assert!(fenced.outcome().is_none());
    let refusal = Refusal::Fenced { asked: EPOCH, current: Epoch(6) };
    fenced.handle(Event::Refused { node: node(0), group: ONE, refusal });
    assert_eq!(fenced.outcome(), Some(Err(RecoveryError::Fenced(Epoch(6)))));

    let mut lost = recovery(&[ONE]);
    (0..4).for_each(|index| tell(&mut lost, index, ONE, report(110)));
    (0..4).for_each(|index| tail(&mut lost, index, ONE, vec![meta(100, 92, &[TWO])]));
    let error = lost.outcome().unwrap().unwrap_err();
    assert!(matches!(error, RecoveryError::UnknownGroup { group: TWO, .. }), "{error}");
}
