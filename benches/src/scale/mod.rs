//! `scale`: what driver, node and control plane keep in memory for a volume of a given size, how long it takes
//! to open that, and what they tell each other. The structures are the programs' own, made without the data
//! that they speak of.
//!
//! Reading order: here, [`memory`].

mod memory;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use compute::catalog::Catalog;
use compute::draft::Draft;
use control::scale::Scale;
use pgwal::keys::{Fork, Key, Rel};
use protocol::writer::{GroupSetup, Writer};
use registry::{NodeRegistration, SegmentUse};
use serde_json::json;
use types::{
    Epoch, GROUP_BYTES_DEFAULT, GroupId, Holder, Incarnation, Lsn, Members, MembershipEpoch,
    PageKey, Span, VolumeId,
};
use wire::Change;

use crate::filled::{self, Source};
use crate::report::{Column, Report};
pub use memory::Counting;
use memory::taken;

const BLOCKS_PER_GIB: u32 = 1 << 17;

/// Which sizes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    sixfold-bench scale\n  \
    sixfold-bench scale --tebibytes 1 --segments-per-node 10")]
pub struct Arguments {
    /// Tebibytes of pages, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,10,128")]
    tebibytes: Vec<u32>,
    /// Segments on a node: 100 are a tebibyte of pages.
    #[arg(long, default_value_t = 100)]
    segments_per_node: u32,
    /// Gibibytes of a relation.
    #[arg(long, default_value_t = 1)]
    relation: u32,
    /// Where the table goes.
    #[arg(long, default_value = "target/bench/scale.md")]
    table: PathBuf,
}

const DRIVER: [Column; 6] = [
    ("driver, TiB", "tebibytes", 0),
    ("groups", "groups", 0),
    ("catalog entries", "catalog_entries", 0),
    ("catalog bytes", "catalog_memory_bytes", 0),
    ("catalog decoded, ms", "catalog_load_ms", 1),
    ("lanes bytes", "lanes_memory_bytes", 0),
];
const CONTROL: [Column; 12] = [
    ("control plane, TiB", "tebibytes", 0),
    ("nodes", "nodes", 0),
    ("memory bytes", "memory_bytes", 0),
    ("store bytes", "store_bytes", 0),
    ("start ms", "open_ms", 1),
    ("plan ms", "plan_ms", 2),
    ("plan with a lost node ms", "plan_with_a_lost_node_ms", 2),
    ("a change ms", "change_ms", 1),
    ("heartbeat bytes", "node_heartbeat_bytes", 0),
    ("all heartbeats a second", "quiet_bytes_per_second", 0),
    ("news to a node", "node_news_bytes", 0),
    ("news to the writer", "writer_news_bytes", 0),
];
const NODE: [Column; 4] = [
    ("node, segments", "segments", 0),
    ("page files", "page_files", 0),
    ("memory bytes", "memory_bytes", 0),
    ("open ms", "open_ms", 1),
];

/// Measures every size.
///
/// # Errors
/// When a disk fails.
pub fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    for tebibytes in &arguments.tebibytes {
        let gibibytes = tebibytes * 1024;
        let group = u32::try_from(GROUP_BYTES_DEFAULT >> 30)?;
        let groups = gibibytes.div_ceil(group);
        driver(report, *tebibytes, gibibytes, groups, arguments.relation)?;
        control(report, *tebibytes, groups, arguments.segments_per_node)?;
    }
    node(report, arguments.segments_per_node)?;
    let driver = report.rows("scale_driver", &DRIVER);
    let control = report.rows("scale_control", &CONTROL);
    let node = report.rows("scale_node", &NODE);
    report.write_text(&arguments.table, &format!("{driver}\n{control}\n{node}"))
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// The writer's mirror of the catalog and its view of every group, and what an opening reads for them.
fn driver(
    report: &mut Report,
    tebibytes: u32,
    gibibytes: u32,
    groups: u32,
    relation: u32,
) -> Result<()> {
    let ids = || (0..groups).map(GroupId);
    let mut entries: BTreeMap<PageKey, Bytes> = BTreeMap::new();
    let extent = compute::catalog::extent_blocks(GROUP_BYTES_DEFAULT) as usize;
    let (catalog, bytes) = taken(|| {
        let mut catalog = Catalog::new(GROUP_BYTES_DEFAULT, ids());
        for number in 0..gibibytes.div_ceil(relation) {
            let rel = Rel { tablespace: 1663, database: 5, relation: 16384 + number };
            let last = relation * BLOCKS_PER_GIB - 1;
            for block in (0..last).step_by(extent).chain([last]) {
                catalog.touch(&mut Draft::new(), rel, Fork::Main, block);
            }
        }
        catalog
    });
    for (rel, fork, blocks) in catalog.forks() {
        entries.insert(Key::RelSize(rel, fork).encode(), number(blocks));
        for (index, block) in (0..blocks).step_by(extent).enumerate() {
            let group = catalog.group_of(rel, fork, block).context("an extent")?;
            let key = Key::Extent(rel, fork, u32::try_from(index)?);
            entries.insert(key.encode(), number(group.0));
        }
    }
    let started = Instant::now();
    let mut loaded = Catalog::new(GROUP_BYTES_DEFAULT, ids());
    for (key, value) in &entries {
        loaded.load(Key::decode(key).context("a key")?, value)?;
    }
    loaded.loaded();
    let load_ms = ms(started);
    ensure!(loaded == catalog, "another catalog was loaded");
    let holder = |group: GroupId, place: usize| Holder {
        node: format!("n{}", group.0 as usize * 6 + place).parse().expect("a name"),
        since: MembershipEpoch::FIRST,
    };
    let setup = |group: GroupId| {
        let nodes = std::array::from_fn(|place| holder(group, place).node);
        let members = Members::first(nodes).context("six nodes")?;
        Ok(GroupSetup { group, membership: MembershipEpoch::FIRST, members, tail: Lsn::ZERO })
    };
    let setups = ids().map(setup).collect::<Result<Vec<_>>>()?;
    let (writer, lanes): (Writer, u64) =
        taken(|| Writer::new(VolumeId(1), Epoch(1), setups, Span::ZERO, 0));
    report.add(json!({
        "measure": "scale_driver", "tebibytes": tebibytes, "groups": writer.groups().count(),
        "relations": gibibytes.div_ceil(relation), "catalog_entries": entries.len(),
        "catalog_memory_bytes": bytes, "catalog_load_ms": load_ms, "lanes_memory_bytes": lanes,
    }))
}

