//! Both disks keep the one contract; the simulated one loses exactly what was not synced.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::Path;

use env::{Disk, ErrorKind, MemDisk, Mode, Operation, RealDisk, Survive, conformance, recipes};

#[test]
fn the_real_disk_keeps_the_contract() {
    let root = tempfile::tempdir().expect("temporary directory");
    conformance::check_disk(&RealDisk, root.path());
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    let disk = MemDisk::new();
    disk.create_dir(Path::new("root")).expect("directory");
    conformance::check_disk(&disk, Path::new("root"));
}

fn content(disk: &MemDisk, name: &str) -> Option<Vec<u8>> {
    recipes::read_all(disk, Path::new(name)).expect("reads")
}

fn one_durable_and_one_loose_write() -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir(Path::new("d")).expect("directory");
    let file = disk.open(Path::new("d/f"), Mode::Create).expect("file");
    disk.sync_dir(Path::new("d")).expect("sync");
    file.write_at_durable(0, &[IoSlice::new(&[1; 1024])]).expect("write");
    file.write_at(1024, &[IoSlice::new(&[2; 1024])]).expect("write");
    disk
}

#[test]
fn a_crash_loses_only_what_was_not_synced() {
    let disk = one_durable_and_one_loose_write();
    assert_eq!(content(&disk.crash(Survive::Nothing), "d/f").map(|c| c.len()), Some(1024));
    assert_eq!(content(&disk.crash(Survive::Everything), "d/f").map(|c| c.len()), Some(2048));
    assert_eq!(content(&disk.crash(Survive::Prefix(512)), "d/f").map(|c| c.len()), Some(1536));
    for seed in 0..50 {
        let found = content(&disk.crash(Survive::Random(seed)), "d/f").expect("file");
        assert_eq!(&found[..1024], &[1; 1024], "synced bytes survive");
        assert!(found[1024..].iter().all(|b| *b == 0 || *b == 2), "sectors are old or new");
    }
}

#[test]
fn a_name_survives_only_once_its_directory_is_synced() {
    let disk = MemDisk::new();
    disk.create_dir(Path::new("d")).expect("directory");
    let file = disk.open(Path::new("d/f"), Mode::Create).expect("file");
    file.sync().expect("sync");
    assert_eq!(content(&disk.crash(Survive::Nothing), "d/f"), None);
    disk.sync_dir(Path::new("d")).expect("sync");
    assert!(content(&disk.crash(Survive::Nothing), "d/f").is_some());
}

#[test]
fn replacing_leaves_old_or_new_at_every_sync_point() {
    let prepare = || {
        let disk = MemDisk::new();
        disk.create_dir(Path::new("d")).expect("directory");
        recipes::replace(&disk, Path::new("d/f"), b"old").expect("replaces");
        disk
    };
    let count = {
        let disk = prepare();
        let before = disk.sync_points();
        recipes::replace(&disk, Path::new("d/f"), b"new").expect("replaces");
        disk.sync_points() - before
    };
    assert!(count >= 2);
    for point in 0..count {
        let disk = prepare();
        disk.freeze_at(disk.sync_points() + point);
        assert!(recipes::replace(&disk, Path::new("d/f"), b"new").is_err());
        for survive in (0..20).map(Survive::Random).chain([Survive::Nothing, Survive::Everything]) {
            let found = content(&disk.crash(survive), "d/f").expect("a content");
            assert!(found == b"old" || found == b"new", "{survive:?} left {found:?}");
        }
    }
}

#[test]
fn a_full_disk_says_so_and_keeps_what_it_has() {
    let disk = one_durable_and_one_loose_write();
    disk.set_capacity(Some(2048));
    let file = disk.open(Path::new("d/f"), Mode::Write).expect("opens");
    let error = file.write_at(2048, &[IoSlice::new(b"x")]).expect_err("full");
    assert_eq!(error.kind, ErrorKind::Full);
    file.write_at(0, &[IoSlice::new(b"x")]).expect("overwriting needs no space");
    disk.set_failing(Some(Operation::Sync));
    assert_eq!(file.sync().expect_err("failing").kind, ErrorKind::Failed);
}

