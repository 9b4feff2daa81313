//! A database system under measurement.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use postgres::{Client, NoTls};

/// One of the systems compared.
pub trait System {
    /// Its name in the results.
    fn name(&self) -> &str;
    /// Its port on this machine.
    fn port(&self) -> u16;
    /// Turns on synchronous copies, once the data is loaded.
    ///
    /// # Errors
    /// When they do not come up.
    fn quorum(&mut self) -> Result<()>;
    /// Roots of the process trees of the compute host.
    fn compute_pids(&self) -> Result<Vec<u32>>;
    /// Roots of the process trees that keep the copies.
    fn storage_pids(&self) -> Result<Vec<u32>>;
    /// Bytes shipped so far to one copy; `None` where there are no copies.
    fn bytes_to_one_copy(&self) -> Result<Option<u64>>;
}

/// A connection to a system.
///
/// # Errors
/// When PostgreSQL refuses.
pub fn connect(port: u16) -> Result<Client> {
    let url = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    Ok(Client::connect(&url, NoTls)?)
}

/// Directory of PostgreSQL's programs.
#[must_use]
pub fn pg_bin() -> PathBuf {
    std::env::var_os("SIXFOLD_PG_BIN")
        .map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from)
}

/// A command that runs one of PostgreSQL's programs as a user it accepts.
#[must_use]
pub fn as_postgres(program: &str) -> Command {
    let path = pg_bin().join(program);
    // SAFETY: geteuid(2) has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(path);
    command
}

/// Runs a command to its end.
///
/// # Errors
/// With what it printed when it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
