//! The low-priority thread: flushes, merges, recycles and drops for the store.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use crate::shared::Shared;

/// Rest when there is nothing to do.
const REST: Duration = Duration::from_millis(250);
/// Rest after a damaged file or a full disk stopped a unit of work.
const REST_AFTER_ERROR: Duration = Duration::from_secs(5);
/// Weight of background threads: about a tenth of what a foreground thread gets of a core that both want.
/// At 19 it would be a seventieth, and on a busy machine merges and mends stand still for minutes.
const NICE: i32 = 10;

/// Works until the node stops; with `hold`, only drops. An error is returned only when the store is
/// stopped for good.
pub(crate) fn run(shared: &Arc<Shared>, hold: bool) -> anyhow::Result<()> {
    yield_to_everybody();
    let mut said = None;
    while !shared.stopping() {
        let worked = match shared.next_to_drop() {
            Some(segment) => shared.store.drop_segment(segment).map(|()| true),
            None if hold => Ok(false),
            None => shared.store.background(),
        };
        let rest = match worked {
            Ok(true) => continue,
            Ok(false) => REST,
            Err(error) if shared.store.poisoned().is_some() => {
                return Err(error).context("background work");
            }
            Err(error) => {
                let why = Some(error.to_string());
                if said != why {
                    tracing::warn!(%error, "background work stopped short; it will be tried again");
                }
                said = why;
                REST_AFTER_ERROR
            }
        };
        thread::park_timeout(rest);
    }
    Ok(())
}

/// Best effort: without it the work is done all the same, only less politely.
pub(crate) fn yield_to_everybody() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::debug!(%error, "cannot lower a background thread's priority");
    }
}
