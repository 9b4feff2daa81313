//! Every operation that writes, cut off at every sync point, with every disk that a loss of power can
//! leave there (or a sample, where more than [`OUTCOMES_MAX`] are possible): the store opens without
//! damage, is as it was before the operation or as it is after it, leaves no rubbish, and goes on.
//! Opening is such an operation itself: it is cut off in the same way on what the others left.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::*;
use env::{Disk, MemDisk, Survive};
use segstore::{LogEntry, Options, SegmentState, Store, StoreError};
use types::{Lsn, SegmentId};
use wire::{Change, SegmentSpec};

const KEYS: u64 = 6;
/// Up to so many outcomes of one moment are all tried.
const OUTCOMES_MAX: u64 = 5000;
/// Of more, so many.
const SAMPLE: u64 = 80;

fn tiny() -> Options {
    Options {
        log_file_bytes: 4 << 10,
        log_retain_bytes: 8 << 10,
        flush_bytes: 1 << 40,
        flush_total_bytes: 1 << 40,
        base_bytes_min: 300,
        merge_step_bytes: 1 << 10,
        ..small()
    }
}

/// A store with what is promised of it.
struct World {
    store: Store,
    /// What was acknowledged.
    before: Model,
    /// What may be there when a write of several units was cut off between them.
    between: Option<Model>,
    /// What is there once the operation is done.
    after: Model,
}

type Done = Result<(), StoreError>;

impl World {
    /// A store that holds both segments, and nothing in them.
    fn new(disk: &MemDisk) -> Result<World, StoreError> {
        let store = try_create(disk, tiny())?;
        store.add_segment(&spec(OTHER), &first_state())?;
        store.add_segment(&spec(SEGMENT), &first_state())?;
        let (before, after) = (Model::new(), Model::new());
        Ok(World { store, before, between: None, after })
    }

    /// Appends one batch of parts: it may be there or not, and must be once this has returned.
    fn append(&mut self, parts: u64, length: usize) -> Done {
        let tail = self.before.tail().0;
        let part = |i: u64| (vec![apply((tail / 8 + i) % KEYS)], body(tail + i, length));
        self.after = self.before.clone();
        let batch = self.after.batch((0..parts).map(part).collect());
        self.store.append(&[batch_entry(batch)])?;
        self.before = self.after.clone();
        Ok(())
    }

    /// Everything so far is durable at the quorum, and nothing older is read any more.
    fn settle(&mut self) {
        let low = self.before.vdl.end;
        self.before.settle(low);
        self.after = self.before.clone();
        self.store.advance(SEGMENT, &self.before.report());
    }

    fn flushed(&mut self, parts: u64) -> Done {
        self.append(parts, 60)?;
        self.settle();
        self.store.flush_segment(SEGMENT).map(drop)
    }

    fn work_off(&self) -> Done {
        while self.store.background()? {}
        Ok(())
    }
}

/// An operation: what is there before it, and itself.
struct Case {
    name: &'static str,
    prepare: fn(&MemDisk) -> Result<World, StoreError>,
    operate: fn(&mut World) -> Done,
}

fn blank_other(disk: &MemDisk) -> Result<World, StoreError> {
    let mut world = World::new(disk)?;
    world.append(3, 60)?;
    Ok(world)
}

fn log_nearly_full(disk: &MemDisk, spare: bool) -> Result<World, StoreError> {
    let mut world = World::new(disk)?;
    if spare {
        world.work_off()?;
    }
    // The header takes one sector, each of these two.
    for _ in 0..3 {
        world.append(1, 600)?;
    }
    Ok(world)
}

/// Four files, of which the oldest is not much larger than the rest.
fn files(disk: &MemDisk) -> Result<World, StoreError> {
    let mut world = World::new(disk)?;
    for parts in [4, 3, 3, 3] {
        world.flushed(parts)?;
    }
    world.append(2, 60)?;
    Ok(world)
}

/// A base of several files.
fn based(disk: &MemDisk, page: usize) -> Result<World, StoreError> {
    let mut world = World::new(disk)?;
    let put = |number| vec![Change::Put(key(number), vec![number as u8; page].into())];
    let parts = (0..KEYS).map(|number| (put(number), body(number, 20))).collect();
    let batch = world.before.batch(parts);
    world.store.append(&[batch_entry(batch)])?;
    world.settle();
    world.store.flush_segment(SEGMENT)?;
    world.work_off()?;
    assert!(world.store.stats().files > 2, "{:?}", world.store.stats());
    Ok(world)
}

