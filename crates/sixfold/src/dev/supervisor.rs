//! The parent of all: starts members, collects the dead, hears `dev start`, stops in order.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper, wait};

use super::layout::{Layout, Saved};
use super::member::{self, Member, Role};
use super::request;
use crate::processes::{Process, signal_all};
use crate::say::say;
use crate::signals;

/// How long the instance may take to stop in order before it is killed: nothing is lost by that.
const INSTANCE_STOPS_WITHIN: Duration = Duration::from_secs(40);
/// The same for the others, which have less to do.
const OTHERS_STOP_WITHIN: Duration = Duration::from_secs(10);
const TURN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The running cluster.
pub(crate) struct Supervisor {
    pub layout: Layout,
    pub saved: Saved,
    socket: UnixListener,
    children: BTreeMap<u32, Member>,
    /// How the last process of a member ended, by name.
    ends: BTreeMap<&'static str, String>,
}

impl Supervisor {
    /// A supervisor with no children yet. Orphans of killed children become its own, so that they
    /// are collected.
    pub fn new(layout: Layout, saved: Saved) -> anyhow::Result<Supervisor> {
        set_child_subreaper(Some(getpid())).context("cannot adopt orphans")?;
        let socket = request::listen(&layout)?;
        Ok(Supervisor { layout, saved, socket, children: BTreeMap::new(), ends: BTreeMap::new() })
    }

    /// Starts a member that is down.
    pub fn start(&mut self, member: Member) -> anyhow::Result<u32> {
        self.collect();
        if let Some(process) = member.process(&self.layout) {
            bail!("{} is running already (process {})", member.name, process.pid);
        }
        let process = member.spawn(&self.layout, &self.saved)?;
        self.ends.remove(member.name);
        self.children.insert(process.pid, member);
        tracing::debug!(name = member.name, pid = process.pid, "started");
        Ok(process.pid)
    }

    /// How a member ended, if it did since it was last started.
    pub fn end_of(&self, name: &str) -> Option<&str> {
        self.ends.get(name).map(String::as_str)
    }

    /// One turn of supervision: waits a little for a wish, carries it out, collects the dead.
    pub fn turn(&mut self) -> anyhow::Result<()> {
        let mut watched = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut watched, Some(&TURN)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for requests"),
        }
        while let Ok((stream, _)) = self.socket.accept() {
            let served = request::serve(&stream, |wish| {
                let member = member::find(&self.saved, &wish.start)?;
                self.start(member)
            });
            if let Err(error) = served {
                say(&format!("a request was not served: {error:#}"));
            }
        }
        self.collect();
        Ok(())
    }

    /// Collects children and orphans that have ended.
    fn collect(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
            let Some(member) = self.children.remove(&pid) else { continue };
            let how = describe(status);
            say(&format!("{} (process {pid}) ended: {how}", member.name));
            self.ends.insert(member.name, how);
        }
    }

    /// Stops everything: the instance first, while the nodes can still take its last log. A second
    /// request to stop, or a member that takes too long, is answered by killing.
    pub fn stop(&mut self) {
        say("stopping");
        let asked = signals::requests();
        let (instances, others): (Vec<_>, Vec<_>) =
            member::all(&self.saved).partition(|member| member.role == Role::Compute);
        let (control, nodes): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|member| member.role == Role::Control);
        self.stop_all(&instances, INSTANCE_STOPS_WITHIN, asked);
        self.stop_all(&nodes, OTHERS_STOP_WITHIN, asked);
        self.stop_all(&control, OTHERS_STOP_WITHIN, asked);
        self.collect();
    }

    fn stop_all(&mut self, members: &[Member], limit: Duration, asked: u32) {
        let look = |layout: &Layout, saved: &Saved| -> Vec<Process> {
            members.iter().flat_map(|member| member.processes(layout, saved)).collect()
        };
        for member in members {
            let processes = member.processes(&self.layout, &self.saved);
            report(signal_each(&processes, Signal::CONT));
            match member.process(&self.layout) {
                Some(process) => report(process.signal(Signal::TERM).map(drop)),
                // PostgreSQL without its daemon cannot stop in order: its log has nowhere to go.
                None => report(signal_each(&processes, Signal::KILL)),
            }
        }
        let begun = Instant::now();
        while !look(&self.layout, &self.saved).is_empty() {
            if begun.elapsed() > limit || signals::requests() > asked {
                let names: Vec<_> = members
                    .iter()
                    .filter(|member| !member.processes(&self.layout, &self.saved).is_empty())
                    .map(|member| member.name)
                    .collect();
                let names = names.join(" ");
                say(&format!("killing {names}: not stopped in order; nothing is lost"));
                report(signal_all(Signal::KILL, || look(&self.layout, &self.saved)).map(drop));
                break;
            }
            self.collect();
            std::thread::sleep(Duration::from_millis(10));
        }
        self.collect();
    }
}

fn signal_each(processes: &[Process], signal: Signal) -> anyhow::Result<()> {
    processes.iter().try_for_each(|process| process.signal(signal).map(drop))
}

fn report(result: anyhow::Result<()>) {
    if let Err(error) = result {
        say(&format!("{error:#}"));
    }
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => "in good order".to_owned(),
        (Some(code), _) => format!("with status {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "for an unknown reason".to_owned(),
    }
}
