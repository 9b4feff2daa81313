//! One thread of a process held still, for good or most of the time, while its other threads go on: a node
//! whose syncs take two seconds, that is heard but acknowledges nothing, or the reverse.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

/// A thread held still until this is dropped.
pub struct Held {
    release: Arc<AtomicBool>,
    holder: Option<JoinHandle<()>>,
}

impl Held {
    /// Holds the process' thread of this name for `still` at a time, and lets it go on for `going` between.
    /// None, and the reason printed, where this process may not.
    ///
    /// # Errors
    /// When there is no such thread.
    pub fn thread(pid: u32, name: &str, still: Duration, going: Duration) -> Result<Option<Held>> {
        let thread = find(pid, name)?;
        let release = Arc::new(AtomicBool::new(false));
        let (said, hear) = channel();
        let until = Arc::clone(&release);
        // Who begins to trace a thread is the only one that may go on.
        let holder = std::thread::spawn(move || {
            while !until.load(Ordering::SeqCst) {
                match stop(thread) {
                    // Only the first is waited for.
                    Ok(()) => drop(said.send(Ok(()))),
                    Err(error) => return tell(&said, error),
                }
                wait(still, &until);
                detach(thread);
                wait(going, &until);
            }
        });
        match hear.recv().context("the holding thread ended")? {
            Ok(()) => Ok(Some(Held { release, holder: Some(holder) })),
            Err(error) => {
                eprintln!("skipped: no thread can be held here: {error}");
                Ok(None)
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release.store(true, Ordering::SeqCst);
        if self.holder.take().is_some_and(|holder| holder.join().is_err()) {
            eprintln!("the holding thread panicked");
        }
    }
}

fn tell(said: &Sender<io::Result<()>>, error: io::Error) {
    // Later on it means that the process has ended, and nobody listens.
    drop(said.send(Err(error)));
}

fn wait(time: Duration, until: &AtomicBool) {
    let began = Instant::now();
    while began.elapsed() < time && !until.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5).min(time));
    }
}

/// The number of a process' thread of this name.
pub(crate) fn find(pid: u32, name: &str) -> Result<libc::pid_t> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        if std::fs::read_to_string(path.join("comm"))?.trim_end() == name {
            let number = path.file_name().and_then(|number| number.to_str());
            return Ok(number.context("a thread's number")?.parse()?);
        }
    }
    Err(anyhow!("process {pid} has no thread {name}"))
}

/// Begins to trace a thread, and stops it.
pub(crate) fn stop(thread: libc::pid_t) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, thread, 0)?;
    request(libc::PTRACE_INTERRUPT, thread, 0)?;
    wait_for_stop(thread).map(drop)
}

/// What has become of a thread that is traced, once that is known.
pub(crate) fn wait_for_stop(thread: libc::pid_t) -> io::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one integer, which is ours.
    if unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } == thread {
        Ok(status)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn detach(thread: libc::pid_t) {
    if let Err(error) = request(libc::PTRACE_DETACH, thread, 0) {
        eprintln!("a thread that was held has ended: {error}");
    }
}

/// One request of ptrace(2) with what it takes: a number, or the address of registers.
pub(crate) fn request(request: libc::c_uint, thread: libc::pid_t, with: usize) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the requests made here write no memory of ours but the registers that they are given.
    match unsafe { libc::ptrace(request, thread, nothing, with) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