fn deleted(disk: &MemDisk) -> Result<World, StoreError> {
    let mut world = World::new(disk)?;
    world.flushed(4)?;
    let gone = Change::Delete { from: key(0), to: key(KEYS) };
    let batch = world.before.batch(vec![(vec![gone], body(1, 20))]);
    world.store.append(&[batch_entry(batch)])?;
    world.settle();
    // The low-water mark reaches the deletion only with a second durable point.
    world.settle();
    world.store.flush_segment(SEGMENT)?;
    Ok(world)
}

/// More log than is retained: some of it flushed, some waiting for the durable point, and a file for
/// an entry too large for the others.
fn much_log(disk: &MemDisk) -> Result<World, StoreError> {
    let mut world = World::new(disk)?;
    world.append(1, 5_000)?;
    // Two of these fit into a file: one file holds a part that may go and one that waits.
    for _ in 0..5 {
        world.append(2, 500)?;
    }
    world.settle();
    for _ in 0..5 {
        world.append(2, 500)?;
    }
    Ok(world)
}

/// A peer's files, of a segment whose first parts are these stores' too.
fn peer(world: &mut World) -> segstore::Export {
    let source = create(&MemDisk::new(), tiny());
    let mut model = world.before.clone();
    let mut batch = Model::new().batch(Vec::new());
    batch.header.last = model.tail();
    batch.header.vdl = model.vdl;
    batch.parts = model.parts.iter().map(|(_, _, part)| part.clone()).collect();
    source.append(&[batch_entry(batch)]).expect("appends");
    for number in 0..3 {
        let batch = model.batch((0..3).map(|i| (vec![apply(i)], body(number, 70))).collect());
        source.append(&[batch_entry(batch)]).expect("appends");
        model.settle(Lsn::ZERO);
        source.advance(SEGMENT, &model.report());
        source.flush_segment(SEGMENT).expect("flushes");
    }
    world.after = model;
    source.export(SEGMENT).expect("exports")
}

fn copy(world: &mut World) -> Done {
    let export = peer(world);
    let mut install = world.store.begin_install(SEGMENT, &export.manifest)?;
    while let Some(want) = install.want() {
        install.supply(&export.read(want.file, want.offset, want.length)?)?;
    }
    world.store.finish_install(install).map(drop)
}

const CASES: &[Case] = &[
    Case { name: "append", prepare: blank_other, operate: |world| world.append(8, 350) },
    Case {
        name: "append into a spare file",
        prepare: |disk| log_nearly_full(disk, true),
        operate: |world| world.append(1, 600),
    },
    Case {
        name: "append into a new file",
        prepare: |disk| log_nearly_full(disk, false),
        operate: |world| world.append(1, 600),
    },
    Case {
        name: "append of what no file holds",
        prepare: blank_other,
        operate: |world| world.append(1, 5_000),
    },
    Case {
        name: "append of two units",
        prepare: blank_other,
        operate: |world| {
            let parts = |tag| (0..4).map(|i| (vec![apply(i)], body(tag + i, 500))).collect();
            let first = batch_entry(world.after.batch(parts(0)));
            world.between = Some(world.after.clone());
            let second = batch_entry(world.after.batch(parts(9)));
            world.store.append(&[first, second])
        },
    },
    Case {
        name: "truncate",
        prepare: |disk| {
            let mut world = World::new(disk)?;
            world.flushed(3)?;
            world.append(4, 60)?;
            Ok(world)
        },
        operate: |world| {
            let state = world.after.reopen();
            world.store.append(&[(SEGMENT, LogEntry::State(state))])
        },
    },
    Case {
        name: "add a segment",
        prepare: blank_other,
        operate: |world| world.store.add_segment(&third(), &first_state()),
    },
    Case {
        name: "change a segment's members",
        prepare: files,
        operate: |world| {
            let changed = SegmentSpec { fresh: false, ..spec(SEGMENT) };
            world.store.add_segment(&changed, &first_state())
        },
    },
    Case {
        name: "first flush",
        prepare: |disk| {
            let mut world = World::new(disk)?;
            world.append(5, 60)?;
            world.settle();
            world.append(2, 60)?;
            Ok(world)
        },
        operate: |world| world.store.flush_segment(SEGMENT).map(drop),
    },
    Case {
        name: "later flush",
        prepare: |disk| {
            let mut world = files(disk)?;
            world.settle();
            Ok(world)
        },
        operate: |world| world.store.flush_segment(SEGMENT).map(drop),
    },
    Case { name: "merge", prepare: files, operate: |world| world.work_off() },
    Case {
        name: "flush, merge ranges of the base, and recycle the log",
        prepare: |disk| {
            let mut world = based(disk, 700)?;
            (0..4).try_for_each(|_| world.flushed(6))?;
            world.append(6, 60)?;
            world.settle();
            Ok(world)
        },
        operate: |world| {
            world.store.flush_segment(SEGMENT)?;
            world.work_off()
        },
    },
    Case {
        name: "merge uppers",
        prepare: |disk| {
            let mut world = based(disk, 2000)?;
            (0..4).try_for_each(|_| world.flushed(1))?;
            Ok(world)
        },
        operate: |world| world.work_off(),
    },
    Case { name: "merge into nothing", prepare: deleted, operate: |world| world.work_off() },
    Case {
        name: "recycle the log, copying forward, and merge",
        prepare: much_log,
        operate: |world| {
            world.work_off()?;
            // Only the next file's header lets the old ones go.
            for _ in 0..2 {
                world.append(2, 500)?;
            }
            world.work_off()
        },
    },
    Case { name: "copy into a blank segment", prepare: World::new, operate: copy },
    Case { name: "copy over a segment's own files", prepare: files, operate: copy },
    Case {
        name: "drop a segment",
        prepare: files,
        operate: |world| world.store.drop_segment(OTHER),
    },
    Case {
        name: "drop a segment with files, and add it again",
        prepare: files,
        operate: |world| {
            world.after = Model::new();
            world.store.drop_segment(SEGMENT)?;
            world.store.add_segment(&spec(SEGMENT), &first_state())
        },
    },
];

