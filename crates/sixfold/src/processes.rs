//! Processes of this machine as `/proc` shows them: who lives, who works in a directory, signals.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// One process: its number and when it started, so that a number given out again is not mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub pid: u32,
    pub started: u64,
}

impl Process {
    /// The process with this number, if it lives (a dead one that nobody has collected does not).
    pub fn find(pid: u32) -> Option<Process> {
        let stat = stat(pid)?;
        // The first thread may be dead while others still hold sockets, locks and memory.
        let gone = matches!(stat.state, 'Z' | 'X') && stat.threads <= 1;
        (!gone).then_some(Process { pid, started: stat.started })
    }

    /// A child of this process that it has not collected yet: it may have ended already.
    pub fn of_child(pid: u32) -> Option<Process> {
        stat(pid).map(|stat| Process { pid, started: stat.started })
    }

    /// What the pid file says, if that process still lives.
    pub fn from_file(path: &Path) -> Option<Process> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let written = Process { pid: pid.parse().ok()?, started: started.parse().ok()? };
        (Process::find(written.pid) == Some(written)).then_some(written)
    }

    /// Writes the pid file.
    pub fn write_file(self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, format!("{} {}\n", self.pid, self.started))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether it lives.
    pub fn lives(self) -> bool {
        Process::find(self.pid) == Some(self)
    }

    /// Whether it stands still (SIGSTOP).
    pub fn is_stopped(self) -> bool {
        stat(self.pid).is_some_and(|stat| matches!(stat.state, 'T' | 't'))
    }

    /// Sends a signal; true unless the process is gone.
    pub fn signal(self, signal: Signal) -> anyhow::Result<bool> {
        if !self.lives() {
            return Ok(false);
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        match kill_process(pid.context("a process number is positive")?, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(Errno::PERM) => bail!(
                "not allowed to signal process {}; run this as the user who started the cluster",
                self.pid
            ),
            Err(error) => Err(error).with_context(|| format!("cannot signal process {}", self.pid)),
        }
    }
}

/// What `/proc/PID/stat` says, as far as it matters here.
struct Stat {
    state: char,
    threads: u64,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything; the rest follows the last one,
    // beginning with field 3, the state. Field 20 is the number of threads, 22 the start time.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse().ok();
    let state = fields.first()?.chars().next()?;
    Some(Stat { state, threads: number(20)?, started: number(22)? })
}

/// Programs that work in an instance's directory on our behalf.
pub(crate) const INSTANCE_PROGRAMS: &[&str] = &["sixfold", "postgres", "initdb"];

/// Every living process but this one that runs one of `programs` with its working directory at or
/// below `dir`. An operator's shell or editor there is not one of them.
pub(crate) fn working_in(dir: &Path, programs: &[&str]) -> Vec<Process> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let link = |pid: u32, what: &str| fs::read_link(format!("/proc/{pid}/{what}"));
    let is_wanted = |pid: &u32| {
        *pid != std::process::id()
            && link(*pid, "cwd").is_ok_and(|cwd| cwd.starts_with(&dir))
            && link(*pid, "exe").is_ok_and(|exe| runs(&exe, programs))
    };
    pids.filter(is_wanted).filter_map(Process::find).collect()
}

fn runs(exe: &Path, programs: &[&str]) -> bool {
    // A program that was rebuilt meanwhile shows as deleted.
    let name = exe.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    programs.contains(&name.trim_end_matches(" (deleted)"))
}

/// Waits until none of what `look` finds is left; false when `limit` is over first.
pub(crate) fn wait_gone(limit: Duration, look: impl Fn() -> Vec<Process>) -> bool {
    let begun = Instant::now();
    while !look().is_empty() {
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Signals whatever `look` finds until it finds nobody who was not signalled yet: processes that
/// are forked meanwhile are caught, too.
pub(crate) fn signal_all(signal: Signal, look: impl Fn() -> Vec<Process>) -> anyhow::Result<usize> {
    let mut told: Vec<Process> = Vec::new();
    loop {
        let new: Vec<Process> = look().into_iter().filter(|p| !told.contains(p)).collect();
        if new.is_empty() {
            return Ok(told.len());
        }
        for process in new {
            process.signal(signal)?;
            told.push(process);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_is_found_by_its_directory_stopped_woken_and_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child =
            Command::new("sleep").arg("60").current_dir(dir.path()).spawn().expect("started");
        let look = || working_in(dir.path(), &["sleep"]);
        assert!(working_in(dir.path(), INSTANCE_PROGRAMS).is_empty(), "not ours to signal");
        assert_eq!(look().iter().map(|p| p.pid).collect::<Vec<_>>(), [child.id()]);
        let process = look()[0];
        assert_eq!(signal_all(Signal::STOP, look).expect("ours"), 1);
        let begun = Instant::now();
        while !process.is_stopped() {
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
        signal_all(Signal::KILL, look).expect("ours");
        assert!(wait_gone(Duration::from_secs(5), look), "a zombie counts as gone");
        child.wait().expect("collected");
        assert!(!process.signal(Signal::KILL).expect("gone"));
    }

    #[test]
    fn a_pid_file_of_another_life_is_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.pid");
        let me = Process::find(std::process::id()).expect("alive");
        me.write_file(&path).expect("written");
        assert_eq!(Process::from_file(&path), Some(me));
        Process { started: me.started + 1, ..me }.write_file(&path).expect("written");
        assert_eq!(Process::from_file(&path), None);
    }
}
