//! Tells the control plane that this node lives and what it holds, every second, and learns which
//! segments it is to hold, where their other holders are, and which volumes were deleted. A control
//! plane that is away stops nothing.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use registry::{Client, NodeRegistered, NodeRegistration};

use crate::mail::{LOG_LOOP, Mail, Post};
use crate::shared::Shared;

const INTERVAL: Duration = Duration::from_secs(1);

/// Registers until the node stops; `first` is the answer that the start got already, if any.
pub(crate) fn run(
    shared: &Arc<Shared>,
    post: &Post,
    client: &Client,
    registration: &NodeRegistration,
    first: Option<NodeRegistered>,
) {
    let mut answer = first;
    let mut reachable = true;
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
            return;
        }
        let holds = Some(shared.holds());
        match client.register_node(&NodeRegistration { holds, news, ..registration.clone() }) {
            Ok(registered) => {
                if !reachable {
                    tracing::info!(control = client.address(), "control plane is back");
                }
                reachable = true;
                answer = Some(registered);
            }
            Err(error) => {
                if reachable {
                    tracing::warn!(%error, "not registered; serving on, will keep trying");
                }
                reachable = false;
            }
        }
    }
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
