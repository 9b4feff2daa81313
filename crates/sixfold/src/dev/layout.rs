//! Where everything of a development cluster lies, and what is remembered between its runs.
//!
//! ```text
//! DIR/dev.json          addresses and options           DIR/run/dev.lock   held by `dev up`
//! DIR/control           the control plane's store       DIR/run/dev.sock   `dev start` asks here
//! DIR/nodes/NAME        a storage node's disk           DIR/run/NAME.pid   number and start time
//! DIR/instances/NAME    an instance's cache             DIR/log/NAME.log
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cli::{DevNodes, Tuning};
use crate::privileges::{User, is_root};

/// Layout of the directory; another one is refused by name.
const FORMAT: u32 = 1;
/// Names of the six nodes; the letter is the zone.
pub(crate) const NODES: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];
/// A third node in each zone, to move segments to.
pub(crate) const SPARES: [&str; 3] = ["a3", "b3", "c3"];
pub(crate) const CONTROL: &str = "control";
pub(crate) const WRITER: &str = "writer";
pub(crate) const DEFAULT_PORT: u16 = 5432;
/// A path longer than this leaves no room for PostgreSQL's socket below it (the system's limit is 107).
const INSTANCES_PATH_MAX: usize = 64;
/// What is made before `dev.json` says that a directory is a cluster's.
const LEFT_BEFORE_BEGUN: [&str; 5] = ["run", "log", "nodes", "instances", "dev.json.new"];
/// Below the range from which the system takes ports for outgoing connections.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// The directory of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub dir: PathBuf,
}

/// What `dev.json` remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub format: u32,
    /// Version of the program that wrote it last.
    pub version: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// Address of every process but PostgreSQL, by name.
    pub addresses: BTreeMap<String, String>,
    /// Where each serves metrics, by name.
    pub http: BTreeMap<String, String>,
    /// Where the instances' caches are: where PostgreSQL's user can reach them.
    pub instances: PathBuf,
    pub group_size: Option<u64>,
    pub cache_size: Option<u64>,
    #[serde(default)]
    pub cache_limit: Option<u64>,
    pub az_latency: u64,
    /// Whether there is a third node in each zone.
    #[serde(default)]
    pub spares: bool,
    /// Seconds of silence after which a node is taken for lost.
    #[serde(default)]
    pub replace_after: Option<u64>,
    /// Seconds of slowness after which it is replaced, too.
    #[serde(default)]
    pub replace_slow_after: Option<u64>,
    /// Where others are to reach a process, by name, when that is not where it listens.
    #[serde(default)]
    pub through: BTreeMap<String, String>,
    pub settings: BTreeMap<String, String>,
    /// The cluster, once the control plane has been asked.
    #[serde(default)]
    pub cluster: Option<String>,
}

impl Layout {
    /// The layout of this directory, which need not exist.
    pub fn new(dir: &Path) -> anyhow::Result<Layout> {
        let absolute = std::path::absolute(dir).context("cannot find the current directory")?;
        Ok(Layout { dir: absolute.canonicalize().unwrap_or(absolute) })
    }

