//! Failing and full disks stop the store; endless work does not fill one.

mod common;

use common::*;
use env::{MemDisk, Operation, Survive};
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
fn a_full_disk_keeps_what_was_acknowledged_and_takes_more_when_there_is_room_again() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    let full_at = disk.used_bytes() + (40 << 10);
    disk.set_capacity(Some(full_at));
    let waiting = loop {
        let batch = model.batch(vec![(vec![apply(1)], body(model.next, 60))]);
        match store.append(&[batch_entry(batch.clone())]) {
            Ok(()) => assert!(model.parts.len() < 10_000),
            Err(StoreError::Full(why)) => {
                assert!(why.contains("the file system is full"), "{why}");
                break batch;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let mut acknowledged = model.clone();
    acknowledged.parts.pop();
    for _ in 0..3 {
        let again = store.append(&[batch_entry(waiting.clone())]);
        assert!(matches!(again, Err(StoreError::Full(_))), "{again:?}");
        assert_eq!(store.poisoned(), None);
        acknowledged.check(&store, 3, &[acknowledged.tail()]);
        let left = disk.crash(Survive::Nothing);
        left.set_capacity(None);
        let (again, restored) = open(&left, small()).expect("opens");
        assert_eq!(
            (restored[0].held.len(), &restored[0].damage),
            (acknowledged.parts.len(), &None)
        );
        acknowledged.check(&again, 3, &[acknowledged.tail()]);
    }
    assert!(disk.used_bytes() <= full_at, "nothing is left of what did not fit");
    disk.set_capacity(None);
    store.append(&[batch_entry(waiting)]).expect("there is room again");
    for _ in 0..50 {
        one_more(&store, &mut model).expect("appends");
    }
    model.check(&store, 3, &[Lsn::MAX]);
}

/// The simulator found it: older lives still said that the segment was held, and its directory was gone.
#[test]
fn a_drop_that_a_full_disk_did_not_let_the_log_know_is_known_from_the_next_life_on() {
    let disk = MemDisk::new();
    let (store, mut model) = (create(&disk, small()), Model::new());
    store.add_segment(&spec(OTHER), &first_state()).expect("adds");
    disk.set_capacity(Some(disk.used_bytes()));
    while one_more(&store, &mut model).is_ok() {}
    model.parts.pop();
    store.drop_segment(OTHER).expect("a full disk is made room on");
    let found = |disk: &MemDisk| {
        disk.set_capacity(None);
        let (_, restored) = open(disk, small()).expect("opens");
        restored.into_iter().map(|told| (told.spec.segment, told.damage.is_some())).collect()
    };
    let lost: Vec<_> = found(&disk.crash(Survive::Nothing));
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(lost.contains(&(OTHER, true)), "what is not known to be dropped is gone: {lost:?}");
    disk.set_capacity(None);
    let life = store.life();
    one_more(&store, &mut model).expect("there is room again");
    assert_eq!(store.life(), life + 1);
    let held: Vec<_> = found(&disk.crash(Survive::Nothing));
    assert_eq!(held, [(SEGMENT, false)]);
}

/// Whatever the background work is at when the room ends, it gives up without a trace and goes on later.
#[test]
fn background_work_survives_a_full_disk_wherever_it_meets_it() {
    let (mut met, mut done) = (0, 0);
    for spare in (0..4000).step_by(50) {
        let disk = MemDisk::new();
        let store = create(&disk, small());
        let mut model = Model::new();
        for number in 0..60u64 {
            let parts = (0..4).map(|i| (vec![apply((number + i) % 9)], body(number, 60))).collect();
            store.append(&[batch_entry(model.batch(parts))]).expect("appends");
            if number % 6 == 5 && number < 50 {
                model.settle(Lsn::ZERO);
                store.advance(SEGMENT, &model.report());
                store.flush_segment(SEGMENT).expect("flushes");
            }
        }
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        disk.set_capacity(Some(disk.used_bytes() + spare));
        loop {
            match store.flush_segment(SEGMENT).and_then(|_| store.background()) {
                Ok(true) => {}
                Ok(false) => {
                    done += 1;
                    break;
                }
                Err(StoreError::Full(_)) => {
                    met += 1;
                    break;
                }
                Err(error) => panic!("{spare}: {error}"),
            }
        }
        model.check(&store, 9, &[Lsn::MAX]);
        let left = disk.crash(Survive::Nothing);
        left.set_capacity(None);
        let (again, restored) = open(&left, small()).expect("opens");
        assert_eq!(restored[0].damage, None);
        model.check(&again, 9, &[Lsn::MAX]);
        disk.set_capacity(None);
        // More has come since the flush that did not fit.
        for _ in 0..5 {
            one_more(&store, &mut model).expect("appends");
        }
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        store.flush_segment(SEGMENT).expect("flushes");
        work_off(&store);
        model.check(&store, 9, &[Lsn::MAX]);
        let seg = env::Disk::list(&disk, &dir().join("seg")).expect("lists").remove(0);
        let names = env::Disk::list(&disk, &dir().join("seg").join(seg)).expect("lists");
        let pages = names.iter().filter(|name| name.ends_with(".pages")).count();
        assert_eq!(pages as u64, store.stats().files, "no rubbish: {names:?}");
    }
    assert!(met > 20 && done > 5, "{met} {done}");
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
fn deletions_free_their_space_although_nothing_is_written_after_them() {
    let disk = MemDisk::new();
    let options = Options { flush_bytes: 64 << 10, log_retain_bytes: 1 << 20, ..small() };
    let store = create(&disk, options);
    let mut model = Model::new();
    let append = |model: &mut Model, change| {
        let batch = model.batch(vec![(vec![change], bytes::Bytes::new())]);
        store.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        work_off(&store);
    };
    for number in 0..400 {
        append(&mut model, Change::Put(key(number), vec![number as u8; 1000].into()));
    }
    store.flush_segment(SEGMENT).expect("flushes");
    work_off(&store);
    let full = store.stats().file_bytes;
    assert!(full > 390_000, "{full}");
    append(&mut model, Change::Delete { from: key(10), to: key(390) });
    let left = store.stats();
    assert!(left.file_bytes < full / 10, "{} of {full} bytes are left", left.file_bytes);
    // What page files never held costs no flush when it goes.
    for number in 500..560 {
        append(&mut model, Change::Put(key(number), vec![1; 100].into()));
        append(&mut model, Change::Delete { from: key(number), to: key(number + 1) });
    }
    assert_eq!(store.stats().flushes, left.flushes);
    model.check(&store, 600, &[Lsn::MAX]);
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
    // Room for the notes of all in one file.
    let options = Options { log_file_bytes: 64 << 10, ..small() };
    let store = create(&disk, options.clone());
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
    let (store, restored) = open(&disk, options).expect("opens");
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

#[test]
fn what_background_work_could_have_flushed_and_has_not_is_told_and_nothing_else() {
    let store = create(&MemDisk::new(), small());
    let mut model = Model::new();
    let write = |model: &mut Model, batches: usize| {
        for _ in 0..batches {
            let parts = (0..8).map(|i| (vec![apply(i % 3)], body(i, 500))).collect();
            store.append(&[batch_entry(model.batch(parts))]).expect("appends");
        }
    };
    write(&mut model, 100);
    assert!(!store.is_behind(), "it waits for a durable point, which more would bring");
    model.settle(Lsn::ZERO);
    store.advance(SEGMENT, &model.report());
    assert!(store.is_behind());
    write(&mut model, 120);
    assert!(!store.is_behind(), "most of it waits, so that nothing would be flushed");
    model.settle(Lsn::ZERO);
    store.advance(SEGMENT, &model.report());
    assert!(store.is_behind());
    work_off(&store);
    assert!(!store.is_behind());
    model.check(&store, 3, &[Lsn::MAX]);
}

/// Without a turn for merges while something is due to be flushed, each unit of work left one file more.
#[test]
fn files_do_not_pile_up_when_there_is_always_something_to_flush() {
    let store = create(&MemDisk::new(), small());
    let (mut model, mut most) = (Model::new(), 0);
    for _ in 0..600 {
        let parts = (0..8).map(|i| (vec![apply(i % 5)], body(i, 500))).collect();
        store.append(&[batch_entry(model.batch(parts))]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        store.background().expect("works");
        most = most.max(store.stats().files);
    }
    assert!(most > 24 && most < 50, "{most} files");
    work_off(&store);
    model.check(&store, 5, &[Lsn::MAX]);
}
