//! SIGTERM and SIGINT as a flag that the supervisor looks at.

#![expect(unsafe_code, reason = "installing a signal handler is a foreign call")]

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED_TO_STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    ASKED_TO_STOP.store(true, Ordering::Relaxed);
}

/// From now on SIGTERM and SIGINT only set the flag.
pub fn install() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        let previous = unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
        if previous == libc::SIG_ERR {
            tracing::error!(signal, "cannot handle the signal; it will end the process at once");
        }
    }
}

/// Whether the process was asked to stop.
#[must_use]
pub fn asked_to_stop() -> bool {
    ASKED_TO_STOP.load(Ordering::Relaxed)
}

/// An error once the process was asked to stop.
///
/// # Errors
/// Then.
pub fn check_stop() -> anyhow::Result<()> {
    if asked_to_stop() {
        anyhow::bail!("asked to stop");
    }
    Ok(())
}
