//! Directories and files that are not what they were: earlier copies put back, directories gone or in
//! each other's place, log files cut, doubled or unreadable. Whatever it is, nothing that was promised
//! is taken for kept: the segment begins again, not full, and stays so until its peers have rebuilt it.

mod common;

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use common::*;
use env::{Disk, MemDisk, Mode, Survive};
use segstore::{LogEntry, Options, RestoredSegment, SegmentState, Store, StoreError};
use types::{Epoch, Lsn, SegmentId};
use wire::{PageAnswer, Refusal};

const KEYS: u64 = 9;

fn fill(store: &Store, model: &mut Model, batches: u64) {
    for number in 0..batches {
        let parts = (0..3).map(|i| (vec![apply((number + i) % KEYS)], body(number, 90))).collect();
        store.append(&[batch_entry(model.batch(parts))]).expect("appends");
        if number % 10 == 9 {
            model.settle(Lsn::ZERO);
            store.advance(SEGMENT, &model.report());
            store.flush_segment(SEGMENT).expect("flushes");
        }
    }
}

fn place(segment: SegmentId) -> PathBuf {
    dir().join("seg").join(format!("{}-{}", segment.volume, segment.group))
}

/// Every file below a place, with its content.
fn saved(disk: &MemDisk, place: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |name: &String| {
        let path = place.join(name);
        let content = env::recipes::read_all(disk, &path).expect("reads").expect("is there");
        (path, content)
    };
    disk.list(place).expect("lists").iter().map(read).collect()
}

/// Puts back what was saved below a place, and only that.
fn put_back(disk: &MemDisk, place: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for name in disk.list(place).unwrap_or_default() {
        disk.remove(&place.join(name)).expect("removes");
    }
    disk.create_dir(place).expect("creates");
    for (path, content) in files {
        let path = place.join(path.file_name().expect("a name"));
        let file = disk.open(&path, Mode::Create).expect("opens");
        file.write_at_durable(0, &[IoSlice::new(content)]).expect("writes");
    }
    disk.sync_dir(place).expect("syncs");
}

fn told(restored: &[RestoredSegment], segment: SegmentId) -> &RestoredSegment {
    restored.iter().find(|told| told.spec.segment == segment).expect("is held")
}

/// The segment has lost what it had, says so now and after the next restart, knows its members, and can
/// be rebuilt from a peer, once and for all.
fn begins_again(disk: &MemDisk, model: &Model, peer: &Store, options: &Options) {
    let (store, restored) = open(disk, options.clone()).expect("opens");
    let first = told(&restored, SEGMENT);
    assert!(first.damage.is_some() && !first.state.full, "{first:?}");
    assert_eq!(first.spec, spec(SEGMENT), "its members are known");
    assert!(first.state.membership >= first.spec.membership, "and the writer's set is accepted");
    assert!(matches!(store.export(SEGMENT), Err(StoreError::Damaged { .. })));
    assert!(store.damage().segments[0].lost);
    drop(store);
    let (store, restored) = open(disk, options.clone()).expect("opens");
    assert!(!told(&restored, SEGMENT).state.full, "still not, although nothing looks odd any more");
    let state = SegmentState { full: false, ..model.state() };
    store.append(&[(SEGMENT, LogEntry::State(state))]).expect("appends");
    let export = peer.export(SEGMENT).expect("exports");
    let mut install = store.begin_install(SEGMENT, &export.manifest).expect("begins");
    while let Some(want) = install.want() {
        let bytes = export.read(want.file, want.offset, want.length).expect("reads");
        install.supply(&bytes).expect("takes");
    }
    store.finish_install(install).expect("is put in place");
    store.append(&[(SEGMENT, LogEntry::State(model.state()))]).expect("is full");
    model.check(&store, KEYS, &[Lsn::MAX]);
    work_off(&store);
    drop(store);
    let (store, restored) = open(disk, options.clone()).expect("opens");
    let last = told(&restored, SEGMENT);
    assert_eq!((&last.damage, last.state.full), (&None, true), "whole again");
    model.check(&store, KEYS, &[Lsn::MAX]);
}

/// A store, everything flushed, and a peer that has the same.
fn filled(disk: &MemDisk, more: &dyn Fn(&Store, &mut Model)) -> (Model, Store) {
    let (store, mut model) = (create(disk, small()), Model::new());
    fill(&store, &mut model, 20);
    more(&store, &mut model);
    let peer = create(&MemDisk::new(), small());
    let batch = {
        let mut batch = Model::new().batch(Vec::new());
        batch.parts = model.parts.iter().map(|(_, _, part)| part.clone()).collect();
        (batch.header.base, batch.header.last) = (Lsn::ZERO, model.tail());
        batch
    };
    peer.append(&[batch_entry(batch)]).expect("appends");
    model.settle(Lsn::ZERO);
    peer.advance(SEGMENT, &model.report());
    peer.flush_segment(SEGMENT).expect("flushes");
    (model, peer)
}

