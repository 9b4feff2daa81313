//! `redo`: one log of pgbench replayed by stock PostgreSQL and by ours, in turn, in one run.
//!
//! All begin at the same base copy and end at the same record. Stock's time is what its own log says
//! between "redo starts" and "redo done", its files in the page cache and its buffers larger than the
//! database. Ours is one thread that reads the segment files, decodes every record, finds out what it
//! changes and applies it to pages in memory with the storage nodes' code: page by page as they do, and
//! in the log's order. Afterwards our pages are compared with those that stock recovered, so that what is
//! timed is known to be right.
//!
//! Reading order: here, [`cluster`] (the log, stock's recovery), [`volume`] (ours, from [`log`] and
//! [`files`]), [`chain`] (one page of many records).

mod chain;
mod cluster;
mod files;
mod log;
mod volume;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;

use crate::report::Report;
use cluster::Scene;
use volume::Volume;

/// What to replay, and how often.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    sixfold-bench redo\n  \
    sixfold-bench redo --rounds 1 --scale 1 --transactions 20000")]
pub struct Arguments {
    /// pgbench scale factor.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Transactions of tpcb-like in the log.
    #[arg(long, default_value_t = 200_000)]
    transactions: u32,
    /// Rounds of stock and ours in turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Mebibytes of the log whose records are applied page by page; by default what a segment of a
    /// storage node keeps in memory before it makes a file of it.
    #[arg(long, default_value_t = 48)]
    window: usize,
    /// Write full-page images, as stock does by default; a volume's log has none.
    #[arg(long)]
    full_page_writes: bool,
    /// Only ours, for a profiler.
    #[arg(long)]
    only_ours: bool,
}

/// Who replays, in the order of each round.
const STOCK: &str = "stock";
const LOG_ORDER: &str = "sixfold, log order";
const BY_PAGE: &str = "sixfold, page by page";

/// How long one replay took.
struct Time {
    who: &'static str,
    seconds: f64,
    /// Of these, on a processor.
    cpu: f64,
}

/// Runs the comparison.
///
/// # Errors
/// When PostgreSQL's programs fail, or our pages are not those of PostgreSQL.
pub fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    eprintln!(
        "writing the log: {} transactions, scale {}",
        arguments.transactions, arguments.scale
    );
    let scene = Scene::make(arguments.scale, arguments.transactions, arguments.full_page_writes)?;
    let (mut times, mut records) = (Vec::new(), 0);
    for round in 1..=arguments.rounds {
        let mut recovered = None;
        if !arguments.only_ours {
            let recovery = scene.recover(round)?;
            let (seconds, cpu) = (recovery.elapsed.as_secs_f64(), recovery.user + recovery.system);
            times.push(Time { who: STOCK, seconds, cpu });
            report.add(json!({ "redo": STOCK, "round": round, "seconds": seconds, "cpu": cpu }))?;
            recovered = Some(recovery.data);
        }
        for (who, window) in [(LOG_ORDER, 0), (BY_PAGE, arguments.window << 20)] {
            let mut volume = Volume::load(&scene.base())?;
            let log = scene.segments()?;
            let (started, cpu) = (Instant::now(), cpu_seconds()?);
            records = volume.replay(&log, window)?;
            let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
            times.push(Time { who, seconds, cpu });
            report.add(json!({
                "redo": who, "round": round, "seconds": seconds, "cpu": cpu,
                "records": records, "applied": volume.applied,
            }))?;
            if let Some(data) = &recovered {
                compare(&volume, data, who)?;
            }
        }
        if let Some(data) = recovered {
            std::fs::remove_dir_all(data)?;
        }
    }
    for who in [STOCK, LOG_ORDER, BY_PAGE] {
        summary(who, &times, records as f64, report)?;
    }
    report.add(chain::measure(&scene.base(), &scene.segments()?)?)
}

fn compare(volume: &Volume, recovered: &Path, who: &str) -> Result<()> {
    let compared = volume.compare(recovered)?;
    ensure!(compared > 0, "no page was compared");
    eprintln!("{who}: {compared} pages are those that stock recovered");
    Ok(())
}

/// Processor seconds of this thread so far.
fn cpu_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().context("schedstat is empty")?;
    Ok(nanoseconds.parse::<f64>()? / 1e9)
}

/// Medians of one, and their ratios to stock's.
fn summary(who: &str, times: &[Time], records: f64, report: &mut Report) -> Result<()> {
    let median = |who: &str, of: fn(&Time) -> f64| {
        let mut times: Vec<f64> = times.iter().filter(|time| time.who == who).map(of).collect();
        times.sort_unstable_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let (seconds, cpu) = (median(who, |time| time.seconds), median(who, |time| time.cpu));
    report.add(json!({
        "redo": "median", "of": who, "records": records, "records_per_second": records / seconds,
        "ratio": median(STOCK, |time| time.seconds) / seconds,
        "cpu_ns_per_record": cpu / records * 1e9,
        "cpu_ratio": median(STOCK, |time| time.cpu) / cpu,
    }))
}
