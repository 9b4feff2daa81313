//! One volume over many protection groups: growth, room that is freed and used again, records that span
//! groups, recovery.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cluster::PATIENCE;
use tests::tools::{amcheck, check_pgbench_sums, pgbench};
use tests::{Cluster, Ledger, Options};

#[test]
fn a_volume_of_small_groups_grows_survives_kills_and_keeps_records_whole() -> Result<()> {
    let cluster = Cluster::up(Options::with(&["--group-size", "8MB"]))?;
    pgbench(&cluster, &["-i", "-q", "-s", "4"])?;
    let groups = cluster.status()?["groups"].as_array().context("groups")?.len();
    ensure!(groups >= 4, "about 60 MB of pages lie in {groups} groups of 8 MB");
    pgbench(&cluster, &["-c", "8", "-j", "2", "-T", "8"])?;
    cluster.verify_volume()?;
    Ledger::create(&mut cluster.connect()?)?;
    for round in 0..4 {
        let ledger = Ledger::start(cluster.port(), round * 10, 4);
        ledger.wait_for_progress(150, PATIENCE)?;
        cluster.kill("writer", "KILL")?;
        let promises = ledger.stop();
        cluster.wipe("writer")?;
        cluster.start("writer")?;
        promises.verify(&mut cluster.connect_when_ready()?)?;
    }
    cluster.kill("a1", "KILL")?;
    cluster.kill("a2", "KILL")?;
    pgbench(&cluster, &["-n", "-c", "4", "-t", "100"])?;
    cluster.start("a1")?;
    cluster.start("a2")?;
    check_pgbench_sums(&cluster)?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

/// What a volume takes: bytes of page files, all copies together; bytes of pages, one copy; groups.
fn used(cluster: &Cluster) -> Result<(u64, u64, usize)> {
    let shown = cluster.sixfold(&["volume", "show", "main", "--json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    let volume = &shown["volume"];
    let bytes = |name: &str| volume[name].as_u64().with_context(|| name.to_owned());
    let groups = volume["groups"].as_array().context("groups")?.len();
    Ok((bytes("file_bytes")?, bytes("live_bytes")?, groups))
}

fn wait_for(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is()? {
        ensure!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[test]
fn dropped_and_truncated_tables_free_their_bytes_and_what_comes_next_uses_their_room() -> Result<()>
{
    let mut options = Options::with(&["--group-size", "16MB"]);
    options.environment.push(("SIXFOLD_LOG_RETAIN".to_owned(), "16MB".to_owned()));
    let cluster = Cluster::up(options)?;
    let mut client = cluster.connect()?;
    let load = |client: &mut postgres::Client, rows: u32| {
        client.batch_execute(&format!(
            "create table gone as select n, repeat('x', 900) from generate_series(1, {rows}) n;
             create table cut as select n, repeat('y', 900) from generate_series(1, {rows}) n;
             checkpoint"
        ))
    };
    load(&mut client, 50_000)?;
    let mut full = (0, 0, 0);
    wait_for("the nodes have flushed most of 120 MB, six times", || {
        full = used(&cluster)?;
        Ok(full.0 > 6 * (80 << 20))
    })?;
    client.batch_execute("drop table gone; truncate cut")?;
    wait_for("page files hold little more than live pages", || {
        let (files, live, _) = used(&cluster)?;
        Ok(live < 40 << 20 && files < 6 * live * 5 / 4)
    })?;
    client.batch_execute("drop table cut")?;
    load(&mut client, 45_000)?;
    let (_, _, groups) = used(&cluster)?;
    ensure!(groups == full.2, "{} groups held as much before, now there are {groups}", full.2);
    cluster.verify_volume().map(drop)
}
