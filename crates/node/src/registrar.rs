//! Tells the control plane that this node lives and what it holds, every second, and learns which
//! segments it is to hold, where their other holders are, and which volumes were deleted. A control
//! plane that is away stops nothing.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use registry::{Client, NodeRegistered, NodeRegistration, ProblemCode};

use crate::mail::{LOG_LOOP, Mail, Post};
use crate::shared::Shared;

const INTERVAL: Duration = Duration::from_secs(1);

/// Registers until the node stops; `first` is the answer that the start got already, if any. An error
/// when the node must end: its disk is older than it was.
pub(crate) fn run(
    shared: &Arc<Shared>,
    post: &Post,
    client: &Client,
    registration: &NodeRegistration,
    first: Option<NodeRegistered>,
) -> anyhow::Result<()> {
    let mut answer = first;
    let mut reachable = true;
    // Until it is known that the disk was not older than before, it is told of as it was found.
    let mut taken = answer.is_some();
    // What the control plane told last, the number of it, and whether the log loop has yet to hear it.
    let (mut assigned, mut news, mut untold) = (None, None, false);
    while !shared.stopping() {
        if let Some(NodeRegistered { news: number, segments, deleted, .. }) = answer.take() {
            news = Some(number);
            if segments.is_some() && segments != assigned {
                (assigned, untold) = (segments, true);
            }
            if let Some(segments) = &assigned
                && (untold || shared.is_to_be_assigned_again())
            {
                untold = !post.post(LOG_LOOP, Mail::Assigned(segments.clone()));
            }
            // Told again as long as anything is left: a letter that is lost does no harm.
            if !deleted.is_empty() && !post.post(LOG_LOOP, Mail::Deleted(deleted)) {
                tracing::debug!("the log loop will be told of deleted volumes again");
            }
        }
        rest(shared, INTERVAL);
        if shared.stopping() {
            return Ok(());
        }
        let holds = Some(shared.holds());
        let log_life = if taken { Some(shared.store.life()) } else { registration.log_life };
        let disk_full = shared.metrics.disk_full.get() > 0;
        let now = NodeRegistration { holds, news, log_life, disk_full, ..registration.clone() };
        match client.register_node(&now) {
            Ok(registered) => {
                taken = true;
                if !reachable {
                    tracing::info!(control = client.address(), "control plane is back");
                }
                reachable = true;
                answer = Some(registered);
            }
            Err(error) if error.code() == Some(ProblemCode::OlderDisk) => {
                return Err(error).context("the control plane does not take this node any more");
            }
            Err(error) => {
                if reachable {
                    tracing::warn!(%error, "not registered; serving on, will keep trying");
                }
                reachable = false;
            }
        }
    }
    Ok(())
}

/// Sleeps, but wakes up for the end (the thread is unparked).
fn rest(shared: &Shared, time: Duration) {
    let until = Instant::now() + time;
    while !shared.stopping() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}
