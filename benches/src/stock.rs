//! Stock PostgreSQL: alone, with six hot standbys, or with six `pg_receivewal`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::system::{System, as_postgres, connect, run};

const SETTINGS: &str = "
listen_addresses='127.0.0.1'
shared_buffers=1GB
max_wal_size=8GB
max_wal_senders=20
max_connections=300
";

/// A primary and its copies, stopped when dropped.
pub struct Stock {
    name: String,
    dir: tempfile::TempDir,
    port: u16,
    standbys: Vec<PathBuf>,
    receivers: Vec<Child>,
}

impl Stock {
    /// Sets up the primary of `alone`, `standbys6` or `receivers6`.
    ///
    /// # Errors
    /// When PostgreSQL's programs fail.
    pub fn up(name: &str) -> Result<Stock> {
        if !["alone", "nofsync", "standbys6", "receivers6"].contains(&name) {
            bail!("no system `{name}`; there are alone, nofsync, standbys6, receivers6, sixfold");
        }
        let dir = tempfile::Builder::new().prefix("stock-").tempdir()?;
        give_to_postgres(dir.path())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let primary = dir.path().join("primary");
        run(as_postgres("initdb").arg("-D").arg(&primary).args(["-A", "trust", "-U", "postgres"]))?;
        let off = if name == "nofsync" { "fsync=off\nfull_page_writes=off\n" } else { "" };
        configure(&primary, &format!("{SETTINGS}port={port}\n{off}"), dir.path())?;
        let stock = Stock { name: name.to_owned(), dir, port, standbys: vec![], receivers: vec![] };
        stock.start(&primary)?;
        Ok(stock)
    }

    fn primary(&self) -> PathBuf {
        self.dir.path().join("primary")
    }

    fn start(&self, data: &Path) -> Result<()> {
        let log = data.with_extension("log");
        run(as_postgres("pg_ctl")
            .arg("-D")
            .arg(data)
            .arg("-l")
            .arg(log)
            .args(["-w", "-t", "120", "start"])
            .stdout(Stdio::null()))
        .map(drop)
    }

    /// Stops the primary without a checkpoint's mercy and starts it with cold caches.
    ///
    /// # Errors
    /// When PostgreSQL does not come up.
    pub fn crash_and_restart(&self) -> Result<Duration> {
        run(as_postgres("pg_ctl").arg("-D").arg(self.primary()).args(["-m", "immediate", "stop"]))?;
        crate::opening::drop_caches()?;
        let started = std::time::Instant::now();
        self.start(&self.primary())?;
        connect(self.port)?.simple_query("select 1")?;
        Ok(started.elapsed())
    }

    fn add_standby(&mut self, index: u16) -> Result<()> {
        let data = self.dir.path().join(format!("standby{index}"));
        run(as_postgres("pg_basebackup")
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string(), "-D"])
            .arg(&data)
            .args(["-R", "-c", "fast"]))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let from =
            format!("host=127.0.0.1 port={} user=postgres application_name=c{index}", self.port);
        let settings = format!("port={port}\nshared_buffers=256MB\nprimary_conninfo='{from}'\n");
        std::fs::remove_file(data.join("postgresql.auto.conf"))?;
        configure(&data, &settings, self.dir.path())?;
        self.standbys.push(data.clone());
        self.start(&data)
    }

    fn add_receiver(&mut self, index: u16) -> Result<()> {
        let into = self.dir.path().join(format!("receiver{index}"));
        std::fs::create_dir(&into)?;
        give_to_postgres(&into)?;
        let child = as_postgres("pg_receivewal")
            .env("PGAPPNAME", format!("c{index}"))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string(), "-D"])
            .arg(&into)
            .args(["--synchronous", "--no-loop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.receivers.push(child);
        Ok(())
    }
}

impl System for Stock {
    fn name(&self) -> &str {
        &self.name
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn quorum(&mut self) -> Result<()> {
        for index in 1..=6 {
            match self.name.as_str() {
                "standbys6" => self.add_standby(index)?,
                "receivers6" => self.add_receiver(index)?,
                _ => return Ok(()),
            }
        }
        let mut client = connect(self.port)?;
        client.simple_query(
            "alter system set synchronous_standby_names = 'ANY 4 (c1, c2, c3, c4, c5, c6)'",
        )?;
        client.simple_query("select pg_reload_conf()")?;
        for _ in 0..300 {
            let ready: i64 = client
                .query_one(
                    "select count(*) from pg_stat_replication where sync_state = 'quorum'",
                    &[],
                )?
                .get(0);
            if ready == 6 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("six synchronous copies did not come up")
    }

    fn compute_pids(&self) -> Result<Vec<u32>> {
        Ok(vec![postmaster(&self.primary())?])
    }

    fn storage_pids(&self) -> Result<Vec<u32>> {
        let standbys = self.standbys.iter().map(|data| postmaster(data));
        let receivers = self.receivers.iter().map(|child| Ok(child.id()));
        standbys.chain(receivers).collect()
    }

    fn bytes_to_one_copy(&self) -> Result<Option<u64>> {
        let row = connect(self.port)?.query_one(
            "select (avg(sent_lsn - '0/0'))::bigint from pg_stat_replication where sync_state = 'quorum'",
            &[],
        )?;
        Ok(row.get::<_, Option<i64>>(0).and_then(|bytes| u64::try_from(bytes).ok()))
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        for child in &mut self.receivers {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("stopping a receiver: {error}");
            }
        }
        for data in self.standbys.iter().chain([&self.primary()]) {
            let stop = &mut as_postgres("pg_ctl");
            if let Err(error) = run(stop.arg("-D").arg(data).args(["-m", "immediate", "stop"])) {
                eprintln!("stopping {}: {error:#}", data.display());
            }
        }
    }
}

fn postmaster(data: &Path) -> Result<u32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid"))?;
    text.lines().next().context("a pid")?.trim().parse().context("a pid")
}

/// Adds settings to a new cluster; its socket goes to `sockets`.
///
/// # Errors
/// When the file cannot be written.
pub fn configure(data: &Path, settings: &str, sockets: &Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::options().append(true).open(data.join("postgresql.conf"))?;
    Ok(writeln!(file, "{settings}\nunix_socket_directories='{}'", sockets.display())?)
}

/// Hands a directory to the user that PostgreSQL runs as, when we are root.
///
/// # Errors
/// When `chown` fails.
pub fn give_to_postgres(dir: &Path) -> Result<()> {
    // SAFETY: geteuid(2) has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        run(std::process::Command::new("chown").arg("postgres:postgres").arg(dir))?;
    }
    Ok(())
}
