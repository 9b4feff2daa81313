//! A cluster started by `sixfold dev up` in a directory of its own, stopped when dropped.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postgres::{Client, NoTls};
use serde_json::Value;

use crate::Network;

/// How long anything that should take seconds may take on a loaded machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a test asks of its cluster.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further arguments of `dev up`.
    pub arguments: Vec<String>,
    /// Environment of `dev up` and so of every process.
    pub environment: Vec<(String, String)>,
    /// A directory of programs that the cluster needs as long as it is there.
    pub programs: Option<Arc<tempfile::TempDir>>,
    /// What its processes reach each other through, to be cut.
    pub network: Option<Arc<Network>>,
}

impl Options {
    /// Options with these further arguments of `dev up`.
    #[must_use]
    pub fn with(arguments: &[&str]) -> Options {
        Options {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            ..Options::default()
        }
    }
}

/// A running cluster.
pub struct Cluster {
    dir: tempfile::TempDir,
    port: u16,
    options: Options,
    up: Option<Child>,
}

impl Cluster {
    /// Starts a cluster in a new directory and waits until writes work.
    ///
    /// # Errors
    /// With what `dev up` printed when it does not get ready.
    pub fn up(options: Options) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("sixfold-e2e-").tempdir()?;
        open_to_everyone(dir.path())?;
        let mut cluster = Cluster { dir, port: free_port_pair()?, options, up: None };
        cluster.resume()?;
        Ok(cluster)
    }

    /// Starts `dev up` again on the same directory.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn resume(&mut self) -> Result<()> {
        ensure!(self.up.is_none(), "the cluster is already up");
        let log = self.dir.path().join("up.stderr");
        let mut child = Command::new(sixfold_binary())
            .args(["dev", "up", "--dir"])
            .arg(self.data_dir())
            .args(["--port", &self.port.to_string()])
            .args(self.arguments())
            .envs(self.options.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("start {}", sixfold_binary().display()))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (ready, wait) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready: ") && ready.send(line).is_err() {
                    return;
                }
            }
        });
        match wait.recv_timeout(PATIENCE) {
            Ok(line) => {
                let expected =
                    format!("ready: postgres://postgres@127.0.0.1:{}/postgres", self.port);
                ensure!(line == expected, "ready line is `{line}`, expected `{expected}`");
                self.up = Some(child);
                Ok(())
            }
            Err(_) => {
                terminate(&mut child);
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("the cluster did not get ready; dev up said:\n{said}\n{}", self.logs())
            }
        }
    }

    /// Arguments of `dev up`; `SIXFOLD_TEST_GROUP_SIZE` gives every cluster many protection groups.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = self.options.arguments.clone();
        if let Some(network) = &self.options.network {
            network.set_cluster(self.data_dir());
            arguments.extend(network.arguments());
        }
        let given = arguments.iter().any(|argument| argument == "--group-size");
        if let (false, Ok(size)) = (given, std::env::var("SIXFOLD_TEST_GROUP_SIZE")) {
            arguments.extend(["--group-size".to_owned(), size]);
        }
        arguments
    }

    /// Stops everything cleanly, as Ctrl-C would.
    ///
    /// # Errors
    /// When `dev up` does not end with status 0.
    pub fn down(&mut self) -> Result<()> {
        let mut child = self.up.take().context("the cluster is up")?;
        signal(child.id(), libc::SIGTERM);
        let status = wait_for_exit(&mut child, PATIENCE)?;
        ensure!(status.success(), "dev up ended with {status}\n{}", self.logs());
        Ok(())
    }

    /// The directory given to `--dir`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// The writer's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection to the writer.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub fn connect(&self) -> Result<Client> {
        connect_to(self.port)
    }

    /// A connection to one of the writer's databases.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub fn connect_to_database(&self, name: &str) -> Result<Client> {
        let port = self.port;
        let url = format!("host=127.0.0.1 port={port} user=postgres dbname='{name}'");
        Client::connect(&url, NoTls).with_context(|| format!("connect to database {name}"))
    }

    /// A connection to the writer, waiting for one to be there.
    ///
    /// # Errors
    /// When there is none for [`PATIENCE`].
    pub fn connect_when_ready(&self) -> Result<Client> {
        let started = Instant::now();
        loop {
            match self.connect() {
                Ok(client) => return Ok(client),
                Err(error) if started.elapsed() > PATIENCE => {
                    return Err(error.context(self.logs()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Runs `sixfold ARGUMENTS --dir DIR` to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn try_sixfold(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(sixfold_binary())
            .args(arguments)
            .arg("--dir")
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .output()
            .context("run sixfold")
    }

    /// Runs `sixfold ARGUMENTS --dir DIR`, which must succeed, and gives its standard output.
    ///
    /// # Errors
    /// With the command's own message when it fails.
    pub fn sixfold(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_sixfold(arguments)?;
        ensure!(
            output.status.success(),
            "sixfold {arguments:?} failed ({}): {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `sixfold dev kill NAME --signal SIGNAL`.
    ///
    /// # Errors
    /// As [`Cluster::sixfold`].
    pub fn kill(&self, name: &str, signal: &str) -> Result<()> {
        self.sixfold(&["dev", "kill", name, "--signal", signal]).map(drop)
    }

    /// `sixfold dev start NAME`.
    ///
    /// # Errors
    /// As [`Cluster::sixfold`].
    pub fn start(&self, name: &str) -> Result<()> {
        self.sixfold(&["dev", "start", name]).map(drop)
    }

    /// `sixfold dev wipe NAME`.
    ///
    /// # Errors
    /// As [`Cluster::sixfold`].
    pub fn wipe(&self, name: &str) -> Result<()> {
        self.sixfold(&["dev", "wipe", name]).map(drop)
    }

    /// `sixfold status --json`.
    ///
    /// # Errors
    /// As [`Cluster::sixfold`], or when it is not JSON.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.sixfold(&["status", "--json"])?)?)
    }

    /// `sixfold verify-volume --json`: what storage gives is what the writer has, page by page.
    ///
    /// # Errors
    /// With every difference, or the reason why it could not be told.
    pub fn verify_volume(&self) -> Result<Value> {
        self.wait_for_autovacuum()?;
        let output = self.try_sixfold(&["verify-volume", "--json"])?;
        ensure!(
            output.status.success(),
            "verify-volume ended with {}: {}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        let report: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(report["outcome"] == "same", "status 0 and {report:#}");
        let compared =
            |what: &str| report["counts"].pointer(what).and_then(Value::as_u64) > Some(0);
        // Forced eviction may have left no page; then lengths, maps and SLRU pages were compared.
        let evicts = |(name, _): &(String, String)| name == "SIXFOLD_EVICT_EVERYTHING";
        let pages = compared("/main/compared") || self.options.environment.iter().any(evicts);
        ensure!(pages && compared("/sizes"), "nothing compared");
        Ok(report)
    }

    /// A connection to the writer that is ready. One that was just taken over is listed as ready until
    /// it is missed.
    fn ready_writer(&self) -> Result<Client> {
        let started = Instant::now();
        loop {
            let status =
                self.wait_until("a writer is ready", |status| ready_port(status).is_some())?;
            match connect_to(ready_port(&status).context("a writer's port")?) {
                Ok(client) => return Ok(client),
                Err(error) if started.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Waits until no autovacuum is under way: one changes its table's visibility map all the time,
    /// which then can never be compared.
    fn wait_for_autovacuum(&self) -> Result<()> {
        let mut writer = self.ready_writer()?;
        let started = Instant::now();
        loop {
            let row = writer.query_one(
                "select count(*) from pg_stat_activity where backend_type = 'autovacuum worker'",
                &[],
            )?;
            if row.get::<_, i64>(0) == 0 {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "autovacuum does not get through");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The writer's entry among the status' instances.
    ///
    /// # Errors
    /// When there is none.
    pub fn writer(&self) -> Result<Value> {
        let status = self.status()?;
        let instances = status["instances"].as_array().context("instances")?;
        instances
            .iter()
            .find(|instance| instance["name"] == "writer")
            .cloned()
            .with_context(|| format!("no writer in {status}"))
    }

    /// The process that has this name.
    ///
    /// # Errors
    /// When none runs.
    pub fn pid(&self, name: &str) -> Result<u32> {
        let status = self.status()?;
        let processes = status["processes"].as_array().context("processes")?;
        let process = processes.iter().find(|process| process["name"] == name);
        let pid = process.and_then(|process| process["pid"].as_u64());
        Ok(u32::try_from(pid.with_context(|| format!("{name} does not run"))?)?)
    }

    /// The control plane's address.
    ///
    /// # Errors
    /// When the status does not tell it.
    pub fn control_address(&self) -> Result<String> {
        let status = self.status()?;
        let processes = status["processes"].as_array().context("processes")?;
        let control = processes.iter().find(|process| process["role"] == "control");
        let address = control.and_then(|process| process["address"].as_str());
        Ok(address.context("the control plane's address")?.to_owned())
    }

    /// Waits until `condition` of the status holds.
    ///
    /// # Errors
    /// When it does not for [`PATIENCE`].
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let started = Instant::now();
        loop {
            let status = self.status()?;
            if condition(&status) {
                return Ok(status);
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "waited in vain until {what}; status {status:#}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The ends of the processes' logs, for a failure's message.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let Ok(entries) = std::fs::read_dir(self.data_dir().join("log")) else { return text };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(12);
            text += &format!("--- {}\n", path.display());
            for line in lines.iter().skip(tail) {
                text += &format!("{}\n", line.chars().take(400).collect::<String>());
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.up.take() {
            terminate(&mut child);
        }
        if std::thread::panicking() && std::env::var_os("SIXFOLD_KEEP").is_some() {
            eprintln!("kept for inspection: {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
        }
    }
}

/// The port of the writer that is ready.
fn ready_port(status: &Value) -> Option<u16> {
    let ready = |i: &&Value| i["role"] == "writer" && i["state"] == "ready";
    let instance = status["instances"].as_array()?.iter().find(ready)?;
    instance["endpoint"].as_str()?.rsplit(':').next()?.parse().ok()
}

/// A connection to PostgreSQL on this machine.
///
/// # Errors
/// When PostgreSQL refuses.
pub fn connect_to(port: u16) -> Result<Client> {
    let url = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=5");
    Client::connect(&url, NoTls).context("connect to PostgreSQL")
}

/// Starts another writer of the cluster's volume, on a port and in a directory of its own.
///
/// # Errors
/// When it cannot be started.
pub fn second_writer(cluster: &Cluster, port: u16) -> Result<Child> {
    let control = cluster.control_address()?;
    let log = File::create(cluster.dir.path().join("second.log"))?;
    Command::new(sixfold_binary())
        .args(["compute", "--name", "writer-2", "--control", &control])
        .args(["--port", &port.to_string(), "--dir"])
        .arg(cluster.dir.path().join("second"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start a second writer")
}

/// The binary under test, beside our own executable or, for a test, one directory above.
#[must_use]
pub fn sixfold_binary() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its own path");
    let dir = own.parent().expect("an executable lies in a directory");
    let above = dir.parent().filter(|_| dir.ends_with("deps"));
    above.unwrap_or(dir).join("sixfold")
}

/// The build's directory, for what is to be kept between runs.
#[must_use]
pub fn target_dir() -> PathBuf {
    let binary = sixfold_binary();
    let profile = binary.parent().and_then(Path::parent).expect("it lies in target/PROFILE");
    profile.to_owned()
}

/// Sends a signal to a process and all of its group.
pub fn signal_group(leader: u32, signal: i32) {
    // SAFETY: killpg(2) touches no memory of ours.
    unsafe { libc::killpg(libc::pid_t::try_from(leader).expect("a pid"), signal) };
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) touches no memory of ours.
    unsafe { libc::kill(libc::pid_t::try_from(pid).expect("a pid"), signal) };
}

/// Waits for a child's end.
///
/// # Errors
/// When it is still there after `limit`.
pub fn wait_for_exit(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(started.elapsed() < limit, "process {} does not end", child.id());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn terminate(child: &mut Child) {
    signal(child.id(), libc::SIGTERM);
    if wait_for_exit(child, Duration::from_secs(30)).is_err() {
        signal(child.id(), libc::SIGKILL);
        if let Err(error) = child.wait() {
            eprintln!("waiting for dev up: {error}");
        }
    }
}

/// A port that is free together with the one above it (the reader endpoint).
///
/// # Errors
/// When there is none.
pub fn free_port_pair() -> Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free pair of ports")
}

/// Lets the `postgres` user, to which the instance drops when started as root, pass through.
///
/// # Errors
/// When the system refuses.
pub fn open_to_everyone(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?)
}
