//! Grey failure: nodes that are not gone, but slow, or of use on one path only. A thread of a node is held
//! still: the log's acknowledges batches, the registrar's tells the control plane that the node lives.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::PATIENCE;
use tests::hold::Held;
use tests::metrics::writer_metric;
use tests::tools::pgbench;
use tests::{Cluster, Ledger, Network, Options};

const FOR_GOOD: Duration = Duration::from_secs(3600);
const SIX: &str = "a1 a2 b1 b2 c1 c2";

fn cluster(arguments: &[&str]) -> Result<(Cluster, Ledger)> {
    let cluster = Cluster::up(Options::with(arguments))?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(200, PATIENCE)?;
    Ok((cluster, ledger))
}

fn hold(cluster: &Cluster, node: &str, thread: &str, going: u64) -> Result<Option<Held>> {
    let still = if going == 0 { FOR_GOOD } else { Duration::from_secs(2) };
    Held::thread(cluster.pid(node)?, thread, still, Duration::from_millis(going))
}

fn node(cluster: &Cluster, name: &str) -> Result<Value> {
    let listed: Value = serde_json::from_str(&cluster.sixfold(&["node", "list", "--json"])?)?;
    let nodes = listed["nodes"].as_array().context("nodes are listed")?.clone();
    nodes.into_iter().find(|node| node["name"] == name).with_context(|| format!("no {name}"))
}

/// Waits until `node list` says so of the node.
fn wait_for(cluster: &Cluster, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
    cluster.wait_until(what, |_| node(cluster, name).is_ok_and(|node| is(&node))).map(drop)
}

fn suspect(node: &Value) -> bool {
    node["suspect_ms"].is_u64()
}

