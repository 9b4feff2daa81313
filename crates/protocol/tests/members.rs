//! Replacing a member (rule V16): what a joint place counts for, whose word counts, who may take over.
#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use protocol::{
    Command, Event, GroupSetup, Held, Input, Output, Record, Recovery, Segment, Timelines, Writer,
};
use types::{
    Epoch, EpochStart, GroupId, History, Holder, Lsn, Members, MembershipEpoch, NodeId, SegmentId,
    Span, Timeline, VolumeId,
};
use wire::{Batch, Message, Peer, SegmentReport, SegmentSpec};

const EPOCH: Epoch = Epoch(3);
const GROUP: GroupId = GroupId(0);
const SEGMENT: SegmentId = SegmentId { volume: VolumeId(1), group: GROUP };
const FIRST: MembershipEpoch = MembershipEpoch::FIRST;
const SECOND: MembershipEpoch = MembershipEpoch(2);
const THIRD: MembershipEpoch = MembershipEpoch(3);

fn node(index: usize) -> NodeId {
    format!("n{index}").parse().unwrap()
}

fn six() -> Members {
    Members::first(std::array::from_fn(node)).unwrap()
}

/// The six with place 5 handed over to node 6.
fn joint(since: MembershipEpoch) -> Members {
    let mut places = *six().places();
    places[5].joining = Some(Holder { node: node(6), since });
    Members::new(places).unwrap()
}

/// Node 6 in place 5.
fn replaced() -> Members {
    let mut places = *six().places();
    places[5].present = Holder { node: node(6), since: SECOND };
    Members::new(places).unwrap()
}

fn writer() -> Writer {
    let setup = GroupSetup { group: GROUP, membership: FIRST, members: six(), tail: Lsn::ZERO };
    let vdl = Span { start: Lsn(92), end: Lsn(100) };
    let mut writer = Writer::new(VolumeId(1), EPOCH, vec![setup], vdl, 7);
    (0..7).for_each(|index| writer.link_up(node(index)));
    writer
}

/// Submits a record of ten bytes.
fn submit(writer: &mut Writer) -> Lsn {
    let last = writer.submitted();
    let span = Span { start: last.end, end: last.end.plus(10) };
    let parts = vec![(GROUP, Vec::new(), Bytes::from_static(b"body"))];
    writer.submit(Record { span, prev: last.start, parts }, 7);
    writer.flush();
    span.end
}

fn ack(writer: &mut Writer, index: usize, scl: Lsn, since: MembershipEpoch) {
    writer.on_ack(node(index), GROUP, EPOCH, Held { scl, since, full: true });
    writer.invariants();
}

#[test]
fn a_joint_place_counts_for_writing_only_when_both_its_holders_have_the_record() {
    let mut writer = writer();
    writer.set_members(GROUP, SECOND, joint(SECOND));
    let end = submit(&mut writer);
    for index in [0, 1, 2, 5] {
        ack(&mut writer, index, end, FIRST);
    }
    assert_eq!(writer.vdl().end, Lsn(100), "the joining holder lacks it");
    ack(&mut writer, 6, end, SECOND);
    assert_eq!(writer.vdl().end, end);
}

#[test]
fn four_other_places_are_enough_while_one_is_joint() {
    let mut writer = writer();
    writer.set_members(GROUP, SECOND, joint(SECOND));
    let end = submit(&mut writer);
    (0..4).for_each(|index| ack(&mut writer, index, end, FIRST));
    assert_eq!(writer.vdl().end, end);
}

#[test]
fn a_place_that_its_old_holder_left_counts_with_the_new_one_alone() {
    let mut writer = writer();
    writer.set_members(GROUP, SECOND, joint(SECOND));
    let end = submit(&mut writer);
    for index in [0, 1, 2] {
        ack(&mut writer, index, end, FIRST);
    }
    ack(&mut writer, 6, end, SECOND);
    assert_eq!(writer.vdl().end, Lsn(100), "node 5 is dead");
    assert!(writer.set_members(GROUP, THIRD, replaced()), "the durable point moves");
    assert_eq!(writer.vdl().end, end);
    ack(&mut writer, 5, end, FIRST);
    assert_eq!(writer.readers(GROUP, end).count(), 4, "node 5 has no place any more");
}