fn number(value: u32) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

/// The control plane's records, its plan of every two seconds, and what it tells.
fn control(report: &mut Report, tebibytes: u32, groups: u32, per_node: u32) -> Result<()> {
    let (scale, bytes) = taken(|| Scale::new(groups, per_node));
    let nodes: Vec<_> = scale.nodes().collect();
    let dir = tempfile::tempdir()?;
    scale.save(dir.path())?;
    let stored = std::fs::read_dir(dir.path())?.flatten().filter_map(|file| file.metadata().ok());
    let stored: u64 = stored.map(|file| file.len()).sum();
    let started = Instant::now();
    let opened = Scale::open(dir.path())?;
    let open_ms = ms(started);
    let started = Instant::now();
    ensure!(opened.plan(&[]) == 0, "nothing is lost");
    let plan_ms = ms(started);
    let lost = *nodes.first().context("nodes")?;
    let started = Instant::now();
    let moved = opened.plan(&[lost]);
    let plan_lost_ms = ms(started);
    let started = Instant::now();
    opened.change(dir.path())?;
    let change_ms = ms(started);
    let started = Instant::now();
    let segments = opened.segments(lost);
    let segments_ms = ms(started);
    let told = serde_json::to_vec(&segments)?.len();
    let volume = serde_json::to_vec(&opened.volume())?.len();
    let beat = serde_json::to_vec(&registration(segments.len()))?.len();
    report.add(json!({
        "measure": "scale_control", "tebibytes": tebibytes, "groups": groups, "nodes": nodes.len(),
        "memory_bytes": bytes, "store_bytes": stored, "open_ms": open_ms,
        "plan_ms": plan_ms, "plan_with_a_lost_node_ms": plan_lost_ms, "places_moved": moved,
        "change_ms": change_ms, "node_news_bytes": told, "node_news_ms": segments_ms,
        "writer_news_bytes": volume, "node_heartbeat_bytes": beat,
        "quiet_bytes_per_second": beat * nodes.len(),
    }))
}

/// What a node says every second.
fn registration(segments: usize) -> NodeRegistration {
    let held = |group: usize| SegmentUse {
        volume: VolumeId(u128::MAX),
        group: group as u32,
        file_bytes: 10 << 30,
        log_bytes: 1 << 20,
    };
    NodeRegistration {
        name: "a17".parse().expect("valid"),
        az: "a".parse().expect("valid"),
        address: "10.0.0.17:7400".to_owned(),
        http: Some("10.0.0.17:9400".to_owned()),
        incarnation: Incarnation(u128::MAX),
        cluster: Some(types::ClusterId(u128::MAX)),
        pid: 4_000_000,
        log_life: Some(1),
        holds: Some((0..segments).map(held).collect()),
        disk_full: false,
        news: Some(u64::MAX),
    }
}

/// A node's store with so many segments, each with a page file: what it takes to have and to open it.
fn node(report: &mut Report, segments: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = dir.path().join("store");
    let store = filled::create(&at)?;
    for group in 0..segments {
        let segment = filled::segment(group);
        let put = Change::Put(filled::page_key(1), filled::page(1));
        Source::begin(&store, segment)?.append(&store, vec![put])?;
        ensure!(store.flush_segment(segment)?, "segment {segment} has nothing to flush");
    }
    drop(store);
    let started = Instant::now();
    let (store, bytes) = taken(|| filled::open(&at));
    let open_ms = ms(started);
    let files = store?.stats().files;
    ensure!(files == u64::from(segments), "{files} page files");
    report.add(json!({
        "measure": "scale_node", "segments": segments, "open_ms": open_ms,
        "memory_bytes": bytes, "page_files": files,
    }))
}
