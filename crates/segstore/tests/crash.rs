//! Power is lost at every sync point: whatever was acknowledged is there again, nothing else is
//! believed, and the store goes on.

mod common;

use common::*;
use env::{MemDisk, Survive};
use segstore::{LogEntry, Store, StoreError};
use types::Lsn;

const KEYS: u64 = 9;

/// What the caller of the store knows when power goes.
struct Run {
    model: Model,
    /// Model as of the last acknowledged append; `None` before the segment was held.
    acknowledged: Option<Model>,
}

fn step(store: &Store, run: &mut Run, number: u64) -> Result<(), StoreError> {
    let mut random = Random(number);
    let parts = (0..1 + random.below(5))
        .map(|i| {
            let changes = vec![apply(random.below(KEYS)), apply(random.below(KEYS))];
            // Now and then a part larger than a log file, which gets a file that is removed later.
            let length = if number % 20 == 7 && i == 0 { 17_000 } else { random.below(200) };
            (changes, body(number * 10 + i, 20 + length as usize))
        })
        .collect();
    let batch = run.model.batch(parts);
    store.append(&[batch_entry(batch)])?;
    run.acknowledged = Some(run.model.clone());
    if number % 3 == 2 {
        let low = run.model.vdl.end;
        run.model.settle(low);
        store.advance(SEGMENT, &run.model.report());
    }
    if number % 17 == 16 {
        let state = run.model.reopen();
        store.append(&[(SEGMENT, LogEntry::State(state))])?;
        run.acknowledged = Some(run.model.clone());
    }
    for _ in 0..number % 5 {
        store.background()?;
    }
    Ok(())
}

fn workload(disk: &MemDisk, run: &mut Run) -> Result<(), StoreError> {
    let store = try_create(disk, small())?;
    // One that nothing is written to: what it does not need must not look missing.
    store.add_segment(&spec(OTHER), &first_state())?;
    store.add_segment(&spec(SEGMENT), &first_state())?;
    run.acknowledged = Some(run.model.clone());
    for number in 0..60 {
        step(&store, run, number)?;
    }
    Ok(())
}

fn start() -> Run {
    Run { model: Model::new(), acknowledged: None }
}

/// Opens what a crash left and checks it against what was acknowledged.
fn check(disk: &MemDisk, run: &Run, survive: Survive) {
    let (store, restored) = match open(disk, small()) {
        Ok(opened) => opened,
        Err(StoreError::Foreign(_)) if run.acknowledged.is_none() => {
            try_create(disk, small()).expect("creating again succeeds");
            return;
        }
        Err(error) => panic!("{survive:?}: {error}"),
    };
    let Some(acknowledged) = &run.acknowledged else { return };
    let told = restored.iter().find(|told| told.spec.segment == SEGMENT).expect("held");
    for told in &restored {
        assert_eq!(told.damage, None, "{survive:?}");
    }
    assert!(told.state.full);
    let mut reached = told.flushed;
    for part in &told.held {
        if part.base <= reached {
            reached = reached.max(part.meta.span.end);
        }
    }
    let mut model = acknowledged.clone();
    let voided = told.state.history.last_epoch() > model.epoch();
    if voided {
        // The last state entry was written, but its acknowledgement was not seen.
        model.reopen();
    }
    assert!(reached >= model.tail(), "{survive:?}: {reached} is below {}", model.tail());
    let low = told.state.low_water.max(model.low_water).min(model.tail());
    if model.low_water <= low {
        model.check(&store, KEYS, &[model.tail().max(told.state.low_water)]);
    }
    // What was not acknowledged may be there: the next epoch voids it, and work goes on.
    model.vdl = model.parts.last().map_or(model.vdl, |(_, _, part)| part.meta.span);
    let state = model.reopen();
    store.append(&[(SEGMENT, LogEntry::State(state))]).expect("appends");
    let mut run = Run { model, acknowledged: None };
    for number in 100..112 {
        step(&store, &mut run, number).expect("goes on");
    }
    work_off(&store);
    run.model.check(&store, KEYS, &[Lsn::MAX]);
    store.verify(SEGMENT).expect("whole");
    // Nothing left over fills the disk.
    let used: u64 = disk.used_bytes();
    assert!(used < 400 << 10, "{used} bytes after little work");
}

