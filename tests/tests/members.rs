//! Members replaced: lost, drained and given up, while PostgreSQL writes.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::PATIENCE;
use tests::tools::{amcheck, pgbench};
use tests::{Cluster, Ledger, Options};

/// A third node in each zone, and little patience with lost ones.
fn with_spares(replace_after: &str) -> Result<Cluster> {
    Cluster::up(Options::with(&["--spares", "--replace-after", replace_after]))
}

/// The members of every group by name, those that join behind a bar.
fn members(status: &Value) -> Vec<String> {
    let names = |group: &Value, field: &str| {
        let of = group[field].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> =
            of.iter().filter_map(|member| Some(member["node"].as_str()?.to_owned())).collect();
        names.sort();
        names.join(" ")
    };
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    let line = |group: &Value| match names(group, "joining").as_str() {
        "" => names(group, "members"),
        joining => format!("{} | {joining}", names(group, "members")),
    };
    groups.iter().map(line).collect()
}

/// Whether every group has these members, all healthy and level, and nobody joins.
fn settled(status: &Value, expected: &str) -> bool {
    let level = |group: &Value| {
        group["members"].as_array().is_some_and(|of| {
            of.iter().all(|one| one["state"] == "healthy" && one["scl"] == of[0]["scl"])
        })
    };
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    members(status).iter().all(|line| line == expected) && groups.iter().all(level)
}

fn node(cluster: &Cluster, name: &str) -> Result<Value> {
    let listed: Value = serde_json::from_str(&cluster.sixfold(&["node", "list", "--json"])?)?;
    let nodes = listed["nodes"].as_array().context("nodes are listed")?.clone();
    nodes.into_iter().find(|node| node["name"] == name).with_context(|| format!("no {name}"))
}

#[test]
fn a_lost_node_is_rebuilt_on_another_of_its_zone_while_writing_goes_on() -> Result<()> {
    let cluster = with_spares("12")?;
    let mut client = cluster.connect()?;
    Ledger::create(&mut client)?;
    pgbench(&cluster, &["-i", "-q", "-s", "2"])?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(50, PATIENCE)?;
    cluster.kill("b1", "KILL")?;
    cluster.wait_until("b3 has b1's place", |status| settled(status, "a1 a2 b2 b3 c1 c2"))?;
    ledger.wait_for_progress(50, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} errors", ledger.errors());
    // What comes back under its name forgets what another holds now, and is of use again.
    cluster.start("b1")?;
    cluster.kill("b2", "KILL")?;
    cluster.wait_until("b1 has b2's place", |status| settled(status, "a1 a2 b1 b3 c1 c2"))?;
    let promises = ledger.stop();
    promises.verify(&mut cluster.connect()?)?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn three_nodes_lost_for_good_are_replaced_and_writing_resumes_by_itself() -> Result<()> {
    let cluster = with_spares("12")?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(50, PATIENCE)?;
    for name in ["a1", "b1", "c1"] {
        cluster.kill(name, "KILL")?;
        cluster.wipe(name)?;
    }
    ledger.wait_for_progress(50, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} errors", ledger.errors());
    cluster.wait_until("the third nodes have the places", |status| {
        settled(status, "a2 a3 b2 b3 c2 c3")
    })?;
    let promises = ledger.stop();
    promises.verify(&mut cluster.connect()?)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn with_three_nodes_and_the_writer_lost_the_volume_opens_on_new_ones() -> Result<()> {
    let cluster = with_spares("12")?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(200, PATIENCE)?;
    for name in ["a1", "b1", "c1", "writer"] {
        cluster.kill(name, "KILL")?;
        cluster.wipe(name)?;
    }
    let promises = ledger.stop();
    cluster.start("writer")?;
    promises.verify(&mut cluster.connect_when_ready()?)?;
    cluster.wait_until("the third nodes have the places", |status| {
        settled(status, "a2 a3 b2 b3 c2 c3")
    })?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn a_node_is_drained_and_another_given_up_when_the_lost_one_is_back() -> Result<()> {
    let cluster = with_spares("600")?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    cluster.sixfold(&["node", "drain", "c2"])?;
    cluster.wait_until("c3 has c2's place", |status| settled(status, "a1 a2 b1 b2 c1 c3"))?;
    let drained = node(&cluster, "c2")?;
    ensure!(drained["duty"] == "draining" && drained["segments"] == 0, "{drained}");
    let refused = cluster.try_sixfold(&["node", "drain", "c1"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("no other"), "{said}");
    // Its place is handed over as soon as that is said, without waiting for the silence to be long.
    cluster.kill("a1", "KILL")?;
    cluster.kill("a3", "STOP")?;
    let replacing = std::thread::scope(|scope| {
        let replacing = scope.spawn(|| cluster.try_sixfold(&["node", "replace", "a1"]));
        let joins = |status: &Value| members(status).iter().all(|line| line.ends_with("| a3"));
        cluster.wait_until("a3 joins", joins)?;
        cluster.start("a1")?;
        cluster.sixfold(&["node", "drain", "a1", "--cancel"])?;
        cluster.wait_until("a1 keeps its place", |status| settled(status, "a1 a2 b1 b2 c1 c3"))?;
        cluster.kill("a3", "CONT")?;
        replacing.join().map_err(|_| anyhow::anyhow!("the command's thread panicked"))?
    })?;
    ensure!(!replacing.status.success(), "replace says that somebody changed its mind");
    ensure!(ledger.errors() == 0, "{} errors", ledger.errors());
    let promises = ledger.stop();
    promises.verify(&mut cluster.connect()?)?;
    cluster.verify_volume().map(drop)
}
