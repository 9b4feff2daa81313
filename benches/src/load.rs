//! pgbench against one system: throughput, latency quantiles, log bytes, processor time.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cpu;
use crate::system::{System, connect, pg_bin, run as execute};

/// Loads pgbench's tables and settles the machine.
///
/// # Errors
/// When pgbench fails.
pub fn initialise(system: &dyn System, scale: u32) -> Result<()> {
    execute(pgbench(system).args(["-i", "-q", "-s", &scale.to_string(), "postgres"]))?;
    connect(system.port())?.simple_query("checkpoint")?;
    Ok(())
}

/// One measurement, as a JSON object.
///
/// # Errors
/// When pgbench or a query fails.
pub fn run_one(system: &dyn System, workload: &str, clients: u32, seconds: u32) -> Result<Value> {
    let logs = tempfile::tempdir()?;
    let before = Counters::read(system)?;
    let output = execute(
        pgbench(system)
            .args(["-c", &clients.to_string(), "-j", "2", "-T", &seconds.to_string()])
            .args(["-b", workload, "-l", "--log-prefix"])
            .arg(logs.path().join("log"))
            .arg("postgres"),
    )?;
    let after = Counters::read(system)?;
    let tps: f64 = word(&output, "tps =", 2)?.parse()?;
    let transactions: f64 = {
        let text = word(&output, "actually processed:", 5)?;
        text.split('/').next().unwrap_or(&text).parse()?
    };
    let latencies = latencies(logs.path())?;
    let per = |amount: f64| amount / transactions;
    let shipped = match (before.shipped, after.shipped) {
        (Some(before), Some(after)) => Some(per(after.saturating_sub(before) as f64)),
        _ => None,
    };
    Ok(json!({
        "system": system.name(), "workload": workload, "clients": clients, "seconds": seconds,
        "tps": tps, "transactions": transactions,
        "p50_ms": quantile(&latencies, 0.50), "p99_ms": quantile(&latencies, 0.99),
        "wal_bytes_per_tx": per((after.wal - before.wal) as f64),
        "shipped_bytes_per_tx_and_copy": shipped,
        "compute_cpu_us_per_tx": per((after.compute - before.compute) * 1e6),
        "storage_cpu_us_per_tx": per((after.storage - before.storage) * 1e6),
    }))
}

/// As [`run_one`], after a pause that lets the previous system's writes settle.
///
/// # Errors
/// As [`run_one`].
pub fn run(system: &mut dyn System, workload: &str, clients: u32, seconds: u32) -> Result<Value> {
    // SAFETY: sync(2) has no preconditions.
    unsafe { libc::sync() };
    std::thread::sleep(std::time::Duration::from_secs(1));
    run_one(system, workload, clients, seconds)
        .with_context(|| format!("{} {workload} {clients}", system.name()))
}

struct Counters {
    wal: i64,
    shipped: Option<u64>,
    compute: f64,
    storage: f64,
}

impl Counters {
    fn read(system: &dyn System) -> Result<Counters> {
        let row = connect(system.port())?
            .query_one("select (pg_current_wal_insert_lsn() - '0/0')::bigint", &[])?;
        Ok(Counters {
            wal: row.get(0),
            shipped: system.bytes_to_one_copy()?,
            compute: cpu::seconds_of(&system.compute_pids()?)?,
            storage: cpu::seconds_of(&system.storage_pids()?)?,
        })
    }
}

fn pgbench(system: &dyn System) -> Command {
    let mut command = Command::new(pg_bin().join("pgbench"));
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &system.port().to_string()]);
    command
}

/// The word at `index` of the line that contains `mark`.
fn word(output: &str, mark: &str, index: usize) -> Result<String> {
    let line = output.lines().find(|line| line.contains(mark));
    let Some(found) = line.and_then(|line| line.split_whitespace().nth(index)) else {
        bail!("pgbench printed no `{mark}`: {output}");
    };
    Ok(found.to_owned())
}

/// Latencies of all transactions in milliseconds, ascending.
fn latencies(dir: &std::path::Path) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let text = std::fs::read_to_string(entry?.path())?;
        let micros = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok());
        all.extend(micros.map(|micros| micros / 1000.0));
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// The latency below which this share of them lies.
#[must_use]
pub fn quantile(ascending: &[f64], share: f64) -> Option<f64> {
    let index = ((ascending.len() as f64 * share) as usize).min(ascending.len().checked_sub(1)?);
    ascending.get(index).copied()
}
