//! The writer alone: what it sends to whom, when it calls a record durable, and what it keeps.
#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use protocol::{GroupSetup, Held, Record, Writer, WriterState};
use types::{
    Epoch, EpochStart, GroupId, History, Lsn, Members, MembershipEpoch, NodeId, PageKey, SegmentId,
    Span, Timeline, VolumeId,
};
use wire::{Batch, Change, Message, Refusal};

const EPOCH: Epoch = Epoch(3);
const ONE: GroupId = GroupId(0);
const TWO: GroupId = GroupId(1);

fn node(index: usize) -> NodeId {
    format!("n{index}").parse().unwrap()
}

fn setup(group: GroupId) -> GroupSetup {
    let members = Members::first(std::array::from_fn(node)).unwrap();
    GroupSetup { group, membership: MembershipEpoch(1), members, tail: Lsn::ZERO }
}

fn writer() -> Writer {
    let vdl = Span { start: Lsn(92), end: Lsn(100) };
    let mut writer = Writer::new(VolumeId(1), EPOCH, vec![setup(ONE), setup(TWO)], vdl, 7);
    (0..6).for_each(|index| writer.link_up(node(index)));
    writer
}

/// Submits the next record, ten bytes long, with a part in each group.
fn submit(writer: &mut Writer, groups: &[GroupId]) -> Lsn {
    let last = writer.submitted();
    let span = Span { start: last.end, end: last.end.plus(10) };
    let part = |group: &GroupId| (*group, Vec::new(), Bytes::from_static(b"body"));
    writer.submit(Record { span, prev: last.start, parts: groups.iter().map(part).collect() }, 7);
    writer.invariants();
    span.end
}

fn sent(writer: &mut Writer, index: usize) -> Vec<Batch> {
    std::iter::from_fn(|| writer.poll_send(node(index)))
        .map(|bytes| Batch::decode(bytes).unwrap())
        .collect()
}

/// The parts sent of one group, by end.
fn ends(batches: &[Batch], group: GroupId) -> Vec<u64> {
    let of = batches.iter().filter(|batch| batch.header.segment.group == group);
    of.flat_map(|batch| &batch.parts).map(|part| part.meta.span.end.0).collect()
}

fn held(scl: Lsn) -> Held {
    Held { scl, since: MembershipEpoch::FIRST, full: true }
}

fn ack(writer: &mut Writer, nodes: std::ops::Range<usize>, group: GroupId, scl: Lsn) {
    nodes.for_each(|index| {
        writer.on_ack(node(index), group, EPOCH, held(scl));
    });
    writer.invariants();
}

#[test]
fn a_link_carries_an_announcement_first_and_then_each_batch_once() {
    let mut writer = writer();
    submit(&mut writer, &[ONE]);
    submit(&mut writer, &[ONE, TWO]);
    writer.flush();
    let batches = sent(&mut writer, 0);
    assert!(batches[0].parts.is_empty() && batches[0].header.base == Lsn(120));
    assert_eq!(ends(&batches, ONE), [110, 120]);
    assert_eq!(ends(&batches, TWO), [120]);
    let shared = batches.iter().flat_map(|batch| &batch.parts).filter(|p| p.meta.span.end.0 == 120);
    let sharers: Vec<GroupId> = shared.flat_map(|part| part.meta.shared.clone()).collect();
    assert!(sharers.contains(&ONE) && sharers.contains(&TWO));
    assert!(sent(&mut writer, 0).is_empty());
}

#[test]
fn six_sends_share_one_encoding() {
    let mut writer = writer();
    (0..6).for_each(|index| drop(sent(&mut writer, index)));
    submit(&mut writer, &[ONE]);
    writer.flush();
    let one = writer.poll_send(node(0)).unwrap();
    let two = writer.poll_send(node(5)).unwrap();
    assert_eq!(one.as_ptr(), two.as_ptr());
}

