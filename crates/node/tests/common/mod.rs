//! A cluster of nodes in this process: real sockets, real directories, a control plane that only
//! remembers who registered, and an engine whose pages are the concatenation of their records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use link::{Client, LinkError, Party};
use node::{Node, NodeConfig};
use registry::{Member, NodeRegistered, NodeRegistration, SegmentPlace};
use telemetry::{HttpServer, Metrics};
use types::*;
use wire::*;

pub const CLUSTER: ClusterId = ClusterId(0xc1);
pub const VOLUME: VolumeId = VolumeId(0x0f);
pub const SEGMENT: SegmentId = SegmentId { volume: VOLUME, group: GroupId(0) };
const NAMES: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];
const TIMEOUT: Duration = Duration::from_secs(10);

/// A page is the bodies of its records, one after the other.
struct Concatenation;

impl Engine for Concatenation {
    fn apply(
        &self,
        _key: &PageKey,
        page: &mut Vec<u8>,
        _span: Span,
        body: &[u8],
    ) -> Result<(), EngineError> {
        page.extend_from_slice(body);
        Ok(())
    }

    fn replaces(&self, _key: &PageKey, _body: &[u8]) -> bool {
        false
    }

    fn describe(&self, key: &PageKey) -> String {
        key.to_string()
    }
}

#[derive(Default)]
struct Registered {
    nodes: BTreeMap<NodeId, NodeRegistration>,
    /// The life of a disk that the segment was given to, new.
    given: BTreeMap<NodeId, Incarnation>,
    deleted: bool,
}

type Shared = Arc<Mutex<Registered>>;

async fn register(
    State(state): State<Shared>,
    Json(node): Json<NodeRegistration>,
) -> Json<NodeRegistered> {
    let mut state = state.lock().expect("not poisoned");
    state.nodes.insert(node.name, node.clone());
    let mut segments = Vec::new();
    if state.nodes.len() == NAMES.len() && !state.deleted {
        if state.given.is_empty() {
            state.given = state.nodes.values().map(|n| (n.name, n.incarnation)).collect();
        }
        let members = state.nodes.values().map(|n| Member {
            node: n.name,
            az: n.az,
            address: n.address.clone(),
            incarnation: n.incarnation,
            since: 1,
        });
        segments.push(SegmentPlace {
            volume: VOLUME,
            group: 0,
            membership_epoch: 1,
            members: members.collect(),
            joining: Vec::new(),
            fresh: state.given.get(&node.name) == Some(&node.incarnation),
        });
    }
    let holds = node.holds.iter().flatten().any(|held| held.volume == VOLUME);
    let deleted = if state.deleted && holds { vec![VOLUME] } else { Vec::new() };
    Json(NodeRegistered { cluster: CLUSTER, news: 0, segments: Some(segments), deleted })
}

/// Six nodes and their control plane.
pub struct Cluster {
    dir: tempfile::TempDir,
    store: segstore::Options,
    scrub_interval: Duration,
    control: Option<HttpServer>,
    control_address: String,
    registered: Shared,
    nodes: BTreeMap<&'static str, Node>,
    addresses: BTreeMap<&'static str, String>,
}

impl Cluster {
    /// All six, each holding the one segment.
    pub fn start() -> Cluster {
        let store = segstore::Options { log_file_bytes: 1 << 20, ..Default::default() };
        Cluster::start_with(store)
    }