#[test]
fn the_word_of_a_copy_that_was_given_up_in_between_does_not_count() {
    let mut writer = writer();
    writer.set_members(GROUP, SECOND, joint(SECOND));
    let end = submit(&mut writer);
    ack(&mut writer, 6, end, SECOND);
    assert_eq!(writer.scl(GROUP, node(6)), end);
    // Given up, and begun again on the same node: the writer hears of the second only.
    writer.set_members(GROUP, MembershipEpoch(4), joint(MembershipEpoch(4)));
    assert_eq!(writer.scl(GROUP, node(6)), Lsn::ZERO);
    ack(&mut writer, 6, end, SECOND);
    assert_eq!(writer.scl(GROUP, node(6)), Lsn::ZERO, "a late word of the first copy");
    ack(&mut writer, 6, end, MembershipEpoch(4));
    assert_eq!(writer.scl(GROUP, node(6)), end);
}

#[test]
fn a_node_that_answers_with_an_earlier_copy_is_asked_until_its_new_one_does() {
    let mut writer = writer();
    writer.set_members(GROUP, SECOND, joint(SECOND));
    let end = submit(&mut writer);
    while writer.poll_send(node(6)).is_some() {}
    ack(&mut writer, 6, end, FIRST);
    assert_eq!(writer.to_adopt().collect::<Vec<_>>(), [(node(6), GROUP)], "nothing is written");
    ack(&mut writer, 6, end, SECOND);
    assert_eq!(writer.to_adopt().count(), 0);
    assert_eq!(writer.scl(GROUP, node(6)), end);
}

#[test]
fn an_older_member_set_changes_nothing() {
    let mut writer = writer();
    writer.set_members(GROUP, THIRD, replaced());
    writer.set_members(GROUP, SECOND, joint(SECOND));
    assert_eq!(writer.groups().next().unwrap().members, replaced());
}

#[test]
fn a_joining_holder_may_take_over_when_it_is_full_and_has_what_is_quorate() {
    let mut writer = writer();
    writer.set_members(GROUP, SECOND, joint(SECOND));
    let end = submit(&mut writer);
    (0..4).for_each(|index| ack(&mut writer, index, end, FIRST));
    let filled = |writer: &Writer| writer.filled().collect::<Vec<_>>();
    let held = |scl, full| Held { scl, since: SECOND, full };
    writer.on_ack(node(6), GROUP, EPOCH, held(Lsn(50), true));
    assert_eq!(filled(&writer), [], "it lacks a durable record");
    writer.on_ack(node(6), GROUP, EPOCH, held(end, false));
    assert_eq!(filled(&writer), [], "it is being rebuilt");
    writer.on_ack(node(6), GROUP, EPOCH, held(end, true));
    assert_eq!(filled(&writer), [(GROUP, SECOND, node(6))]);
    let hydrating = wire::Refusal::Hydrating(SEGMENT);
    writer.on_refused(node(6), GROUP, &hydrating);
    assert_eq!(filled(&writer), [], "it was wiped");
}

#[test]
fn a_joining_holder_is_sent_what_is_kept_after_an_announcement() {
    let mut writer = writer();
    submit(&mut writer);
    writer.set_members(GROUP, SECOND, joint(SECOND));
    let sent: Vec<_> = std::iter::from_fn(|| writer.poll_send(node(6)))
        .map(|bytes| Batch::decode(bytes).unwrap().parts.len())
        .collect();
    assert_eq!(sent, [0, 1]);
}

fn report(scl: u64, since: MembershipEpoch) -> SegmentReport {
    let start = EpochStart { epoch: Epoch(1), begins: Lsn(0), timeline: Timeline(1) };
    SegmentReport {
        scl: Lsn(scl),
        sealed: EPOCH,
        history: History::new(vec![start]).unwrap(),
        vdl: Span { start: Lsn(92), end: Lsn(100) },
        low_water: Lsn::ZERO,
        watermark: 0,
        membership: since,
        since,
        full: true,
    }
}

fn recovery(membership: MembershipEpoch, members: Members) -> Recovery {
    let groups = vec![(GROUP, membership, members)];
    Recovery::new(VolumeId(1), EPOCH, groups, Timelines::NextAfterOr(Timeline(1)))
}