#[test]
fn the_fourth_copy_of_every_part_makes_a_record_durable() {
    let mut writer = writer();
    let end = submit(&mut writer, &[ONE, TWO]);
    writer.flush();
    ack(&mut writer, 0..6, ONE, end);
    ack(&mut writer, 0..3, TWO, end);
    assert_eq!(writer.vdl().end, Lsn(100));
    assert_eq!((writer.gcl(ONE), writer.gcl(TWO)), (end, Lsn::ZERO));
    ack(&mut writer, 3..4, TWO, end);
    assert_eq!(writer.vdl(), Span { start: Lsn(100), end });
    assert_eq!(writer.lead_bytes(), 0);
    assert_eq!(writer.group_tail_at(TWO, end), end);
    assert_eq!(writer.readers(TWO, end).collect::<Vec<_>>(), (0..4).map(node).collect::<Vec<_>>());
}

#[test]
fn the_same_member_twice_is_one_copy() {
    let mut writer = writer();
    let end = submit(&mut writer, &[ONE]);
    writer.flush();
    (0..4).for_each(|_| ack(&mut writer, 0..3, ONE, end));
    assert_eq!(writer.vdl().end, Lsn(100));
}

#[test]
fn an_acknowledgement_of_another_epoch_or_beyond_the_log_counts_for_nothing() {
    let mut writer = writer();
    let end = submit(&mut writer, &[ONE]);
    writer.flush();
    for index in 0..6 {
        writer.on_ack(node(index), ONE, Epoch(2), held(end));
    }
    assert_eq!(writer.vdl().end, Lsn(100));
    ack(&mut writer, 0..4, ONE, Lsn(1_000_000));
    assert_eq!(writer.gcl(ONE), end);
}

#[test]
fn what_is_not_quorate_is_sent_again_however_long_members_were_away() {
    let mut writer = writer();
    (0..6).for_each(|index| writer.link_down(node(index)));
    // Far more than is kept of quorate batches.
    for _ in 0..40 {
        let last = writer.submitted();
        let span = Span { start: last.end, end: last.end.plus(10) };
        let parts = vec![(ONE, Vec::new(), Bytes::from(vec![7; 1 << 20]))];
        writer.submit(Record { span, prev: last.start, parts }, 7);
        writer.flush();
    }
    writer.link_up(node(4));
    assert_eq!(ends(&sent(&mut writer, 4), ONE).len(), 40);
    // Once quorate they are kept only within the bound: who comes later is filled by peers.
    ack(&mut writer, 0..4, ONE, Lsn(500));
    writer.link_up(node(5));
    let kept = ends(&sent(&mut writer, 5), ONE).len();
    assert!((1..10).contains(&kept), "{kept} batches of 1 MiB kept");
}

#[test]
fn a_refused_member_is_sent_the_history_and_then_its_batches_again() {
    let mut writer = writer();
    let end = submit(&mut writer, &[ONE]);
    writer.flush();
    assert_eq!(ends(&sent(&mut writer, 2), ONE), [110]);
    let refusals = [
        Refusal::NotAdopted { epoch: EPOCH },
        Refusal::NoSegment(SegmentId { volume: VolumeId(1), group: ONE }),
        Refusal::Hydrating(SegmentId { volume: VolumeId(1), group: ONE }),
    ];
    for refusal in refusals {
        assert_eq!(writer.on_refused(node(2), ONE, &refusal), WriterState::Running);
        assert_eq!(writer.to_adopt().collect::<Vec<_>>(), [(node(2), ONE)]);
        assert!(sent(&mut writer, 2).iter().all(|batch| batch.header.segment.group == TWO));
        let entry = EpochStart { epoch: EPOCH, begins: Lsn(100), timeline: Timeline(1) };
        let history = History::default().with(entry);
        assert!(matches!(writer.adopt_message(ONE, &history), Some(Message::Adopt { .. })));
        writer.on_ack(node(2), ONE, EPOCH, held(Lsn::ZERO));
        assert_eq!(ends(&sent(&mut writer, 2), ONE), [end.0], "after {refusal}");
    }
}