    pub fn start_with(store: segstore::Options) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let registered = Shared::default();
        let router =
            Router::new().route("/nodes", post(register)).with_state(Arc::clone(&registered));
        let control = telemetry::serve_http("127.0.0.1:0", &Metrics::new("control", "c"), router)
            .expect("a free port");
        let control_address = control.address().to_string();
        let control = Some(control);
        let (nodes, addresses) = Default::default();
        let mut cluster = Cluster {
            dir,
            store,
            scrub_interval: node::SCRUB_INTERVAL_DEFAULT,
            control,
            control_address,
            registered,
            nodes,
            addresses,
        };
        NAMES.iter().for_each(|name| cluster.start_node(name));
        for name in NAMES {
            wait_for("the segment is created", || cluster.report(name).ok());
        }
        cluster
    }

    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter()
    }

    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self, name: &str, dir: &Path) -> NodeConfig {
        let az = name[..1].parse().expect("a zone");
        let mut config =
            NodeConfig::new(id(name), az, "127.0.0.1:0", &self.control_address, dir.into());
        config.store = self.store.clone();
        config.scrub_interval = self.scrub_interval;
        config.http_listen = Some("127.0.0.1:0".to_owned());
        config
    }

    /// Nodes started from now on scrub everything in so long.
    pub fn scrub_interval(&mut self, interval: Duration) {
        self.scrub_interval = interval;
    }

    pub fn start_node(&mut self, name: &'static str) {
        self.start_node_on(name, Arc::new(env::RealDisk));
    }

    pub fn start_node_on(&mut self, name: &'static str, disk: Arc<dyn env::Disk>) {
        let config = self.config(name, &self.data_dir(name));
        let node = Node::start(&config, disk, Arc::new(Concatenation));
        let node = node.expect("the node starts");
        self.addresses.insert(name, node.address().to_string());
        self.nodes.insert(name, node);
    }

    /// Starts a node on another's directory and returns why that failed.
    pub fn misplaced(&self, name: &str, dir: &str) -> String {
        let config = self.config(name, &self.data_dir(dir));
        match Node::start(&config, Arc::new(env::RealDisk), Arc::new(Concatenation)) {
            Ok(_) => panic!("{name} must not start in {dir}'s directory"),
            Err(error) => format!("{error:#}"),
        }
    }

    pub fn stop_node(&mut self, name: &str) {
        self.nodes.remove(name).expect("it runs").stop().expect("a clean end");
    }

    /// Waits for a node that ends by itself, and returns why.
    pub fn wait_for_end(&mut self, name: &str) -> String {
        let node = self.nodes.remove(name).expect("it runs");
        format!("{:#}", node.wait().expect_err("it failed"))
    }

    pub fn wipe(&self, name: &str) {
        std::fs::remove_dir_all(self.data_dir(name)).expect("removed");
    }

    /// From now on the control plane says that the volume was deleted.
    pub fn delete_volume(&self) {
        self.registered.lock().expect("not poisoned").deleted = true;
    }

    /// What a node last said it holds of the volume; none before it has opened its store.
    pub fn holds(&self, name: &str) -> Option<Vec<registry::SegmentUse>> {
        self.registered.lock().expect("not poisoned").nodes.get(&id(name))?.holds.clone()
    }

    pub fn stop_control(&mut self) {
        self.control = None;
    }

    pub fn address(&self, name: &str) -> &str {
        &self.addresses[name]
    }

    pub fn try_connect(&self, name: &str) -> Result<Client, LinkError> {
        let from = Speaker::Control;
        let party = Party { cluster: CLUSTER, from, az: None, az_latency: Duration::ZERO };
        Client::connect(&self.addresses[name], &party, TIMEOUT)
    }

    pub fn connect(&self, name: &str) -> Client {
        self.try_connect(name).expect("the node welcomes")
    }

    pub fn report(&self, name: &str) -> Result<SegmentReport, LinkError> {
        match self.try_connect(name)?.call(&Message::AskReport { segment: SEGMENT })? {
            Message::Report { report, .. } => Ok(report),
            other => panic!("a report, not {other:?}"),
        }
    }

    /// Opens the volume at these nodes: seals and adopts an epoch that begins at `begins`.
    pub fn open(&self, names: &[&str], history: &History, vdl: Span, until: Lsn) {
        for name in names {
            let mut client = self.connect(name);
            let epoch = history.last_epoch();
            client.call(&Message::Seal { segment: SEGMENT, epoch }).expect("sealed");
            let adopt = Message::Adopt {
                segment: SEGMENT,
                history: history.clone(),
                vdl,
                until,
                peer: id(names[0]),
            };
            client.call(&adopt).expect("adopted");
        }
    }

    pub fn metrics_text(&self, name: &str) -> String {
        let address = self.nodes[name].http_address().expect("configured");
        let mut stream = std::net::TcpStream::connect(address).expect("serves");
        use std::io::{Read as _, Write as _};
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answered");
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values() {
            node.stopper().stop();
        }
    }
}

