//! Disks that rot, come back older, are exchanged, torn or full: found, answered for by other members,
//! repaired and counted, and no client hears of it.

use std::time::{Duration, Instant};

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::PATIENCE;
use tests::failing::{Failing, fail_once};
use tests::metrics::metric;
use tests::node_disk::{STRUCTURES, Spoilt, Structure, flip};
use tests::tools::{amcheck, pgbench, pgbench_fingerprint};
use tests::{Cluster, Ledger, NodeDisk, Options, SmallDisk};

/// So seldom that a test's end comes first.
const NEVER: u64 = 7 * 24 * 3600;
const NODES: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];

/// A cluster whose nodes move little to page files at a time, and scrub once in so many seconds.
fn cluster(scrub_seconds: u64) -> Result<Cluster> {
    let mut environment = vec![
        ("SIXFOLD_SCRUB_INTERVAL".to_owned(), scrub_seconds.to_string()),
        ("SIXFOLD_FLUSH_SIZE".to_owned(), "1MB".to_owned()),
    ];
    // What is rotten in the log is to be there still when a scrub comes.
    if scrub_seconds == NEVER {
        environment.push(("SIXFOLD_LOG_FILE_SIZE".to_owned(), "4MB".to_owned()));
        environment.push(("SIXFOLD_LOG_RETAIN".to_owned(), "8MB".to_owned()));
    }
    let options = Options { environment, ..Options::default() };
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

/// Spoils a structure of a running node and waits until that was found and is mended. What the node
/// replaced, for reasons of its own, before anybody looked is spoilt once more.
fn spoil_until_mended(cluster: &Cluster, node: &str, structure: Structure) -> Result<()> {
    let (before, _) = counted(cluster, node)?;
    let begun = Instant::now();
    let mut spoilt = spoil(cluster, node, structure)?;
    loop {
        let there = spoilt.is_there();
        std::thread::sleep(Duration::from_millis(200));
        let (found, mended) = counted(cluster, node)?;
        let left = metric(cluster, node, "sixfold_node_damaged_segments")?;
        if found > before && found == mended && left == 0.0 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{structure:?} of {node}, {spoilt:?}: {found} found, {mended} mended, {before} before\n{}",
            cluster.logs()
        );
        if found == before && !there {
            spoilt = spoil(cluster, node, structure)?;
        }
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
        spoil_until_mended(&cluster, node, structure)?;
        // A restart finds nothing either.
        if turn % 3 == 2 {
            cluster.kill(node, "KILL")?;
            cluster.start(node)?;
            cluster.wait_until("it is healthy again", healthy)?;
            ensure!(counted(&cluster, node)?.0 == 0, "{structure:?}: found again after a restart");
        }
    }
    check(&cluster, ledger)
}

