//! A stock server of the same programs on the same machine, made as a volume's database is made.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{PATIENCE, connect_to, free_port_pair, signal, wait_for_exit};
use crate::tools::{pg_bin, postgres_user};

/// A running server, stopped when dropped, and by Ctrl-C.
#[derive(Debug)]
pub struct Stock {
    server: Child,
    /// Its port.
    pub port: u16,
}

/// A program that must not run as root, as PostgreSQL's user if we are.
///
/// # Errors
/// When there is no such user.
pub fn unprivileged(program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    if let Some((user, group)) = postgres_user()? {
        command.uid(user).gid(group);
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// Makes a directory that PostgreSQL's user may write.
///
/// # Errors
/// When the system refuses.
pub fn directory_for_postgres(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    if let Some((user, group)) = postgres_user()? {
        std::os::unix::fs::chown(dir, Some(user), Some(group))
            .with_context(|| format!("hand over {}", dir.display()))?;
    }
    Ok(())
}

impl Stock {
    /// Makes a database in `dir` and starts its server with these further settings.
    ///
    /// # Errors
    /// With what PostgreSQL's programs say.
    pub fn start(dir: &Path, given: &[(&str, &str)]) -> Result<Stock> {
        directory_for_postgres(dir)?;
        let (data, port) = (dir.join("data"), free_port_pair()?);
        let status = unprivileged(&pg_bin().join("initdb"))?
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
            .current_dir(dir)
            .stdout(Stdio::null())
            .status()
            .context("run initdb")?;
        ensure!(status.success(), "initdb ended with {status}");
        let mut settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
             fsync = off\ntimezone = 'UTC'\nlog_timezone = 'UTC'\n",
            dir.display()
        );
        for (name, value) in given {
            settings += &format!("{name} = {value}\n");
        }
        fs::write(data.join("postgresql.auto.conf"), settings)?;
        let log = dir.join("log");
        let server = unprivileged(&pg_bin().join("postgres"))?
            .arg("-D")
            .arg(&data)
            .current_dir(dir)
            .stderr(File::create(&log)?)
            .spawn()
            .context("run postgres")?;
        let stock = Stock { server, port };
        let began = Instant::now();
        while let Err(error) = connect_to(port) {
            let log = || format!("the stock server's log is {}", log.display());
            ensure!(began.elapsed() < PATIENCE, error.context(log()));
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(stock)
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        signal(self.server.id(), libc::SIGINT);
        if let Err(error) = wait_for_exit(&mut self.server, PATIENCE) {
            eprintln!("stopping the stock server: {error:#}");
        }
    }
}
