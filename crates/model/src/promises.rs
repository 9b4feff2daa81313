//! What must hold in every state.

use crate::state::{Epoch, Instance, Log, Phase, State};

/// What an epoch's writer has written and taken over, as far as it sent it.
fn written(epoch: Epoch, instance: &Instance) -> Log {
    let mut log = instance.decided;
    while log.len() < instance.sent {
        log.push(epoch);
    }
    log
}

/// The first promise that does not hold.
#[must_use]
pub fn broken(state: &State) -> Option<&'static str> {
    let decided = |instance: &Instance| instance.phase >= Phase::Adopting;
    for newer in 2..=state.epoch {
        let of = state.instance(newer);
        if !decided(of) {
            continue;
        }
        for older in 1..newer {
            let writer = state.instance(older);
            if writer.durable > of.decided.len() {
                return Some("an acknowledged record is lost, or a fenced writer acknowledged it");
            }
            if !written(older, writer).agrees(of.decided, writer.durable) {
                return Some("an acknowledged record was replaced by another");
            }
        }
    }
    None
}
