//! Every seed keeps every promise, a seed is a run, and an opening may be cut off anywhere.

use std::sync::atomic::{AtomicU64, Ordering};

use protocol::Sound;
use sim::run::{run, run_interrupted};

/// Runs `seeds` on two threads; what `play` returns for each is summed.
fn sum(seeds: u64, play: impl Fn(u64) -> u64 + Sync) -> u64 {
    let (next, total) = (AtomicU64::new(1), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        break;
                    }
                    total.fetch_add(play(seed), Ordering::Relaxed);
                }
            });
        }
    });
    total.into_inner()
}

#[test]
fn two_thousand_seeds_keep_every_promise() {
    let (served, copies) = (AtomicU64::new(0), AtomicU64::new(0));
    let promised = sum(2_000, |seed| match run::<Sound>(seed, false) {
        Ok(outcome) => {
            served.fetch_add(outcome.served, Ordering::Relaxed);
            copies.fetch_add(outcome.copies, Ordering::Relaxed);
            outcome.promised as u64
        }
        Err(failure) => panic!("{failure:#?}"),
    });
    let (served, copies) = (served.into_inner(), copies.into_inner());
    assert!(promised > 100_000, "the seeds hardly write anything: {promised} records");
    assert!(served > 200_000, "the seeds hardly read anything: {served} pages");
    assert!(copies > 300, "the seeds hardly copy anything: {copies} copies");
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
    let steps = sum(24, |seed| {
        let cut = |step: &u64| match run_interrupted::<Sound>(seed, *step) {
            Ok(reached) => reached,
            Err(failure) => panic!("cut off at step {step}: {failure:#?}"),
        };
        (1..200).take_while(cut).count() as u64
    });
    assert!(steps > 24 * 10, "openings were cut off at {steps} steps only");
}
