//! One volume's flood beside another's commits: the small volume's latencies alone and with the flood, in
//! turn, over the same six nodes.
//!
//! Both writers are made up, without PostgreSQL: what they share is the nodes, the disk and, on one
//! machine, the processors. A rate below what the machine can do leaves the processors out of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use crate::arguments::Common;
use crate::load::quantile;
use crate::report::{Column, Report};
use crate::storage::nodes::Nodes;
use crate::storage::writer::{PAGE, Writer};

/// Bytes of the flood under way.
const WINDOW: u64 = 8 << 20;
/// Distinct pages of the flood: 128 MiB.
const FLOOD_PAGES: u32 = 16_384;
/// Between two commits of the small volume.
const THINK: Duration = Duration::from_millis(2);
/// How long the flood runs before the small volume is measured beside it, and how long the nodes are
/// given to put away what it left before the next measurement alone.
const SWELL: Duration = Duration::from_millis(500);
const EBB: Duration = Duration::from_secs(3);

/// One volume's commits beside another's flood. A round is a measurement alone and one with the flood.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    sixfold-bench flood --megabytes 10\n  \
    sixfold-bench flood --rounds 1 --seconds 5")]
pub struct Arguments {
    /// The flood's megabytes a second, one copy; 0 for all that it can.
    #[arg(long, default_value_t = 0)]
    megabytes: u64,
    #[command(flatten)]
    common: Common,
}

const ROUNDS: [Column; 6] = [
    ("round", "round", 0),
    ("beside the flood", "flooding", 0),
    ("commits", "commits", 0),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("flood, MB/s", "flood_mb_s", 1),
];
const WHOLE: [Column; 5] = [
    ("flood's limit, MB/s", "limit", 0),
    ("p99 alone, ms", "alone_p99_ms", 2),
    ("p99 beside, ms", "beside_p99_ms", 2),
    ("p50, of alone", "p50", 2),
    ("p99, of alone", "p99", 2),
];

/// Measures, and prints a line a measurement and one for the whole.
///
/// # Errors
/// When a process fails.
pub fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let Arguments { megabytes, common } = arguments;
    let nodes = Nodes::up(common.files.sixfold())?;
    let mut small = Writer::open(&nodes.control(), "small")?;
    let flood = Flood::start(Writer::open(&nodes.control(), "flood")?, *megabytes);
    let seconds = Duration::from_secs(common.seconds.into());
    commits(&mut small, Duration::from_secs(1))?; // warm
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 1..=common.rounds {
        for flooding in [false, true] {
            flood.set(flooding);
            commits(&mut small, if flooding { SWELL } else { EBB })?;
            let before = flood.sent();
            let mut latencies = commits(&mut small, seconds)?;
            let sent = flood.sent() - before;
            report.add(json!({
                "measure": "flood", "round": round, "flooding": if flooding { "yes" } else { "no" },
                "commits": latencies.len(),
                "p50_ms": quantile(&latencies, 0.5), "p99_ms": quantile(&latencies, 0.99),
                "flood_mb_s": sent as f64 / seconds.as_secs_f64() / 1e6,
            }))?;
            if flooding { &mut beside } else { &mut alone }.append(&mut latencies);
        }
    }
    flood.stop()?;
    for all in [&mut alone, &mut beside] {
        all.sort_by(f64::total_cmp);
    }
    let ratio = |share| Some(quantile(&beside, share)? / quantile(&alone, share)?);
    report.add(json!({
        "measure": "flood_ratio", "limit": megabytes, "p50": ratio(0.5), "p99": ratio(0.99),
        "alone_p99_ms": quantile(&alone, 0.99), "beside_p99_ms": quantile(&beside, 0.99),
    }))?;
    let (rounds, whole) = (report.rows("flood", &ROUNDS), report.rows("flood_ratio", &WHOLE));
    report.write_text(&common.files.table("flood"), &format!("{whole}\n{rounds}"))
}

/// Commits one after the other; latencies in milliseconds, ascending.
fn commits(writer: &mut Writer, time: Duration) -> Result<Vec<f64>> {
    let until = Instant::now() + time;
    let mut latencies = Vec::new();
    let mut page = 0;
    while Instant::now() < until {
        page = (page + 1) % 64;
        writer.put(page, 400);
        latencies.push(writer.commit()?.as_secs_f64() * 1e3);
        std::thread::sleep(THINK);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// A writer that writes what it can, or at a rate, when it is told to.
struct Flood {
    on: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Flood {
    fn start(writer: Writer, megabytes: u64) -> Flood {
        let (on, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let sent = Arc::<AtomicU64>::default();
        let (is_on, is_over, count) = (Arc::clone(&on), Arc::clone(&over), Arc::clone(&sent));
        let thread = std::thread::spawn(move || pour(writer, megabytes, &is_on, &is_over, &count));
        Flood { on, over, sent, thread }
    }

    fn set(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn stop(self) -> Result<()> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow!("the flood panicked"))?
    }
}

fn pour(
    mut writer: Writer,
    megabytes: u64,
    on: &AtomicBool,
    over: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let mut page = 0;
    let (mut since, mut poured) = (Instant::now(), 0u64);
    while !over.load(Ordering::SeqCst) {
        if !on.load(Ordering::SeqCst) {
            writer.turn(Duration::from_millis(20))?;
            (since, poured) = (Instant::now(), 0);
            continue;
        }
        let due = match megabytes {
            0 => u64::MAX,
            rate => (since.elapsed().as_micros() as u64).saturating_mul(rate),
        };
        while writer.lead() < WINDOW && poured < due {
            page = (page + 1) % FLOOD_PAGES;
            writer.put(page, PAGE);
            poured += PAGE as u64;
            sent.fetch_add(PAGE as u64, Ordering::SeqCst);
        }
        writer.turn(Duration::from_millis(5))?;
    }
    Ok(())
}
