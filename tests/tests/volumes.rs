//! Several volumes on the same six nodes: made, listed, written side by side, deleted for ever.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cluster::{PATIENCE, connect_to};
use tests::hold::Held;
use tests::ledger::Promises;
use tests::metrics::metric;
use tests::{Cluster, Instance, Ledger, Options};

const NODES: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];

fn volumes(cluster: &Cluster) -> Result<Vec<Value>> {
    let listed: Value = serde_json::from_str(&cluster.sixfold(&["volume", "list", "--json"])?)?;
    Ok(listed["volumes"].as_array().context("volumes")?.clone())
}

fn volume(cluster: &Cluster, name: &str) -> Result<Value> {
    let shown: Value =
        serde_json::from_str(&cluster.sixfold(&["volume", "show", name, "--json"])?)?;
    Ok(shown["volume"].clone())
}

/// Directories of a volume's segments on a node's disk.
fn segments(cluster: &Cluster, node: &str, id: &str) -> Result<Vec<PathBuf>> {
    let dir = cluster.data_dir().join("nodes").join(node).join("seg");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(id) {
            found.push(path);
        }
    }
    Ok(found)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !condition()? {
        ensure!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(())
}

/// What a refused command says.
fn refused(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let output = cluster.try_sixfold(arguments)?;
    ensure!(output.status.code() == Some(1), "{arguments:?} ended with {}", output.status);
    Ok(String::from_utf8(output.stderr)?)
}

#[test]
fn one_volume_is_written_while_another_is_deleted_under_its_writer_and_leaves_every_disk()
-> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    let made: Value =
        serde_json::from_str(&cluster.sixfold(&["volume", "create", "second", "--json"])?)?;
    ensure!(made["volume"]["state"] == "empty", "{made:#}");
    let id = made["volume"]["id"].as_str().context("id")?.to_owned();
    let why = refused(&cluster, &["volume", "create", "second"])?;
    ensure!(why.contains("already"), "{why}");

    let mut second = Instance::start(&cluster, "second-1", "second")?;
    second.connect()?.batch_execute(
        "create table only_here as select n, repeat('x', 500) from generate_series(1, 20000) n",
    )?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 2);
    ledger.wait_for_progress(50, PATIENCE)?;
    ensure!(
        cluster
            .connect()?
            .query("select from pg_class where relname = 'only_here'", &[])?
            .is_empty()
    );
    let names: Vec<Value> = volumes(&cluster)?.iter().map(|one| one["name"].clone()).collect();
    ensure!(names == ["main", "second"], "{names:?}");
    wait_until("the nodes tell what they keep", || {
        let second = volume(&cluster, "second")?;
        let members = second["groups"][0]["members"].as_array().context("members")?.clone();
        let keeps = |one: &Value| one["log_bytes"].as_u64() > Some(10 << 20);
        Ok(second["live_bytes"].as_u64() > Some(12 << 20) && members.iter().all(keeps))
    })?;

    // While a writer has it open only force deletes it, and a node that is away is not waited for.
    let why = refused(&cluster, &["volume", "delete", "second"])?;
    ensure!(why.contains("second-1") && why.contains("open"), "{why}");
    cluster.kill("c2", "KILL")?;
    std::thread::sleep(std::time::Duration::from_secs(6));
    let deleted = cluster.sixfold(&["volume", "delete", "second", "--force", "--json"])?;
    let deleted: Value = serde_json::from_str(&deleted)?;
    ensure!(deleted["deleted"]["holding"] == serde_json::json!(["c2"]), "{deleted:#}");
    for node in &NODES[..5] {
        ensure!(segments(&cluster, node, &id)?.is_empty(), "{node} holds segments of {id}");
    }
    let status = second.wait_for_end()?;
    ensure!(!status.success() && second.said().contains("was deleted"), "{}", second.said());

    // Neither the control plane nor a node that was away forgets it.
    cluster.kill("control", "KILL")?;
    cluster.start("control")?;
    ensure!(!segments(&cluster, "c2", &id)?.is_empty(), "c2 was away");
    cluster.start("c2")?;
    wait_until("c2 has dropped it", || Ok(segments(&cluster, "c2", &id)?.is_empty()))?;
    ledger.wait_for_progress(50, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} errors beside a deletion", ledger.errors());

    // Its instance makes nothing new by being started again; whoever wants the name may have it.
    second.launch()?;
    let status = second.wait_for_end()?;
    ensure!(!status.success() && second.said().contains("begin anew"), "{}", second.said());
    ensure!(volumes(&cluster)?.len() == 1, "{:?}", volumes(&cluster)?);
    cluster.sixfold(&["volume", "create", "second"])?;
    ensure!(volume(&cluster, "second")?["id"] != *id, "an id is never used again");
    ledger.stop().verify(&mut cluster.connect()?)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn two_instances_are_killed_in_turn_and_neither_notices_the_other() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    let mut second = Instance::start(&cluster, "second-1", "second")?;
    Ledger::create(&mut cluster.connect()?)?;
    Ledger::create(&mut second.connect()?)?;
    let first = Ledger::start(cluster.port(), 0, 2);
    for round in 0..3 {
        let ledger = Ledger::start(second.port(), round * 10, 2);
        ledger.wait_for_progress(50, PATIENCE)?;
        second.kill();
        let promises = ledger.stop();
        second.launch()?;
        promises.verify(&mut second.connect_when_ready()?)?;
        first.wait_for_progress(20, PATIENCE)?;
    }
    ensure!(first.errors() == 0, "{} errors while the other was killed", first.errors());
    let ledger = Ledger::start(second.port(), 90, 2);
    cluster.kill("writer", "KILL")?;
    let promises = first.stop();
    ledger.wait_for_progress(50, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} errors while the first was killed", ledger.errors());
    cluster.start("writer")?;
    promises.verify(&mut cluster.connect_when_ready()?)?;
    ledger.stop().verify(&mut second.connect()?)?;
    cluster.verify_volume()?;
    cluster.sixfold(&["verify-volume", "--volume", "second"])?;
    second.stop()?;
    let deleted = cluster.sixfold(&["volume", "delete", "second"])?;
    ensure!(deleted.contains("freed by a1 a2 b1 b2 c1 c2"), "{deleted}");
    Ok(())
}

