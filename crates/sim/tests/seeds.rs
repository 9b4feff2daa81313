//! Every seed keeps every promise, a seed is a run, and an opening may be cut off anywhere.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::Sound;
use sim::run::{Counts, run, run_interrupted, run_neighbours, run_slow};

/// Plays `seeds` on two threads; what each comes to is handed to `add`.
fn play<T: Send>(seeds: u64, play: impl Fn(u64) -> T + Sync, add: impl FnMut(T) + Send) {
    let (next, add) = (AtomicU64::new(1), Mutex::new(add));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        break;
                    }
                    let outcome = play(seed);
                    (add.lock().expect("no seed panics while it adds"))(outcome);
                }
            });
        }
    });
}

#[test]
fn two_thousand_seeds_keep_every_promise() {
    let mut counts = Counts::default();
    let sound = |seed| match run::<Sound>(seed, false) {
        Ok(outcome) => outcome.counts,
        Err(failure) => panic!("{failure:#?}"),
    };
    play(2_000, sound, |one| counts += one);
    assert!(counts.promised > 100_000, "the seeds hardly write anything: {counts}");
    assert!(counts.served > 200_000, "the seeds hardly read anything: {counts}");
    assert!(counts.copies > 300, "the seeds hardly copy anything: {counts}");
    assert!(counts.hurts > 500, "the seeds hardly hurt a disk: {counts}");
    assert!(counts.mends > 50, "the seeds hardly mend anything: {counts}");
}

#[test]
fn a_seed_reproduces_its_run() {
    for seed in 1..=60 {
        let (one, two) = (run::<Sound>(seed, false), run::<Sound>(seed, false));
        assert_eq!(one, two, "seed {seed} took two courses");
    }
    let hash = |seed| run::<Sound>(seed, false).map(|outcome| outcome.hash);
    assert_ne!(hash(1), hash(2), "the hash tells runs apart");
}

#[test]
fn an_opening_may_be_cut_off_at_every_step() {
    let mut steps = 0;
    let cut_off = |seed| {
        let cut = |step: &u64| match run_interrupted::<Sound>(seed, *step) {
            Ok(reached) => reached,
            Err(failure) => panic!("cut off at step {step}: {failure:#?}"),
        };
        (1..200).take_while(cut).count()
    };
    play(24, cut_off, |one| steps += one);
    assert!(steps > 24 * 10, "openings were cut off at {steps} steps only");
}

#[test]
fn two_slow_members_of_six_slow_neither_writing_nor_an_opening() {
    let slow = |seed| {
        if let Err(failure) = run_slow::<Sound>(seed) {
            panic!("{failure:#?}");
        }
    };
    play(100, slow, |()| {});
}

#[test]
fn another_volume_on_every_node_is_kept_and_deleted_whatever_happens_to_the_first() {
    let (mut deletions, mut counts) = (0, Counts::default());
    let sound = |seed| match run_neighbours::<Sound>(seed) {
        Ok((outcome, deletions)) => (outcome.counts, deletions),
        Err(failure) => panic!("{failure:#?}"),
    };
    play(300, sound, |(one, deleted)| {
        counts += one;
        deletions += deleted;
    });
    assert!(counts.promised > 15_000, "the seeds hardly write anything: {counts}");
    assert!(deletions > 1_000, "{deletions} volumes were deleted");
}
