//! Failing and full disks stop the store; endless work does not fill one.

mod common;

use common::*;
use env::{ErrorKind, MemDisk, Operation, Survive};
use segstore::{Options, Store, StoreError};
use types::{GroupId, Lsn, SegmentId};
use wire::{Change, PageAnswer};

fn one_more(store: &Store, model: &mut Model) -> Result<(), StoreError> {
    let batch = model.batch(vec![(vec![apply(1)], body(model.next, 60))]);
    store.append(&[batch_entry(batch)])
}

#[test]
fn a_failed_write_or_sync_stops_the_store_for_good() {
    for operation in [Operation::Write, Operation::Sync, Operation::SyncDir] {
        let disk = MemDisk::new();
        let store = create(&disk, small());
        let mut model = Model::new();
        one_more(&store, &mut model).expect("appends");
        model.settle(Lsn::ZERO);
        store.advance(SEGMENT, &model.report());
        disk.set_failing(Some(operation));
        let failed = if operation == Operation::Write {
            one_more(&store, &mut model)
        } else {
            store.flush_segment(SEGMENT).map(|_| ())
        };
        assert!(matches!(failed, Err(StoreError::Poisoned(_))), "{operation}: {failed:?}");
        disk.set_failing(None);
        let again = one_more(&store, &mut model);
        assert!(matches!(again, Err(StoreError::Poisoned(_))), "never retried");
        assert!(matches!(store.background(), Err(StoreError::Poisoned(_))));
        assert!(store.poisoned().is_some());
        assert!(matches!(store.read_page(SEGMENT, &key(1), Lsn::MAX), PageAnswer::Page { .. }));
    }
}

#[test]
fn a_full_disk_stops_the_store_and_keeps_what_was_acknowledged() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    disk.set_capacity(Some(disk.used_bytes() + (40 << 10)));
    let acknowledged = loop {
        let before = model.clone();
        match one_more(&store, &mut model) {
            Ok(()) => assert!(model.parts.len() < 10_000),
            Err(StoreError::Poisoned(why)) => {
                assert!(why.contains("no space"), "{why}");
                break before;
            }
            Err(error) => panic!("{error}"),
        }
    };
    disk.set_capacity(None);
    let disk = disk.crash(Survive::Nothing);
    let (store, restored) = open(&disk, small()).expect("opens");
    assert_eq!(restored[0].held.len(), acknowledged.parts.len());
    acknowledged.check(&store, 3, &[acknowledged.tail()]);
    assert_eq!(ErrorKind::Full, ErrorKind::Full);
}

#[test]
fn space_is_bounded_under_endless_updates_and_reads_stay_short() {
    let disk = MemDisk::new();
    let options = Options { log_retain_bytes: 64 << 10, ..small() };
    let store = create(&disk, options);
    let mut model = Model::new();
    let mut random = Random(3);
    let mut peak = 0;
    for round in 0..3000u64 {
        let parts =
            (0..8).map(|i| (vec![apply(random.below(20))], body(round * 8 + i, 60))).collect();
        let batch = model.batch(parts);
        store.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        // The model would apply everything from the beginning: it only needs the newest state here.
        while store.background().expect("works") {}
        if round > 300 {
            peak = peak.max(disk.used_bytes());
        }
        if round % 500 != 499 {
            continue;
        }
        model.check(&store, 20, &[Lsn::MAX]);
        let stats = store.stats();
        assert!(stats.files < 16, "{stats:?}");
        assert!(stats.merges > 0 && stats.engine_errors == 0);
    }
    // 20 pages of 256 bytes under 1.4 MB of parts.
    assert!(peak < 300 << 10, "{peak} bytes at the peak");
}

#[test]
fn deleted_pages_free_their_space() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    for number in 0..400 {
        let put = Change::Put(key(number), vec![number as u8; 1000].into());
        let batch = model.batch(vec![(vec![put], bytes::Bytes::new())]);
        store.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        work_off(&store);
    }
    let full = store.stats().file_bytes;
    assert!(full > 390_000, "{full}");
    let gone = Change::Delete { from: key(10), to: key(390) };
    let batch = model.batch(vec![(vec![gone], bytes::Bytes::new())]);
    store.append(&[batch_entry(batch)]).expect("appends");
    for number in 0..60 {
        let put = Change::Put(key(number % 5), vec![1; 500].into());
        let batch = model.batch(vec![(vec![put], bytes::Bytes::new())]);
        store.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        work_off(&store);
    }
    let left = store.stats().file_bytes;
    assert!(left < full / 4, "{left} of {full} bytes are left");
    model.check(&store, 400, &[Lsn::MAX]);
}