#[test]
fn an_earlier_copy_of_a_segments_directory_is_noticed_however_little_it_is_older() {
    // Older by a flush, by a roll of the log, by a restart; or by much.
    for case in 0..4 {
        let disk = MemDisk::new();
        let before = std::cell::RefCell::new(Vec::new());
        let (model, peer) = filled(&disk, &|store, model| {
            before.replace(saved(&disk, &place(SEGMENT)));
            match case {
                0 => fill(store, model, 10),
                1 => fill(store, model, 100),
                2 => {
                    let (store, _) = open(&disk, small()).expect("opens");
                    fill(&store, model, 10);
                }
                _ => {
                    fill(store, model, 300);
                    work_off(store);
                }
            }
        });
        put_back(&disk, &place(SEGMENT), &before.borrow());
        begins_again(&disk, &model, &peer, &small());
    }
}

#[test]
fn the_same_directory_put_back_is_whole() {
    let disk = MemDisk::new();
    let (model, _) = filled(&disk, &|_, _| ());
    let now = saved(&disk, &place(SEGMENT));
    put_back(&disk, &place(SEGMENT), &now);
    let (store, restored) = open(&disk, small()).expect("opens");
    assert_eq!(restored[0].damage, None);
    model.check(&store, KEYS, &[Lsn::MAX]);
}

#[test]
fn a_directory_that_is_gone_is_not_taken_for_a_segment_never_held() {
    for manifest_only in [false, true] {
        let disk = MemDisk::new();
        let (model, peer) = filled(&disk, &|_, _| ());
        let gone = disk.list(&place(SEGMENT)).expect("lists").into_iter();
        for name in gone.filter(|name| !manifest_only || name == "MANIFEST") {
            disk.remove(&place(SEGMENT).join(name)).expect("removes");
        }
        if !manifest_only {
            disk.remove_dir(&place(SEGMENT)).expect("removes");
        }
        begins_again(&disk, &model, &peer, &small());
    }
}

#[test]
fn a_damaged_manifest_costs_the_files_and_not_the_members() {
    let disk = MemDisk::new();
    let (model, peer) = filled(&disk, &|_, _| ());
    disk.flip(&place(SEGMENT).join("MANIFEST"), 50, 1).expect("flips");
    begins_again(&disk, &model, &peer, &small());
}

#[test]
fn two_segments_directories_in_each_others_place_both_begin_again() {
    let disk = MemDisk::new();
    let (model, peer) = filled(&disk, &|store, _| {
        store.add_segment(&spec(OTHER), &first_state()).expect("adds");
    });
    let (mine, theirs) = (saved(&disk, &place(SEGMENT)), saved(&disk, &place(OTHER)));
    put_back(&disk, &place(SEGMENT), &theirs);
    put_back(&disk, &place(OTHER), &mine);
    let look = disk.crash(Survive::Everything);
    let (_, restored) = open(&look, small()).expect("opens");
    assert!(restored.iter().all(|told| told.damage.is_some() && !told.state.full));
    begins_again(&disk, &model, &peer, &small());
}

#[test]
fn a_dropped_segments_directory_put_back_is_not_held_again() {
    let disk = MemDisk::new();
    let (store, mut model) = (create(&disk, small()), Model::new());
    store.add_segment(&spec(OTHER), &first_state()).expect("adds");
    fill(&store, &mut model, 20);
    let before = saved(&disk, &place(SEGMENT));
    store.drop_segment(SEGMENT).expect("drops");
    put_back(&disk, &place(SEGMENT), &before);
    let (store, restored) = open(&disk, small()).expect("opens");
    assert_eq!(restored.len(), 1, "the drop is finished");
    // The same name again is another segment: its predecessor's directory is not taken for it.
    store.add_segment(&spec(SEGMENT), &first_state()).expect("adds");
    drop(store);
    put_back(&disk, &place(SEGMENT), &before);
    let (store, restored) = open(&disk, small()).expect("opens");
    assert!(told(&restored, SEGMENT).damage.is_some());
    assert_eq!(store.read_page(SEGMENT, &key(1), Lsn::MAX), PageAnswer::Absent);
}