#[test]
fn a_volume_at_its_limit_refuses_to_grow_with_postgresqls_own_error_and_goes_on() -> Result<()> {
    const LIMIT: u64 = 64 << 20;
    let cluster = Cluster::up(Options::default())?;
    cluster.sixfold(&["volume", "create", "small", "--limit", "64MB"])?;
    let small = Instance::start(&cluster, "small-1", "small")?;
    let mut client = small.connect()?;
    client.batch_execute("create table filler (n int, t text)")?;
    let fill = "insert into filler select n, repeat('x', 900) from generate_series(1, 4000) n";
    let grows = |client: &mut postgres::Client, sql: &str| match client.batch_execute(sql) {
        Ok(()) => Ok(true),
        Err(error) => match error.code() {
            Some(code) if *code == postgres::error::SqlState::DISK_FULL => Ok(false),
            _ => Err(anyhow::Error::from(error)),
        },
    };
    let mut inserts = 0;
    while grows(&mut client, fill)? {
        inserts += 1;
        ensure!(inserts < 100, "a volume of 64 MB took {inserts} times 4 MB");
    }
    ensure!(inserts >= 3, "the limit was met after {inserts} inserts");
    wait_until("its live bytes are told", || {
        Ok(volume(&cluster, "small")?["live_bytes"].as_u64() >= Some(LIMIT))
    })?;
    let live = volume(&cluster, "small")?["live_bytes"].as_u64().context("live bytes")?;
    ensure!(live < LIMIT + (24 << 20), "{live} bytes of pages in a volume of 64 MB");

    // What needs no more room goes on, and so does the other volume.
    client.batch_execute("delete from filler where n <= 10")?;
    cluster.connect()?.batch_execute(
        "create table elsewhere as select repeat('x', 900) from generate_series(1, 4000)",
    )?;
    // Room is made by dropping, or given.
    client.batch_execute("drop table filler")?;
    let refill = "create table again (n int, t text)";
    wait_until("a dropped table has made room", || grows(&mut client, refill))?;
    while grows(&mut client, &fill.replace("filler", "again"))? {}
    cluster.sixfold(&["volume", "limit", "small", "none"])?;
    wait_until("the limit is lifted", || grows(&mut client, &fill.replace("filler", "again")))?;
    cluster.sixfold(&["verify-volume", "--volume", "small"])?;
    Ok(())
}

