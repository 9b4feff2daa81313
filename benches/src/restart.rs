//! `restart`: how long a storage node with gigabytes of segments takes from its start to the first page it
//! serves, beside the time to read its log, which it has to.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use link::{Client, Party};
use serde_json::json;
use types::{ClusterId, Lsn, VolumeId};
use wire::{Change, Message, PageAnswer, Speaker};

use crate::arguments::Files;
use crate::filled::{self, Source, page, page_key};
use crate::opening::drop_caches;
use crate::report::{Column, Report};

/// Pages in one append.
const BATCH: u32 = 128;
/// Longest wait for the first page.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much the node holds.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    sixfold-bench restart --gibibytes 10\n  \
    sixfold-bench restart --gibibytes 1 --rounds 1 --dir /var/tmp")]
pub struct Arguments {
    /// Gibibytes of page files.
    #[arg(long, default_value_t = 10)]
    gibibytes: u32,
    /// Segments that they are spread over.
    #[arg(long, default_value_t = 4)]
    segments: u32,
    /// Starts, the system's page cache dropped before each.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    #[command(flatten)]
    files: Files,
    /// Where the node's disk is made; by default in the system's directory for such things.
    #[arg(long)]
    dir: Option<PathBuf>,
}

const STARTS: [Column; 5] = [
    ("start", "round", 0),
    ("page files, bytes", "page_file_bytes", 0),
    ("first page, ms", "first_page_ms", 0),
    ("reading the log, ms", "read_log_ms", 0),
    ("beyond that, ms", "beyond_the_log_ms", 0),
];

/// Runs the measurement.
///
/// # Errors
/// When the node does not serve what it holds.
pub fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let dir = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let disk = dir.path().join("a1");
    let started = Instant::now();
    let (ends, stats) = fill(arguments, &disk)?;
    report.add(json!({
        "measure": "restart_filled", "seconds": started.elapsed().as_secs_f64(),
        "page_file_bytes": stats.file_bytes, "page_files": stats.files,
        "log_bytes": stats.log_bytes, "unflushed_bytes": stats.unflushed_bytes,
    }))?;
    for round in 1..=arguments.rounds {
        drop_caches()?;
        let log = read_log(&disk)?;
        drop_caches()?;
        let first = first_page(arguments, &disk, &ends)?;
        report.add(json!({
            "measure": "restart", "round": round, "page_file_bytes": stats.file_bytes,
            "first_page_ms": first.as_secs_f64() * 1000.0,
            "read_log_ms": log.as_secs_f64() * 1000.0,
            "beyond_the_log_ms": (first.as_secs_f64() - log.as_secs_f64()) * 1000.0,
        }))?;
    }
    report.write_text(&arguments.files.table("restart"), &report.rows("restart", &STARTS))
}

/// Writes the pages, and leaves the log as a node under load has it. Returns where each segment ends.
fn fill(arguments: &Arguments, disk: &Path) -> Result<(Vec<Lsn>, segstore::Stats)> {
    let store = filled::create(disk)?;
    let pages = arguments.gibibytes * (1 << 17) / arguments.segments;
    let mut ends = Vec::new();
    for group in 0..arguments.segments {
        let mut source = Source::begin(&store, filled::segment(group))?;
        for first in (0..pages).step_by(BATCH as usize) {
            let put = |block: u32| Change::Put(page_key(block), page(block.into()));
            source.append(&store, (first..first + BATCH).map(put).collect())?;
            while store.stats().unflushed_bytes > 64 << 20 && store.background()? {}
        }
        ends.push(source.end);
        eprintln!("segment {group} of {} is filled", arguments.segments);
    }
    while store.background()? {}
    Ok((ends, store.stats()))
}

/// Reads every byte of the log.
fn read_log(disk: &Path) -> Result<Duration> {
    let started = Instant::now();
    for file in std::fs::read_dir(disk.join("log"))? {
        std::hint::black_box(std::fs::read(file?.path())?);
    }
    Ok(started.elapsed())
}

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // A node is stopped like that all the time.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            eprintln!("stopping the node: {error}");
        }
    }
}

/// Starts the node and asks each of its segments for a page until it answers.
fn first_page(arguments: &Arguments, disk: &Path, ends: &[Lsn]) -> Result<Duration> {
    let beside = std::env::current_exe()?.with_file_name("sixfold");
    let binary = arguments.files.sixfold().map_or(beside, Path::to_path_buf);
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let started = Instant::now();
    let node = Command::new(&binary)
        .args(["node", "--name", "a1", "--az", "a", "--listen", &address, "--control", &nobody])
        .arg("--dir")
        .arg(disk)
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", binary.display()))?;
    let _node = Node(node);
    loop {
        match ask(&address, ends) {
            Ok(()) => return Ok(started.elapsed()),
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn ask(address: &str, ends: &[Lsn]) -> Result<()> {
    let from = Speaker::Instance { name: "bench".parse()?, volume: VolumeId(1) };
    let az_latency = Duration::ZERO;
    let party = Party { cluster: ClusterId(1), from, az: None, az_latency };
    let mut client = Client::connect(address, &party, Duration::from_secs(10))?;
    for (group, end) in (0..).zip(ends) {
        let read = Message::ReadPages {
            segment: filled::segment(group),
            read_point: *end,
            complete_to: *end,
            keys: vec![page_key(77)],
        };
        let Message::Pages(pages) = client.call(&read)? else { bail!("another answer") };
        let right = |answer: &PageAnswer| matches!(answer, PageAnswer::Page { bytes, .. } if *bytes == page(77));
        ensure!(pages.len() == 1 && pages.iter().all(right), "another page");
    }
    Ok(())
}