/// Appends to another segment, until the log has forgotten the first one's drop.
#[test]
fn a_directory_that_the_log_has_forgotten_is_not_believed() {
    let disk = MemDisk::new();
    let options = Options { log_retain_bytes: 0, ..small() };
    let (store, mut model) = (create(&disk, options.clone()), Model::new());
    store.add_segment(&spec(OTHER), &first_state()).expect("adds");
    fill(&store, &mut model, 20);
    let before = saved(&disk, &place(SEGMENT));
    store.drop_segment(SEGMENT).expect("drops");
    let mut other = Model::new();
    for number in 0..200 {
        let mut batch = other.batch(vec![(vec![apply(1)], body(number, 400))]);
        batch.header.segment = OTHER;
        store.append(&[(OTHER, LogEntry::Batch(batch))]).expect("appends");
        other.settle(Lsn::ZERO);
        store.advance(OTHER, &other.report());
        work_off(&store);
    }
    put_back(&disk, &place(SEGMENT), &before);
    let (_, restored) = open(&disk, options).expect("opens");
    let told = told(&restored, SEGMENT);
    assert!(told.damage.is_some() && !told.state.full);
}

fn logs(disk: &MemDisk) -> Vec<PathBuf> {
    let place = dir().join("log");
    disk.list(&place).expect("lists").into_iter().map(|name| place.join(name)).collect()
}

#[test]
fn a_newest_log_file_that_was_cut_is_no_torn_tail() {
    let disk = MemDisk::new();
    let store = create(&disk, Options { log_file_bytes: 1 << 20, ..small() });
    let mut model = Model::new();
    fill(&store, &mut model, 20);
    let path = logs(&disk).remove(0);
    let content = env::recipes::read_all(&disk, &path).expect("reads").expect("is there");
    let (mut cut, mut kept) = (0, 0);
    for length in (512..20 << 10).step_by(512) {
        let disk = disk.crash(Survive::Everything);
        disk.remove(&path).expect("removes");
        let file = disk.open(&path, Mode::Create).expect("opens");
        file.write_at_durable(0, &[IoSlice::new(&content[..length])]).expect("writes");
        disk.sync_dir(&dir().join("log")).expect("syncs");
        let (store, restored) = open(&disk, small()).expect("opens");
        let told = told(&restored, SEGMENT);
        assert!(told.damage.is_some() && !told.state.full, "cut to {length}");
        // What it flushed is still good, and what is left in the log is right.
        match store.read_page(SEGMENT, &key(1), told.flushed) {
            PageAnswer::Page { .. } => kept += 1,
            PageAnswer::Failed(Refusal::Forgotten { .. }) | PageAnswer::Absent => cut += 1,
            other => panic!("{other:?}"),
        }
        drop(store);
        let (_, restored) = open(&disk, small()).expect("opens again");
        assert!(!restored[0].state.full, "and it does not forget that");
    }
    assert!(kept > 10, "{kept} {cut}");
}

#[test]
fn promises_given_after_the_newest_log_file_was_lost_are_kept() {
    let disk = MemDisk::new();
    let (model, _) = filled(&disk, &|store, _| {
        let state = SegmentState { sealed: Epoch(3), ..first_state() };
        store.append(&[(SEGMENT, LogEntry::State(state))]).expect("appends");
        store.flush_segment(SEGMENT).expect("flushes");
    });
    let newest = logs(&disk).into_iter().next_back().expect("a log file");
    disk.remove(&newest).expect("removes");
    for sealed in 4..9 {
        // Each in a new life, whose numbers the lost ones had.
        let (store, _) = open(&disk, small()).expect("opens");
        let state = SegmentState { sealed: Epoch(sealed), full: false, ..model.state() };
        store.append(&[(SEGMENT, LogEntry::State(state))]).expect("appends");
        drop(store);
        let (_, restored) = open(&disk, small()).expect("opens");
        assert_eq!(restored[0].state.sealed, Epoch(sealed));
    }
}

#[test]
fn a_log_file_in_another_ones_place_is_damage() {
    let disk = MemDisk::new();
    let (model, peer) = filled(&disk, &|store, model| fill(store, model, 65));
    let paths = logs(&disk);
    assert!(paths.len() > 2);
    // A misdirected write: the header of the newest life lies on another file, too.
    let header = |path: &PathBuf| {
        let content = env::recipes::read_all(&disk, path).expect("reads").expect("is there");
        content[..512].to_vec()
    };
    for from in &paths {
        for onto in paths.iter().filter(|onto| *onto != from) {
            let disk = disk.crash(Survive::Everything);
            let file = disk.open(onto, Mode::Write).expect("opens");
            file.write_at_durable(0, &[IoSlice::new(&header(from))]).expect("writes");
            let look = disk.crash(Survive::Everything);
            let (store, restored) = open(&look, small()).expect("opens");
            match told(&restored, SEGMENT).damage {
                Some(_) => begins_again(&disk, &model, &peer, &small()),
                None => model.check(&store, KEYS, &[Lsn::MAX]),
            }
        }
    }
}

