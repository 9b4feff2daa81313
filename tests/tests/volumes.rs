//! Several volumes on the same six nodes: made, listed, written side by side, deleted for ever.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cluster::PATIENCE;
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