/// Spoils a structure of a running node, whose files come and go.
fn spoil(cluster: &Cluster, node: &str, structure: Structure) -> Result<Spoilt> {
    let begun = Instant::now();
    loop {
        match NodeDisk::of(cluster, node).spoil(structure) {
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

/// What a node has written to its log.
fn log_of(cluster: &Cluster, node: &str) -> Result<String> {
    let path = cluster.data_dir().join("log").join(format!("{node}.log"));
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// `sixfold segment verify`, which must find that all is sound, or mended.
fn verify_segments(cluster: &Cluster) -> Result<Value> {
    let verify = ["segment", "verify", "--json", "--wait", "300"];
    Ok(serde_json::from_str(&cluster.sixfold(&verify)?)?)
}

#[test]
fn different_blocks_rotten_on_all_six_and_one_on_three_are_read_from_each_other_and_mended()
-> Result<()> {
    let cluster = cluster(NEVER)?;
    let before = pgbench_fingerprint(&cluster)?;
    // What the writer has locally would answer for storage.
    cluster.kill("writer", "KILL")?;
    cluster.wipe("writer")?;
    for (number, node) in (0..).zip(NODES) {
        for path in NodeDisk::of(&cluster, node).page_files()? {
            // Some are merged away meanwhile.
            let Ok(length) = path.metadata().map(|found| found.len()) else { continue };
            let own = flip(&path, length * (2 * number + 1) / 13);
            let shared = number % 2 == 1 || flip(&path, length * 6 / 13).is_ok();
            ensure!(own.is_ok() && shared || !path.exists(), "cannot spoil {}", path.display());
        }
    }
    cluster.start("writer")?;
    drop(cluster.connect_when_ready()?);
    ensure!(pgbench_fingerprint(&cluster)? == before, "something else is read");
    let begun = Instant::now();
    while NODES.iter().all(|node| counted(&cluster, node).is_ok_and(|(found, _)| found == 0)) {
        ensure!(begun.elapsed() < PATIENCE, "no read met damage");
        std::thread::sleep(Duration::from_millis(100));
    }
    let checked = verify_segments(&cluster)?;
    let nodes = checked["nodes"].as_array().context("nodes are told")?;
    ensure!(nodes.len() == 6 && nodes.iter().all(|node| node["left"] == serde_json::json!([])));
    for node in NODES {
        let (found, mended) = counted(&cluster, node)?;
        ensure!(found > 0 && found == mended, "{node}: {found} found, {mended} mended");
    }
    let ledger = Ledger::start(cluster.port(), 0, 4);
    check(&cluster, ledger)?;
    ensure!(pgbench_fingerprint(&cluster)? == before, "something else is read");
    let again = verify_segments(&cluster)?;
    let nodes = again["nodes"].as_array().context("nodes are told")?;
    ensure!(nodes.iter().all(|node| node["damaged"] == 0), "mended, and rotten: {again:#}");
    Ok(())
}

/// A directory's copy, or its return.
fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp ended with {status}");
    Ok(())
}

#[test]
fn yesterdays_segment_directories_put_back_are_noticed_and_rebuilt() -> Result<()> {
    let cluster = cluster(NEVER)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(50, PATIENCE)?;
    let disk = NodeDisk::of(&cluster, "b1");
    let (seg, saved) = (disk.dir().join("seg"), cluster.data_dir().join("yesterday"));
    cluster.kill("b1", "KILL")?;
    copy(&seg, &saved)?;
    let files = disk.page_files()?;
    cluster.start("b1")?;
    let begun = Instant::now();
    while disk.page_files()? == files {
        ensure!(begun.elapsed() < PATIENCE, "nothing is flushed");
        pgbench(&cluster, &["-n", "-c", "2", "-t", "200"])?;
    }
    cluster.kill("b1", "KILL")?;
    std::fs::remove_dir_all(&seg)?;
    std::fs::rename(&saved, &seg)?;
    cluster.start("b1")?;
    cluster.wait_until("all members are healthy", healthy)?;
    let said = log_of(&cluster, "b1")?;
    ensure!(said.contains("an earlier copy of its directory was put back"), "{said}");
    check(&cluster, ledger)
}

#[test]
fn yesterdays_whole_disk_put_back_is_refused_by_name_and_rebuilt_once_it_is_wiped() -> Result<()> {
    let cluster = cluster(NEVER)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    let (disk, saved) = (NodeDisk::of(&cluster, "b1"), cluster.data_dir().join("yesterday"));
    cluster.kill("b1", "KILL")?;
    copy(disk.dir(), &saved)?;
    cluster.start("b1")?;
    cluster.wait_until("it is healthy again", healthy)?;
    ledger.wait_for_progress(200, PATIENCE)?;
    cluster.kill("b1", "KILL")?;
    std::fs::remove_dir_all(disk.dir())?;
    std::fs::rename(&saved, disk.dir())?;
    for _ in 0..2 {
        // However often it is tried.
        let before = log_of(&cluster, "b1")?.matches("an earlier copy of itself").count();
        cluster.try_sixfold(&["dev", "start", "b1"])?;
        let begun = Instant::now();
        while log_of(&cluster, "b1")?.matches("an earlier copy of itself").count() == before {
            ensure!(begun.elapsed() < PATIENCE, "it is not refused\n{}", cluster.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
        cluster.wait_until("it has ended", |status| is_down(status, "b1"))?;
    }
    cluster.wipe("b1")?;
    cluster.start("b1")?;
    cluster.wait_until("all members are healthy", healthy)?;
    check(&cluster, ledger)
}

/// Whether a process has ended.
fn is_down(status: &Value, name: &str) -> bool {
    let processes = status["processes"].as_array().cloned().unwrap_or_default();
    processes.iter().any(|process| process["name"] == name && process["state"] == "down")
}

#[test]
fn disks_swapped_between_two_nodes_are_refused_by_name() -> Result<()> {
    let cluster = cluster(NEVER)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(50, PATIENCE)?;
    for node in ["a1", "b2"] {
        cluster.kill(node, "KILL")?;
    }
    let (one, two) = (NodeDisk::of(&cluster, "a1"), NodeDisk::of(&cluster, "b2"));
    let aside = cluster.data_dir().join("aside");
    let swap = || -> Result<()> {
        std::fs::rename(one.dir(), &aside)?;
        std::fs::rename(two.dir(), one.dir())?;
        Ok(std::fs::rename(&aside, two.dir())?)
    };
    swap()?;
    for (node, owner) in [("a1", "b2"), ("b2", "a1")] {
        cluster.try_sixfold(&["dev", "start", node])?;
        let refusal = format!("data directory of node {owner}, not of {node}");
        let begun = Instant::now();
        while !log_of(&cluster, node)?.contains(&refusal) {
            ensure!(begun.elapsed() < PATIENCE, "{node} serves from {owner}'s disk");
            std::thread::sleep(Duration::from_millis(100));
        }
        cluster.wait_until("it has ended", |status| is_down(status, node))?;
    }
    ledger.wait_for_progress(50, PATIENCE)?;
    swap()?;
    for node in ["a1", "b2"] {
        cluster.start(node)?;
    }
    check(&cluster, ledger)
}

#[test]
fn a_torn_tail_is_the_end_of_the_log_and_what_is_lost_before_it_is_rebuilt() -> Result<()> {
    let cluster = cluster(NEVER)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(50, PATIENCE)?;
    let rebuilt = "it is rebuilt from its peers";
    for (node, structure) in [
        ("a1", Structure::LogTail),
        ("b1", Structure::LogMiddle),
        ("c1", Structure::LogHeader),
        ("a2", Structure::Manifest),
    ] {
        cluster.kill(node, "KILL")?;
        NodeDisk::of(&cluster, node).spoil(structure)?;
        cluster.start(node)?;
        cluster.wait_until("all members are healthy", healthy)?;
        let said = log_of(&cluster, node)?.contains(rebuilt);
        ensure!(said == (structure != Structure::LogTail), "{structure:?} of {node}: {said}");
        ledger.wait_for_progress(20, PATIENCE)?;
    }
    // A page file is gone: nothing can be told of the segment.
    cluster.kill("c2", "KILL")?;
    let files = NodeDisk::of(&cluster, "c2").page_files()?;
    std::fs::remove_file(files.first().context("a page file")?)?;
    cluster.start("c2")?;
    cluster.wait_until("all members are healthy", healthy)?;
    ensure!(log_of(&cluster, "c2")?.contains(rebuilt), "it is not noticed");
    check(&cluster, ledger)?;
    verify_segments(&cluster).map(drop)
}

#[test]
fn full_disks_on_up_to_three_nodes_cost_no_client_an_error_and_nothing_is_lost() -> Result<()> {
    let cluster = cluster(NEVER)?;
    let ledger = Ledger::start(cluster.port(), 0, 8);
    ledger.wait_for_progress(50, PATIENCE)?;
    let mut disks = Vec::new();
    for node in ["a1", "b1", "c1"] {
        let Some(small) = SmallDisk::mount(200)? else { return Ok(()) };
        cluster.kill(node, "KILL")?;
        cluster.wipe(node)?;
        let (dir, place) = (NodeDisk::of(&cluster, node).dir().to_owned(), small.path().join(node));
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir(&place)?;
        std::os::unix::fs::symlink(&place, &dir)?;
        cluster.start(node)?;
        disks.push((node, small));
    }
    cluster.wait_until("all members are healthy", healthy)?;
    let is_full =
        |node| Ok::<_, anyhow::Error>(metric(&cluster, node, "sixfold_node_disk_full")? > 0.0);
    for (number, (node, small)) in disks.iter().enumerate() {
        small.fill(true)?;
        let begun = Instant::now();
        while !is_full(node)? {
            ensure!(begun.elapsed() < PATIENCE, "{node} still finds room\n{}", cluster.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
        if number < 2 {
            ledger.wait_for_progress(100, PATIENCE)?;
        }
    }
    // Everybody is told, and three of six take nothing: commits wait, and reads are answered.
    cluster.wait_until("they are listed", |_| full(&cluster) == ["a1", "b1", "c1"])?;
    let rows = cluster.connect()?.query_one("select count(*) from pgbench_accounts", &[])?;
    ensure!(rows.get::<_, i64>(0) == 200_000);
    for (_, small) in &disks {
        small.fill(false)?;
    }
    ledger.wait_for_progress(100, PATIENCE)?;
    cluster.wait_until("they go on", |_| full(&cluster).is_empty())?;
    check(&cluster, ledger)
}

/// The nodes that `node list` says are full.
fn full(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.sixfold(&["node", "list", "--json"]).unwrap_or_default();
    let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
    let nodes = listed["nodes"].as_array().cloned().unwrap_or_default();
    let full = nodes.iter().filter(|node| node["state"] == "full" && node["disk_full"] == true);
    full.filter_map(|node| Some(node["name"].as_str()?.to_owned())).collect()
}

#[test]
fn a_write_or_a_sync_that_fails_once_ends_the_node_with_the_reason_and_costs_no_client_an_error()
-> Result<()> {
    let cluster = cluster(NEVER)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(50, PATIENCE)?;
    for (node, thread, failing) in
        [("b1", "log", Failing::DurableWrite), ("c2", "background", Failing::Sync)]
    {
        if !fail_once(cluster.pid(node)?, thread, failing)? {
            return Ok(());
        }
        // Its next write would succeed; it is not believed.
        cluster.wait_until("it has ended", |status| is_down(status, node))?;
        let said = log_of(&cluster, node)?;
        ensure!(said.contains("os error 5"), "{node} does not say why it ended: {said}");
        ledger.wait_for_progress(50, PATIENCE)?;
        cluster.start(node)?;
        cluster.wait_until("all members are healthy", healthy)?;
    }
    check(&cluster, ledger)
}
