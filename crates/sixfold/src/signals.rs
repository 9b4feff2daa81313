//! SIGTERM and SIGINT as a count that loops look at; a supervisor's end as a SIGTERM.

#![expect(unsafe_code, reason = "installing a signal handler is a foreign call")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open};

static REQUESTS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: libc::c_int) {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
}

/// From now on SIGTERM and SIGINT are only counted.
pub(crate) fn install() -> anyhow::Result<()> {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only adds to an atomic, which is async-signal-safe.
        let before = unsafe { libc::signal(signal, count as *const () as libc::sighandler_t) };
        if before == libc::SIG_ERR {
            bail!("cannot handle signal {signal}: {}", std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// How often the process was asked to stop.
pub(crate) fn requests() -> u32 {
    REQUESTS.load(Ordering::Relaxed)
}

/// Waits until the process is asked to stop.
pub(crate) fn wait() {
    while requests() == 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks this process to stop `grace` after process `supervisor` has ended, and ends it by force
/// `patience` later. Survives a change of user, unlike the kernel's parent-death signal.
pub(crate) fn follow(supervisor: u32, grace: Duration, patience: Duration) -> anyhow::Result<()> {
    let pid = i32::try_from(supervisor).ok().and_then(Pid::from_raw).context("--supervisor")?;
    let watched = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(watched) => watched,
        Err(error) => bail!("the supervisor, process {supervisor}, is gone: {error}"),
    };
    let work = move || {
        while poll(&mut [PollFd::new(&watched, PollFlags::IN)], None).is_err() {}
        std::thread::sleep(grace);
        tracing::warn!(supervisor, "the supervisor is gone, stopping");
        if let Err(error) = kill_process(getpid(), Signal::TERM) {
            tracing::error!(%error, "cannot signal myself");
        }
        std::thread::sleep(patience);
        std::process::exit(1);
    };
    with_signals_blocked(|| std::thread::Builder::new().name("supervisor".to_owned()).spawn(work))?
        .context("cannot start a thread")?;
    Ok(())
}

/// Runs `work` with SIGTERM and SIGINT blocked in this thread, so that a thread it starts never takes
/// them: the process may wait for them elsewhere.
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> anyhow::Result<T> {
    let failed = |code: libc::c_int| match code {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code)).context("cannot block signals"),
    };
    // SAFETY: both sets are plain C values, initialised by sigemptyset or by pthread_sigmask before
    // they are read; the pointers are to locals that outlive the calls.
    unsafe {
        let (mut set, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        failed(libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before))?;
        let result = work();
        failed(libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()))?;
        Ok(result)
    }
}