pub fn id(name: &str) -> NodeId {
    name.parse().expect("a name")
}

pub fn key(block: u8) -> PageKey {
    let mut key = [1; PageKey::SIZE];
    key[19] = block;
    PageKey(key)
}

pub fn first_epoch() -> History {
    let entry = EpochStart { epoch: Epoch(1), begins: Lsn::ZERO, timeline: Timeline(1) };
    History::new(vec![entry]).expect("one entry")
}

/// Record number `n` (from 0): 64 bytes of log from `64 * (n + 1)`, its text, on page `n % 4`.
pub fn record(n: u64) -> Part {
    let start = Lsn(64 * (n + 1));
    let span = Span { start, end: start.plus(64) };
    let prev = if n == 0 { Lsn::ZERO } else { Lsn(64 * n) };
    let meta = PartMeta { span, prev, shared: Default::default() };
    let changes = vec![Change::Apply(key((n % 4) as u8))];
    Part { meta, changes, body: Bytes::from(format!("<{n}>")) }
}

/// Records `from..to` as one batch of this epoch, the writer's durable point being record `vdl`'s.
pub fn batch(epoch: u64, from: u64, to: u64, vdl: Span) -> Batch {
    let parts: Vec<Part> = (from..to).map(record).collect();
    let base = if from == 0 { Lsn::ZERO } else { Lsn(64 * (from + 1)) };
    let header = BatchHeader {
        segment: SEGMENT,
        epoch: Epoch(epoch),
        membership: MembershipEpoch(1),
        base,
        last: parts.last().map_or(base, |part| part.meta.span.end),
        vdl,
        low_water: Lsn::ZERO,
        watermark: 700 + to,
    };
    Batch { header, parts }
}

/// End of record `n`.
pub fn end(n: u64) -> Lsn {
    Lsn(64 * (n + 2))
}

/// The page of `block` once records `0..count` are applied.
pub fn page(block: u64, count: u64) -> String {
    (0..count).filter(|n| n % 4 == block).map(|n| format!("<{n}>")).collect()
}

/// Like [`batch`], of parts with `bytes` more each.
pub fn heavy_batch(epoch: u64, from: u64, to: u64, vdl: Span, bytes: usize) -> Batch {
    let mut batch = batch(epoch, from, to, vdl);
    for part in &mut batch.parts {
        part.body = [&part.body[..], &vec![b'.'; bytes]].concat().into();
    }
    batch
}

/// Tries until there is an answer.
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a batch; the SCL of its acknowledgement.
pub fn append(cluster: &Cluster, name: &str, batch: &Batch) -> Lsn {
    match cluster.connect(name).call(&Message::Append(batch.clone())).expect("acknowledged") {
        Message::Ack { scl, .. } => scl,
        other => panic!("an acknowledgement, not {other:?}"),
    }
}

/// A page as text, empty when there is none.
pub fn read(cluster: &Cluster, name: &str, block: u8, read_point: Lsn) -> Result<String, Refusal> {
    let (segment, keys) = (SEGMENT, vec![key(block)]);
    let ask = Message::ReadPages { segment, read_point, complete_to: read_point, keys };
    match cluster.connect(name).call(&ask) {
        Ok(Message::Pages(pages)) => match &pages[..] {
            [PageAnswer::Page { bytes, .. }] => Ok(String::from_utf8_lossy(bytes).into_owned()),
            [PageAnswer::Absent] => Ok(String::new()),
            [PageAnswer::Failed(refusal)] => Err(refusal.clone()),
            other => panic!("one page, not {other:?}"),
        },
        Err(error) => Err(error.refusal().cloned().expect("a refusal")),
        Ok(other) => panic!("pages, not {other:?}"),
    }
}

/// Every node.
pub fn all() -> Vec<&'static str> {
    Cluster::names().collect()
}