fn tell(recovery: &mut Recovery, index: usize, report: SegmentReport) {
    recovery.handle(Event::Report { node: node(index), group: GROUP, report });
}

#[test]
fn recovery_asks_the_present_holders_only_and_counts_no_others() {
    let mut recovery = recovery(SECOND, joint(SECOND));
    let asked: Vec<_> =
        std::iter::from_fn(|| recovery.poll()).map(|Command::Send { node, .. }| node).collect();
    assert_eq!(asked, (0..6).map(node).collect::<Vec<_>>());
    (0..3).for_each(|index| tell(&mut recovery, index, report(100, FIRST)));
    tell(&mut recovery, 6, report(100, SECOND));
    assert!(recovery.is_sealing(), "three present holders are sealed");
    tell(&mut recovery, 5, report(100, FIRST));
    assert!(!recovery.is_sealing());
}

#[test]
fn a_place_is_not_sealed_by_a_copy_that_its_node_held_before() {
    let mut recovery = recovery(THIRD, replaced());
    (0..3).for_each(|index| tell(&mut recovery, index, report(100, FIRST)));
    tell(&mut recovery, 6, report(100, FIRST));
    assert!(recovery.is_sealing());
    tell(&mut recovery, 6, report(100, SECOND));
    assert!(!recovery.is_sealing());
}

#[test]
fn recovery_names_the_survivors_of_a_group_that_cannot_be_written_to() {
    let mut recovery = recovery(SECOND, joint(SECOND));
    tell(&mut recovery, 0, report(100, FIRST));
    tell(&mut recovery, 1, SegmentReport { full: false, ..report(100, FIRST) });
    tell(&mut recovery, 4, report(100, FIRST));
    let [crippled] = &recovery.crippled()[..] else { panic!("one group") };
    assert_eq!((crippled.group, crippled.membership), (GROUP, SECOND));
    assert_eq!(crippled.survivors, [node(0), node(4)]);
    tell(&mut recovery, 2, report(100, FIRST));
    tell(&mut recovery, 3, report(100, FIRST));
    assert_eq!(recovery.crippled(), []);
}

fn spec() -> SegmentSpec {
    let peer = |holder| Peer { holder, address: String::new() };
    let present = joint(SECOND).places().map(|place| peer(place.present));
    let joining = vec![peer(Holder { node: node(6), since: SECOND })];
    SegmentSpec {
        segment: SEGMENT,
        membership: SECOND,
        members: present.into(),
        joining,
        fresh: false,
    }
}

#[test]
fn a_joining_segment_believes_three_present_holders_and_no_copy_they_held_before() {
    let mut segment = Segment::blank(node(6), spec());
    let mut out = Vec::new();
    let mut seal = |segment: &mut Segment| {
        out.clear();
        segment.handle(Input::Seal { from: 1, epoch: EPOCH }, &mut out);
        matches!(&out[..], [Output::Reply { message: Message::Refused(_), .. }])
    };
    let tell = |segment: &mut Segment, index, since| {
        let report = report(100, since);
        let (from_peer, batches) = (node(index), Vec::new());
        segment.handle(Input::Filled { from_peer, report, batches }, &mut Vec::new());
    };
    (0..2).for_each(|index| tell(&mut segment, index, FIRST));
    tell(&mut segment, 2, SECOND);
    assert!(seal(&mut segment), "node 2's copy of then is not the one that holds the place");
    tell(&mut segment, 3, FIRST);
    assert!(!seal(&mut segment));
}

#[test]
fn a_segment_tells_the_newest_member_set_it_was_told() {
    let mut segment = Segment::fresh(node(0), SegmentSpec { fresh: true, ..spec() });
    let mut out = Vec::new();
    segment.handle(Input::Members(SegmentSpec { membership: THIRD, ..spec() }), &mut out);
    assert!(matches!(&out[..], [Output::Persist { seq: 1, .. }]));
    segment.handle(Input::Persisted { seq: 1 }, &mut out);
    assert_eq!(segment.report().membership, THIRD);
    out.clear();
    segment.handle(Input::Members(spec()), &mut out);
    assert_eq!((segment.report().membership, out.len()), (THIRD, 0));
}
