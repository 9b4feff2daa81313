//! Disks that rot, come back older, are exchanged, torn or full: found, answered for by other members,
//! repaired and counted, and no client hears of it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::cluster::PATIENCE;
use tests::metrics::metric;
use tests::node_disk::{STRUCTURES, Structure};
use tests::tools::{amcheck, pgbench};
use tests::{Cluster, Ledger, NodeDisk, Options};

const NODES: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];

/// A cluster whose nodes move little to page files at a time, and scrub once in so many seconds.
fn cluster(scrub_seconds: u64) -> Result<Cluster> {
    let options = Options {
        environment: vec![
            ("SIXFOLD_SCRUB_INTERVAL".to_owned(), scrub_seconds.to_string()),
            ("SIXFOLD_FLUSH_SIZE".to_owned(), "1MB".to_owned()),
        ],
        ..Options::default()
    };
    let cluster = Cluster::up(options)?;
    Ledger::create(&mut cluster.connect()?)?;
    pgbench(&cluster, &["-i", "-q", "-s", "2"])?;
    for node in NODES {
        let begun = Instant::now();
        while NodeDisk::of(&cluster, node).page_files()?.len() < 2 {
            ensure!(begun.elapsed() < PATIENCE, "{node} has no page files");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(cluster)
}

/// Places found damaged on a node since it was started, and those mended.
fn counted(cluster: &Cluster, node: &str) -> Result<(u64, u64)> {
    let read = |name: &str| Ok::<_, anyhow::Error>(metric(cluster, node, name)? as u64);
    Ok((read("sixfold_node_damage_found")?, read("sixfold_node_damage_mended")?))
}

/// Waits until more than `before` places were found damaged and everything is mended.
fn wait_for_mending(cluster: &Cluster, node: &str, before: u64, what: &str) -> Result<u64> {
    let begun = Instant::now();
    loop {
        let (found, mended) = counted(cluster, node)?;
        let left = metric(cluster, node, "sixfold_node_damaged_segments")?;
        if found > before && found == mended && left == 0.0 {
            return Ok(found);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{what} of {node}: {found} found, {mended} mended, {before} before\n{}",
            cluster.logs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether every group has six healthy members.
fn healthy(status: &Value) -> bool {
    let whole = |group: &Value| {
        let members = group["members"].as_array().cloned().unwrap_or_default();
        members.len() == 6 && members.iter().all(|member| member["state"] == "healthy")
    };
    status["groups"].as_array().is_some_and(|groups| !groups.is_empty() && groups.iter().all(whole))
}

/// Nothing was lost, nobody heard an error, and all is as if nothing had been.
fn check(cluster: &Cluster, ledger: Ledger) -> Result<()> {
    ledger.wait_for_progress(50, PATIENCE)?;
    let promises = ledger.stop();
    ensure!(promises.errors == 0, "{} statements ended in an error", promises.errors);
    cluster.wait_until("all members are healthy", healthy)?;
    promises.verify(&mut cluster.connect()?)?;
    amcheck(cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn every_structure_that_rots_on_a_running_node_is_found_and_mended_and_no_client_hears_of_it()
-> Result<()> {
    let cluster = cluster(1)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(50, PATIENCE)?;
    for (turn, structure) in STRUCTURES.into_iter().enumerate() {
        let node = NODES[turn % NODES.len()];
        let (before, _) = counted(&cluster, node)?;
        let path = spoil(&cluster, node, structure)?;
        let what = format!("{structure:?} in {}", path.display());
        wait_for_mending(&cluster, node, before, &what)?;
        // A restart finds nothing either.
        if turn % 3 == 2 {
            cluster.kill(node, "KILL")?;
            cluster.start(node)?;
            cluster.wait_until("it is healthy again", healthy)?;
            ensure!(counted(&cluster, node)?.0 == 0, "{what}: found again after a restart");
        }
    }
    check(&cluster, ledger)
}

/// Spoils a structure of a running node, whose files come and go.
fn spoil(cluster: &Cluster, node: &str, structure: Structure) -> Result<std::path::PathBuf> {
    let begun = Instant::now();
    loop {
        match NodeDisk::of(cluster, node).spoil(structure) {
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}
