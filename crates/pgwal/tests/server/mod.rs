//! A throw-away PostgreSQL 15 server, to make real WAL. Tests that need it pass with a note where
//! its binaries are not installed (`PGWAL_TEST_BIN` names another directory).

#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

pub struct Server {
    dir: TempDir,
    bin: PathBuf,
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the command can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{errors}", output.status);
    text
}

impl Server {
    /// A new cluster with small segments, not started; `None` without binaries.
    pub fn init(settings: &str) -> Option<Server> {
        let bin = std::env::var_os("PGWAL_TEST_BIN")
            .map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from);
        if !bin.join("postgres").exists() {
            eprintln!("skipped: no PostgreSQL 15 in {}", bin.display());
            return None;
        }
        let dir = tempfile::Builder::new().prefix("pgwal").tempdir_in("/tmp").expect("a directory");
        let server = Server { dir, bin };
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(server.dir.path()));
        }
        let data = server.data();
        run(server.program("initdb").arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "--data-checksums",
            "--wal-segsize=1",
        ]));
        let conf = data.join("postgresql.conf");
        let mut text = fs::read_to_string(&conf).expect("initdb wrote it");
        text.push_str(&format!(
            "\nlisten_addresses=''\nunix_socket_directories='{}'\nfsync=off\n{settings}\n",
            server.dir.path().display()
        ));
        fs::write(&conf, text).expect("it can be written");
        Some(server)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn wal(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    pub fn program(&self, name: &str) -> Command {
        let path = self.bin.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir(self.dir.path());
        command
    }

    pub fn start(&self) {
        let log = self.dir.path().join("log");
        let mut command = self.program("pg_ctl");
        command.arg("-D").arg(self.data()).arg("-l").arg(&log).args(["-w", "-s", "start"]);
        let status = command.status().expect("pg_ctl can be started");
        let log = fs::read_to_string(log).unwrap_or_default();
        assert!(status.success(), "the server does not start:\n{log}");
    }

    pub fn stop(&self, mode: &str) {
        run(self
            .program("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .args(["-w", "-s", "-m", mode, "stop"]));
    }

    pub fn sql(&self, sql: &str) -> String {
        self.psql().args(["-c", sql]).output_text()
    }

    pub fn sql_file(&self, file: &Path) {
        let text = fs::read_to_string(file).expect("the script is there");
        let copy = self.dir.path().join("script.sql");
        fs::write(&copy, text).expect("it can be written");
        self.psql().arg("-f").arg(copy).output_text();
    }

    fn psql(&self) -> Command {
        let mut command = self.program("psql");
        command.arg("-h").arg(self.dir.path());
        command.args(["-U", "postgres", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        command
    }

    /// What `pg_waldump` says of the segments from the first to the last of the directory. It ends
    /// with an error where the log ends.
    pub fn waldump(&self, from: &str, to: &str) -> String {
        let output = self
            .program("pg_waldump")
            .arg("-p")
            .arg(self.wal())
            .args([from, to])
            .output()
            .expect("pg_waldump can be started");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Names of the segments in `pg_wal`, in order.
    pub fn segments(&self) -> Vec<String> {
        let names = fs::read_dir(self.wal()).expect("pg_wal exists");
        let mut names: Vec<String> = names
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .filter(|name| pgwal::layout::parse_segment_name(name, 1 << 20).is_some())
            .collect();
        names.sort();
        names
    }
}

trait OutputText {
    fn output_text(&mut self) -> String;
}

impl OutputText for Command {
    fn output_text(&mut self) -> String {
        run(self)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            let stopped = self
                .program("pg_ctl")
                .arg("-D")
                .arg(self.data())
                .args(["-w", "-s", "-m", "immediate", "stop"])
                .status();
            if let Err(error) = stopped {
                eprintln!("the server in {} was not stopped: {error}", self.data().display());
            }
        }
    }
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).trim() == "0"
}
