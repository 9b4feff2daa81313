//! The simulator notices bugs: each planted one is caught within a bounded number of seeds.

use sim::planted::run_with;

fn caught(name: &str, within: u64) {
    for seed in 1..=within {
        match run_with(Some(name), seed, false) {
            Some(Ok(_)) => {}
            Some(Err(failure)) => {
                println!("{name}: seed {seed}, {} us: {}", failure.at, failure.what);
                return;
            }
            None => panic!("no planted bug is called {name}"),
        }
    }
    panic!("{name} was not noticed in {within} seeds");
}

#[test]
fn three_copies_for_a_write_quorum_are_noticed() {
    caught("ack-at-three", 500);
}

#[test]
fn a_skipped_epoch_check_is_noticed() {
    caught("skip-epoch-check", 50);
}

#[test]
fn an_acknowledgement_before_the_sync_is_noticed() {
    caught("ack-before-sync", 1_500);
}

#[test]
fn an_scl_from_before_the_seal_is_noticed() {
    caught("trust-stale-scl", 100);
}

#[test]
fn a_forgotten_group_of_a_shared_record_is_noticed() {
    caught("forget-sharer", 300);
}

#[test]
fn a_sleeper_measured_by_its_own_history_is_noticed() {
    caught("trust-sleeper", 1_500);
}

#[test]
fn the_word_of_a_copy_that_was_given_up_is_noticed() {
    caught("any-copy", 300);
}