/// Inserts a megabyte at a time until told to stop; how many rows were acknowledged.
fn pour(port: u16, stop: &AtomicBool) -> Result<i64> {
    let mut client = connect_to(port)?;
    let mut rows = 0;
    while !stop.load(Ordering::SeqCst) {
        client.batch_execute(
            "insert into poured select n, repeat('x', 1000) from generate_series(1, 1000) n",
        )?;
        rows += 1000;
    }
    Ok(rows)
}

/// Commits of a ledger while every node's log loop runs for 2 ms in 100; `None` where that cannot be made. What
/// the nodes then lack is turns: in one such moment a node could take in all that a flood has queued and nothing
/// else.
fn commits_for_turns(cluster: &Cluster, quiet: &Instance) -> Result<Option<Promises>> {
    const COMMITS: u64 = 30;
    /// Bytes that a node may take in for one commit: four short turns. With turns and batches of a megabyte it is
    /// 680 to 890 kB, with short ones 43 to 54 kB.
    const BYTES_MAX: f64 = 262_144.0;
    let (still, going) = (Duration::from_millis(98), Duration::from_millis(2));
    let mut held = Vec::new();
    for node in NODES {
        let Some(thread) = Held::thread(cluster.pid(node)?, "log", still, going)? else {
            return Ok(None);
        };
        held.push(thread);
    }
    let ledger = Ledger::start(quiet.port(), 0, 1);
    ledger.wait_for_progress(5, PATIENCE)?;
    let taken = || metric(cluster, "a1", "sixfold_node_batch_bytes_total");
    let (before, from) = (taken()?, ledger.acknowledged());
    ledger.wait_for_progress(COMMITS, PATIENCE)?;
    let commits = (ledger.acknowledged() - from) as f64;
    let bytes = taken()? - before;
    println!("{:.0} bytes for a commit", bytes / commits);
    ensure!(bytes > 10e3 * commits, "a flood of {bytes} bytes in {commits} commits is none");
    ensure!(bytes / commits < BYTES_MAX, "{commits} commits waited for {bytes} bytes");
    drop(held);
    ensure!(ledger.errors() == 0, "{} errors beside a flood", ledger.errors());
    Ok(Some(ledger.stop()))
}

#[test]
fn a_commit_does_not_wait_behind_what_another_volumes_flood_has_queued_at_the_nodes() -> Result<()>
{
    let cluster = Cluster::up(Options::default())?;
    let quiet = Instance::start(&cluster, "quiet-1", "quiet")?;
    Ledger::create(&mut quiet.connect()?)?;
    cluster.connect()?.batch_execute("create table poured (n int, t text)")?;
    let (stop, port) = (AtomicBool::new(false), cluster.port());
    let (promises, rows) = std::thread::scope(|scope| {
        let floods = [(); 4].map(|()| scope.spawn(|| pour(port, &stop)));
        let promises = commits_for_turns(&cluster, &quiet);
        stop.store(true, Ordering::SeqCst);
        let rows = floods.into_iter().map(|flood| flood.join().expect("no panic"));
        (promises, rows.sum::<Result<i64>>())
    });
    let (promises, rows) = (promises?, rows?);
    let poured: i64 = cluster.connect()?.query_one("select count(*) from poured", &[])?.get(0);
    ensure!(poured == rows, "{rows} rows were acknowledged, {poured} are there");
    if let Some(promises) = promises {
        promises.verify(&mut quiet.connect()?)?;
    }
    cluster.sixfold(&["verify-volume", "--volume", "quiet"])?;
    cluster.verify_volume().map(drop)
}
