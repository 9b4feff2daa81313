//! Repair of a wiped node beside a plain copy of the same files, between the same processes and disks; and
//! commits while one repair follows another beside commits in quiet.
//!
//! The plain copy asks the same nodes for the same files, as many at once and with as little weight as a repair
//! does, and writes and syncs them on the wiped node's disk without a look at what is in them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use link::{Client, Party};
use serde_json::{Value, json};
use types::{ClusterId, SegmentId};
use wire::{Message, SegmentReport, Speaker};

use crate::arguments::Load;
use crate::load;
use crate::report::{Report, number};
use crate::sixfold::Sixfold;

/// The node that is wiped, and those that have the same segments.
const NODE: &str = "c2";
const PEERS: [&str; 5] = ["a1", "a2", "b1", "b2", "c1"];
/// Segments that are copied at the same time, by a repair and by the plain copy.
const AT_ONCE: usize = 4;
const CHUNK: u64 = 1 << 20;
/// The weight of a node's copying threads: where other processes want the cores, weights alone would decide.
const NICE: libc::c_int = 10;
const TIMEOUT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(600);

/// Repair of a wiped node beside a plain copy. A round is a plain copy, a repair, commits in quiet and commits
/// meanwhile.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    sixfold-bench repair\n  \
    sixfold-bench repair --rounds 1 --seconds 10 --scale 20")]
pub struct Arguments {
    /// pgbench scale factor: a scale is about 16 MB.
    #[arg(long, default_value_t = 60)]
    scale: u32,
    /// Bytes of pages of a group: how many segments there are to copy.
    #[arg(long, default_value = "64MB")]
    group_size: String,
    #[command(flatten)]
    load: Load,
}

/// Measures.
///
/// # Errors
/// When the cluster, a copy or pgbench fails.
pub fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let Load { clients, common } = &arguments.load;
    let options = ["--cache-size", "32GB", "--group-size", arguments.group_size.as_str()];
    let cluster =
        Sixfold::up_with(common.files.sixfold(), &options, &[("SIXFOLD_LOG_FORMAT", "json")])?;
    load::initialise(&cluster, arguments.scale)?;
    settle(&cluster)?;
    let commits = || load::run_one(&cluster, "simple-update", *clients, common.seconds);
    for _ in 0..common.rounds {
        report.add(rate("plain copy", plain_copy(&cluster)?))?;
        report.add(rate("repair", repair(&cluster)?))?;
        report.add(named("commits in quiet", commits()?))?;
        let (found, repairs) = meanwhile(&cluster, commits)?;
        let mut found = named("commits during repairs", found);
        found["repairs"] = repairs.into();
        report.add(found)?;
        settle(&cluster)?;
    }
    report.write_text(&common.files.table("repair"), &table(report.results())?)
}

fn named(measure: &str, mut found: Value) -> Value {
    found["measure"] = measure.into();
    found
}

/// Bytes and seconds as a result.
fn rate(measure: &str, (bytes, seconds): (u64, f64)) -> Value {
    let mb = bytes as f64 / 1e6;
    json!({"measure": measure, "mb": mb, "seconds": seconds, "mb_per_second": mb / seconds})
}

/// Waits until the nodes have put into files what they will.
fn settle(cluster: &Sixfold) -> Result<()> {
    let begun = Instant::now();
    let mut before = 0;
    loop {
        std::thread::sleep(Duration::from_secs(3));
        let bytes = files(cluster, PEERS[0])?.iter().map(|file| file.bytes).sum();
        if bytes == before || begun.elapsed() > Duration::from_secs(60) {
            return Ok(());
        }
        before = bytes;
    }
}

/// One of a node's page files.
struct PageFile {
    segment: SegmentId,
    number: u64,
    bytes: u64,
}

fn files(cluster: &Sixfold, node: &str) -> Result<Vec<PageFile>> {
    let mut found = Vec::new();
    for dir in std::fs::read_dir(cluster.cluster_dir().join("nodes").join(node).join("seg"))? {
        let dir = dir?;
        let name = dir.file_name().to_string_lossy().into_owned();
        let (volume, group) = name.split_once('-').context("a segment's directory")?;
        let segment = SegmentId { volume: volume.parse()?, group: types::GroupId(group.parse()?) };
        for file in std::fs::read_dir(dir.path())?.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if let Some(number) = name.strip_suffix(".pages") {
                let bytes = file.metadata()?.len();
                found.push(PageFile { segment, number: number.parse()?, bytes });
            }
        }
    }
    Ok(found)
}

/// Connections to the nodes, as the control plane makes them.
struct Nodes {
    party: Party,
    saved: Value,
}

impl Nodes {
    fn of(cluster: &Sixfold) -> Result<Nodes> {
        let saved = std::fs::read_to_string(cluster.cluster_dir().join("dev.json"))?;
        let saved: Value = serde_json::from_str(&saved)?;
        let control =
            registry::Client::new(saved["addresses"]["control"].as_str().context("control")?);
        let cluster: ClusterId = control.topology()?.cluster;
        let az_latency = Duration::ZERO;
        Ok(Nodes { party: Party { cluster, from: Speaker::Control, az: None, az_latency }, saved })
    }

    fn connect(&self, name: &str) -> Result<Client> {
        let address = self.saved["addresses"][name].as_str().context("a node's address")?;
        Ok(Client::connect(address, &self.party, TIMEOUT)?)
    }

    fn segments(&self, name: &str) -> Result<Vec<(SegmentId, SegmentReport)>> {
        match self.connect(name)?.call(&Message::ListSegments)? {
            Message::Segments(segments) => Ok(segments),
            _ => bail!("{name} does not say what it holds"),
        }
    }
}