fn third() -> SegmentSpec {
    spec(SegmentId { group: types::GroupId(9), ..OTHER })
}

/// The disk as the operation's sync point `point` finds it, and what is known of it; none when the
/// operation has fewer.
fn cut_off(case: &Case, point: u64) -> Option<(MemDisk, World)> {
    let disk = MemDisk::new();
    let mut world = (case.prepare)(&disk).expect("prepares");
    disk.freeze_at(disk.sync_points() + point);
    match (case.operate)(&mut world) {
        Ok(()) => None,
        Err(_) => Some((disk, world)),
    }
}

/// What a loss of power can leave.
fn outcomes(disk: &MemDisk) -> Vec<Survive> {
    match disk.outcomes() {
        few @ ..=OUTCOMES_MAX => (0..few).map(Survive::Outcome).collect(),
        _ => [Survive::Nothing, Survive::Everything]
            .into_iter()
            .chain((1..4).map(|sectors| Survive::Prefix(512 * sectors)))
            .chain((0..SAMPLE).map(Survive::Random))
            .collect(),
    }
}

/// Opens what is left and checks it; returns how many bytes it holds in the end.
fn check(left: &MemDisk, world: &World, context: &dyn Fn() -> String) -> u64 {
    let opened = open(left, tiny()).unwrap_or_else(|error| panic!("{}: {error}", context()));
    let (store, restored) = opened;
    for told in &restored {
        assert_eq!(told.damage, None, "{}", context());
        assert!(told.state.full, "{}", context());
        store.verify(told.spec.segment).unwrap_or_else(|error| panic!("{}: {error}", context()));
    }
    let Some(told) = restored.iter().find(|told| told.spec.segment == SEGMENT) else {
        assert!(world.after.parts.is_empty(), "{}: the segment is gone", context());
        return left.used_bytes();
    };
    let mut reached = told.flushed;
    for part in &told.held {
        if part.base <= reached {
            reached = reached.max(part.meta.span.end);
        }
    }
    let fits = |model: &&Model| {
        model.tail() == reached && model.epoch() == told.state.history.last_epoch()
    };
    let known = [Some(&world.after), world.between.as_ref(), Some(&world.before)];
    let model = known.into_iter().flatten().find(fits);
    let mut model = model
        .unwrap_or_else(|| panic!("{}: {reached} is neither before nor after", context()))
        .clone();
    model.low_water = model.low_water.max(told.state.low_water);
    model.check(&store, KEYS, &[model.low_water, Lsn::MAX]);
    model.check_chain(&store, told.flushed);
    // It goes on: another epoch, and everything in its place.
    model.vdl = model.parts.last().map_or(model.vdl, |(_, _, part)| part.meta.span);
    let state = model.reopen();
    store.append(&[(SEGMENT, LogEntry::State(state))]).expect("appends");
    let batch = model.batch((0..3).map(|i| (vec![apply(i)], body(i, 60))).collect());
    store.append(&[batch_entry(batch)]).expect("appends");
    model.settle(model.vdl.end);
    store.advance(SEGMENT, &model.report());
    store.flush_segment(SEGMENT).expect("flushes");
    work_off(&store);
    model.check(&store, KEYS, &[Lsn::MAX]);
    let seg = dir().join("seg");
    let names = left.list(&seg).expect("lists");
    let inside = names.iter().flat_map(|name| left.list(&seg.join(name)).expect("lists"));
    let pages = inside.filter(|name| name != "MANIFEST").count() as u64;
    assert_eq!(pages, store.stats().files, "{}: files that nothing names", context());
    left.used_bytes()
}

