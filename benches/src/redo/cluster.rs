//! The log to be replayed, and stock's recovery of it.
//!
//! A cluster is filled by `pgbench -i`, shut down and copied (the base); then pgbench runs a fixed
//! number of transactions with no checkpoint meanwhile, and the server is stopped as by a crash. The
//! base with that log and the crashed server's `pg_control` is what stock recovers.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::system::{as_postgres, pg_bin, run};

const SETTINGS: &str = "
listen_addresses=''
shared_buffers=1GB
fsync=off
synchronous_commit=off
autovacuum=off
max_wal_size=64GB
wal_keep_size=64GB
checkpoint_timeout=1h
bgwriter_lru_maxpages=0
";

/// The base copy and the crashed cluster.
pub struct Scene {
    dir: tempfile::TempDir,
}

/// One recovery by stock.
pub struct Recovery {
    /// As its log says.
    pub elapsed: Duration,
    /// Processor seconds in user mode, as its log says.
    pub user: f64,
    /// Processor seconds in the kernel.
    pub system: f64,
    /// The recovered cluster, shut down.
    pub data: PathBuf,
}

impl Scene {
    /// Writes the log.
    ///
    /// # Errors
    /// When PostgreSQL's programs fail.
    pub fn make(scale: u32, transactions: u32, full_page_writes: bool) -> Result<Scene> {
        let dir = tempfile::Builder::new().prefix("redo-").tempdir()?;
        crate::stock::give_to_postgres(dir.path())?;
        let scene = Scene { dir };
        let data = scene.data();
        run(as_postgres("initdb").arg("-D").arg(&data).args(["-A", "trust", "-U", "postgres"]))?;
        let images = if full_page_writes { "on" } else { "off" };
        let settings = format!("{SETTINGS}full_page_writes={images}");
        crate::stock::configure(&data, &settings, scene.dir.path())?;
        scene.control(&data, &["start"])?;
        scene.pgbench(&["-i", "-q", "-s", &scale.to_string()])?;
        scene.control(&data, &["-m", "fast", "stop"])?;
        copy(&data, &scene.base())?;
        scene.control(&data, &["start"])?;
        let clients = 8;
        let each = (transactions / clients).max(1).to_string();
        scene.pgbench(&["-n", "-c", &clients.to_string(), "-j", "2", "-t", &each])?;
        // What was written with synchronous_commit off must be in the files before the crash.
        scene.pgbench(&["-n", "-c", "1", "-t", "1"])?;
        std::thread::sleep(Duration::from_secs(1));
        scene.control(&data, &["-m", "immediate", "stop"])?;
        Ok(scene)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The copy made before the log was written.
    pub fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    /// The log's segment files, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn segments(&self) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.data().join("pg_wal"))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.retain(|file| file.is_file());
        files.sort();
        Ok(files)
    }

    /// Lets stock recover a fresh copy.
    ///
    /// # Errors
    /// When it does not come up, or its log does not say how long redo took.
    pub fn recover(&self, round: u32) -> Result<Recovery> {
        let data = self.dir.path().join(format!("recover{round}"));
        copy(&self.base(), &data)?;
        run(as_postgres("/bin/rm").arg("-r").arg(data.join("pg_wal")))?;
        copy(&self.data().join("pg_wal"), &data.join("pg_wal"))?;
        copy(&self.data().join("global/pg_control"), &data.join("global/pg_control"))?;
        self.control(&data, &["start"])?;
        self.control(&data, &["-m", "fast", "stop"])?;
        let log = std::fs::read_to_string(data.with_extension("log"))?;
        let line = log.lines().find(|line| line.contains("redo done at"));
        let line = line.with_context(|| format!("no `redo done` in the server's log: {log}"))?;
        let number = |mark: &str| -> Result<f64> {
            let rest = line.split_once(mark).with_context(|| format!("no `{mark}` in {line}"))?.1;
            Ok(rest.split_whitespace().next().context("a number")?.parse()?)
        };
        let elapsed = Duration::from_secs_f64(number("elapsed: ")?);
        Ok(Recovery { elapsed, user: number("user: ")?, system: number("system: ")?, data })
    }

    fn control(&self, data: &Path, arguments: &[&str]) -> Result<()> {
        let log = data.with_extension("log");
        let mut command = as_postgres("pg_ctl");
        command.arg("-D").arg(data).arg("-l").arg(log).args(["-w", "-t", "600"]).args(arguments);
        // The server inherits its output; only a file may be waited for.
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if !status.success() {
            bail!("pg_ctl {arguments:?} failed; see {}", data.with_extension("log").display());
        }
        Ok(())
    }

    fn pgbench(&self, arguments: &[&str]) -> Result<()> {
        let mut command = std::process::Command::new(pg_bin().join("pgbench"));
        command.arg("-h").arg(self.dir.path()).args(["-U", "postgres"]).args(arguments);
        run(command.arg("postgres")).map(drop)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(as_postgres("/bin/cp").arg("-a").arg(from).arg(to)).map(drop)
}