#[test]
fn acknowledged_parts_survive_a_crash_at_every_sync_point() {
    let points = {
        let (disk, mut run) = (MemDisk::new(), start());
        workload(&disk, &mut run).expect("runs");
        assert!(run.model.parts.len() > 100);
        disk.sync_points()
    };
    assert!(points > 100, "{points} sync points");
    for point in 0..points {
        let (disk, mut run) = (MemDisk::new(), start());
        disk.freeze_at(point);
        workload(&disk, &mut run).expect_err("stops at the sync point");
        let modes = [
            Survive::Nothing,
            Survive::Everything,
            Survive::Prefix(512),
            Survive::Random(point),
            Survive::Random(point + 10_000),
        ];
        for survive in modes {
            check(&disk.crash(survive), &run, survive);
        }
    }
}

#[test]
fn a_torn_last_write_is_the_end_of_the_log_wherever_it_is_torn() {
    let prepare = || {
        let disk = MemDisk::new();
        let store = create(&disk, small());
        let mut run = start();
        for number in 0..4 {
            step(&store, &mut run, number).expect("runs");
        }
        let before = run.model.clone();
        let parts = (0..12).map(|i| (vec![apply(i % KEYS)], body(i, 700))).collect();
        let last = run.model.batch(parts);
        (disk, store, before, run.model, last)
    };
    let mut whole = Vec::new();
    for sectors in 0..=24 {
        let (disk, store, before, after, last) = prepare();
        disk.freeze_at(disk.sync_points());
        store.append(&[batch_entry(last)]).expect_err("frozen");
        let left = disk.crash(Survive::Prefix(sectors * 512));
        let (store, restored) = open(&left, small()).expect("opens");
        assert_eq!(restored[0].damage, None, "a torn tail is not damage");
        let held = restored[0].held.last().map(|part| part.meta.span.end);
        let held = held.unwrap_or(restored[0].flushed);
        let model = if held == after.tail() { &after } else { &before };
        assert_eq!(held, model.tail(), "all of the last write or nothing");
        whole.push(held == after.tail());
        model.check(&store, KEYS, &[Lsn::MAX]);
    }
    assert!(!whole[10] && whole[24] && whole.is_sorted(), "{whole:?}");
}

/// A segment copied from a peer, then another dropped and added again: every crash leaves the
/// segment as it was before or as it is after, and no rubbish.
#[test]
fn installs_and_drops_are_all_or_nothing() {
    let source = create(&MemDisk::new(), small());
    let mut run = start();
    for number in 0..16 {
        step(&source, &mut run, number).expect("runs");
    }
    source.flush_segment(SEGMENT).expect("flushes");
    let export = source.export(SEGMENT).expect("exports");
    let work = |disk: &MemDisk| -> Result<(), StoreError> {
        let store = try_create(disk, small())?;
        let state = segstore::SegmentState::default();
        store.add_segment(&spec(SEGMENT), &state)?;
        store.add_segment(&spec(OTHER), &first_state())?;
        let mut install = store.begin_install(SEGMENT, &export.manifest)?;
        while let Some(want) = install.want() {
            install.supply(&export.read(want.file, want.offset, want.length)?)?;
        }
        store.finish_install(install)?;
        store.drop_segment(OTHER)?;
        store.add_segment(&spec(OTHER), &first_state())?;
        while store.background()? {}
        Ok(())
    };
    let points = {
        let disk = MemDisk::new();
        work(&disk).expect("works");
        disk.sync_points()
    };
    for point in 0..points {
        let disk = MemDisk::new();
        disk.freeze_at(point);
        work(&disk).expect_err("stops at the sync point");
        for survive in [Survive::Nothing, Survive::Everything, Survive::Random(point)] {
            let left = disk.crash(survive);
            let (store, restored) = match open(&left, small()) {
                Ok(opened) => opened,
                Err(StoreError::Foreign(_)) => continue,
                Err(error) => panic!("{survive:?} at {point}: {error}"),
            };
            for told in &restored {
                assert_eq!(told.damage, None, "{survive:?} at {point}");
                store.verify(told.spec.segment).expect("whole");
                if told.flushed > Lsn::ZERO {
                    let mut model = run.model.clone();
                    model.parts.retain(|(_, _, part)| part.meta.span.end <= told.flushed);
                    model.check(&store, KEYS, &[told.flushed]);
                }
            }
            work_off(&store);
            for id in [SEGMENT, OTHER] {
                store.drop_segment(id).expect("drops");
                store.add_segment(&spec(id), &first_state()).expect("adds");
            }
            work_off(&store);
            let rest = env::Disk::list(&left, &dir().join("seg")).expect("lists");
            assert_eq!(rest.len(), 2, "{rest:?}");
            assert!(left.used_bytes() < 140 << 10, "{} bytes of rubbish", left.used_bytes());
        }
    }
}
