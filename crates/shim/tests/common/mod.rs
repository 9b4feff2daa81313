//! A driver for tests, whose storage is a directory: flushes are durable when it says so, fetches
//! are answered from the copy. And stock PostgreSQL under the library.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use seam::{Board, Claimant, FileKind, Instance, Map, Mode, Reply, Request, SegmentName, socket};

pub const BIN: &str = "/usr/lib/postgresql/15/bin";

/// The user that PostgreSQL runs as: the one of the package when we are root.
fn user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok()? != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.starts_with("postgres:"))?;
    let mut ids = line.split(':').skip(2).map(|id| id.parse().ok());
    Some((ids.next()??, ids.next()??))
}

pub fn as_user(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    if let Some((uid, gid)) = user() {
        command.uid(uid).gid(gid);
    }
    command.env("LC_ALL", "C").current_dir("/");
    command
}

/// The library built from this crate, where any user can load it. Cargo does not build a `cdylib`
/// for a test by itself.
pub fn library(directory: &Path) -> PathBuf {
    static BUILT: std::sync::Once = std::sync::Once::new();
    let own = std::env::current_exe().expect("own path");
    let profile = own.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    BUILT.call_once(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "-p", "sixfold-shim"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        run(&mut cargo);
    });
    let copy = directory.join("libsixfold_shim.so");
    fs::copy(profile.join("libsixfold_shim.so"), &copy).expect("built just now");
    copy
}

pub struct World {
    pub root: tempfile::TempDir,
    pub instance: &'static Instance,
    pub board: &'static Board,
    pub fetched: Arc<AtomicU64>,
    pub alive: Arc<AtomicBool>,
    pub durable: Arc<AtomicBool>,
    library: PathBuf,
    pub port: u16,
}

pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

impl World {
    /// An instance whose data directory is a skeleton of a fresh `initdb`.
    pub fn make(port: u16) -> World {
        let root = tempfile::Builder::new().prefix("shim-").tempdir().expect("scratch");
        let path = root.path().to_path_buf();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("own");
        for directory in ["instance/shm/maps", "store", "run"] {
            fs::create_dir_all(path.join(directory)).expect("scratch");
        }
        let ours = ["", "instance", "instance/shm", "instance/shm/maps", "store", "run"];
        for directory in ours.map(|name| path.join(name)) {
            own(&directory);
        }
        let store = path.join("store/pgdata");
        run(as_user(format!("{BIN}/initdb"))
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(&store));
        let text = path.join("instance");
        let instance =
            Instance::new(text.to_str().expect("utf-8").as_bytes(), None).expect("short");
        let instance: &'static Instance = Box::leak(Box::new(instance));
        let board = Board::create(instance, Mode::Write, 16 << 20).expect("board");
        let world = World {
            instance,
            board,
            fetched: Arc::default(),
            alive: Arc::new(AtomicBool::new(false)),
            durable: Arc::new(AtomicBool::new(true)),
            library: library(&path),
            port,
            root,
        };
        run(as_user("/bin/cp").arg("-a").arg(&store).arg(world.pgdata()));
        world.make_skeleton();
        world
    }

    pub fn pgdata(&self) -> PathBuf {
        self.root.path().join("instance/pgdata")
    }

    pub fn store(&self) -> PathBuf {
        self.root.path().join("store/pgdata")
    }

    /// Replaces every relation file by a sparse one of its size with nothing present.
    fn make_skeleton(&self) {
        self.each_relation(&self.pgdata(), &mut |name, path| {
            let bytes = path.metadata().expect("exists").len();
            let blocks = u32::try_from(bytes / 8192).expect("fits");
            Map::create_absent(self.instance, &name, blocks).expect("map");
            let file = OpenOptions::new().write(true).open(path).expect("exists");
            file.set_len(0).expect("cut");
            file.set_len(bytes).expect("grown");
        });
    }

    /// With the server stopped: storage gets what the server has, and the server loses it all.
    pub fn evict_everything(&self) {
        self.store_everything();
        self.make_skeleton();
    }

