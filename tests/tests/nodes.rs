//! Storage nodes lost and found: four write, three wait, peers fill each other.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::PATIENCE;
use tests::tools::{amcheck, pgbench};
use tests::{Cluster, Ledger, Options};

/// Whether every group has six healthy members at one SCL.
fn all_level(status: &Value) -> bool {
    let Some(groups) = status["groups"].as_array() else { return false };
    groups.iter().all(|group| {
        let Some(members) = group["members"].as_array() else { return false };
        members.len() == 6
            && members
                .iter()
                .all(|member| member["scl"] == members[0]["scl"] && member["state"] == "healthy")
    })
}

#[test]
fn an_az_is_lost_without_an_error_and_a_third_node_makes_commits_wait() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(50, PATIENCE)?;
    cluster.kill("c1", "KILL")?;
    cluster.kill("c2", "KILL")?;
    ledger.wait_for_progress(200, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} errors with an AZ down", ledger.errors());

    let mut reader = cluster.connect()?;
    cluster.kill("b2", "KILL")?;
    std::thread::sleep(Duration::from_millis(500));
    let stuck = ledger.acknowledged();
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        ledger.acknowledged() == stuck,
        "{} transactions acknowledged by three of six",
        ledger.acknowledged() - stuck
    );
    let rows: i64 = reader.query_one("select count(*) from ledger_a", &[])?.get(0);
    ensure!(rows > 0, "reads go on");

    cluster.start("b2")?;
    ledger.wait_for_progress(50, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} errors", ledger.errors());
    cluster.start("c1")?;
    cluster.start("c2")?;
    ledger.wait_for_progress(50, PATIENCE)?;
    let promises = ledger.stop();
    promises.verify(&mut cluster.connect()?)?;
    cluster.wait_until("all six members are level", all_level)?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn a_node_that_was_down_fills_from_its_peers_without_a_writer() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    cluster.kill("a2", "KILL")?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(500, PATIENCE)?;
    let promises = ledger.stop();
    cluster.kill("writer", "KILL")?;
    cluster.start("a2")?;
    cluster.wait_until("a2 is level with its peers", all_level)?;
    cluster.start("writer")?;
    promises.verify(&mut cluster.connect_when_ready()?)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn a_wiped_node_is_rebuilt_from_its_peers() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    pgbench(&cluster, &["-i", "-q", "-s", "2"])?;
    cluster.kill("b1", "KILL")?;
    cluster.wipe("b1")?;
    pgbench(&cluster, &["-c", "4", "-t", "100"])?;
    cluster.start("b1")?;
    pgbench(&cluster, &["-c", "4", "-t", "100"])?;
    cluster.wait_until("b1 is rebuilt", all_level)?;
    // It counts again: with two others gone it is one of the four.
    cluster.kill("a1", "KILL")?;
    cluster.kill("c1", "KILL")?;
    pgbench(&cluster, &["-c", "4", "-t", "100"])?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn every_node_killed_in_turn_under_load_costs_no_client_an_error() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    for name in ["a1", "a2", "b1", "b2", "c1", "c2"] {
        ledger.wait_for_progress(100, PATIENCE)?;
        cluster.kill(name, "KILL")?;
        ledger.wait_for_progress(100, PATIENCE)?;
        cluster.start(name)?;
    }
    ledger.wait_for_progress(100, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} errors", ledger.errors());
    let promises = ledger.stop();
    promises.verify(&mut cluster.connect()?)?;
    cluster.wait_until("all six members are level", all_level)?;
    cluster.verify_volume().map(drop)
}

/// Waits until the writer says that it cannot open, for want of exactly these nodes.
fn wait_for_refusal(cluster: &Cluster, missing: &str) -> Result<()> {
    let path = cluster.data_dir().join("log/writer.log");
    let (begun, said) = (Instant::now(), format!("not_connected=\"{missing}\""));
    loop {
        let log = std::fs::read_to_string(&path).context("the writer's log")?;
        if log.lines().any(|line| line.contains("still opening") && line.contains(&said)) {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "nothing of {missing}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(cluster.connect().is_err(), "open without {missing}");
    Ok(())
}

#[test]
fn with_four_of_six_lost_a_volume_does_not_open_says_why_and_is_whole_when_two_return() -> Result<()>
{
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(200, PATIENCE)?;
    for name in ["a1", "b1", "c1", "c2", "writer"] {
        cluster.kill(name, "KILL")?;
    }
    let promises = ledger.stop();
    cluster.start("writer")?;
    wait_for_refusal(&cluster, "a1 b1 c1 c2")?;
    // Three know everything that was acknowledged; to fence whoever wrote it takes four.
    cluster.start("b1")?;
    wait_for_refusal(&cluster, "a1 c1 c2")?;
    cluster.start("c1")?;
    promises.verify(&mut cluster.connect_when_ready()?)?;
    cluster.start("a1")?;
    cluster.start("c2")?;
    cluster.wait_until("all six members are level", all_level)?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}
