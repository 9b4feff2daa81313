//! Opening after a crash: does it depend on the log written, and what do cold reads cost?

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::Arguments;
use crate::load;
use crate::report::Report;
use crate::sixfold::Sixfold;
use crate::stock::Stock;
use crate::system::{System, connect};

const MEGABYTE: i64 = 1 << 20;

/// Times opening after 50 MB and after 1 GB of log, then cold reads, on both systems.
///
/// # Errors
/// When a system does not come back.
pub fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let stock = Stock::up("alone")?;
    let sixfold = Sixfold::up(arguments.common.files.sixfold())?;
    for megabytes in [50, 1024] {
        for system in [&stock as &dyn System, &sixfold] {
            write_log(system, megabytes * MEGABYTE)?;
        }
        for _ in 0..3 {
            for (name, time) in
                [("alone", stock.crash_and_restart()?), ("sixfold", sixfold.crash_and_restart()?)]
            {
                report.add(json!({
                    "system": name, "measure": "open_after_crash",
                    "wal_mb": megabytes, "seconds": time.as_secs_f64(),
                }))?;
            }
            for system in [&stock as &dyn System, &sixfold] {
                write_log(system, MEGABYTE)?;
            }
        }
    }
    cold_reads(arguments, report, &stock, &sixfold)
}

fn cold_reads(
    arguments: &Arguments,
    report: &mut Report,
    stock: &Stock,
    sixfold: &Sixfold,
) -> Result<()> {
    for system in [stock as &dyn System, sixfold] {
        load::initialise(system, arguments.scale)?;
    }
    stock.crash_and_restart()?;
    sixfold.crash_and_restart()?;
    for system in [stock as &dyn System, sixfold] {
        let started = Instant::now();
        connect(system.port())?.simple_query("select sum(abalance) from pgbench_accounts")?;
        report.add(json!({
            "system": system.name(), "measure": "cold_scan", "scale": arguments.scale,
            "seconds": started.elapsed().as_secs_f64(),
        }))?;
    }
    stock.crash_and_restart()?;
    sixfold.crash_and_restart()?;
    for system in [stock as &dyn System, sixfold] {
        let mut result = load::run_one(system, "select-only", 8, arguments.common.seconds)?;
        result["measure"] = json!("cold_select_only");
        report.add(result)?;
    }
    Ok(())
}

/// Writes about this much log by filling and truncating a table.
fn write_log(system: &dyn System, bytes: i64) -> Result<()> {
    let mut client = connect(system.port())?;
    client.batch_execute("create table if not exists filler(t text)")?;
    let position = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let start: i64 = client.query_one(position, &[])?.get(0);
    while client.query_one(position, &[])?.get::<_, i64>(0) - start < bytes {
        client.batch_execute(
            "insert into filler select repeat('x', 900) from generate_series(1, 2000)",
        )?;
    }
    Ok(client.batch_execute("truncate filler")?)
}

/// Empties the operating system's page cache where that is allowed (as root).
///
/// # Errors
/// When the dirty pages cannot be written.
pub fn drop_caches() -> Result<()> {
    // SAFETY: sync(2) has no preconditions.
    unsafe { libc::sync() };
    if let Err(error) = std::fs::write("/proc/sys/vm/drop_caches", "1") {
        eprintln!("the page cache stays warm: {error}");
    }
    Ok(())
}
