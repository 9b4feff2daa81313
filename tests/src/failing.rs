//! One write or sync of a running process that fails, as a disk's would: the system call is not made, its
//! thread is told of an input/output error, and every later one works.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::cluster::PATIENCE;
use crate::hold;

/// What is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// A write that is durable when it returns: the hot log's.
    DurableWrite,
    /// A file's or a directory's sync.
    Sync,
}

impl Failing {
    fn is(self, call: i64) -> bool {
        match self {
            Failing::DurableWrite => call == libc::SYS_pwritev2,
            Failing::Sync => call == libc::SYS_fdatasync || call == libc::SYS_fsync,
        }
    }
}

/// Makes the next such call of the process' thread of this name fail, and waits until it has. False, and
/// the reason printed, where this process may not.
///
/// # Errors
/// When there is no such thread, or it makes no such call.
pub fn fail_once(pid: u32, name: &str, what: Failing) -> Result<bool> {
    let thread = hold::find(pid, name)?;
    let (late, (said, hear)) = (Arc::new(AtomicBool::new(false)), channel());
    let given_up = Arc::clone(&late);
    // Who begins to trace a thread is the only one that may go on.
    let tracer = std::thread::spawn(move || {
        if let Err(error) = hold::stop(thread) {
            drop(said.send(Some(error)));
            return Ok(());
        }
        drop(said.send(None));
        fail_next(thread, what, &given_up)
    });
    if let Some(error) = hear.recv().context("the tracing thread ended")? {
        eprintln!("skipped: no system call can be made to fail here: {error}");
        return Ok(false);
    }
    let begun = Instant::now();
    while !tracer.is_finished() {
        // A thread that waits for events comes to no call; it is only left alone.
        if begun.elapsed() > PATIENCE {
            late.store(true, Ordering::SeqCst);
            return Err(anyhow!("thread {name} of process {pid} makes no {what:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    tracer.join().map_err(|_| anyhow!("the tracing thread panicked"))??;
    Ok(true)
}

/// Follows a stopped thread from one system call to the next.
fn fail_next(thread: libc::pid_t, what: Failing, given_up: &AtomicBool) -> Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD as usize;
    hold::request(libc::PTRACE_SETOPTIONS, thread, options)?;
    let mut signal = 0;
    loop {
        signal = match next_stop(thread, signal)? {
            Stop::Call => {
                let mut registers = registers(thread)?;
                if entered(&registers) && what.is(registers.orig_rax.cast_signed()) {
                    registers.orig_rax = u64::MAX; // no call
                    set_registers(thread, &registers)?;
                    ensure!(matches!(next_stop(thread, 0)?, Stop::Call), "no end of the call");
                    registers.rax = i64::from(-libc::EIO).cast_unsigned();
                    set_registers(thread, &registers)?;
                    break;
                }
                0
            }
            Stop::Signal(signal) => signal,
        };
        if given_up.load(Ordering::SeqCst) {
            break;
        }
    }
    Ok(hold::request(libc::PTRACE_DETACH, thread, 0)?)
}

enum Stop {
    /// Before or after a system call.
    Call,
    /// By this signal; none for the tracer's own.
    Signal(usize),
}

fn next_stop(thread: libc::pid_t, signal: usize) -> Result<Stop> {
    hold::request(libc::PTRACE_SYSCALL, thread, signal)?;
    let status = hold::wait_for_stop(thread)?;
    ensure!(libc::WIFSTOPPED(status), "the thread has ended");
    Ok(match (status >> 16, libc::WSTOPSIG(status)) {
        (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        (0, signal) => Stop::Signal(usize::try_from(signal)?),
        _ => Stop::Signal(0),
    })
}

/// Whether the thread is about to make its call: the result is preset.
fn entered(registers: &libc::user_regs_struct) -> bool {
    registers.rax.cast_signed() == i64::from(-libc::ENOSYS)
}

fn registers(thread: libc::pid_t) -> io::Result<libc::user_regs_struct> {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    hold::request(libc::PTRACE_GETREGS, thread, registers.as_mut_ptr() as usize)?;
    // SAFETY: numbers only, for which zeros are values too.
    Ok(unsafe { registers.assume_init() })
}

fn set_registers(thread: libc::pid_t, registers: &libc::user_regs_struct) -> io::Result<()> {
    hold::request(libc::PTRACE_SETREGS, thread, std::ptr::from_ref(registers) as usize)
}
