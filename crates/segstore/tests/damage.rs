//! Every structure on disk: a flipped bit is noticed, and never answered from.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use env::{Disk, MemDisk, Mode, Survive};
use segstore::{Chain, StoreError};
use types::Lsn;
use wire::{PageAnswer, Refusal};

const KEYS: u64 = 9;

fn filled() -> (MemDisk, Model, Lsn) {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let mut model = Model::new();
    let mut before_last = Lsn::ZERO;
    for number in 0..60 {
        before_last = model.tail();
        let mut random = Random(number);
        let parts =
            (0..3).map(|i| (vec![apply(random.below(KEYS))], body(number * 3 + i, 90))).collect();
        let batch = model.batch(parts);
        store.append(&[batch_entry(batch)]).expect("appends");
        if number % 10 == 9 && number < 50 {
            model.settle(Lsn(0));
            store.advance(SEGMENT, &model.report());
            store.flush_segment(SEGMENT).expect("flushes");
        }
    }
    (disk, model, before_last)
}

fn files(disk: &MemDisk, place: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in disk.list(place).expect("lists") {
        let path = place.join(name);
        match disk.list(&path) {
            Ok(_) => found.extend(files(disk, &path)),
            Err(_) => found.push(path),
        }
    }
    found
}

/// Whether damage was noticed; panics on a wrong answer.
fn noticed(disk: &MemDisk, model: &Model, before_last: Lsn) -> bool {
    let Ok((store, restored)) = open(disk, small()) else { return true };
    let told = &restored[0];
    if told.damage.is_some() {
        assert!(!told.state.full, "a damaged segment does not vote");
        return true;
    }
    let end = told.held.last().map_or(told.flushed, |part| part.meta.span.end);
    assert!(end >= before_last, "acknowledged parts are missing without a word");
    let mut noticed = store.verify(SEGMENT).is_err() || end < model.tail();
    for number in 0..KEYS {
        let key = key(number);
        match (store.read_page(SEGMENT, &key, end), model.page(&key, end)) {
            (PageAnswer::Failed(Refusal::Damaged(_)), _) => noticed = true,
            (PageAnswer::Page { version, bytes }, Some(page)) => {
                assert_eq!((version, bytes.to_vec()), page, "a wrong page");
            }
            (answer, page) => panic!("{answer:?} for {page:?}"),
        }
    }
    match store.read_chain(SEGMENT, Lsn::ZERO, end, usize::MAX) {
        Err(StoreError::Damaged { .. }) => noticed = true,
        Ok(Chain::Forgotten(_)) => {}
        Ok(Chain::Batches(batches)) => {
            let parts = batches.into_iter().flat_map(|batch| batch.parts);
            let expected = model.parts.iter().map(|(_, _, part)| part.clone());
            assert!(parts.zip(expected).all(|(a, b)| a == b), "a wrong chain");
        }
        Err(error) => panic!("{error}"),
    }
    noticed
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is_and_never_served() {
    let (disk, model, before_last) = filled();
    let whole = disk.crash(Survive::Everything);
    assert!(!noticed(&whole, &model, before_last), "nothing is wrong yet");
    let mut random = Random(5);
    let (mut log, mut pages, mut manifests) = (0, 0, 0);
    for path in files(&disk, dir()) {
        let length = disk.open(&path, Mode::Read).and_then(|f| f.len()).expect("length");
        let name = path.to_string_lossy().into_owned();
        for _ in 0..250 {
            let flipped = disk.crash(Survive::Everything);
            flipped.flip(&path, random.below(length), 1 << random.below(8)).expect("flips");
            let seen = noticed(&flipped, &model, before_last);
            if name.ends_with(".pages") {
                assert!(seen, "every byte of a page file is checked");
                pages += 1;
            } else if name.ends_with("MANIFEST") {
                assert!(seen, "every byte of a manifest is checked");
                manifests += 1;
            } else {
                log += usize::from(seen);
            }
        }
    }
    // The rest of a log is padding, room, and what has moved to page files.
    assert!(log > 30 && pages > 0 && manifests > 0, "{log} {pages} {manifests}");
}

#[test]
fn a_lost_log_file_in_the_middle_is_damage() {
    let (disk, model, before_last) = filled();
    // Open twice, so that the newest life is an empty one and every other lies in the middle.
    drop(open(&disk, small()).expect("opens"));
    let found = |path: &PathBuf| {
        let disk = disk.crash(Survive::Everything);
        disk.remove(path).expect("removes");
        noticed(&disk, &model, before_last)
    };
    let logs = files(&disk, &dir().join("log"));
    assert!(logs.len() >= 3 && logs.iter().any(found));
}

#[test]
fn a_lost_page_file_is_damage() {
    let (disk, _, _) = filled();
    let path =
        files(&disk, &dir().join("seg")).into_iter().find(|path| path.ends_with("00000001.pages"));
    disk.remove(&path.expect("a page file")).expect("removes");
    let (store, restored) = open(&disk, small()).expect("opens");
    let told = &restored[0];
    assert!(told.damage.is_some() && !told.state.full);
    assert_eq!(told.flushed, Lsn::ZERO, "without its files a segment begins again");
    assert!(matches!(store.export(SEGMENT), Err(StoreError::Damaged { .. })), "not copied from");
}

#[test]
fn a_store_is_not_opened_under_another_name() {
    let (disk, _, _) = filled();
    let mut other = identity();
    other.node = "b2".parse().expect("name");
    let opened = segstore::Store::open(
        std::sync::Arc::new(disk),
        std::sync::Arc::new(Toy),
        dir(),
        other,
        small(),
    );
    assert!(matches!(opened.map(|_| ()), Err(StoreError::Foreign(_))));
}

#[test]
fn a_segment_whose_manifest_is_damaged_goes_on_beside_its_old_files() {
    let (disk, mut model, _) = filled();
    let manifests = files(&disk, &dir().join("seg"));
    let manifest = manifests.iter().find(|path| path.ends_with("MANIFEST")).expect("a manifest");
    disk.flip(manifest, 40, 1).expect("flips");
    let (store, restored) = open(&disk, small()).expect("opens");
    assert!(restored[0].damage.is_some() && !restored[0].state.full);
    // What its log still has is enough to flush a file, whose name must not be one of the old ones.
    model.settle(Lsn(0));
    let state = segstore::SegmentState { full: false, ..model.state() };
    store.append(&[(SEGMENT, segstore::LogEntry::State(state))]).expect("appends");
    assert!(store.flush_segment(SEGMENT).expect("flushes"));
    work_off(&store);
    model.check(&store, KEYS, &[Lsn::MAX]);
    assert_eq!(store.poisoned(), None);
}
