//! Whole state spaces are explored: no promise is broken in any, and each planted bug breaks one.
//!
//! Sizes and times are printed with `--nocapture`. The large spaces are explored by
//! `cargo test --release -p sixfold-model -- --ignored`.

use std::time::Instant;

use model::{Bounds, Bug, State, Step, broken, steps};
use stateright::{Checker, Model, Property};

struct Explored {
    bounds: Bounds,
    first: State,
}

impl Model for Explored {
    type State = State;
    type Action = (Step, State);

    fn init_states(&self) -> Vec<State> {
        vec![self.first]
    }

    fn actions(&self, state: &State, actions: &mut Vec<(Step, State)>) {
        steps(&self.bounds, state, |step, next| actions.push((step, next)));
    }

    fn next_state(&self, _: &State, (_, next): (Step, State)) -> Option<State> {
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(PROMISES, |_, state| broken(state).is_none())]
    }
}

const PROMISES: &str = "every promise is kept";

/// Explores breadth first, to this many steps or to the end: how many states there are, and the steps to
/// the first broken promise.
fn explore(first: State, bounds: Bounds, steps_max: Option<usize>) -> (usize, Option<Vec<Step>>) {
    let begin = Instant::now();
    let mut builder = Explored { bounds, first }.checker();
    match steps_max {
        // One thread: several do not take states in the order of their distance. The checker looks at
        // states nearer than this depth, and the first one's is one.
        Some(steps) => builder = builder.target_max_depth(steps + 2),
        None => builder = builder.threads(2),
    }
    let checker = builder.spawn_bfs().join();
    let states = checker.unique_state_count();
    // What lies behind the last step that was taken was met, and not looked at.
    let steps = (checker.max_depth() - 1).min(steps_max.unwrap_or(usize::MAX));
    let seconds = begin.elapsed().as_secs_f64();
    println!("{bounds:?}: {states} states, {steps} steps, {seconds:.1} s");
    let path = checker.discovery(PROMISES);
    let taken = path.map(|path| path.into_actions().into_iter().map(|(step, _)| step).collect());
    (states, taken)
}

fn sound(first: State, bounds: Bounds, steps_max: Option<usize>, states: usize) {
    let (found, broken) = explore(first, bounds, steps_max);
    assert_eq!(broken, None, "{bounds:?}");
    assert_eq!(found, states, "{bounds:?}: as many states as are on record");
}

fn caught(bug: Bug, first: State, bounds: Bounds, steps_max: usize) {
    let (_, broken) = explore(first, Bounds { bug: Some(bug), ..bounds }, Some(steps_max));
    println!("{bug:?}: {broken:?}");
    assert!(broken.is_some(), "{bug:?} breaks nothing within {steps_max} steps");
}

/// What the first epoch's writer does, one step after the other: how a start is described.
struct Story {
    bounds: Bounds,
    state: State,
}

impl Story {
    fn new(bounds: Bounds) -> Story {
        Story { bounds, state: State::first().sorted() }
    }

    /// Takes the step, of those that may be taken and fit, that is found last.
    fn take(mut self, times: usize, fits: impl Fn(&State, &Step, &State) -> bool) -> Story {
        for _ in 0..times {
            let mut chosen = None;
            steps(&self.bounds, &self.state, |step, next| {
                if fits(&self.state, &step, &next) {
                    chosen = Some(next);
                }
            });
            self.state = chosen.expect("the story may go on");
        }
        self
    }
}

/// One record, held and acknowledged by exactly four.
fn acknowledged(bounds: Bounds) -> State {
    held_by(4, bounds)
}

/// The same, or held by fewer, and a recovery has begun.
fn opening(copies: usize, bounds: Bounds) -> State {
    let story = Story { bounds, state: held_by(copies, bounds) };
    story.take(1, |_, step, _| matches!(step, Step::Open)).state
}

/// One record, held by exactly so many.
fn held_by(copies: usize, bounds: Bounds) -> State {
    Story::new(bounds).take(copies, first_record).state
}

/// Two places are joint, the writer knows, and the joining holders take part.
fn joint(bounds: Bounds) -> Story {
    let alone = |_: &State, step: &Step, _: &State| matches!(step, Step::Join(_));
    let story = Story::new(bounds).take(2, alone);
    let known = story.take(1, |_, step, _| matches!(step, Step::Members(1)));
    known.take(6, |_, step, _| matches!(step, Step::Hear(..)))
}

/// The same, and the joining holders are full.
fn joint_and_full(bounds: Bounds) -> Story {
    joint(bounds).take(2, |_, step, _| matches!(step, Step::Announce(1, _)))
}

/// The same, and a record that is not durable: the joining holders have it, those whose places they
/// are to take do not, and two others have it.
fn joint_and_torn(bounds: Bounds) -> State {
    let at = |joint: bool| {
        move |state: &State, step: &Step, next: &State| match step {
            Step::Append(1, (place, number)) => {
                let seat = state.places[*place].now;
                let fits = seat.joining.is_some_and(|joining| joining == *number) == joint;
                fits && (joint || seat.joining.is_none()) && first_record(state, step, next)
            }
            _ => false,
        }
    };
    joint_and_full(bounds).take(2, at(true)).take(2, at(false)).state
}

fn first_record(state: &State, step: &Step, _: &State) -> bool {
    match step {
        Step::Append(1, who) => state.copy(*who).is_some_and(|copy| copy.log.is_empty()),
        _ => false,
    }
}

