//! A blank segment is copied from a peer's files; nothing unchecked is put in place.

mod common;

use bytes::Bytes;
use common::*;
use env::MemDisk;
use segstore::{Export, SegmentState, Store, StoreError};
use types::Lsn;

const KEYS: u64 = 9;

fn source() -> (Store, Model) {
    let store = create(&MemDisk::new(), small());
    let mut model = Model::new();
    for number in 0..80 {
        let mut random = Random(number);
        let parts =
            (0..4).map(|i| (vec![apply(random.below(KEYS))], body(number * 4 + i, 90))).collect();
        let batch = model.batch(parts);
        store.append(&[batch_entry(batch)]).expect("appends");
        if number < 70 {
            model.settle(Lsn::MAX);
            store.advance(SEGMENT, &model.report());
        }
        work_off(&store);
    }
    (store, model)
}

fn blank(disk: &MemDisk) -> Store {
    let store = try_create(disk, small()).expect("creates");
    let state = SegmentState { full: false, ..SegmentState::default() };
    store.add_segment(&spec(SEGMENT), &state).expect("adds");
    store
}

fn copy(
    export: &Export,
    target: &Store,
    mut spoil: impl FnMut(u64, u64, Bytes) -> Bytes,
) -> Result<Lsn, StoreError> {
    let mut install = target.begin_install(SEGMENT, &export.manifest)?;
    while let Some(want) = install.want() {
        let bytes = export.read(want.file, want.offset, want.length)?;
        install.supply(&spoil(want.file, want.offset, bytes))?;
    }
    target.finish_install(install)
}

#[test]
fn a_copy_answers_as_its_source() {
    let (store, mut model) = source();
    let disk = MemDisk::new();
    let target = blank(&disk);
    let export = store.export(SEGMENT).expect("exports");
    // The source goes on, and merges away what it has given out.
    for number in 0..200 {
        let batch = model.batch(vec![(vec![apply(number % KEYS)], body(number, 90))]);
        store.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::MAX);
        store.advance(SEGMENT, &model.report());
        work_off(&store);
    }
    let flushed = copy(&export, &target, |_, _, bytes| bytes).expect("copies");
    assert!(flushed > Lsn::ZERO);
    let model_then = {
        let mut then = model.clone();
        then.parts.retain(|(_, _, part)| part.meta.span.end <= flushed);
        then
    };
    model_then.check(&target, KEYS, &[flushed]);
    drop(export);
    work_off(&store);
    model.check(&store, KEYS, &[Lsn::MAX]);
    // The rest comes as parts; then a restart.
    let base = flushed;
    for (epoch, _, part) in model.parts.iter().filter(|(_, _, p)| p.meta.span.end > base) {
        let at = model.parts.iter().position(|(_, _, p)| p == part).expect("known");
        let mut batch = Model::new().batch(Vec::new());
        batch.header.epoch = *epoch;
        batch.header.base = model.parts[at].1;
        batch.header.last = part.meta.span.end;
        batch.parts.push(part.clone());
        target.append(&[batch_entry(batch)]).expect("appends");
    }
    model.check(&target, KEYS, &[Lsn::MAX]);
    let (again, restored) = open(&disk, small()).expect("opens");
    assert_eq!(restored[0].flushed, flushed);
    model.check(&again, KEYS, &[Lsn::MAX]);
}

#[test]
fn a_copy_may_be_asked_for_ahead_of_what_has_come() {
    let (store, model) = source();
    let target = blank(&MemDisk::new());
    let export = store.export(SEGMENT).expect("exports");
    let mut install = target.begin_install(SEGMENT, &export.manifest).expect("begins");
    let wants: Vec<_> = std::iter::from_fn(|| install.want()).collect();
    assert!(wants.len() > 1);
    for (at, want) in wants.iter().enumerate() {
        let bytes = export.read(want.file, want.offset, want.length).expect("reads");
        if at == 0 {
            let short = bytes.slice(1..);
            assert!(matches!(install.supply(&short), Err(StoreError::Invalid(_))));
        }
        install.supply(&bytes).expect("takes");
    }
    let flushed = target.finish_install(install).expect("is put in place");
    let mut then = model.clone();
    then.parts.retain(|(_, _, part)| part.meta.span.end <= flushed);
    then.check(&target, KEYS, &[flushed]);
    target.verify(SEGMENT).expect("whole");
}

#[test]
fn a_copy_of_which_a_part_has_not_come_is_refused() {
    let (store, _) = source();
    let target = blank(&MemDisk::new());
    let export = store.export(SEGMENT).expect("exports");
    let mut install = target.begin_install(SEGMENT, &export.manifest).expect("begins");
    let wants: Vec<_> = std::iter::from_fn(|| install.want()).collect();
    let (_, all_but_the_last) = wants.split_last().expect("some");
    for want in all_but_the_last {
        let bytes = export.read(want.file, want.offset, want.length).expect("reads");
        install.supply(&bytes).expect("takes");
    }
    let refused = target.finish_install(install);
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    assert!(target.stats().files == 0 && target.poisoned().is_none());
}

