//! The PostgreSQL server as a process: start, readiness, orderly stop, and the end by force.
//!
//! - D9: the server is started with the preload library and nothing else can start it; it outlives
//!   the daemon (a restarted daemon re-attaches), so it is never tied to the daemon's life.
//! - D10: a fenced writer's server is ended by SIGKILL, postmaster first stopped so that it starts
//!   no further children, then all of them. It gets no chance to answer a client.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::settings::OWNED;
use crate::skeleton::make_directory;

/// Longest path of a socket, with its final zero.
const SOCKET_PATH_MAX: usize = 108;

/// How often a server that starts is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How to start and reach a server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Directory of PostgreSQL's binaries.
    pub pg_bin: PathBuf,
    /// The preload library; without it the server would write round the volume.
    pub shim: Option<PathBuf>,
    /// The instance's directory.
    pub instance: PathBuf,
    /// Address to listen on.
    pub listen: String,
    /// Port.
    pub port: u16,
}

impl ServerConfig {
    /// The data directory.
    #[must_use]
    pub fn pgdata(&self) -> PathBuf {
        self.instance.join("pgdata")
    }

    /// Directory of the server's socket: in the instance, unless that makes a longer path than a
    /// socket can have.
    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        let usual = self.instance.join("run");
        if usual.as_os_str().len() + ".s.PGSQL.65535.lock".len() < SOCKET_PATH_MAX {
            return usual;
        }
        let name = crc32c::crc32c(usual.as_os_str().as_encoded_bytes());
        std::env::temp_dir().join(format!("sixfold-{name:08x}"))
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.instance.join("postgres.log")
    }

    /// What the server says of itself in its lock file (the eighth line): `starting`, `ready`,
    /// `stopping`; after a crash of one of its processes still `ready`.
    #[must_use]
    pub fn says(&self) -> Option<String> {
        let lock = fs::read_to_string(self.pgdata().join("postmaster.pid")).ok()?;
        lock.lines().nth(7).map(|status| status.trim().to_owned())
    }

    /// A connection through the server's own socket, as the superuser.
    ///
    /// # Errors
    /// When the server does not take it.
    pub fn connect(&self) -> Result<postgres::Client, postgres::Error> {
        postgres::Config::new()
            .host_path(self.socket_directory())
            .port(self.port)
            .user("postgres")
            .dbname("postgres")
            .application_name("sixfold")
            .connect_timeout(Duration::from_secs(2))
            .connect(postgres::NoTls)
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    pid: Pid,
    pidfd: OwnedFd,
    child: Option<Child>,
}

