//! Sixfold: a whole cluster by `sixfold dev up`, with the same PostgreSQL settings as its peers.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::system::{System, connect, run};

/// A running cluster, stopped when dropped.
pub struct Sixfold {
    binary: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    up: Child,
}

impl Sixfold {
    /// Starts a cluster and waits until writes work.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn up(binary: Option<&Path>) -> Result<Sixfold> {
        Sixfold::with(binary, &[])
    }

    /// The same, every process with this environment.
    ///
    /// # Errors
    /// As [`Sixfold::up`].
    pub fn with(binary: Option<&Path>, environment: &[(&str, &str)]) -> Result<Sixfold> {
        Sixfold::up_with(binary, &["--cache-size", "32GB"], environment)
    }

    /// The same with these further arguments of `dev up`.
    ///
    /// # Errors
    /// As [`Sixfold::up`].
    pub fn up_with(
        binary: Option<&Path>,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Sixfold> {
        let beside = std::env::current_exe()?.with_file_name("sixfold");
        let binary = binary.map_or(beside, Path::to_path_buf);
        let dir = tempfile::Builder::new().prefix("sixfold-bench-").tempdir()?;
        open_to_everyone(dir.path())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut up = Command::new(&binary)
            .args(["dev", "up", "--port", &port.to_string()])
            .args(["--set", "shared_buffers=1GB", "--set", "max_connections=300"])
            .args(["--set", "max_wal_size=8GB", "--dir"])
            .arg(dir.path().join("cluster"))
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let mut line = String::new();
        BufReader::new(up.stdout.take().context("piped")?).read_line(&mut line)?;
        ensure!(line.starts_with("ready: "), "dev up said `{line}`");
        Ok(Sixfold { binary, dir, port, up })
    }

    /// The cluster's directory.
    #[must_use]
    pub fn cluster_dir(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// The process of a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn node_pid(&self, name: &str) -> Result<u32> {
        let status = self.status()?;
        let processes = status["processes"].as_array().context("processes")?;
        let node = processes.iter().find(|process| process["name"] == name);
        let pid = node.and_then(|node| node["pid"].as_u64()).context("a node's process")?;
        Ok(u32::try_from(pid)?)
    }

    /// Runs `sixfold ARGUMENTS --dir DIR`.
    ///
    /// # Errors
    /// With what it said when it fails.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(&self.binary).args(arguments).arg("--dir").arg(self.cluster_dir()))
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.command(&["status", "--json"])?)?)
    }

    /// Kills the writer's host, throws its cache away, and times the way back to a first answer.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn crash_and_restart(&self) -> Result<Duration> {
        self.command(&["dev", "kill", "writer"])?;
        self.command(&["dev", "wipe", "writer"])?;
        crate::opening::drop_caches()?;
        let started = Instant::now();
        self.command(&["dev", "start", "writer"])?;
        loop {
            if let Ok(mut client) = connect(self.port)
                && client.simple_query("select 1").is_ok()
            {
                return Ok(started.elapsed());
            }
            ensure!(started.elapsed() < Duration::from_secs(120), "the writer does not come back");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn processes(&self, storage: bool) -> Result<Vec<u32>> {
        let status = self.status()?;
        let processes = status["processes"].as_array().context("processes")?.clone();
        Ok(processes
            .iter()
            .filter(|process| {
                (process["role"] == "node") == storage && process["role"] != "control"
            })
            .filter_map(|process| process["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()))
            .collect())
    }
}

impl System for Sixfold {
    fn name(&self) -> &str {
        "sixfold"
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn quorum(&mut self) -> Result<()> {
        Ok(())
    }

    fn compute_pids(&self) -> Result<Vec<u32>> {
        let mut pids = self.processes(false)?;
        let status = self.status()?;
        let instances = status["instances"].as_array().context("instances")?.clone();
        for field in ["pid", "daemon_pid"] {
            let found = instances.iter().filter_map(|instance| instance[field].as_u64());
            pids.extend(found.filter_map(|pid| u32::try_from(pid).ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    fn storage_pids(&self) -> Result<Vec<u32>> {
        self.processes(true)
    }

    fn bytes_to_one_copy(&self) -> Result<Option<u64>> {
        let status = self.status()?;
        let instances = status["instances"].as_array().context("instances")?.clone();
        Ok(instances
            .iter()
            .find(|instance| instance["name"] == "writer")
            .and_then(|writer| writer["shipped_bytes_per_copy"].as_u64()))
    }
}

impl Drop for Sixfold {
    fn drop(&mut self) {
        // SAFETY: kill(2) touches no memory of ours.
        unsafe { libc::kill(libc::pid_t::try_from(self.up.id()).unwrap_or(0), libc::SIGTERM) };
        if let Err(error) = self.up.wait() {
            eprintln!("stopping the cluster: {error}");
        }
    }
}

fn open_to_everyone(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?)
}
