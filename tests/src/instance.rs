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
        while let Some(pid) = self.postmaster() {
            ensure!(started.elapsed() < PATIENCE, "PostgreSQL (pid {pid}) goes on");
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

    /// Kills daemon and PostgreSQL at once.
    pub fn kill(&mut self) {
        let server = self.postmaster();
        if let Some(mut child) = self.child.take() {
            signal(child.id(), libc::SIGKILL);
            if let Err(error) = child.wait() {
                eprintln!("waiting for an instance: {error}");
            }
        }
        if let Some(pid) = server {
            signal(pid, libc::SIGKILL);
        }
    }

    /// Its PostgreSQL's first process, if it runs.
    fn postmaster(&self) -> Option<u32> {
        let file = self.dir.path().join("instance/pgdata/postmaster.pid");
        let text = std::fs::read_to_string(file).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        let works = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        works.starts_with(self.dir.path()).then_some(pid)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}