/// Bytes that a disk holds which was never cut off.
fn used(case: &Case, operated: bool) -> u64 {
    let disk = MemDisk::new();
    let mut world = (case.prepare)(&disk).expect("prepares");
    if operated {
        (case.operate)(&mut world).expect("operates");
    }
    check(&disk.crash(Survive::Everything), &world, &|| case.name.to_owned())
}

#[test]
fn the_cases_do_what_their_names_say() {
    for case in CASES {
        let mut world = (case.prepare)(&MemDisk::new()).expect("prepares");
        let before = world.store.stats();
        (case.operate)(&mut world).expect("operates");
        let after = world.store.stats();
        let (flushed, merged) = (after.flushes > before.flushes, after.merges > before.merges);
        let copied = after.log_bytes < before.log_bytes;
        assert_eq!(flushed, case.name.contains("flush") || case.name.contains("recycle"));
        assert_eq!(merged, case.name.contains("merge"), "{}", case.name);
        assert_eq!(copied, case.name.contains("recycle"), "{}", case.name);
    }
}

#[test]
fn every_operation_cut_off_anywhere_is_done_or_not_begun() {
    let mut total = 0;
    for case in CASES {
        let mut point = 0;
        let room = used(case, false).max(used(case, true)) + 2 * tiny().log_file_bytes;
        while let Some((disk, world)) = cut_off(case, point) {
            let survivors = outcomes(&disk);
            total += survivors.len();
            for survive in survivors {
                let context = || format!("{} at {point}, {survive:?}", case.name);
                let used = check(&disk.crash(survive), &world, &context);
                assert!(used <= room, "{}: {used} bytes, {room} are enough", context());
            }
            point += 1;
        }
        assert!(point > 0, "{} writes nothing", case.name);
    }
    assert!(total > 5_000, "{total} outcomes only");
}

#[test]
fn an_opening_cut_off_anywhere_changes_nothing() {
    for case in CASES {
        for point in 0.. {
            let Some((disk, world)) = cut_off(case, point) else { break };
            for first in [Survive::Nothing, Survive::Everything, Survive::Random(point)] {
                let found = disk.crash(first);
                for step in 0.. {
                    let again = found.crash(Survive::Everything);
                    again.freeze_at(again.sync_points() + step);
                    if open(&again, tiny()).is_ok() {
                        break;
                    }
                    let kept = [Survive::Nothing, Survive::Everything, Survive::Random(step)];
                    for second in kept {
                        let context =
                            || format!("{} at {point}, {first:?}, {step}, {second:?}", case.name);
                        check(&again.crash(second), &world, &context);
                    }
                }
            }
        }
    }
}

#[test]
fn a_format_cut_off_anywhere_leaves_an_empty_disk_or_a_store() {
    let format = |disk: &MemDisk| try_create(disk, tiny()).map(drop);
    for point in 0.. {
        let disk = MemDisk::new();
        disk.freeze_at(point);
        if format(&disk).is_ok() {
            assert!(point > 6, "{point} sync points only");
            break;
        }
        for survive in outcomes(&disk) {
            let left = disk.crash(survive);
            match open(&left, tiny()) {
                Ok((_, restored)) => assert!(restored.is_empty()),
                Err(StoreError::Foreign(_)) => format(&left).expect("creates"),
                Err(error) => panic!("{survive:?} at {point}: {error}"),
            }
            let (store, _) = open(&left, tiny()).expect("opens");
            store.add_segment(&spec(SEGMENT), &SegmentState::default()).expect("adds");
            let names: BTreeSet<String> =
                left.list(Path::new("node/store")).expect("lists").into_iter().collect();
            assert_eq!(names, BTreeSet::from(["identity.json", "log", "seg"].map(str::to_owned)));
        }
    }
}
