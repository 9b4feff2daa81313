//! The `sixfold node` process: the PostgreSQL engine, the real disk, signals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context as _;
use env::RealDisk;

use crate::config::NodeConfig;
use crate::node::{Node, Stopper};

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or must end because its disk failed (it no longer acknowledges then).
pub fn run(config: &NodeConfig) -> anyhow::Result<()> {
    telemetry::init_logging("node", config.name.as_str())?;
    telemetry::stop_on_panic();
    let signals = block_signals().context("cannot block signals")?;
    let order = Arc::new(StopOrder::default());
    let ordered = Arc::clone(&order);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || ordered.give(wait_for_signal(&signals)))
        .context("cannot start the signals thread")?;
    let stopping = || order.given.load(Ordering::Acquire);
    let started =
        Node::start_unless(config, Arc::new(RealDisk), Arc::new(redo::Postgres), &stopping);
    match started {
        Ok(node) => {
            order.hand_to(node.stopper());
            node.wait()
        }
        Err(_) if stopping() => Ok(()),
        Err(error) => Err(error),
    }
}

/// A signal's order to stop, which may come before there is a node to be stopped.
#[derive(Default)]
struct StopOrder {
    given: AtomicBool,
    to: Mutex<Option<Stopper>>,
}

impl StopOrder {
    fn give(&self, signal: i32) {
        tracing::info!(signal, "stopping");
        let to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        self.given.store(true, Ordering::Release);
        to.iter().for_each(Stopper::stop);
    }

    fn hand_to(&self, stopper: Stopper) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if self.given.load(Ordering::Acquire) {
            stopper.stop();
        }
        *to = Some(stopper);
    }
}

/// Keeps SIGTERM and SIGINT for [`wait_for_signal`], in this thread and those it starts.
#[expect(unsafe_code, reason = "no safe wrapper among our dependencies")]
fn block_signals() -> std::io::Result<libc::sigset_t> {
    // SAFETY: `set` is a plain C value that sigemptyset initialises before any other use; the
    // pointers are to locals that outlive the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(set),
            error => Err(std::io::Error::from_raw_os_error(error)),
        }
    }
}

#[expect(unsafe_code, reason = "no safe wrapper among our dependencies")]
fn wait_for_signal(set: &libc::sigset_t) -> i32 {
    let mut signal = 0;
    // SAFETY: both pointers are to live values; sigwait fails only for an invalid set, which this
    // is not.
    unsafe { libc::sigwait(set, &mut signal) };
    signal
}