#[test]
fn a_dropped_segment_leaves_nothing_and_may_come_again() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    for _ in 0..50 {
        one_more(&store, &mut model).expect("appends");
    }
    model.settle(Lsn::MAX);
    store.advance(SEGMENT, &model.report());
    work_off(&store);
    store.drop_segment(SEGMENT).expect("drops");
    assert!(matches!(one_more(&store, &mut model), Err(StoreError::NoSegment(_))));
    store.add_segment(&spec(SEGMENT), &first_state()).expect("adds");
    assert_eq!(store.read_page(SEGMENT, &key(1), Lsn::MAX), PageAnswer::Absent);
    let (store, restored) = open(&disk, small()).expect("opens");
    assert_eq!(restored.len(), 1);
    assert_eq!((restored[0].flushed, restored[0].held.len()), (Lsn::ZERO, 0), "of the new life");
    assert_eq!(store.read_page(SEGMENT, &key(1), Lsn::MAX), PageAnswer::Absent);
}

#[test]
fn many_segments_share_one_write() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let ids: Vec<SegmentId> =
        (10..40).map(|group| SegmentId { group: GroupId(group), ..SEGMENT }).collect();
    let mut entries = Vec::new();
    for id in &ids {
        store.add_segment(&spec(*id), &first_state()).expect("adds");
        let mut batch = Model::new().batch(vec![(vec![apply(1)], body(1, 40))]);
        batch.header.segment = *id;
        entries.push((*id, segstore::LogEntry::Batch(batch)));
    }
    let before = disk.sync_points();
    store.append(&entries).expect("appends");
    assert_eq!(disk.sync_points() - before, 1, "one durable write for all");
    let (store, restored) = open(&disk, small()).expect("opens");
    assert_eq!(restored.len(), 31);
    for id in ids {
        assert!(matches!(store.read_page(id, &key(1), Lsn::MAX), PageAnswer::Page { .. }));
    }
}

#[test]
fn an_entry_larger_than_a_log_file_is_kept() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    one_more(&store, &mut model).expect("appends");
    let batch = model.batch(vec![(vec![apply(2)], body(9, 50_000))]);
    store.append(&[batch_entry(batch)]).expect("appends");
    one_more(&store, &mut model).expect("appends");
    model.check(&store, 3, &[Lsn::MAX]);
    let (store, restored) = open(&disk, small()).expect("opens");
    assert_eq!((restored[0].held.len(), &restored[0].damage), (3, &None));
    model.check(&store, 3, &[Lsn::MAX]);
    model.check_chain(&store, Lsn::ZERO);
    model.settle(Lsn::MAX);
    store.advance(SEGMENT, &model.report());
    for _ in 0..2000 {
        one_more(&store, &mut model).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        store.background().expect("works");
    }
    work_off(&store);
    assert!(disk.used_bytes() < 200 << 10, "the large file is not kept: {}", disk.used_bytes());
}

#[test]
fn a_record_the_engine_refuses_is_never_skipped() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    for number in 0..100u64 {
        let mut content = body(number, 60).to_vec();
        if number == 30 {
            content[0] = 0xee;
        }
        let batch =
            model.batch(vec![(vec![apply(1)], content.into()), (vec![apply(2)], body(number, 30))]);
        store.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        work_off(&store);
    }
    assert!(matches!(store.read_page(SEGMENT, &key(1), Lsn::MAX), PageAnswer::Failed(_)));
    assert!(matches!(store.read_page(SEGMENT, &key(2), Lsn::MAX), PageAnswer::Page { .. }));
    assert!(store.stats().engine_errors > 0);
    assert!(store.poisoned().is_none());
}

#[test]
fn while_a_part_is_missing_the_log_grows_and_later_shrinks() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    let missing = model.batch(vec![(vec![apply(1)], body(1, 60))]);
    for number in 0..600 {
        let batch = model.batch(vec![(vec![apply(number % 7)], body(number, 400))]);
        store.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        work_off(&store);
    }
    let stats = store.stats();
    assert!(stats.log_bytes > 250_000, "nothing is lost: {stats:?}");
    assert!(stats.log_writes < 700, "batches are not copied again and again");
    assert_eq!(stats.flushes, 0);
    store.append(&[batch_entry(missing)]).expect("appends");
    for number in 0..100 {
        let batch = model.batch(vec![(vec![apply(number % 7)], body(number, 400))]);
        store.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        work_off(&store);
    }
    assert!(store.stats().log_bytes <= 64 << 10, "{:?}", store.stats());
    model.check(&store, 7, &[Lsn::MAX]);
}

#[test]
fn images_in_the_log_are_flushed_although_the_newest_part_waits() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    for number in 0..500u64 {
        // The durable point is always one part behind.
        model.settle(Lsn::MAX);
        let put = Change::Put(key(number % 30), vec![number as u8; 1000].into());
        let batch = model.batch(vec![(vec![put], bytes::Bytes::new())]);
        store.append(&[batch_entry(batch)]).expect("appends");
        while store.background().expect("works") {}
        assert!(store.stats().unflushed_bytes < 16 << 10, "{:?}", store.stats());
    }
    assert!(store.stats().flushes < 400, "files are not one part long: {:?}", store.stats());
    model.check(&store, 30, &[Lsn::MAX]);
}