/// Copies every segment's files from one of its holders; bytes and seconds.
fn plain_copy(cluster: &Sixfold) -> Result<(u64, f64)> {
    let nodes = Nodes::of(cluster)?;
    let target = cluster.cluster_dir().join("nodes").join("plain-copy");
    std::fs::create_dir_all(&target)?;
    let mut work = Vec::new();
    for (at, (segment, _)) in nodes.segments(PEERS[0])?.into_iter().enumerate() {
        work.push((segment, PEERS[at % PEERS.len()]));
    }
    let (work, copied) = (Mutex::new(work), Mutex::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let copy = || -> Result<()> {
            // SAFETY: setpriority(2) of this thread touches no memory of ours.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
            loop {
                let next = work.lock().expect("no panic").pop();
                let Some((segment, peer)) = next else { return Ok(()) };
                let bytes = copy_segment(cluster, &nodes, segment, peer, &target)?;
                *copied.lock().expect("no panic") += bytes;
            }
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(copy)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&target)?;
    let copied = *copied.lock().expect("no panic");
    Ok((copied, seconds))
}

fn copy_segment(
    cluster: &Sixfold,
    nodes: &Nodes,
    segment: SegmentId,
    peer: &str,
    target: &Path,
) -> Result<u64> {
    let mut source = nodes.connect(peer)?;
    source.call(&Message::AskManifest { segment })?;
    let mut copied = 0;
    for file in files(cluster, peer)?.iter().filter(|file| file.segment == segment) {
        let mut to = File::create(target.join(format!("{}-{}", segment.group.0, file.number)))?;
        let mut offset = 0;
        while offset < file.bytes {
            let length = u32::try_from(CHUNK.min(file.bytes - offset))?;
            let ask = Message::AskFile { segment, file: file.number, offset, length };
            let Message::Chunk(bytes) = source.call(&ask)? else { bail!("{peer} sent no bytes") };
            ensure!(bytes.len() == length as usize, "{peer} sent too little");
            to.write_all(&bytes)?;
            offset += u64::from(length);
        }
        to.sync_all()?;
        copied += offset;
    }
    Ok(copied)
}

/// Wipes the node and waits until it is whole again; bytes copied, and seconds from the first copy's
/// beginning to the last one's end, by the node's own log.
fn repair(cluster: &Sixfold) -> Result<(u64, f64)> {
    let nodes = Nodes::of(cluster)?;
    let log = cluster.cluster_dir().join("log").join(format!("{NODE}.log"));
    let seen = std::fs::read_to_string(&log)?.len();
    let groups = nodes.segments(PEERS[0])?.len();
    for what in ["kill", "wipe", "start"] {
        cluster.command(&["dev", what, NODE])?;
    }
    let begun = Instant::now();
    let whole = |segments: Vec<(SegmentId, SegmentReport)>| {
        segments.len() >= groups && segments.iter().all(|(_, report)| report.full)
    };
    while !nodes.segments(NODE).is_ok_and(whole) {
        ensure!(begun.elapsed() < PATIENCE, "{NODE} is not whole again");
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = std::fs::read_to_string(&log)?;
    let lines = text.get(seen..).unwrap_or_default().lines();
    let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (mut bytes, mut first, mut last) = (0, f64::MAX, 0.0_f64);
    for line in lines.filter(|line| line["message"] == "segment copied from peer") {
        let at = seconds_of_day(line["timestamp"].as_str().context("a time")?)?;
        bytes += line["bytes"].as_u64().context("bytes")?;
        first = first.min(at - line["seconds"].as_f64().context("seconds")?);
        last = last.max(at);
    }
    ensure!(bytes > 0, "nothing was copied: there is too little data, the log has it all");
    Ok((bytes, last - first))
}

/// Of `2026-01-31T12:34:56.789Z`.
fn seconds_of_day(timestamp: &str) -> Result<f64> {
    let time = timestamp.split_once('T').context("a time")?.1.trim_end_matches('Z');
    time.split(':').try_fold(0.0, |sum, part| Ok(sum * 60.0 + part.parse::<f64>()?))
}

/// Does `work` while one repair follows another; how many were finished.
fn meanwhile<T>(cluster: &Sixfold, work: impl FnOnce() -> Result<T>) -> Result<(T, u32)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let repairs = scope.spawn(|| -> Result<u32> {
            let mut finished = 0;
            while !over.load(Ordering::SeqCst) {
                repair(cluster)?;
                finished += 1;
            }
            Ok(finished)
        });
        let outcome = work();
        over.store(true, Ordering::SeqCst);
        let repairs = repairs.join().expect("no panic")?;
        Ok((outcome?, repairs))
    })
}

/// A line a measurement, beside the one before it that it is measured by.
fn table(results: &[Value]) -> Result<String> {
    let mut text = String::from(
        "| measure | MB | seconds | MB/s | tps | p50 ms | p99 ms | of the one above |\n|---|---|---|---|---|---|---|---|\n",
    );
    let mut before = None;
    for result in results {
        let figure = result["mb_per_second"].as_f64().or(result["p99_ms"].as_f64());
        let compared =
            matches!(result["measure"].as_str(), Some("repair" | "commits during repairs"));
        let of = figure.zip(before).filter(|_| compared).map(|(figure, before)| figure / before);
        before = figure;
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            crate::report::plain(&result["measure"]),
            number(&result["mb"], 0),
            number(&result["seconds"], 2),
            number(&result["mb_per_second"], 0),
            number(&result["tps"], 0),
            number(&result["p50_ms"], 2),
            number(&result["p99_ms"], 2),
            of.map_or("-".to_owned(), |of| format!("{of:.2}")),
        )?;
    }
    Ok(text)
}