#[test]
fn units_and_blocks_in_each_others_place_are_noticed() {
    let disk = MemDisk::new();
    let (mut model, _) = filled(&disk, &|store, model| fill(store, model, 15));
    model.settle(Lsn::ZERO);
    let mut paths = logs(&disk);
    paths.extend(saved(&disk, &place(SEGMENT)).into_iter().map(|(path, _)| path));
    let mut random = Random(8);
    let mut noticed = 0;
    for round in 0..400 {
        let disk = disk.crash(Survive::Everything);
        let path = &paths[random.below(paths.len() as u64) as usize];
        let content = env::recipes::read_all(&disk, path).expect("reads").expect("is there");
        let sectors = content.len() as u64 / 512;
        if sectors < 2 {
            continue;
        }
        let (from, to) = (random.below(sectors) * 512, random.below(sectors) * 512);
        let lost = [0; 512];
        // Written to the wrong place; or never written, although the disk said so.
        let sector = match round % 3 {
            0 => &lost[..],
            _ => &content[from as usize..from as usize + 512],
        };
        let file = disk.open(path, Mode::Write).expect("opens");
        file.write_at_durable(to, &[IoSlice::new(sector)]).expect("writes");
        let (store, restored) = open(&disk, small()).expect("opens");
        let told = told(&restored, SEGMENT);
        let end = told.held.last().map_or(told.flushed, |part| part.meta.span.end);
        if told.damage.is_some() || store.verify(SEGMENT).is_err() {
            noticed += 1;
            continue;
        }
        // The last unit may be missing, as after a torn write; nothing else.
        let mut model = model.clone();
        if end < model.tail() {
            let last = model.parts.iter().rev().take_while(|(_, _, part)| part.meta.span.end > end);
            assert!(last.count() <= 3, "a whole batch and no more");
            model.parts.retain(|(_, _, part)| part.meta.span.end <= end);
        }
        model.check(&store, KEYS, &[end]);
    }
    assert!(noticed > 100, "{noticed}");
}

#[test]
fn what_the_medium_does_not_give_back_is_damage_and_no_reason_not_to_start() {
    let disk = MemDisk::new();
    let (model, peer) = filled(&disk, &|store, model| fill(store, model, 65));
    let mut paths: Vec<(PathBuf, u64)> = logs(&disk).into_iter().map(|path| (path, 0)).collect();
    paths.push((place(SEGMENT).join("MANIFEST"), 10));
    paths.extend(logs(&disk).into_iter().map(|path| (path, 3000)));
    let mut lost = 0;
    for (path, at) in paths {
        let disk = disk.crash(Survive::Everything);
        disk.make_unreadable(&path, at..at + 512).expect("is there");
        let look = disk.crash(Survive::Everything);
        let (store, restored) = open(&look, small()).expect("opens");
        if told(&restored, SEGMENT).damage.is_some() {
            lost += 1;
            begins_again(&disk, &model, &peer, &small());
        } else {
            model.check(&store, KEYS, &[Lsn::MAX]);
        }
    }
    assert!(lost > 3, "{lost}");
}

/// A failed sync may leave a unit where programs see it and the medium does not hold it. What a restart
/// believes it must make durable itself.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_on_the_medium_before_it_is_believed() {
    let disk = MemDisk::new();
    let (store, mut model) = (create(&disk, small()), Model::new());
    fill(&store, &mut model, 5);
    disk.set_failing(Some(env::Operation::Write));
    let batch = model.batch(vec![(vec![apply(1)], body(1, 60))]);
    assert!(matches!(store.append(&[batch_entry(batch)]), Err(StoreError::Poisoned(_))));
    disk.set_failing(None);
    drop(store);
    // The process restarts, not the machine: it sees what was written.
    let (store, restored) = open(&disk, small()).expect("opens");
    assert_eq!(restored[0].held.last().map(|part| part.meta.span.end), Some(model.tail()));
    drop(store);
    let (store, restored) = open(&disk.crash(Survive::Nothing), small()).expect("opens");
    assert_eq!(restored[0].damage, None);
    assert_eq!(restored[0].held.last().map(|part| part.meta.span.end), Some(model.tail()));
    model.check(&store, KEYS, &[Lsn::MAX]);
}

#[test]
fn the_newest_life_tells_an_earlier_disk_from_the_one_it_became() {
    let disk = MemDisk::new();
    let store = create(&disk, small());
    let found = |disk: &MemDisk| {
        segstore::Store::life_found(disk, dir(), &identity()).expect("is read").expect("is told")
    };
    let yesterday = disk.crash(Survive::Everything);
    assert_eq!(found(&yesterday), store.life());
    drop(store);
    for _ in 0..3 {
        assert_eq!(found(&disk), found(&disk), "to look changes nothing");
        let (store, _) = open(&disk, small()).expect("opens");
        assert_eq!(found(&disk), store.life());
        assert!(found(&yesterday) < store.life());
    }
}
