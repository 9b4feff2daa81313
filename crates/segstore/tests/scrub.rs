//! Rot found by scrubbing or by a read is remembered, told, kept to itself, and mended from peers while
//! the segment goes on.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use env::{Disk, MemDisk, Mode, Survive};
use segstore::{LogEntry, Mend, Options, SegmentState, Store, StoreError};
use types::{Lsn, PageKey};
use wire::{Change, PageAnswer, Refusal};

const KEYS: u64 = 40;

/// A member with so many batches of the model's, flushed every `interval`-th of them: like the members
/// of a group, each with files of its own.
struct Member {
    disk: MemDisk,
    store: Store,
}

fn member(model: &Model, interval: usize, options: Options) -> Member {
    let disk = MemDisk::new();
    let store = create(&disk, options);
    let mut done = Model::new();
    for (number, part) in model.parts.iter().enumerate() {
        append_part(&store, part);
        done.parts.push(part.clone());
        if number % interval == interval - 1 {
            done.settle(Lsn::ZERO);
            store.advance(SEGMENT, &done.report());
            store.flush_segment(SEGMENT).expect("flushes");
        }
    }
    Member { disk, store }
}

fn unfolded() -> Options {
    Options { fold_parts: 1000, ..small() }
}

fn append_part(store: &Store, (epoch, base, part): &(types::Epoch, Lsn, wire::Part)) {
    let mut batch = Model::new().batch(Vec::new());
    batch.header.epoch = *epoch;
    (batch.header.base, batch.header.last) = (*base, part.meta.span.end);
    batch.parts.push(part.clone());
    store.append(&[batch_entry(batch)]).expect("appends");
}

fn grow(model: &mut Model, count: u64, seed: u64) {
    let mut random = Random(seed);
    for number in 0..count {
        let changes = match random.below(25) {
            0 => vec![Change::Delete { from: key(random.below(KEYS)), to: key(KEYS / 2) }],
            // A page that one record changes, removes and makes again.
            1 | 2 => {
                let page = random.below(KEYS);
                let gone = Change::Delete { from: key(page), to: key(page + 1) };
                vec![apply(page), gone, apply(page)]
            }
            _ => vec![apply(random.below(KEYS)), apply(random.below(KEYS))],
        };
        model.batch(vec![(changes, body(number, 60))]);
    }
}

fn filled() -> Model {
    let mut model = Model::new();
    grow(&mut model, 300, 9);
    model
}

