//! A throw-away PostgreSQL server and sessions on it whose statements are run in a fixed order.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Whether the server's programs are installed.
pub fn is_installed() -> bool {
    Path::new(BIN).join("postgres").exists()
}

/// A cluster in a directory of its own, removed with it.
pub struct Server {
    root: PathBuf,
    running: bool,
    kept: bool,
}

/// A command that runs as the operating system's user `postgres` where we are root.
fn command(program: &str) -> Command {
    let path = Path::new(BIN).join(program);
    let is_root = fs::metadata("/proc/self").is_ok_and(|m| {
        use std::os::unix::fs::MetadataExt;
        m.uid() == 0
    });
    if !is_root {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
    command
}

fn run(mut command: Command) {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Server {
    /// A new cluster, shut down, with these settings.
    pub fn create(name: &str, settings: &str) -> Server {
        let root = std::env::temp_dir().join(format!("redo-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a temporary directory");
        // Only matters to root, who then must let `postgres` in.
        let mut chown = Command::new("chown");
        chown.arg("postgres").arg(&root);
        chown.output().expect("chown starts");
        let server = Server { root, running: false, kept: false };
        let mut initdb = command("initdb");
        initdb.args(["--no-sync", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        initdb.arg("-D").arg(server.data());
        run(initdb);
        let conf = server.data().join("postgresql.auto.conf");
        fs::write(conf, settings).expect("the configuration is written");
        server
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// A directory that the server may write to.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        let mut install = command("/bin/mkdir");
        install.arg(&path);
        run(install);
        path
    }

    /// Copies the data directory as it is.
    pub fn copy_to(&self, name: &str) -> PathBuf {
        let copy = self.root.join(name);
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(self.data()).arg(&copy);
        run(cp);
        copy
    }

    /// Runs one of the server's programs with these arguments, which get the socket's directory.
    pub fn program(&self, name: &str, arguments: &[&str]) {
        let mut program = command(name);
        program.arg("-h").arg(&self.root).args(["-U", "postgres"]).args(arguments);
        run(program);
    }

    /// Lets the transaction counter of the stopped, fresh cluster go on from `xid`; the status of
    /// the transactions left out is zeros.
    pub fn skip_to_xid(&self, xid: u32) {
        let mut reset = command("pg_resetwal");
        reset.args(["-x", &xid.to_string()]).arg(self.data());
        run(reset);
        let status = self.data().join("pg_xact/0000");
        let file = fs::OpenOptions::new().write(true).open(status).expect("the first segment");
        file.set_len(u64::from(xid / 32768 + 1) * 8192).expect("it can grow");
    }

    fn control(&mut self, action: &str, mode: &str) {
        let mut pg_ctl = command("pg_ctl");
        pg_ctl.arg("-D").arg(self.data()).arg(action).args(["-w", "-s", "-t", "300"]);
        match action {
            "start" => {
                pg_ctl.arg("-l").arg(self.root.join("log"));
                pg_ctl.arg("-o").arg(format!("-k {} -c listen_addresses=", self.root.display()));
            }
            "stop" => {
                pg_ctl.args(["-m", mode]);
            }
            _ => {}
        }
        pg_ctl.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        let status = pg_ctl.status().expect("pg_ctl starts");
        let log = fs::read_to_string(self.root.join("log")).unwrap_or_default();
        assert!(status.success(), "pg_ctl {action} failed: {log}");
    }

    /// Leaves its files behind, for `sixfold verify-redo`.
    pub fn keep(&mut self) {
        println!("kept in {}: base, data", self.root.display());
        self.kept = true;
    }

    /// Starts the server.
    pub fn start(&mut self) {
        self.control("start", "");
        self.running = true;
    }

    /// Stops it with a checkpoint.
    pub fn stop(&mut self) {
        self.control("stop", "fast");
        self.running = false;
    }

    /// Stops it as a crash would.
    pub fn crash(&mut self) {
        self.control("stop", "immediate");
        self.running = false;
    }

    /// Stops it, starts it as a standby without a primary, and promotes it.
    pub fn promote(&mut self) {
        self.stop();
        let signal = self.data().join("standby.signal");
        let mut touch = command("/usr/bin/touch");
        touch.arg(signal);
        run(touch);
        self.start();
        self.control("promote", "");
    }

    /// Starts it anew with other settings, such as `wal_level = minimal`.
    pub fn restart_with(&mut self, settings: &[&str]) {
        let mut session = self.session("postgres");
        for setting in settings {
            session.run(&format!("alter system set {setting};"));
        }
        drop(session);
        self.stop();
        self.start();
    }

    /// A new session in a database.
    pub fn session(&self, database: &str) -> Session {
        let mut psql = command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-U", "postgres", "-v", "ON_ERROR_STOP=0", "-d"]);
        psql.arg(database).arg("-h").arg(&self.root);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = psql.spawn().expect("psql starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Session { child, input: Some(input), output }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.running {
            let mut pg_ctl = command("pg_ctl");
            pg_ctl.arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]);
            pg_ctl.stdout(Stdio::null()).stderr(Stdio::null());
            pg_ctl.status().ok();
        }
        if !self.kept {
            fs::remove_dir_all(&self.root).ok();
        }
    }
}

/// A `psql` process; statements are sent and waited for one after the other.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Sends statements without waiting for them.
    pub fn send(&mut self, sql: &str) {
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{sql}\n\\echo --done--").expect("psql reads");
        input.flush().expect("psql reads");
    }

    /// Waits for statements sent; returns what they printed.
    pub fn wait(&mut self) -> String {
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("psql writes");
            assert!(read > 0, "psql ended early after: {printed}");
            if line.trim_end() == "--done--" {
                return printed;
            }
            printed.push_str(&line);
        }
    }

    /// Runs statements; returns what they printed.
    pub fn run(&mut self, sql: &str) -> String {
        self.send(sql);
        self.wait()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.input.take();
        self.child.wait().ok();
    }
}
