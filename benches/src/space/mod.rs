//! `space`: a whole cluster under endless updates. What its nodes write to their disks for a byte of parts
//! received, how much disk they use for a byte of live pages, how long the chains of cold reads are, and
//! what background work costs the commits: a second cluster whose nodes neither flush nor merge takes the
//! same load in turn.
//!
//! Reading order: here, [`sample`].

mod sample;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::arguments;
use crate::load;
use crate::report::{Column, Report};
use crate::sixfold::Sixfold;
use crate::system::{System as _, connect};
use sample::{Nodes, Sample};

/// How often the nodes are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How long the nodes must have written no page file to count as quiet.
const QUIET: Duration = Duration::from_secs(3);

/// How much load. A round is a measurement of each cluster.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    sixfold-bench space --seconds 60\n  \
    sixfold-bench space --rounds 1 --seconds 10 --scale 5 --log-retain 8")]
pub struct Arguments {
    /// pgbench scale factor.
    #[arg(long, default_value_t = 20)]
    scale: u32,
    /// pgbench's built-in workload.
    #[arg(long, default_value = "tpcb-like")]
    workload: String,
    /// Log that nodes keep beyond what is in page files, mebibytes; small, so that short runs flush.
    #[arg(long, default_value_t = 32)]
    log_retain: u64,
    #[command(flatten)]
    load: arguments::Load,
}

const COMMITS: [Column; 5] = [
    ("round", "round", 0),
    ("background work", "background", 0),
    ("tps", "tps", 0),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
];
const SPACE: [Column; 9] = [
    ("node", "node", 0),
    ("log written", "log_per_part_byte", 2),
    ("flushed", "flushed_per_part_byte", 2),
    ("merged", "merged_per_part_byte", 2),
    ("write amplification", "write_amplification", 2),
    ("files of live pages, most", "files_per_live_max", 2),
    ("of the bound, most", "of_bound_max", 2),
    ("log bytes, most", "log_bytes_max", 0),
    ("parts of a cold read, most", "cold_parts_max", 0),
];

/// What was seen of one node while it was under load.
#[derive(Clone, Copy, Default)]
struct Peak {
    files_per_live: f64,
    /// Files and log, of twice the live pages and the log window.
    of_bound: f64,
    files: u64,
    log: u64,
}

/// Runs the measurement.
///
/// # Errors
/// When a cluster does not do what it should.
pub fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let retain = format!("{}MB", arguments.log_retain);
    let (retain, hold) = (("SIXFOLD_LOG_RETAIN", &*retain), ("SIXFOLD_HOLD_BACKGROUND", "true"));
    let common = &arguments.load.common;
    let binary = common.files.sixfold();
    let working = Sixfold::with(binary, &[retain])?;
    let holding = Sixfold::with(binary, &[retain, hold])?;
    for cluster in [&working, &holding] {
        load::initialise(cluster, arguments.scale)?;
    }
    let nodes = Nodes::of(&working)?;
    let mut peaks = Vec::new();
    let before = nodes.sample()?;
    for round in 1..=common.rounds {
        let result = watched(arguments, &working, &nodes, &mut peaks)?;
        report.add(labelled(result, round, "on"))?;
        wait_until_quiet(&nodes)?;
        let result = load_of(arguments, &holding)?;
        report.add(labelled(result, round, "off"))?;
    }
    let held: u64 = Nodes::of(&holding)?.sample()?.iter().map(|node| node.merged).sum();
    ensure!(held == 0, "the nodes that were to hold background work off have merged {held} bytes");
    // Every page of the largest table from the nodes, after a restart on a new host.
    working.crash_and_restart()?;
    connect(working.port())?.simple_query("select sum(abalance) from pgbench_accounts")?;
    std::thread::sleep(SAMPLE_EVERY);
    for (at, (before, after)) in before.iter().zip(&nodes.sample()?).enumerate() {
        let peak = peaks.get(at).copied().unwrap_or_default();
        report.add(written(at, before, after, peak)?)?;
    }
    let (commits, space) = (report.rows("commits", &COMMITS), report.rows("space", &SPACE));
    report.write_text(&common.files.table("space"), &format!("{commits}\n{space}"))
}