    pub fn saved_file(&self) -> PathBuf {
        self.dir.join("dev.json")
    }

    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.pid"))
    }

    pub fn control(&self) -> PathBuf {
        self.dir.join(CONTROL)
    }

    pub fn node(&self, name: &str) -> PathBuf {
        self.dir.join("nodes").join(name)
    }

    /// What is remembered; none when nothing is there yet. A directory of anything else is refused.
    pub fn load(&self) -> anyhow::Result<Option<Saved>> {
        let path = self.saved_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return self.check_empty().map(|()| None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let damaged =
            || format!("{} is damaged; restore it, or choose another --dir", path.display());
        let json: serde_json::Value = serde_json::from_str(&text).with_context(damaged)?;
        let format = json.get("format").and_then(serde_json::Value::as_u64);
        ensure!(
            format == Some(FORMAT.into()),
            "{} was written by another version (format {}, this one reads {FORMAT}); run that \
             version, or choose another --dir",
            path.display(),
            format.map_or_else(|| "unknown".to_owned(), |format| format.to_string()),
        );
        serde_json::from_value(json).map(Some).with_context(damaged)
    }

    fn check_empty(&self) -> anyhow::Result<()> {
        match fs::read_dir(&self.dir) {
            // A run that failed before it began, on a full disk perhaps, leaves nothing but these.
            Ok(mut entries) => ensure!(
                entries.all(|entry| entry.is_ok_and(|entry| {
                    LEFT_BEFORE_BEGUN.iter().any(|ours| entry.file_name() == *ours)
                })),
                "{} is not empty and not a cluster of ours; choose another --dir",
                self.dir.display()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let dir = self.dir.display();
                return Err(error)
                    .with_context(|| format!("cannot use {dir} as --dir; choose another"));
            }
        }
        Ok(())
    }

    /// What is remembered of a cluster that must be there.
    pub fn require(&self) -> anyhow::Result<Saved> {
        let none = || {
            let dir = self.dir.display();
            format!("there is no cluster in {dir}; start one with `sixfold dev up --dir {dir}`")
        };
        if !self.saved_file().exists() {
            bail!(none());
        }
        self.load()?.with_context(none)
    }

    /// Writes `dev.json`, whole or not at all.
    pub fn save(&self, saved: &Saved) -> anyhow::Result<()> {
        let (path, draft) = (self.saved_file(), self.dir.join("dev.json.new"));
        let text = serde_json::to_string_pretty(saved).context("options are plain values")?;
        fs::write(&draft, text + "\n")
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes the directories.
    pub fn create(&self) -> anyhow::Result<()> {
        for dir in [self.run(), self.logs(), self.dir.join("nodes")] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(())
    }
}

impl Saved {
    /// Options for a run: those given, else those of the last run, else the defaults.
    pub fn merge(
        layout: &Layout,
        before: Option<Saved>,
        port: Option<u16>,
        nodes: &DevNodes,
        given: &Tuning,
    ) -> anyhow::Result<Saved> {
        let mut saved = match before {
            Some(saved) => saved,
            None => Saved {
                format: FORMAT,
                version: String::new(),
                port: DEFAULT_PORT,
                addresses: BTreeMap::new(),
                http: BTreeMap::new(),
                instances: instances_dir(layout)?,
                group_size: given.group_size,
                cache_size: None,
                cache_limit: None,
                az_latency: 0,
                spares: false,
                replace_after: None,
                replace_slow_after: None,
                through: BTreeMap::new(),
                settings: BTreeMap::new(),
                cluster: None,
            },
        };
        if given.group_size.is_some() && given.group_size != saved.group_size {
            bail!(
                "the group size is fixed when the database is created (here {}); leave \
                 --group-size out, or choose another --dir",
                saved
                    .group_size
                    .map_or_else(|| "10GB".to_owned(), |bytes| format!("{bytes} bytes"))
            );
        }
        env!("CARGO_PKG_VERSION").clone_into(&mut saved.version);
        saved.port = port.unwrap_or(saved.port);
        saved.spares |= nodes.spares;
        saved.replace_after = nodes.replace_after.or(saved.replace_after);
        saved.replace_slow_after = nodes.replace_slow_after.or(saved.replace_slow_after);
        saved.through.extend(nodes.through.iter().cloned());
        saved.cache_size = given.cache_size.or(saved.cache_size);
        saved.cache_limit = given.cache_limit.or(saved.cache_limit);
        saved.az_latency = given.az_latency.unwrap_or(saved.az_latency);
        saved.settings.extend(given.set.iter().cloned());
        Ok(saved)
    }

    /// Gives every process addresses: the ones it had, unless somebody else has them now.
    pub fn assign_addresses(&mut self) -> anyhow::Result<()> {
        let mut held = Vec::new();
        let mut taken = BTreeSet::from([self.port, self.port.saturating_add(1)]);
        let mut next = PORTS.start + random()? % (PORTS.end - PORTS.start);
        let names = self.nodes().chain([CONTROL]);
        let listening: Vec<_> = names.map(|name| (name, true)).collect();
        let metrics: Vec<_> = self.nodes().chain([WRITER]).map(|name| (name, false)).collect();
        for (name, is_listening) in listening.into_iter().chain(metrics) {
            let known = if is_listening { &mut self.addresses } else { &mut self.http };
            if let Some(listener) = known.get(name).and_then(|old| TcpListener::bind(old).ok()) {
                held.push(listener);
                continue;
            }
            let listener = free_port(&mut next, &mut taken)?;
            let address = listener.local_addr().context("a bound socket has an address")?;
            known.insert(name.to_owned(), address.to_string());
            held.push(listener);
        }
        Ok(())
    }

    /// Its storage nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &'static str> + use<> {
        let spares = if self.spares { &SPARES[..] } else { &[] };
        NODES.iter().chain(spares).copied()
    }

    /// The control plane's address.
    pub fn control(&self) -> &str {
        self.address(CONTROL)
    }

    /// A process's address.
    pub fn address(&self, name: &str) -> &str {
        self.addresses.get(name).map_or("", String::as_str)
    }

    /// An instance's directory.
    pub fn instance(&self, name: &str) -> PathBuf {
        self.instances.join(name)
    }

    /// Where clients connect.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn free_port(next: &mut u16, taken: &mut BTreeSet<u16>) -> anyhow::Result<TcpListener> {
    for _ in PORTS {
        let port = *next;
        *next = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
        if taken.insert(port)
            && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        {
            return Ok(listener);
        }
    }
    bail!("no free port between {} and {} on 127.0.0.1", PORTS.start, PORTS.end)
}

