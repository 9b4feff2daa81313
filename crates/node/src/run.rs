//! The `sixfold node` process: the PostgreSQL engine, the real disk, signals.

use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use env::RealDisk;

use crate::config::NodeConfig;
use crate::node::Node;

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or must end because its disk failed (it no longer acknowledges then).
pub fn run(config: &NodeConfig) -> anyhow::Result<()> {
    telemetry::init_logging("node", config.name.as_str())?;
    telemetry::stop_on_panic();
    let signals = block_signals().context("cannot block signals")?;
    let node = Node::start(config, Arc::new(RealDisk), Arc::new(redo::Postgres))?;
    let stopper = node.stopper();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let signal = wait_for_signal(&signals);
            tracing::info!(signal, "stopping");
            stopper.stop();
        })
        .context("cannot start the signals thread")?;
    node.wait()
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
