//! Grey failure: commits and page reads with one node stopped, slow, or with syncs of two seconds, beside
//! the same cluster with all of them well.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use crate::arguments::Load;
use crate::hold::Held;
use crate::load;
use crate::report::{Report, number, plain};
use crate::sixfold::Sixfold;

/// The node that something is done to.
const NODE: &str = "b1";
/// How long the others are given to settle before the next measurement.
const SETTLE: Duration = Duration::from_secs(12);
const CONDITIONS: [&str; 4] = ["all well", "one stopped", "one slow", "one with slow syncs"];

/// Commits and reads while one node is not well.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    sixfold-bench grey\n  \
    sixfold-bench grey --rounds 1 --seconds 10")]
pub struct Arguments {
    /// pgbench scale factor: a scale is about 16 MB.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Local bytes to keep pages in while reads are measured: far below what the scale makes, or none go to
    /// the nodes.
    #[arg(long, default_value = "32MB")]
    cache: String,
    #[command(flatten)]
    load: Load,
}

/// Measures.
///
/// # Errors
/// When the cluster or pgbench fails.
pub fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let Load { clients, common } = &arguments.load;
    let all = ["--cache-size", "32GB"];
    let few = ["--cache-size", arguments.cache.as_str(), "--set", "shared_buffers=8MB"];
    for (workload, cache) in [("simple-update", &all[..]), ("select-only", &few)] {
        let cluster = Sixfold::up_with(common.files.sixfold(), cache, &[])?;
        load::initialise(&cluster, arguments.scale)?;
        let measure = || load::run_one(&cluster, workload, *clients, common.seconds);
        measure()?; // what is first is slower, and all others are compared with the first
        for _ in 0..common.rounds {
            for condition in CONDITIONS {
                let mut found = under(&cluster, condition, measure)?;
                found["measure"] = "grey".into();
                found["system"] = condition.into();
                report.add(found)?;
                std::thread::sleep(SETTLE);
            }
        }
    }
    let mut text = table(report.results())?;
    text.push('\n');
    report.write_text(&common.files.table("grey"), &text)
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) touches no memory of ours.
    unsafe { libc::kill(libc::pid_t::try_from(pid).expect("a pid"), signal) };
}

/// Does `work` while the node is not well.
fn under<T>(cluster: &Sixfold, condition: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let pid = cluster.node_pid(NODE)?;
    match condition {
        "one stopped" => {
            signal(pid, libc::SIGSTOP);
            let outcome = work();
            signal(pid, libc::SIGCONT);
            outcome
        }
        "one slow" => {
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        signal(pid, libc::SIGSTOP);
                        std::thread::sleep(Duration::from_millis(99));
                        signal(pid, libc::SIGCONT);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                let outcome = work();
                over.store(true, Ordering::SeqCst);
                outcome
            })
        }
        "one with slow syncs" => {
            let (still, going) = (Duration::from_secs(2), Duration::from_millis(5));
            let held = Held::thread(pid, "log", still, going)?;
            let _held = held.context("no thread can be held here")?;
            work()
        }
        _ => work(),
    }
}

/// A line a measurement, beside the one of its round in which all were well.
fn table(results: &[Value]) -> Result<String> {
    let mut text = String::from(
        "| workload | clients | condition | tps | p50 ms | p99 ms | p99 of all well |\n|---|---|---|---|---|---|---|\n",
    );
    let mut well = None;
    for result in results {
        if result["system"] == CONDITIONS[0] {
            well = result["p99_ms"].as_f64();
        }
        let of = well.and_then(|well| Some(result["p99_ms"].as_f64()? / well));
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            plain(&result["workload"]),
            result["clients"],
            plain(&result["system"]),
            number(&result["tps"], 0),
            number(&result["p50_ms"], 2),
            number(&result["p99_ms"], 2),
            of.map_or("-".to_owned(), |of| format!("{of:.2}")),
        )?;
    }
    Ok(text)
}