fn load_of(arguments: &Arguments, cluster: &Sixfold) -> Result<Value> {
    let load = &arguments.load;
    load::run_one(cluster, &arguments.workload, load.clients, load.common.seconds)
}

fn labelled(mut result: Value, round: u32, background: &str) -> Value {
    result["measure"] = json!("commits");
    result["round"] = json!(round);
    result["background"] = json!(background);
    result
}

/// One measurement, with a look at the nodes every second.
fn watched(
    arguments: &Arguments,
    cluster: &Sixfold,
    nodes: &Nodes,
    peaks: &mut Vec<Peak>,
) -> Result<Value> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                look(arguments, cluster, nodes, peaks)?;
                std::thread::sleep(SAMPLE_EVERY);
            }
            anyhow::Ok(())
        });
        let result = load_of(arguments, cluster);
        done.store(true, Ordering::Relaxed);
        watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        result
    })
}

fn look(
    arguments: &Arguments,
    cluster: &Sixfold,
    nodes: &Nodes,
    peaks: &mut Vec<Peak>,
) -> Result<()> {
    let samples = nodes.sample()?;
    peaks.resize(samples.len(), Peak::default());
    let live = live_bytes(cluster)?;
    for (peak, now) in peaks.iter_mut().zip(&samples) {
        let bound = 2 * live + (arguments.log_retain << 20);
        peak.files_per_live = peak.files_per_live.max(now.files as f64 / live as f64);
        peak.of_bound = peak.of_bound.max((now.files + now.log) as f64 / bound as f64);
        peak.files = peak.files.max(now.files);
        peak.log = peak.log.max(now.log);
    }
    Ok(())
}

/// Bytes of pages that the volume has, one copy.
fn live_bytes(cluster: &Sixfold) -> Result<u64> {
    let shown: Value =
        serde_json::from_str(&cluster.command(&["volume", "show", "main", "--json"])?)?;
    shown["volume"]["live_bytes"].as_u64().context("the writer has not told its live bytes")
}

fn wait_until_quiet(nodes: &Nodes) -> Result<()> {
    let written = || -> Result<u64> {
        Ok(nodes.sample()?.iter().map(|node| node.flushed + node.merged + node.files).sum())
    };
    let started = Instant::now();
    let (mut known, mut since) = (written()?, Instant::now());
    while since.elapsed() < QUIET {
        ensure!(started.elapsed() < Duration::from_secs(600), "the nodes never rest");
        std::thread::sleep(SAMPLE_EVERY);
        let now = written()?;
        if now != known {
            (known, since) = (now, Instant::now());
        }
    }
    Ok(())
}

fn written(at: usize, before: &Sample, after: &Sample, peak: Peak) -> Result<Value> {
    let grown = |of: fn(&Sample) -> u64| of(after).saturating_sub(of(before));
    let parts = grown(|node| node.parts);
    ensure!(parts > 0, "node {at} received nothing");
    let share = |bytes: u64| bytes as f64 / parts as f64;
    let log = share(grown(|node| node.log_written));
    let flushed = share(grown(|node| node.flushed));
    let merged = share(grown(|node| node.merged));
    Ok(json!({
        "measure": "space", "node": at, "part_bytes": parts,
        "log_per_part_byte": log, "flushed_per_part_byte": flushed,
        "merged_per_part_byte": merged, "write_amplification": log + flushed + merged,
        "files_bytes_max": peak.files, "log_bytes_max": peak.log,
        "files_per_live_max": peak.files_per_live, "of_bound_max": peak.of_bound,
        "cold_parts_max": after.cold_parts_max,
    }))
}