fn files(disk: &MemDisk, ending: &str) -> Vec<(PathBuf, u64)> {
    fn visit(disk: &MemDisk, place: &Path, found: &mut Vec<PathBuf>) {
        for name in disk.list(place).expect("lists") {
            let path = place.join(name);
            match disk.list(&path) {
                Ok(_) => visit(disk, &path, found),
                Err(_) => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    visit(disk, dir(), &mut found);
    let length =
        |path: &PathBuf| disk.open(path, Mode::Read).and_then(|f| f.len()).expect("length");
    let found = found.into_iter().filter(|path| path.to_string_lossy().ends_with(ending));
    found.map(|path| (path.clone(), length(&path))).collect()
}

fn scrub_all(store: &Store) {
    let mut scrub = store.begin_scrub(None);
    while store.scrub(&mut scrub, 1024).expect("scrubs") {}
}

/// Gives a mend what it wants from whichever peer has it, as a node does.
fn feed(mend: &mut Mend, peers: &[&Store]) {
    while let Some(range) = mend.want() {
        let scan = |peer: &&Store| {
            peer.scan(SEGMENT, &range.start, &range.end, mend.read_point(), 900).ok()
        };
        let (pages, next) = peers.iter().find_map(scan).expect("some peer has a good copy");
        mend.supply(pages, next).expect("is what was wanted");
    }
}

fn mend(store: &Store, peers: &[&Store]) -> Lsn {
    let mut mend = store.begin_mend(SEGMENT).expect("begins").expect("is damaged");
    assert!(store.begin_mend(OTHER).is_err(), "not held");
    feed(&mut mend, peers);
    let read_point = mend.read_point();
    store.finish_mend(mend).expect("is handed over");
    assert!(store.begin_mend(SEGMENT).expect("asked").is_none(), "one at a time");
    work_off(store);
    read_point
}

/// Every page is right or refused as damaged; how many are refused.
fn refused(store: &Store, model: &Model) -> Vec<u64> {
    let mut refused = Vec::new();
    for number in 0..KEYS {
        let page = model.page(&key(number), Lsn::MAX);
        match (store.read_page(SEGMENT, &key(number), Lsn::MAX), page) {
            (PageAnswer::Failed(Refusal::Damaged(_)), _) => refused.push(number),
            (PageAnswer::Absent, None) => {}
            (PageAnswer::Page { version, bytes }, Some(page)) => {
                assert_eq!((version, bytes.to_vec()), page, "a wrong page {number}");
            }
            (answer, page) => panic!("{number}: {answer:?} for {page:?}"),
        }
    }
    refused
}

#[test]
fn every_place_of_a_page_file_that_rots_is_found_kept_to_itself_and_mended() {
    let model = filled();
    let peer = member(&model, 70, small());
    let target = member(&model, 33, small());
    let whole = target.disk.crash(Survive::Everything);
    let mut random = Random(3);
    let mut unread = 0;
    for (path, length) in files(&whole, ".pages") {
        // Blocks, and more often what lies behind them: index, filter, deletions, footer.
        let behind = (0..12).map(|step| length - 1 - step * 37 % length);
        let places: Vec<u64> = (0..10).map(|_| random.below(length)).chain(behind).collect();
        for place in places {
            let disk = whole.crash(Survive::Everything);
            disk.flip(&path, place, 1 << random.below(8)).expect("flips");
            let (store, restored) = open(&disk, small()).expect("opens");
            assert!(restored[0].state.full, "rot in a file does not undo what it acknowledged");
            scrub_all(&store);
            let damage = store.damage();
            assert_eq!(damage.segments.len(), 1, "{path:?} at {place}: {damage:?}");
            assert!(!damage.segments[0].lost && damage.log.is_empty());
            let files_before = store.stats().files;
            work_off(&store);
            assert_eq!(store.stats().files, files_before, "nothing is merged onward");
            let export = store.export(SEGMENT).map(|_| ());
            assert!(matches!(export, Err(StoreError::Damaged { .. })), "nor copied");
            unread += refused(&store, &model).len();

            let read_point = mend(&store, &[&peer.store]);
            assert_eq!(store.damage().segments, []);
            let stats = store.stats();
            assert_eq!((stats.damage_found, stats.damage_mended), (1, 1), "{stats:?}");
            store.verify(SEGMENT).expect("whole");
            assert!(store.export(SEGMENT).is_ok());
            model.check(&store, KEYS, &[read_point, Lsn::MAX]);
            drop(store);
            let (store, restored) = open(&disk, small()).expect("opens again");
            assert_eq!(restored[0].damage, None);
            model.check(&store, KEYS, &[Lsn::MAX]);
            assert_eq!(files(&disk, ".pages").len() as u64, store.stats().files, "no rubbish");
        }
    }
    assert!(unread > 200, "blocks were hit too: {unread}");
}

#[test]
fn batches_are_taken_flushed_and_read_while_a_segment_is_mended() {
    let mut model = filled();
    let peer = member(&model, 70, small());
    let target = member(&model, 33, small());
    for (path, _) in files(&target.disk, ".pages").into_iter().take(3) {
        target.disk.flip(&path, 100, 4).expect("flips");
    }
    let store = &target.store;
    scrub_all(store);
    let mut mend = store.begin_mend(SEGMENT).expect("begins").expect("is damaged");
    let mut go_on = |count, seed| {
        let before = model.parts.len();
        grow(&mut model, count, seed);
        for part in &model.parts[before..] {
            append_part(store, part);
            append_part(&peer.store, part);
        }
        model.settle(Lsn::ZERO);
        store.advance(SEGMENT, &model.report());
        store.flush_segment(SEGMENT).expect("flushes");
    };
    go_on(30, 1);
    feed(&mut mend, &[&peer.store]);
    go_on(30, 2);
    let read_point = mend.read_point();
    store.finish_mend(mend).expect("is handed over");
    let mut number = 3;
    while store.damage() != segstore::Damage::default() {
        go_on(2, number);
        number += 1;
        store.background().expect("works");
        assert!(number < 1000, "never mended");
    }
    let after: Vec<Lsn> = model.parts.iter().map(|(_, _, part)| part.meta.span.end).collect();
    let after: Vec<Lsn> = after.into_iter().filter(|end| *end >= read_point).step_by(9).collect();
    assert!(after.len() > 5);
    model.check(store, KEYS, &after);
    // Below its read point a mended segment does not guess.
    let before = store.read_page(SEGMENT, &key(0), Lsn(read_point.0 - 1));
    assert!(matches!(before, PageAnswer::Failed(Refusal::Forgotten { .. })), "{before:?}");
    work_off(store);
    model.check(store, KEYS, &[Lsn::MAX]);
}

#[test]
fn more_rot_that_shows_during_a_mend_is_mended_too() {
    (0..2).for_each(more_rot);
}

fn more_rot(known_before: u8) {
    let model = filled();
    let peer = member(&model, 70, small());
    let target = member(&model, 33, small());
    let paths = files(&target.disk, ".pages");
    target.disk.flip(&paths[0].0, 100, 4).expect("flips");
    let store = &target.store;
    scrub_all(store);
    let mut first = store.begin_mend(SEGMENT).expect("begins").expect("is damaged");
    feed(&mut first, &[&peer.store]);
    target.disk.flip(&paths[2].0, 100, 4).expect("flips");
    // The merge meets it, or does not begin.
    (0..known_before).for_each(|_| scrub_all(store));
    store.finish_mend(first).expect("is handed over");
    work_off(store);
    assert_eq!(store.damage().segments[0].places, 2);
    assert_eq!(store.stats().mends, 0);
    mend(store, &[&peer.store]);
    assert_eq!(store.damage().segments, []);
    model.check(store, KEYS, &[Lsn::MAX]);
    assert_eq!(files(&target.disk, ".pages").len() as u64, store.stats().files, "no rubbish");
}

#[test]
fn six_members_with_different_blocks_rotten_answer_for_each_other_and_mend() {
    let mut model = Model::new();
    for number in 0..300 {
        model.batch(vec![(vec![apply(number * 7 % KEYS)], body(number, 60))]);
    }
    // Alike, so that the same place is the same keys; and every read needs every version.
    let members: Vec<Member> = (0..6).map(|_| member(&model, 300, unfolded())).collect();
    let (path, length) = files(&members[0].disk, ".pages").remove(0);
    // Three have the same block rotten, too.
    for (number, member) in members.iter().enumerate() {
        member.disk.flip(&path, length / 8 * number as u64 + 9, 2).expect("flips");
        if number < 3 {
            member.disk.flip(&path, length / 8 * 6, 2).expect("flips");
        }
    }
    members.iter().for_each(|member| scrub_all(&member.store));
    let mut lost: Vec<Vec<u64>> = Vec::new();
    for member in &members {
        let refused = refused(&member.store, &model);
        assert!(!refused.is_empty() && refused.len() < KEYS as usize / 2, "{refused:?}");
        lost.push(refused);
    }
    for number in 0..KEYS {
        assert!(lost.iter().any(|lost| !lost.contains(&number)), "page {number} has a good copy");
    }
    for one in 0..6 {
        let others: Vec<&Store> =
            (0..6).filter(|at| *at != one).map(|at| &members[at].store).collect();
        mend(&members[one].store, &others);
    }
    for member in &members {
        member.store.verify(SEGMENT).expect("whole");
        model.check(&member.store, KEYS, &[Lsn::MAX]);
    }
}

#[test]
fn a_scan_ends_before_what_is_damaged_and_another_member_goes_on() {
    let model = filled();
    let (one, two) = (member(&model, 300, unfolded()), member(&model, 300, unfolded()));
    let (path, length) = files(&one.disk, ".pages").remove(0);
    one.disk.flip(&path, length / 4, 1).expect("flips");
    two.disk.flip(&path, length / 2, 1).expect("flips");
    let (mut from, mut found, mut changes, mut last) = (PageKey::MIN, Vec::new(), 0, 9);
    loop {
        let stores = [&one.store, &two.store];
        let scan = |store: &&Store| store.scan(SEGMENT, &from, &PageKey::MAX, Lsn::MAX, 100).ok();
        let answer = stores.iter().enumerate().find_map(|(at, store)| Some((at, scan(store)?)));
        let (at, (pages, next)) = answer.expect("one of them can");
        changes += usize::from(at != last);
        last = at;
        found.extend(pages);
        match next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert!(changes > 2, "both were needed");
    let expected = (0..KEYS).map(key).filter_map(|key| {
        let (version, page) = model.page(&key, Lsn::MAX)?;
        Some((key, version, page.into()))
    });
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn rot_in_the_log_is_written_again_from_memory_before_a_restart_can_miss_it() {
    let mut random = Random(5);
    let (mut found, mut tried) = (0, 0);
    for round in 0..60 {
        let mut model = filled();
        let target = member(&model, 90, small());
        let store = &target.store;
        let promised = SegmentState { sealed: types::Epoch(7), ..model.state() };
        // Of a segment that has nothing to flush, too.
        store.add_segment(&spec(OTHER), &first_state()).expect("adds");
        store.append(&[(OTHER, LogEntry::State(promised))]).expect("appends");
        for (path, length) in files(&target.disk, ".log") {
            if (random.next() + round).is_multiple_of(3) {
                target.disk.flip(&path, random.below(length), 1).expect("flips");
            }
        }
        scrub_all(store);
        tried += 1;
        found += store.damage().log.len();
        // What is above the durable point can be flushed once that rises, and not before.
        model.settle(Lsn::ZERO);
        store.advance(SEGMENT, &model.report());
        work_off(store);
        assert_eq!(store.damage().log, [""; 0], "round {round}");
        scrub_all(store);
        assert_eq!(store.damage(), segstore::Damage::default());
        grow(&mut model, 20, round);
        for part in &model.parts[300..] {
            append_part(store, part);
        }
        let (again, restored) = open(&target.disk, small()).expect("opens");
        assert_eq!((&restored[0].damage, restored[0].state.full), (&None, true));
        assert_eq!(restored[1].state.sealed, types::Epoch(7), "a promise is not forgotten");
        model.check(&again, KEYS, &[Lsn::MAX]);
    }
    assert!(found > tried, "{found} in {tried}");
}

#[test]
fn a_batch_that_rots_before_it_can_be_flushed_waits_for_the_durable_point() {
    let mut model = Model::new();
    grow(&mut model, 10, 1);
    let target = member(&model, 100, small());
    let (path, _) = files(&target.disk, ".log").remove(0);
    // Behind the file's header and the segment's note.
    target.disk.flip(&path, 1024 + 100, 1).expect("flips");
    scrub_all(&target.store);
    work_off(&target.store);
    assert_eq!(target.store.damage().log.len(), 1, "only memory has it");
    assert!(matches!(
        target.store.read_chain(SEGMENT, Lsn::ZERO, model.tail(), usize::MAX),
        Err(StoreError::Damaged { .. })
    ));
    model.check(&target.store, KEYS, &[Lsn::MAX]);
    model.settle(Lsn::ZERO);
    target.store.advance(SEGMENT, &model.report());
    work_off(&target.store);
    assert_eq!(target.store.damage(), segstore::Damage::default());
    let (again, restored) = open(&target.disk, small()).expect("opens");
    assert_eq!(restored[0].damage, None);
    model.check(&again, KEYS, &[Lsn::MAX]);
}

#[test]
fn a_rotten_manifest_or_identity_is_written_again_from_memory() {
    for ending in ["MANIFEST", "identity.json"] {
        let model = filled();
        let target = member(&model, 90, small());
        let (path, length) = files(&target.disk, ending).remove(0);
        target.disk.flip(&path, length / 2, 1).expect("flips");
        scrub_all(&target.store);
        let stats = target.store.stats();
        assert_eq!((stats.damage_found, stats.damage_mended), (1, 1), "{ending}");
        let (again, restored) = open(&target.disk, small()).expect("opens");
        assert_eq!(restored[0].damage, None, "{ending}");
        model.check(&again, KEYS, &[Lsn::MAX]);
    }
}

#[test]
fn a_manifest_older_than_files_that_are_being_written_is_no_damage() {
    let model = filled();
    let target = member(&model, 30, small());
    let mut working = true;
    while std::mem::replace(&mut working, target.store.background().expect("works")) {
        scrub_all(&target.store);
    }
    let stats = target.store.stats();
    assert!(stats.merges > 0, "a file was begun by one step and finished by another");
    assert_eq!((stats.damage_found, stats.damage_mended), (0, 0));
}

#[test]
fn a_step_of_a_scrub_reads_little_and_all_of_it_reads_everything() {
    let model = filled();
    let target = member(&model, 33, small());
    let mut scrub = target.store.begin_scrub(None);
    let mut before = 0;
    while target.store.scrub(&mut scrub, 1).expect("scrubs") {
        assert!(scrub.bytes_checked - before < 6000, "one block, unit or index at a time");
        before = scrub.bytes_checked;
    }
    let stats = target.store.stats();
    let row = scrub.segments[0];
    assert_eq!((row.files, row.bytes, row.damaged), (stats.files, stats.file_bytes, 0));
    assert_eq!(scrub.log.bytes, stats.log_bytes_written + scrub.log.files * 512);
}

#[test]
fn a_damaged_read_is_remembered_without_a_scrub() {
    let model = filled();
    let target = member(&model, 300, unfolded());
    let (path, length) = files(&target.disk, ".pages").remove(0);
    target.disk.flip(&path, length / 4, 1).expect("flips");
    assert_eq!(target.store.damage(), segstore::Damage::default());
    assert!(!refused(&target.store, &model).is_empty());
    assert_eq!(target.store.damage().segments.len(), 1);
    assert_eq!(target.store.stats().damaged, 1);
}

#[test]
fn pages_that_were_not_asked_for_are_refused() {
    let model = filled();
    let target = member(&model, 100, small());
    let (path, length) = files(&target.disk, ".pages").remove(0);
    target.disk.flip(&path, length / 2, 1).expect("flips");
    scrub_all(&target.store);
    let page = bytes::Bytes::from_static(b"page");
    let begin = || target.store.begin_mend(SEGMENT).expect("begins").expect("is damaged");
    let range = begin().want().expect("wants");
    let point = begin().read_point();
    let (first, last) = (range.start, range.end);
    for (pages, next) in [
        (vec![(last, Lsn(8), page.clone())], None),
        (vec![(first, point.plus(1), page.clone())], None),
        (vec![(first, Lsn::ZERO, page.clone())], None),
        (vec![(first, Lsn(8), page.clone()), (first, Lsn(8), page)], None),
        (vec![], Some(first)),
        (vec![], Some(PageKey::MAX)),
    ] {
        let mut mend = begin();
        assert!(mend.supply(pages.clone(), next).is_err(), "{pages:?} {next:?}");
        target.store.abandon_mend(mend).expect("is given up");
    }
    let unfinished = target.store.finish_mend(begin());
    assert!(matches!(unfinished, Err(StoreError::Invalid(_))));
}

/// When no peer has pages as of the end of what is flushed here any more, no mend will ever end.
#[test]
fn a_damaged_segment_takes_a_peers_files_whole_and_keeps_what_its_log_has_above_them() {
    let model = filled();
    let (target, peer) = (member(&model, 200, unfolded()), member(&model, 250, unfolded()));
    let mut settled = model.clone();
    settled.parts.truncate(250);
    settled.settle(Lsn::MAX);
    peer.store.advance(SEGMENT, &settled.report());
    work_off(&peer.store);
    let (path, length) = files(&target.disk, ".pages").remove(0);
    target.disk.flip(&path, length / 2, 1).expect("flips");
    scrub_all(&target.store);
    let mend = target.store.begin_mend(SEGMENT).expect("begins").expect("is damaged");
    let range = mend.want().expect("wants");
    let asked = peer.store.scan(SEGMENT, &range.start, &range.end, mend.read_point(), 900);
    assert!(matches!(asked, Err(StoreError::Forgotten { .. })), "{asked:?}");
    target.store.abandon_mend(mend).expect("is given up");

    let export = peer.store.export(SEGMENT).expect("exports");
    let mut install = target.store.begin_install(SEGMENT, &export.manifest).expect("begins");
    while let Some(want) = install.want() {
        let bytes = export.read(want.file, want.offset, want.length).expect("reads");
        install.supply(&bytes).expect("takes");
    }
    let flushed = target.store.finish_install(install).expect("is put in place");
    assert_eq!(flushed, settled.vdl.end);
    work_off(&target.store);
    assert_eq!(target.store.damage().segments, []);
    model.check(&target.store, KEYS, &[flushed, Lsn::MAX]);
    drop(target.store);
    let (again, restored) = open(&target.disk, unfolded()).expect("opens");
    assert_eq!((restored[0].state.full, &restored[0].damage), (true, &None));
    model.check(&again, KEYS, &[flushed, Lsn::MAX]);
}
