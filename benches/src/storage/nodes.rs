//! `sixfold control` and six `sixfold node`, each its own process, ended when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use registry::Client;

/// Names of the six; the letter is the zone.
const NODES: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];
/// Longest wait for them.
const PATIENCE: Duration = Duration::from_secs(60);

/// The processes.
pub struct Nodes {
    binary: PathBuf,
    dir: tempfile::TempDir,
    control: String,
    running: Vec<Child>,
}

impl Nodes {
    /// Starts all of them and waits until they are known to each other.
    ///
    /// # Errors
    /// When one does not get up.
    pub fn up(binary: Option<&Path>) -> Result<Nodes> {
        let beside = std::env::current_exe()?.with_file_name("sixfold");
        let mut nodes = Nodes {
            binary: binary.map_or(beside, Path::to_path_buf),
            dir: tempfile::Builder::new().prefix("sixfold-bench-").tempdir()?,
            control: free_address()?,
            running: Vec::new(),
        };
        let control = nodes.control.clone();
        nodes.spawn("control", &["control", "--listen", &control])?;
        for name in NODES {
            let (zone, address) = (name.get(..1).context("a zone")?, free_address()?);
            let listen = ["--listen", &address, "--control", &control];
            nodes.spawn(name, &[&["node", "--name", name, "--az", zone][..], &listen].concat())?;
        }
        let begun = Instant::now();
        let registered = || nodes.control().topology().map_or(0, |known| known.nodes.len());
        while registered() < NODES.len() {
            ensure!(begun.elapsed() < PATIENCE, "the nodes do not register");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(nodes)
    }

    fn spawn(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{name}.log")))?;
        let child = Command::new(&self.binary)
            .args(arguments)
            .arg("--dir")
            .arg(self.dir.path().join(name))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        self.running.push(child);
        Ok(())
    }

    /// The control plane.
    #[must_use]
    pub fn control(&self) -> Client {
        Client::new(&self.control)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.running {
            if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
                eprintln!("ending a process: {error}");
            }
        }
    }
}

fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