/// The members of group 0, and whether all are healthy, level and nobody joins.
fn members(status: &Value) -> (String, bool) {
    let group = &status["groups"][0];
    let of = group["members"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<&str> = of.iter().filter_map(|member| member["node"].as_str()).collect();
    names.sort_unstable();
    let level = of.iter().all(|one| one["state"] == "healthy" && one["scl"] == of[0]["scl"]);
    let joins = group["joining"].as_array().is_none_or(|joining| !joining.is_empty());
    (names.join(" "), level && !joins)
}

fn finish(cluster: &Cluster, ledger: Ledger) -> Result<()> {
    ledger.wait_for_progress(50, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} errors", ledger.errors());
    let promises = ledger.stop();
    promises.verify(&mut cluster.connect()?)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn a_node_that_is_heard_but_acknowledges_nothing_is_suspect_and_then_replaced() -> Result<()> {
    let (cluster, ledger) = cluster(&["--spares", "--replace-slow-after", "30"])?;
    let Some(held) = hold(&cluster, "b1", "log", 0)? else { return Ok(()) };
    wait_for(&cluster, "b1", "b1 is suspect", |node| node["state"] == "suspect")?;
    let status = cluster.status()?;
    let processes = status["processes"].as_array().context("processes are listed")?;
    let shown = |process: &Value| process["name"] == "b1" && process["state"] == "suspect";
    ensure!(processes.iter().any(shown), "{status:#}");
    ensure!(node(&cluster, "b2")?["state"] == "up", "one is suspect, not two");
    ledger.wait_for_progress(200, PATIENCE)?;
    cluster.wait_until("b3 has b1's place", |status| {
        members(status) == ("a1 a2 b2 b3 c1 c2".to_owned(), true)
    })?;
    drop(held);
    // It has forgotten its copy, and is given no other while its slowness is remembered.
    wait_for(&cluster, "b1", "b1 is of no group", |node| node["segments"] == 0 && !suspect(node))?;
    finish(&cluster, ledger)
}

#[test]
fn a_node_whose_syncs_take_two_seconds_is_suspect_until_they_do_not() -> Result<()> {
    let (cluster, ledger) = cluster(&["--spares", "--replace-slow-after", "600"])?;
    let Some(held) = hold(&cluster, "c2", "log", 20)? else { return Ok(()) };
    wait_for(&cluster, "c2", "c2 is suspect", suspect)?;
    ledger.wait_for_progress(200, PATIENCE)?;
    ensure!(members(&cluster.status()?).0 == SIX, "it is only suspect");
    drop(held);
    wait_for(&cluster, "c2", "c2 is trusted again", |node| !suspect(node))?;
    cluster.wait_until("all are level", |status| members(status) == (SIX.to_owned(), true))?;
    finish(&cluster, ledger)
}

#[test]
fn a_node_that_acknowledges_is_not_replaced_though_it_is_not_heard() -> Result<()> {
    let (cluster, ledger) = cluster(&["--spares", "--replace-after", "12"])?;
    let Some(held) = hold(&cluster, "a2", "registrar", 0)? else { return Ok(()) };
    let silent = |node: &Value| node["seen_ms_ago"].as_u64().is_some_and(|ms| ms > 30_000);
    wait_for(&cluster, "a2", "a2 is not heard for long", silent)?;
    ensure!(node(&cluster, "a2")?["state"] == "silent" && !suspect(&node(&cluster, "a2")?));
    let unchanged = |status: &Value| status["groups"][0]["membership_epoch"] == 1;
    ensure!(unchanged(&cluster.status()?), "what it acknowledges is word enough");
    ledger.wait_for_progress(50, PATIENCE)?;
    drop(held);
    cluster.kill("a2", "KILL")?;
    cluster.wait_until("a3 has a2's place", |status| {
        members(status) == ("a1 a3 b1 b2 c1 c2".to_owned(), true)
    })?;
    finish(&cluster, ledger)
}

#[test]
fn a_node_that_takes_nothing_costs_the_writer_a_bounded_queue_and_is_given_the_rest_later()
-> Result<()> {
    let (cluster, ledger) = cluster(&[])?;
    cluster.kill("b2", "STOP")?;
    pgbench(&cluster, &["-i", "-q", "-s", "5"])?;
    wait_for(&cluster, "b2", "b2 is suspect", suspect)?;
    let queued = writer_metric(&cluster, "sixfold_queued_bytes")?;
    ensure!(queued <= f64::from(6 << 20), "{queued} bytes wait for b2");
    ensure!(ledger.errors() == 0, "{} errors", ledger.errors());
    cluster.kill("b2", "CONT")?;
    wait_for(&cluster, "b2", "b2 is trusted again", |node| !suspect(node))?;
    cluster.wait_until("all are level", |status| members(status) == (SIX.to_owned(), true))?;
    finish(&cluster, ledger)
}

/// A cluster whose network does what it is told, and clients at work.
fn with_network() -> Result<(Cluster, Ledger, Arc<Network>)> {
    let network = Network::new()?;
    let options = Options { network: Some(Arc::clone(&network)), ..Options::default() };
    let cluster = Cluster::up(options)?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(200, PATIENCE)?;
    Ok((cluster, ledger, network))
}

#[test]
fn what_was_changed_on_its_way_ends_a_connection_and_costs_no_client_an_error() -> Result<()> {
    let (cluster, ledger, network) = with_network()?;
    for name in ["b2", "a1"] {
        let pid = cluster.pid(name)?;
        network.spoil(name, 12);
        let sound = |_: &Value| network.is_sound();
        cluster.wait_until("every connection that it was noticed on is closed", sound)?;
        ledger.wait_for_progress(100, PATIENCE)?;
        ensure!(cluster.pid(name)? == pid, "{name} has ended\n{}", cluster.logs());
        cluster.wait_until("all are level", |status| members(status) == (SIX.to_owned(), true))?;
    }
    finish(&cluster, ledger)
}

#[test]
fn a_node_cut_off_from_all_others_costs_no_client_an_error_and_catches_up() -> Result<()> {
    let (cluster, ledger, network) = with_network()?;
    for name in ["c1", "a1"] {
        network.cut(name);
        wait_for(&cluster, name, "it is suspect, and not heard", |node| {
            suspect(node) && node["state"] == "silent"
        })?;
        ledger.wait_for_progress(200, PATIENCE)?;
        network.join(name);
        wait_for(&cluster, name, "it is back", |node| !suspect(node) && node["state"] == "up")?;
        cluster.wait_until("all are level", |status| members(status) == (SIX.to_owned(), true))?;
    }
    finish(&cluster, ledger)
}