#[test]
fn a_wiped_member_no_longer_counts_but_the_durable_point_stands() {
    let mut writer = writer();
    let end = submit(&mut writer, &[ONE]);
    writer.flush();
    ack(&mut writer, 0..4, ONE, end);
    let segment = SegmentId { volume: VolumeId(1), group: ONE };
    writer.on_refused(node(0), ONE, &Refusal::Hydrating(segment));
    writer.invariants();
    assert_eq!((writer.vdl().end, writer.scl(ONE, node(0))), (end, Lsn::ZERO));
    assert!(!writer.readers(ONE, end).any(|reader| reader == node(0)));
}

#[test]
fn a_fenced_writer_sends_nothing_and_advances_no_more() {
    let mut writer = writer();
    let end = submit(&mut writer, &[ONE]);
    writer.flush();
    let late = Refusal::Fenced { asked: Epoch(2), current: EPOCH };
    assert_eq!(writer.on_refused(node(0), ONE, &late), WriterState::Running);
    let fenced = Refusal::Fenced { asked: EPOCH, current: Epoch(4) };
    assert_eq!(writer.on_refused(node(0), ONE, &fenced), WriterState::Fenced(Epoch(4)));
    ack(&mut writer, 0..6, ONE, end);
    assert_eq!(writer.vdl().end, Lsn(100));
    assert!(sent(&mut writer, 1).is_empty());
}

#[test]
fn an_idle_writer_tells_the_durable_point_and_asks_those_behind() {
    let mut writer = writer();
    let end = submit(&mut writer, &[ONE]);
    writer.flush();
    (0..6).for_each(|index| drop(sent(&mut writer, index)));
    ack(&mut writer, 0..4, ONE, end);
    writer.announce();
    let told = sent(&mut writer, 0);
    assert_eq!(told.len(), 2, "one announcement a group");
    assert!(told.iter().all(|batch| batch.parts.is_empty() && batch.header.vdl.end == end));
    writer.announce();
    assert!(sent(&mut writer, 0).is_empty(), "nothing new to tell");
    drop(sent(&mut writer, 5));
    writer.announce();
    assert_eq!(sent(&mut writer, 5).len(), 1, "it has not acknowledged the group's last part");
}

#[test]
fn a_group_added_while_running_takes_parts_at_once() {
    let mut writer = writer();
    writer.add_group(setup(GroupId(2)));
    submit(&mut writer, &[ONE]);
    let end = submit(&mut writer, &[ONE, GroupId(2)]);
    writer.flush();
    let batches = sent(&mut writer, 3);
    let first = batches.iter().find(|batch| batch.header.segment.group == GroupId(2)).unwrap();
    assert_eq!(first.header.base, Lsn::ZERO);
    ack(&mut writer, 0..4, ONE, end);
    assert_eq!(writer.vdl().end, Lsn(110));
    ack(&mut writer, 0..4, GroupId(2), end);
    assert_eq!(writer.vdl().end, end);
}

#[test]
#[should_panic(expected = "not linked")]
fn a_record_that_names_another_predecessor_is_a_bug_of_the_caller() {
    let mut writer = writer();
    let span = Span { start: Lsn(100), end: Lsn(110) };
    writer.submit(Record { span, prev: Lsn(80), parts: vec![(ONE, Vec::new(), Bytes::new())] }, 7);
}