/// A second epoch is open, four follow it; one sleeps and holds two records of the first that are void.
fn sleeper(bounds: Bounds) -> State {
    let one = |state: &State, step: &Step, next: &State| match step {
        // The first record of all, or the second to whoever has the first.
        Step::Append(1, who) => {
            let had = state.copy(*who).map(|copy| copy.log.len());
            let most = state.places.iter().flat_map(|place| place.copies.iter().flatten());
            most.map(|copy| copy.log.len()).max() == had && next.instances[0].sent <= 2
        }
        _ => false,
    };
    let awake = |state: &State, step: &Step, _: &State| match step {
        Step::Seal(2, place) => state.present(*place).is_some_and(|copy| copy.log.is_empty()),
        Step::Adopt(2, who) => state.copy(*who).is_some_and(|copy| copy.sealed == 2),
        _ => false,
    };
    let story = Story::new(bounds).take(2, one);
    let story = story.take(1, |_, step, _| matches!(step, Step::Open)).take(4, awake);
    let story = story.take(1, |_, step, _| matches!(step, Step::Decide(2, _)));
    story.take(4, awake).state
}

fn bounds(epochs: u8, positions: u8, wipes: u8, joins: u8) -> Bounds {
    Bounds { epochs, positions, wipes, joins, bug: None }
}

fn first() -> State {
    State::first().sorted()
}

#[test]
fn two_writers_of_two_positions_keep_every_promise() {
    sound(first(), bounds(2, 2, 0, 0), None, 45_905);
}

#[test]
fn three_writers_keep_every_promise() {
    sound(first(), bounds(3, 1, 0, 0), None, 562_548);
}

#[test]
fn a_wiped_member_breaks_no_promise() {
    sound(first(), bounds(2, 1, 1, 0), None, 129_880);
}

#[test]
fn a_member_that_joins_breaks_no_promise() {
    sound(first(), bounds(2, 1, 0, 1), Some(12), 198_029);
}

#[test]
fn two_wiped_members_lose_no_acknowledged_record() {
    let bounds = bounds(2, 1, 2, 0);
    sound(acknowledged(bounds), bounds, Some(11), 141_667);
}

#[test]
fn two_joint_places_break_no_promise() {
    let bounds = bounds(2, 1, 0, 2);
    sound(joint(bounds).state, bounds, Some(8), 89_750);
    sound(joint_and_full(bounds).state, bounds, Some(8), 30_360);
    sound(joint_and_torn(bounds), bounds, Some(8), 14_696);
}

#[test]
fn a_sleeper_breaks_no_promise() {
    let bounds = bounds(3, 2, 0, 0);
    sound(sleeper(bounds), bounds, Some(12), 118_855);
}

#[test]
#[ignore = "two million states"]
fn a_member_that_joins_breaks_no_promise_to_the_end() {
    sound(first(), bounds(2, 1, 0, 1), None, 2_085_791);
}

#[test]
#[ignore = "millions of states"]
fn two_wiped_members_break_no_promise() {
    sound(first(), bounds(2, 1, 2, 0), Some(13), 522_190);
}

#[test]
#[ignore = "millions of states"]
fn a_member_that_joins_while_another_is_wiped_breaks_no_promise() {
    sound(first(), bounds(2, 1, 1, 1), Some(12), 4_362_559);
}

#[test]
#[ignore = "millions of states"]
fn two_joint_places_break_no_promise_for_longer() {
    let bounds = bounds(2, 1, 0, 2);
    sound(joint(bounds).state, bounds, Some(11), 710_580);
    sound(joint_and_full(bounds).state, bounds, Some(12), 450_604);
    sound(joint_and_torn(bounds), bounds, Some(12), 164_787);
}

#[test]
#[ignore = "millions of states"]
fn three_writers_of_two_positions_break_no_promise() {
    sound(first(), bounds(3, 2, 0, 0), Some(16), 826_319);
}

#[test]
fn three_copies_for_a_write_quorum_are_noticed() {
    caught(Bug::ThreeForAQuorum, first(), bounds(2, 1, 0, 0), 10);
}

#[test]
fn a_member_that_refuses_nobody_is_noticed() {
    caught(Bug::NoFence, first(), bounds(2, 1, 0, 0), 12);
}

#[test]
fn a_rebuilding_member_that_decides_is_noticed() {
    let bounds = bounds(2, 1, 2, 0);
    caught(Bug::RebuildingDecides, opening(4, bounds), bounds, 13);
}

#[test]
fn a_wiped_member_that_forgets_seals_is_noticed() {
    let bounds = bounds(2, 1, 2, 0);
    caught(Bug::WipedForgetsSeals, opening(3, bounds), bounds, 10);
}

#[test]
fn a_member_that_is_full_too_early_is_noticed() {
    let bounds = bounds(2, 1, 2, 0);
    caught(Bug::FullTooEarly, opening(4, bounds), bounds, 13);
}

#[test]
fn a_sleeper_measured_by_its_own_history_is_noticed() {
    let bounds = bounds(3, 2, 0, 0);
    caught(Bug::OwnHistory, sleeper(bounds), bounds, 12);
}

#[test]
fn members_replaced_without_overlap_are_noticed() {
    let bounds = bounds(2, 1, 0, 2);
    caught(Bug::NoOverlap, acknowledged(bounds), bounds, 10);
}

#[test]
fn a_joint_place_counted_by_its_joining_holder_is_noticed() {
    let bounds = bounds(2, 1, 0, 2);
    caught(Bug::JoiningCountsAlone, joint(bounds).state, bounds, 12);
}

#[test]
fn a_place_given_on_the_word_of_an_overtaken_writer_is_noticed() {
    let bounds = bounds(2, 1, 0, 2);
    caught(Bug::OvertakenWord, joint_and_torn(bounds), bounds, 11);
}