    /// Storage gets what is in the server's files.
    pub fn store_everything(&self) {
        let (from, to) = (self.pgdata(), self.store());
        self.each_relation(&from, &mut |name, path| {
            let target = to.join(path.strip_prefix(&from).expect("below"));
            let map = Map::open(self.instance, &name).expect("map");
            let old = fs::read(&target).unwrap_or_default();
            let mut new = fs::read(path).expect("readable");
            for (block, bytes) in new.chunks_mut(8192).enumerate() {
                let absent = map
                    .as_ref()
                    .is_some_and(|map| map.state(u32::try_from(block).expect("fits")).is_absent());
                if absent {
                    bytes.copy_from_slice(&old[block * 8192..][..8192]);
                }
            }
            fs::create_dir_all(target.parent().expect("below")).expect("made");
            fs::write(&target, new).expect("written");
        });
    }

    fn each_relation(&self, base: &Path, visit: &mut dyn FnMut(SegmentName, &Path)) {
        let mut pending = vec![base.join("base"), base.join("global")];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).expect("readable").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    pending.push(path);
                    continue;
                }
                let relative =
                    path.strip_prefix(base).expect("below").to_str().expect("utf-8").to_owned();
                if let FileKind::Relation(name) = seam::classify(relative.as_bytes()) {
                    visit(name, &path);
                }
            }
        }
    }

    /// Starts the driver's threads; a second call after `kill_driver` is a new driver.
    pub fn start_driver(&mut self) {
        self.start_flusher();
        self.start_requests();
    }

    /// The driver's part that answers flushes.
    pub fn start_flusher(&mut self) {
        self.alive = Arc::new(AtomicBool::new(true));
        self.board.take_over();
        let wake = self.root.path().join("instance/shm/wake");
        if !wake.exists() {
            run(as_user("/usr/bin/mkfifo").arg(&wake));
        }
        let mut bell = OpenOptions::new();
        bell.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let bell = bell.open(&wake).expect("opened");
        let (alive, board, durable) =
            (Arc::clone(&self.alive), self.board, Arc::clone(&self.durable));
        std::thread::spawn(move || {
            let mut byte = [0; 8];
            while alive.load(SeqCst) {
                let writes = board.wal_writes();
                if durable.load(SeqCst) && writes > board.flushed() {
                    board.set_flushed(writes);
                }
                if board.prepare_sleep(board.flushed()) {
                    poll(&bell, 20);
                    drop((&bell).read(&mut byte));
                }
                board.awake();
            }
        });
    }

    /// The driver's part that answers requests.
    fn start_requests(&self) {
        let fd = socket::listen(self.instance).expect("bound");
        // SAFETY: a descriptor just made, owned by nobody else.
        #[expect(unsafe_code, reason = "turning a descriptor into its owner")]
        let requests = UnixListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
        requests.set_nonblocking(true).expect("option");
        let server = Server {
            instance: self.instance,
            board: self.board,
            store: self.store(),
            fetched: Arc::clone(&self.fetched),
            alive: Arc::clone(&self.alive),
        };
        std::thread::spawn(move || {
            while server.alive.load(SeqCst) {
                match requests.accept() {
                    Ok((stream, _)) => {
                        let server = server.clone();
                        std::thread::spawn(move || server.serve(stream));
                    }
                    Err(_none) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
    }

    pub fn kill_driver(&self) {
        self.alive.store(false, SeqCst);
        drop(fs::remove_file(self.root.path().join("instance/shm/driver.sock")));
        std::thread::sleep(Duration::from_millis(60));
    }

    /// Starts PostgreSQL under the library and waits until it answers.
    pub fn start_server(&self) -> Child {
        let child = self.spawn_server();
        let end = Instant::now() + Duration::from_secs(30);
        while !self.psql_raw("select 1").status.success() {
            assert!(Instant::now() < end, "no answer; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        child
    }

    pub fn spawn_server(&self) -> Child {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.root.path().join("log"))
            .expect("log");
        let mut command = as_user(format!("{BIN}/postgres"));
        command.arg("-D").arg(self.pgdata()).arg("-k").arg(self.root.path().join("run"));
        for setting in [
            &format!("port={}", self.port),
            "listen_addresses=",
            "fsync=on",
            "full_page_writes=off",
            "wal_init_zero=off",
            "wal_sync_method=fdatasync",
            "shared_buffers=2MB",
            "max_wal_size=64MB",
            "restart_after_crash=on",
            "autovacuum_naptime=1s",
        ] {
            command.args(["-c", setting]);
        }
        command
            .env("LD_PRELOAD", &self.library)
            .env("SIXFOLD_INSTANCE", self.root.path().join("instance"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        command.spawn().expect("postgres starts")
    }

    pub fn stop_server(&self, mut child: Child) {
        signal(child.id(), libc::SIGINT);
        let end = Instant::now() + Duration::from_secs(30);
        while child.try_wait().expect("own child").is_none() {
            assert!(Instant::now() < end, "does not stop; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    pub fn client(&self, program: &str) -> Command {
        let mut command = as_user(format!("{BIN}/{program}"));
        command.args(["-h".as_ref(), self.root.path().join("run").as_os_str()]);
        command.args(["-p", &self.port.to_string(), "-U", "postgres"]);
        command
    }

    fn psql_raw(&self, sql: &str) -> Output {
        let mut command = self.client("psql");
        command.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            "postgres",
            "-c",
            sql,
        ]);
        command.stdin(Stdio::null()).output().expect("psql starts")
    }

    pub fn psql(&self, sql: &str) -> String {
        let output = self.psql_raw(sql);
        assert!(
            output.status.success(),
            "{sql}: {}\nlog:\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn poll(file: &File, milliseconds: i32) {
    let mut entry = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry for the duration of the call.
    #[expect(unsafe_code, reason = "waiting for a descriptor")]
    unsafe {
        libc::poll(&raw mut entry, 1, milliseconds);
    }
}

fn own(path: &Path) {
    if let Some((uid, gid)) = user() {
        chown(path, Some(uid), Some(gid)).expect("root may");
    }
}

pub fn signal(pid: u32, number: i32) {
    run(Command::new("/bin/kill").arg(format!("-{number}")).arg(pid.to_string()));
}

#[derive(Clone)]
struct Server {
    instance: &'static Instance,
    board: &'static Board,
    store: PathBuf,
    fetched: Arc<AtomicU64>,
    alive: Arc<AtomicBool>,
}

impl Server {
    fn serve(&self, mut stream: UnixStream) {
        let Some(claimant) = Claimant::enter(self.board, self.instance) else { return };
        stream.set_nonblocking(false).expect("option");
        let mut bytes = [0; Request::SIZE];
        while stream.read_exact(&mut bytes).is_ok() && self.alive.load(SeqCst) {
            let errno = match Request::decode(&bytes).expect("well-formed") {
                Request::Hello { .. }
                | Request::Settings
                | Request::Directory { .. }
                | Request::NewDirectory { .. } => Some(0),
                Request::Fetch { name, first, count, .. } => {
                    self.fill(&name, first, count, claimant);
                    Some(0)
                }
                Request::Prefetch { name, first, count } => {
                    self.fill(&name, first, count, claimant);
                    None
                }
            };
            let Some(errno) = errno else { continue };
            let reply = Reply { errno, generation: self.board.generation() };
            if stream.write_all(&reply.encode()).is_err() {
                break;
            }
        }
        claimant.leave();
    }

    fn fill(&self, name: &SegmentName, first: u32, count: u32, claimant: Claimant<'_>) {
        let Ok(Some(map)) = Map::open(self.instance, name) else { return };
        let Ok(file) = OpenOptions::new().write(true).open(self.instance.data(name).as_str())
        else {
            return;
        };
        let store = File::open(self.store.join(name.data_path().as_str()));
        for block in first..first + count {
            let seen = map.state(block);
            map.wait_unclaimed(block, claimant);
            let mut page = vec![0; 8192];
            if let Ok(store) = &store {
                drop(store.read_exact_at(&mut page, u64::from(block) * 8192));
            }
            claimant.publish(name, block, 1);
            if map.claim_fill(block, seen, claimant) {
                file.write_all_at(&page, u64::from(block) * 8192).expect("disk");
                map.release_present(block);
                self.fetched.fetch_add(1, SeqCst);
            }
            claimant.retire();
        }
    }
}