#[test]
fn a_copy_with_one_wrong_bit_is_refused() {
    let (store, _) = source();
    let export = store.export(SEGMENT).expect("exports");
    let mut random = Random(1);
    for _ in 0..60 {
        let disk = MemDisk::new();
        let target = blank(&disk);
        let mut todo = Some(());
        let result = copy(&export, &target, |_, _, bytes| {
            let mut bytes = bytes.to_vec();
            if todo.take().is_some() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            bytes.into()
        });
        assert!(matches!(result, Err(StoreError::Damaged { .. })), "{result:?}");
        // Trying again is possible, and what the failed try left is gone.
        copy(&export, &target, |_, _, bytes| bytes).expect("copies");
        target.verify(SEGMENT).expect("whole");
        let (_, restored) = open(&disk, small()).expect("opens");
        assert_eq!(restored[0].damage, None);
    }
}

#[test]
fn a_manifest_with_one_wrong_bit_or_of_another_segment_is_refused() {
    let (store, _) = source();
    let export = store.export(SEGMENT).expect("exports");
    let target = blank(&MemDisk::new());
    for at in 0..export.manifest.len() {
        let mut manifest = export.manifest.to_vec();
        manifest[at] ^= 0x10;
        assert!(target.begin_install(SEGMENT, &manifest.into()).is_err(), "byte {at}");
    }
    target.add_segment(&spec(OTHER), &first_state()).expect("adds");
    assert!(target.begin_install(OTHER, &export.manifest).is_err());
}

#[test]
fn a_copy_under_a_newer_history_drops_what_that_history_voids() {
    let (store, mut model) = source();
    let (disk, old) = (MemDisk::new(), Model::new());
    let target = blank(&disk);
    target.append(&[(SEGMENT, segstore::LogEntry::State(old.state()))]).expect("appends");
    // The target holds parts of the first epoch that the second never saw.
    let mut lost = model.clone();
    lost.parts.retain(|(_, _, part)| part.meta.span.end <= model.vdl.end);
    lost.next = model.vdl.end.aligned().0 + 8;
    let dead = lost.batch((0..9).map(|i| (vec![apply(i)], body(99, 77))).collect());
    target.append(&[batch_entry(dead)]).expect("appends");
    let state = model.reopen();
    store.append(&[(SEGMENT, segstore::LogEntry::State(state))]).expect("appends");
    for number in 0..20 {
        let batch = model.batch(vec![(vec![apply(number % KEYS)], body(number, 90))]);
        store.append(&[batch_entry(batch)]).expect("appends");
    }
    let export = store.export(SEGMENT).expect("exports");
    copy(&export, &target, |_, _, bytes| bytes).expect("copies");
    for (_, base, part) in model.parts.iter().filter(|(e, _, _)| *e == model.epoch()) {
        let mut batch = Model::new().batch(Vec::new());
        batch.header.epoch = model.epoch();
        (batch.header.base, batch.header.last) = (*base, part.meta.span.end);
        batch.parts.push(part.clone());
        target.append(&[batch_entry(batch)]).expect("appends");
    }
    model.check(&target, KEYS, &[Lsn::MAX]);
}

/// A segment that fell behind is copied while its own files are being merged: the merge that began
/// after the copy did is of files that the copy replaces, and ended the process.
#[test]
fn a_merge_that_begins_during_a_copy_is_given_up_for_it() {
    for units in 0..30 {
        copied_during_work(units);
    }
}

fn copied_during_work(units: u64) {
    let (source, target) = (create(&MemDisk::new(), small()), create(&MemDisk::new(), small()));
    let mut model = Model::new();
    for number in 0..60 {
        let batch = model.batch(vec![(vec![apply(number % KEYS)], body(number, 90))]);
        let stores = [&source, &target];
        for store in &stores[..if number < 40 { 2 } else { 1 }] {
            store.append(&[batch_entry(batch.clone())]).expect("appends");
            model.settle(Lsn::MAX);
            store.advance(SEGMENT, &model.report());
            store.flush_segment(SEGMENT).expect("flushes");
        }
    }
    let export = source.export(SEGMENT).expect("exports");
    let mut install = target.begin_install(SEGMENT, &export.manifest).expect("begins");
    for _ in 0..units {
        target.background().expect("works");
    }
    while let Some(want) = install.want() {
        let bytes = export.read(want.file, want.offset, want.length).expect("reads");
        install.supply(&bytes).expect("takes");
    }
    target.finish_install(install).expect("is put in place");
    work_off(&target);
    model.check(&target, KEYS, &[Lsn::MAX]);
    target.verify(SEGMENT).expect("whole");
}

#[test]
fn a_copy_of_a_segment_that_was_dropped_meanwhile_is_given_up_and_stops_nothing() {
    let (store, _) = source();
    let target = blank(&MemDisk::new());
    let export = store.export(SEGMENT).expect("exports");
    for made_again in [false, true] {
        let mut install = target.begin_install(SEGMENT, &export.manifest).expect("begins");
        while let Some(want) = install.want() {
            let bytes = export.read(want.file, want.offset, want.length).expect("reads");
            install.supply(&bytes).expect("takes");
        }
        target.drop_segment(SEGMENT).expect("drops");
        if made_again {
            let state = SegmentState { full: false, ..SegmentState::default() };
            target.add_segment(&spec(SEGMENT), &state).expect("adds");
        }
        assert!(target.finish_install(install).is_err(), "made again: {made_again}");
        assert_eq!(target.poisoned(), None);
        let state = SegmentState::default();
        target.add_segment(&spec(SEGMENT), &state).expect("works on");
    }
}
