//! A further instance on a cluster's nodes: `sixfold compute` on a volume of its own, in a directory of
//! its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use postgres::Client;

use crate::Cluster;
use crate::cluster::{
    PATIENCE, connect_to, free_port_pair, open_to_everyone, signal, sixfold_binary, wait_for_exit,
};

/// A running instance, killed when dropped.
pub struct Instance {
    name: String,
    volume: String,
    control: String,
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Instance {
    /// Starts an instance of this name on this volume and waits until it takes connections.
    ///
    /// # Errors
    /// With the end of its log when it does not.
    pub fn start(cluster: &Cluster, name: &str, volume: &str) -> Result<Instance> {
        let dir = tempfile::Builder::new().prefix("sixfold-e2e-").tempdir()?;
        open_to_everyone(dir.path())?;
        adopt_orphans();
        let mut instance = Instance {
            name: name.to_owned(),
            volume: volume.to_owned(),
            control: cluster.control_address()?,
            dir,
            port: free_port_pair()?,
            child: None,
        };
        instance.launch()?;
        instance.connect_when_ready()?;
        Ok(instance)
    }

    /// Starts its process again, on the same directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let child = Command::new(sixfold_binary())
            .args(["compute", "--name", &self.name, "--volume", &self.volume])
            .args(["--control", &self.control, "--port", &self.port.to_string()])
            .args(["--set", "shared_buffers=32MB", "--dir"])
            .arg(self.dir.path().join("instance"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start an instance")?;
        self.child = Some(child);
        Ok(())
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// PostgreSQL's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection to it.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub fn connect(&self) -> Result<Client> {
        connect_to(self.port)
    }

    /// A connection to it, waiting for one to be there.
    ///
    /// # Errors
    /// When there is none for [`PATIENCE`], or its process has ended.
    pub fn connect_when_ready(&mut self) -> Result<Client> {
        let started = Instant::now();
        loop {
            match self.connect() {
                Ok(client) => return Ok(client),
                Err(error) => {
                    let child = self.child.as_mut().context("it was started")?;
                    let ended = child.try_wait()?;
                    ensure!(ended.is_none(), "the instance ended: {ended:?}\n{}", self.said());
                    ensure!(started.elapsed() < PATIENCE, "{error:#}\n{}", self.said());
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// What its processes have printed.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Waits until its process has ended by itself, and its PostgreSQL with it.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("it runs")?;
        let status = wait_for_exit(&mut child, PATIENCE).with_context(|| self.said())?;
        let started = Instant::now();
        while let Some(pid) = self.processes().first() {
            ensure!(started.elapsed() < PATIENCE, "PostgreSQL goes on (process {pid})");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(status)
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(&mut self) -> Result<()> {
        let pid = self.child.as_ref().context("it runs")?.id();
        signal(pid, libc::SIGTERM);
        let status = self.wait_for_end()?;
        ensure!(status.success(), "the instance ended with {status}\n{}", self.said());
        Ok(())
    }

    /// Kills daemon and PostgreSQL, every process of theirs, as if the host lost power.
    pub fn kill(&mut self) {
        let mut ours = self.processes();
        while !ours.is_empty() {
            ours.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
            if let Some(mut child) = self.child.take() {
                ours.retain(|pid| *pid != child.id());
                if let Err(error) = child.wait() {
                    eprintln!("waiting for an instance: {error}");
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            ours.into_iter().for_each(collect);
            ours = self.processes();
        }
    }

    /// Everything that works in its directory.
    fn processes(&self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let here = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|works| works.starts_with(self.dir.path()))
        };
        pids.filter(here).collect()
    }
}

/// What a killed daemon leaves behind becomes ours, so that it can be collected: as long as a dead
/// PostgreSQL is not, its number is taken and the next one believes that it lives.
fn adopt_orphans() {
    // SAFETY: this option of prctl(2) touches no memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

fn collect(pid: u32) {
    let pid = libc::pid_t::try_from(pid).expect("a pid");
    // SAFETY: waitpid(2) may be given no place for the status; one that is not our child is left alone.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}
