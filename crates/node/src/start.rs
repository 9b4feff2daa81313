//! From settings to a store: whose disk this is, and what it holds.
//!
//! A directory without a store gets its cluster from the control plane, which must therefore be
//! there the first time. Afterwards the directory knows, and the node serves without it.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use env::{Disk, room};
use protocol::Segment;
use registry::{Client, NodeRegistered, NodeRegistration};
use segstore::{Identity, RestoredSegment, Store, StoreError};
use types::{ClusterId, Engine, Incarnation};
use wire::SegmentSpec;

use crate::config::NodeConfig;

const ASK_AGAIN: Duration = Duration::from_millis(300);
/// A new store takes the room of so many log files: one in use, one ready for when it is full, and
/// as much for what is flushed from them.
const FILES_AT_FIRST: u64 = 3;

/// What a node starts with.
pub(crate) struct Started {
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) segments: Vec<(SegmentSpec, Segment)>,
    pub(crate) registration: NodeRegistration,
    pub(crate) registered: Option<NodeRegistered>,
}

/// Where the node is reached.
pub(crate) struct Addresses {
    pub(crate) wire: String,
    pub(crate) http: Option<String>,
}

/// Opens or creates the store and introduces the node. `stopping` ends a wait for control.
pub(crate) fn start(
    config: &NodeConfig,
    disk: Arc<dyn Disk>,
    engine: Arc<dyn Engine>,
    addresses: Addresses,
    client: &Client,
    stopping: &dyn Fn() -> bool,
) -> anyhow::Result<Started> {
    let found = Identity::load(disk.as_ref(), &config.data_dir)?;
    if let Some(identity) = found.filter(|identity| identity.node != config.name) {
        let (dir, owner) = (config.data_dir.display(), identity.node);
        bail!("{dir} is the data directory of node {owner}, not of {}; name another", config.name);
    }
    let incarnation = found.map_or_else(new_incarnation, |found| Ok(found.incarnation))?;
    let registration = NodeRegistration {
        name: config.name,
        az: config.az,
        address: addresses.wire,
        http: addresses.http,
        incarnation,
        cluster: found.map(|found| found.cluster),
        pid: std::process::id(),
        log_life: life_found(disk.as_ref(), &config.data_dir, found.as_ref())?,
        holds: None,
        disk_full: false,
        news: None,
    };
    let registered = introduce(client, &registration, stopping)?;
    let (dir, options) = (&config.data_dir, config.store.clone());
    let (identity, store, restored) = match (found, &registered) {
        (Some(identity), _) => {
            let open = || Store::open(disk.clone(), engine.clone(), dir, identity, options.clone());
            let (store, restored) = once_there_is_room(open, stopping)
                .with_context(|| format!("cannot open the store in {}", dir.display()))?;
            (identity, store, restored)
        }
        (None, Some(registered)) => {
            let what = format!("node {}", config.name);
            room::require(disk.as_ref(), dir, FILES_AT_FIRST * options.log_file_bytes, &what)?;
            let identity = Identity { cluster: registered.cluster, node: config.name, incarnation };
            let store = Store::create(disk, engine, dir, identity, options)
                .with_context(|| format!("cannot create a store in {}", dir.display()))?;
            (identity, store, Vec::new())
        }
        (None, None) => bail!("stopped before the control plane told the cluster"),
    };
    if registered.is_some() {
        // Before anything is acknowledged in this life of the log. Whoever does not answer now is told
        // with the next heartbeat.
        let news = NodeRegistration { log_life: Some(store.life()), ..registration.clone() };
        if let Err(error) = client.register_node(&news) {
            tracing::warn!(%error, "the log's new life is not told yet");
        }
    }
    let segments = restored.into_iter().map(|one| restore(&identity, one)).collect();
    Ok(Started { store, identity, segments, registration, registered })
}

/// Registers; waits for the control plane only when nothing can be done without it.
fn introduce(
    client: &Client,
    registration: &NodeRegistration,
    stopping: &dyn Fn() -> bool,
) -> anyhow::Result<Option<NodeRegistered>> {
    let mut told = false;
    while !stopping() {
        match client.register_node(registration) {
            Ok(registered) => {
                check_cluster(registration.cluster, registered.cluster)?;
                return Ok(Some(registered));
            }
            Err(error) if !error.is_temporary() => {
                return Err(error).context("the control plane does not take this node");
            }
            Err(error) if registration.cluster.is_some() => {
                tracing::warn!(%error, "not registered; serving what the directory knows");
                return Ok(None);
            }
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "waiting for the control plane to tell the cluster");
                }
                told = true;
                thread::sleep(ASK_AGAIN);
            }
        }
    }
    Ok(None)
}

/// Opens a store, as soon as the disk has room for what an opening writes.
fn once_there_is_room<T>(
    open: impl Fn() -> Result<T, StoreError>,
    stopping: &dyn Fn() -> bool,
) -> Result<T, StoreError> {
    let mut told = false;
    loop {
        match open() {
            Err(error) if error.is_full() && !stopping() => {
                if !told {
                    tracing::error!(%error, "the disk has no room to open the store; waiting for some");
                }
                told = true;
                thread::sleep(ASK_AGAIN);
            }
            done => return done,
        }
    }
}

/// The newest life of the log on the disk, before anything is written: an opening begins another.
fn life_found(
    disk: &dyn Disk,
    dir: &Path,
    found: Option<&Identity>,
) -> anyhow::Result<Option<u64>> {
    let Some(identity) = found else { return Ok(None) };
    Store::life_found(disk, dir, identity)
        .with_context(|| format!("cannot read the log in {}", dir.display()))
}

fn check_cluster(ours: Option<ClusterId>, theirs: ClusterId) -> anyhow::Result<()> {
    match ours.filter(|ours| *ours != theirs) {
        Some(ours) => bail!(
            "the data directory belongs to cluster {ours}, the control plane runs cluster {theirs}; \
             correct the one or the other"
        ),
        None => Ok(()),
    }
}

fn restore(identity: &Identity, restored: RestoredSegment) -> (SegmentSpec, Segment) {
    let RestoredSegment { spec, state, flushed, held, damage } = restored;
    let (segment, parts, full) = (spec.segment, held.len(), state.full);
    if let Some(damage) = &damage {
        tracing::warn!(%segment, damage, "segment is damaged; it is rebuilt from its peers");
    }
    tracing::info!(%segment, %flushed, parts, full, "segment restored");
    let segment = Segment::restore(identity.node, spec.clone(), state, flushed, held);
    (spec, segment)
}

/// A number that no other life of any disk has.
fn new_incarnation() -> anyhow::Result<Incarnation> {
    use std::io::Read as _;
    let source = Path::new("/dev/urandom");
    let mut number = [0; 16];
    std::fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut number))
        .with_context(|| format!("cannot read {}", source.display()))?;
    Ok(Incarnation(u128::from_le_bytes(number)))
}