#[test]
fn names_that_were_not_synced_survive_in_the_order_in_which_they_changed() {
    let disk = MemDisk::new();
    disk.create_dir(Path::new("d")).expect("directory");
    for name in ["d/a", "d/b", "d/c"] {
        disk.open(Path::new(name), Mode::Create).expect("file");
    }
    disk.rename(Path::new("d/a"), Path::new("d/x")).expect("renames");
    let found: BTreeSet<Vec<String>> = (0..100)
        .map(|seed| disk.crash(Survive::Random(seed)).list(Path::new("d")).expect("lists"))
        .collect();
    let expected: BTreeSet<Vec<String>> = ["", "a", "a b", "a b c", "b c x"]
        .into_iter()
        .map(|names| names.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn outcomes_are_all_that_a_loss_of_power_can_leave() {
    let disk = MemDisk::new();
    disk.create_dir(Path::new("d")).expect("directory");
    let file = disk.open(Path::new("d/f"), Mode::Create).expect("file");
    disk.sync_dir(Path::new("d")).expect("sync");
    file.write_at_durable(0, &[IoSlice::new(&[1; 4 * 512])]).expect("write");
    assert_eq!(disk.outcomes(), 1, "everything is durable");
    // Three sectors, of the last only a part; and two changes of names.
    file.write_at(512, &[IoSlice::new(&[7; 1100])]).expect("write");
    disk.open(Path::new("d/g"), Mode::Create).expect("file");
    disk.rename(Path::new("d/g"), Path::new("d/h")).expect("renames");
    assert_eq!(disk.outcomes(), 8 * 3);
    let left = |number| {
        let left = disk.crash(Survive::Outcome(number));
        (left.list(Path::new("d")).expect("lists"), content(&left, "d/f").expect("file"))
    };
    let found: BTreeSet<_> = (0..disk.outcomes()).map(left).collect();
    assert_eq!(found.len(), 24, "each is another");
    for (names, content) in found {
        assert!(["f", "f g", "f h"].contains(&names.join(" ").as_str()), "{names:?}");
        for (from, to) in [(512, 1024), (1024, 1536), (1536, 1612)] {
            let piece = &content[from..to];
            assert!(piece.iter().all(|byte| *byte == piece[0]), "sectors are old or new");
        }
        assert_eq!(content[1612..], [1; 436]);
    }
}

#[test]
fn an_earlier_loose_write_does_not_come_after_a_durable_one() {
    let disk = MemDisk::new();
    disk.create_dir(Path::new("d")).expect("directory");
    let file = disk.open(Path::new("d/f"), Mode::Create).expect("file");
    file.write_at(0, &[IoSlice::new(&[1; 1536])]).expect("writes");
    file.write_at_durable(256, &[IoSlice::new(&[2; 512])]).expect("is durable");
    for seed in 0..64 {
        let left = disk.crash(Survive::Random(seed));
        let Some(found) = content(&left, "d/f") else { continue };
        assert_eq!(found[256..768], [2; 512], "seed {seed}");
    }
}

#[test]
fn a_lying_disk_says_durable_and_forgets() {
    let disk = one_durable_and_one_loose_write();
    disk.set_lying(true);
    let file = disk.open(Path::new("d/f"), Mode::Write).expect("opens");
    file.write_at_durable(0, &[IoSlice::new(&[3; 512])]).expect("is said to be durable");
    file.sync().expect("is said to be durable");
    disk.open(Path::new("d/g"), Mode::Create).expect("file");
    disk.sync_dir(Path::new("d")).expect("is said to be durable");
    assert_eq!(content(&disk, "d/f").expect("file")[0], 3, "until power is lost it is there");
    let left = disk.crash(Survive::Nothing);
    assert_eq!(content(&left, "d/f"), Some(vec![1; 1024]));
    assert_eq!(content(&left, "d/g"), None);
}

#[test]
fn a_misdirected_write_spoils_another_place_and_is_not_where_it_should_be() {
    for seed in 0..40 {
        let disk = one_durable_and_one_loose_write();
        let before = content(&disk, "d/f").expect("file");
        let file = disk.open(Path::new("d/g"), Mode::Create).expect("file");
        disk.misdirect_next(Some(seed));
        file.write_at_durable(0, &[IoSlice::new(&[9; 512])]).expect("is said to be written");
        let after = content(&disk, "d/f").expect("file");
        let changed: Vec<usize> = (0..after.len()).filter(|at| after[*at] != before[*at]).collect();
        assert_eq!(changed.len(), 512, "seed {seed}");
        assert!(changed[0].is_multiple_of(512) && after[changed[0]] == 9);
        assert_eq!(content(&disk, "d/g"), Some(Vec::new()));
        file.write_at_durable(0, &[IoSlice::new(&[9; 512])]).expect("writes");
        assert_eq!(content(&disk, "d/g"), Some(vec![9; 512]), "only the one write");
    }
}
