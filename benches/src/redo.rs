//! `redo`: one log of pgbench replayed by stock PostgreSQL and by ours, in turn, in one run.
//!
//! Both begin at the same base copy and end at the same record. Stock's time is what its own log says
//! between "redo starts" and "redo done", its files in the page cache and its buffers larger than the
//! database. Ours is one thread that reads the segment files, decodes every record, finds out what it
//! changes and applies it to pages in memory with the storage nodes' code. Afterwards our pages
//! are compared with those that stock recovered, so that what is timed is known to be right.
//!
//! Reading order: here, [`cluster`] (the log, stock's recovery), [`volume`] (ours), [`chain`] (one page
//! of many records).

mod chain;
mod cluster;
mod volume;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use crate::report::Report;
use cluster::{Recovery, Scene};
use volume::Volume;

/// What to replay, and how often.
#[derive(Args, Debug)]
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
    /// Write full-page images, as stock does by default; a volume's log has none.
    #[arg(long)]
    full_page_writes: bool,
    /// Only ours, for a profiler.
    #[arg(long)]
    only_ours: bool,
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
    let (mut stock, mut ours) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let mut recovered = None;
        if !arguments.only_ours {
            let recovery = scene.recover(round)?;
            report.add(json!({
                "redo": "stock", "round": round, "seconds": recovery.elapsed.as_secs_f64(),
                "cpu_user": recovery.user, "cpu_system": recovery.system,
            }))?;
            recovered = Some(recovery);
        }
        let mut volume = Volume::load(&scene.base())?;
        let log = scene.segments()?;
        let started = std::time::Instant::now();
        let records = volume.replay(&log)?;
        let elapsed = started.elapsed();
        report.add(json!({
            "redo": "sixfold", "round": round, "seconds": elapsed.as_secs_f64(),
            "records": records, "applied": volume.applied,
        }))?;
        ours.push((elapsed, records));
        if let Some(Recovery { elapsed, data, .. }) = recovered {
            let compared = volume.compare(&data)?;
            ensure!(compared > 0, "no page was compared");
            eprintln!("round {round}: {compared} pages are those that stock recovered");
            stock.push(elapsed);
            std::fs::remove_dir_all(data)?;
        }
    }
    summary(&stock, &ours, report)?;
    report.add(chain::measure(&scene.base(), &scene.segments()?)?)
}

/// Medians and their ratio.
fn summary(stock: &[Duration], ours: &[(Duration, u64)], report: &mut Report) -> Result<()> {
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
    };
    let records = ours.first().map_or(0, |(_, records)| *records) as f64;
    let stock = median(stock.to_vec());
    let ours = median(ours.iter().map(|(time, _)| *time).collect());
    report.add(json!({
        "redo": "median", "records": records,
        "stock_records_per_second": records / stock,
        "sixfold_records_per_second": records / ours,
        "ratio": stock / ours,
    }))
}
