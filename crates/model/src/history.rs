//! Which records are live: a history is named by its last epoch, whose recovery decided where it
//! begins and which history it goes on from.

use crate::state::{Epoch, Log, State, index};

/// The epochs of a history, newest first.
pub fn epochs(state: &State, last: Epoch) -> impl Iterator<Item = Epoch> {
    let before = |epoch: &Epoch| Some(state.instances[index(*epoch)].before).filter(|e| *e > 0);
    std::iter::successors(Some(last).filter(|epoch| *epoch > 0), before)
}

fn begins(state: &State, epoch: Epoch) -> u8 {
    state.instance(epoch).decided.len()
}

/// Whether a record is live: no later epoch of the history began at or below it.
#[must_use]
pub fn is_live(state: &State, history: Epoch, epoch: Epoch, position: u8) -> bool {
    !epochs(state, history).any(|later| later > epoch && begins(state, later) <= position)
}

/// The records of a log up to the first that a history voids.
#[must_use]
pub fn live(state: &State, history: Epoch, log: Log) -> Log {
    let live = |position: &u8| is_live(state, history, log.at(*position), *position);
    log.first((0..log.len()).take_while(live).count() as u8)
}

/// Where the first of those epochs begins that `newer` adds to what both histories share.
#[must_use]
pub fn added_begin(state: &State, older: Epoch, newer: Epoch) -> u8 {
    let shared = |epoch: &Epoch| epochs(state, older).any(|known| known == *epoch);
    let added = epochs(state, newer).filter(|epoch| !shared(epoch));
    added.map(|epoch| begins(state, epoch)).min().unwrap_or(u8::MAX)
}