#[test]
fn no_batch_is_larger_than_nodes_take_however_parts_come() {
    let mut writer = writer();
    let mut submit = |changes: usize, body: usize| {
        let last = writer.submitted();
        let span = Span { start: last.end, end: last.end.plus(8) };
        let key = |number: u64| {
            let mut key = PageKey::MIN;
            key.0[..8].copy_from_slice(&number.to_be_bytes());
            Change::Apply(key)
        };
        let changes = (0..changes as u64).map(|number| key(number << 56 | number)).collect();
        let parts = vec![(ONE, changes, Bytes::from(vec![1; body]))];
        writer.submit(Record { span, prev: last.start, parts }, 7);
    };
    // A part that only just fits a batch of its own, behind one that is in the open batch.
    submit(1, 8192);
    submit(1, types::BATCH_BYTES_MAX - 4096);
    // As many changes as a batch may have, behind more.
    submit(40_000, 0);
    submit(usize::try_from(wire::CHANGES_MAX).unwrap(), 0);
    (0..60_000).for_each(|_| submit(1, 0));
    writer.flush();
    let batches = sent(&mut writer, 0); // decodes as a node does
    assert_eq!(ends(&batches, ONE).len(), 60_004);
}

#[test]
fn a_batch_closed_by_its_size_carries_the_watermark_of_all_that_it_holds() {
    let mut writer = writer();
    drop(sent(&mut writer, 0));
    // No flush: size alone closes them, with the record that is too long for more or before it.
    for transaction in 100..110 {
        let last = writer.submitted();
        let span = Span { start: last.end, end: last.end.plus(10) };
        let parts = vec![(ONE, Vec::new(), Bytes::from(vec![7; (512 << 10) << (transaction % 2)]))];
        writer.submit(Record { span, prev: last.start, parts }, transaction);
    }
    let batches = sent(&mut writer, 0);
    assert!(batches.len() > 2, "{} batches", batches.len());
    let transaction = |end: Lsn| (end.0 - 110) / 10 + 100;
    for batch in batches {
        let last = batch.parts.last().map_or(0, |part| transaction(part.meta.span.end));
        assert!(batch.header.watermark >= last, "{} under {last}", batch.header.watermark);
    }
}

#[test]
fn what_is_kept_for_a_laggard_is_bounded_in_all_groups_together() {
    for (groups, kept) in [(2, 8), (16, 4), (64, 1)] {
        let setups = (0..groups).map(|group| setup(GroupId(group))).collect();
        let vdl = Span { start: Lsn(92), end: Lsn(100) };
        let mut writer = Writer::new(VolumeId(1), EPOCH, setups, vdl, 7);
        (0..5).for_each(|index| writer.link_up(node(index)));
        for _ in 0..10 {
            let last = writer.submitted();
            let span = Span { start: last.end, end: last.end.plus(1 << 20) };
            let parts = vec![(ONE, Vec::new(), Bytes::from(vec![0; (1 << 20) - 1_000]))];
            writer.submit(Record { span, prev: last.start, parts }, 7);
            writer.flush();
            (0..5).for_each(|index| drop(sent(&mut writer, index)));
            ack(&mut writer, 0..5, ONE, span.end);
        }
        writer.link_up(node(5));
        assert_eq!(ends(&sent(&mut writer, 5), ONE).len(), kept, "{groups} groups");
    }
}

#[test]
fn groups_whose_members_are_equal_are_filled_from_different_ones() {
    let writer = writer();
    let peer = |group| match writer.adopt_message(group, &History::default()) {
        Some(Message::Adopt { peer, .. }) => peer,
        other => panic!("{other:?}"),
    };
    assert_ne!(peer(ONE), peer(TWO));
}

#[test]
fn a_node_that_is_asked_gets_an_announcement_though_nothing_is_new() {
    let mut writer = writer();
    let end = submit(&mut writer, &[ONE, TWO]);
    writer.flush();
    (0..6).for_each(|index| drop(sent(&mut writer, index)));
    ack(&mut writer, 0..6, ONE, end);
    ack(&mut writer, 0..6, TWO, end);
    writer.announce();
    (0..6).for_each(|index| drop(sent(&mut writer, index)));
    writer.ask(node(3));
    let batches = sent(&mut writer, 3);
    assert!(matches!(&batches[..], [one] if one.parts.is_empty() && one.header.last == end));
    assert!((0..6).all(|index| sent(&mut writer, index).is_empty()));
}