fn random() -> anyhow::Result<u16> {
    use std::io::Read as _;
    let mut bytes = [0; 2];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(u16::from_le_bytes(bytes))
}

/// Where instances go: in the cluster's directory, unless PostgreSQL's user cannot get there (a
/// clone under /root) or the path is too long for its socket; they are only a cache.
fn instances_dir(layout: &Layout) -> anyhow::Result<PathBuf> {
    let inside = layout.dir.join("instances");
    let reachable = if is_root() { User::find("postgres")?.reaches(&layout.dir) } else { true };
    if reachable && inside.as_os_str().len() <= INSTANCES_PATH_MAX {
        return Ok(inside);
    }
    let name = format!("sixfold-{:04x}{:04x}{:04x}", random()?, random()?, random()?);
    Ok(Path::new("/var/tmp").join(name))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path()).expect("absolute");
        (dir, layout)
    }

    fn fresh(layout: &Layout) -> Saved {
        Saved { instances: layout.dir.join("instances"), ..saved() }
    }

    /// A cluster that never ran.
    pub(crate) fn saved() -> Saved {
        Saved {
            format: FORMAT,
            version: "0".to_owned(),
            port: 6000,
            addresses: BTreeMap::new(),
            http: BTreeMap::new(),
            instances: PathBuf::from("instances"),
            group_size: Some(8 << 20),
            cache_size: None,
            cache_limit: None,
            az_latency: 0,
            spares: false,
            replace_after: None,
            replace_slow_after: None,
            through: BTreeMap::new(),
            settings: BTreeMap::new(),
            cluster: None,
        }
    }

    #[test]
    fn addresses_are_distinct_and_stay_the_same() {
        let (_dir, layout) = layout();
        let mut saved = fresh(&layout);
        saved.assign_addresses().expect("free ports");
        let all: BTreeSet<_> = saved.addresses.values().chain(saved.http.values()).collect();
        assert_eq!(all.len(), 7 + 7);
        layout.save(&saved).expect("written");
        let mut again = layout.load().expect("readable").expect("there");
        again.assign_addresses().expect("free ports");
        assert_eq!(again, saved);
    }

    #[test]
    fn options_given_win_and_the_others_stay_but_the_group_size_is_fixed() {
        let (_dir, layout) = layout();
        let given = Tuning { az_latency: Some(3), ..Tuning::default() };
        let nodes = DevNodes::default();
        let merge = |given| Saved::merge(&layout, Some(fresh(&layout)), None, &nodes, given);
        let merged = merge(&given).expect("fine");
        assert_eq!((merged.port, merged.az_latency, merged.group_size), (6000, 3, Some(8 << 20)));
        let given = Tuning { group_size: Some(1 << 30), ..Tuning::default() };
        assert!(merge(&given).is_err());
    }

    #[test]
    fn another_format_and_another_directory_are_refused() {
        let (_dir, layout) = layout();
        assert!(layout.load().expect("empty").is_none());
        fs::write(layout.dir.join("precious"), "x").expect("written");
        let error = layout.load().expect_err("not ours").to_string();
        assert!(error.contains("not empty"), "{error}");
        fs::write(layout.saved_file(), "{\"format\": 99}").expect("written");
        let error = layout.load().expect_err("another version").to_string();
        assert!(error.contains("format 99"), "{error}");
        fs::write(layout.saved_file(), "{\"format\": 1, ").expect("written");
        let error = layout.load().expect_err("cut short").to_string();
        assert!(error.contains("damaged"), "{error}");
        let error = Layout::new(&layout.saved_file()).and_then(|file| file.load());
        let error = error.expect_err("a file").to_string();
        assert!(error.contains("choose another"), "{error}");
    }
}