impl Server {
    /// Starts the server on its data directory.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(config: &ServerConfig) -> anyhow::Result<Server> {
        let program = config.pg_bin.join("postgres");
        let path = config.log();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open the server's log {}", path.display()))?;
        let mut command = Command::new(&program);
        command.arg("-D").arg(config.pgdata());
        command.arg("-p").arg(config.port.to_string());
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        set("listen_addresses", &config.listen);
        let sockets = config.socket_directory();
        make_directory(&sockets)?;
        set("unix_socket_directories", &sockets.to_string_lossy());
        OWNED.iter().for_each(|(name, value)| set(name, value));
        if let Some(shim) = &config.shim {
            command.env("LD_PRELOAD", shim);
            command.env(seam::Instance::VARIABLE, &config.instance);
        }
        command.env_remove("PGDATA").current_dir(&config.instance);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child =
            command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the server")?;
        Ok(Server { config: config.clone(), pid, pidfd, child: Some(child) })
    }

    /// The server that already runs on the data directory, if one does.
    ///
    /// # Errors
    /// When there is one that cannot be watched.
    pub fn running(config: &ServerConfig) -> anyhow::Result<Option<Server>> {
        let Ok(text) = fs::read_to_string(config.pgdata().join("postmaster.pid")) else {
            return Ok(None);
        };
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { return Ok(None) };
        let raw = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
        // A pid may have been given to someone else since: the command line must be a server's.
        let command = fs::read(format!("/proc/{raw}/cmdline")).unwrap_or_default();
        let directory = config.pgdata();
        let ours = command
            .split(|byte| *byte == 0)
            .any(|argument| argument == directory.as_os_str().as_encoded_bytes());
        if !ours || seam::sys::process_started(raw).is_none() {
            return Ok(None);
        }
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the server")?;
        Ok(Some(Server { config: config.clone(), pid, pidfd, child: None }))
    }

    /// The postmaster's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        u32::try_from(self.pid.as_raw_nonzero().get()).unwrap_or(0)
    }

    /// Waits up to `timeout` for the server's end; true when it has ended.
    pub fn ended_within(&mut self, timeout: Duration) -> bool {
        let wait = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut watched = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut watched, Some(&wait)), Ok(ready) if ready > 0)
    }

    /// How it ended, for messages; collects the child if it is ours.
    pub fn verdict(&mut self) -> String {
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => status.to_string(),
            Some(Err(error)) => format!("unknown ({error})"),
            None => "not our child".to_owned(),
        }
    }

    /// Whether it ended by itself in good order.
    pub fn ended_well(&mut self) -> bool {
        match self.child.as_mut() {
            Some(child) => child.wait().is_ok_and(|status| status.success()),
            None => !self.config.pgdata().join("postmaster.pid").exists(),
        }
    }

    /// Asks for a fast shutdown: sessions are ended, the shutdown checkpoint is written.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn stop_fast(&self) -> anyhow::Result<()> {
        kill_process(self.pid, Signal::INT).context("cannot signal the server")
    }

    /// Ends the server and all its children at once (D10).
    pub fn kill(&self) {
        kill_tree(self.pid);
    }

    /// Waits until the server takes connections and is out of recovery. `tick` is called between
    /// attempts and may end the wait with an error.
    ///
    /// # Errors
    /// When the server ends, or `tick` says so, or `limit` is over.
    pub fn wait_ready(
        &mut self,
        limit: Duration,
        tick: &mut dyn FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut told = begun;
        loop {
            tick()?;
            let mut last = "it starts".to_owned();
            // Asking earlier would only make it fork processes that say no.
            if self.config.says().is_some_and(|status| status == "ready") {
                match self.config.connect().and_then(|mut client| {
                    client.query_one("SELECT pg_is_in_recovery()", &[]).map(|row| row.get(0))
                }) {
                    Ok(false) => return Ok(()),
                    Ok(true) => last = "it is in recovery".to_owned(),
                    Err(error) => last = error.to_string(),
                }
            }
            if self.ended_within(LOOK_EVERY) {
                bail!(
                    "PostgreSQL ended while starting ({}); the end of {}:\n{}",
                    self.verdict(),
                    self.config.log().display(),
                    tail(&self.config.log())
                );
            }
            if begun.elapsed() > limit {
                bail!("PostgreSQL is not ready after {limit:?}: {last}");
            }
            if told.elapsed() > Duration::from_secs(2) {
                told = Instant::now();
                tracing::info!(reason = %last, "waiting for PostgreSQL");
            }
        }
    }
}

/// Kills a postmaster and its children.
fn kill_tree(postmaster: Pid) {
    let send = |pid: Pid, signal: Signal| match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::error!(%error, pid = pid.as_raw_nonzero().get(), "cannot signal"),
    };
    send(postmaster, Signal::STOP);
    let raw = postmaster.as_raw_nonzero().get();
    let children = fs::read_to_string(format!("/proc/{raw}/task/{raw}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        if let Some(pid) = child.parse().ok().and_then(Pid::from_raw) {
            send(pid, Signal::KILL);
        }
    }
    send(postmaster, Signal::KILL);
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(15);
    lines.get(from..).unwrap_or_default().join("\n")
}
