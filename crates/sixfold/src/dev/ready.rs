//! Waiting for a cluster to work: control plane, six nodes, then a write.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use registry::Client;

use super::layout::{CONTROL, NODES, WRITER};
use super::member::log_tail;
use super::room;
use super::supervisor::Supervisor;
use crate::say::say;
use crate::signals;

/// Longest wait for each step; a loaded machine takes its time.
const LIMIT: Duration = Duration::from_secs(300);
/// Nodes that may be down while four of six take a write.
const WRITING_SPARES: usize = 2;
/// After so long without progress, and again and again, it is said what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Supervises until `done`. Ends with an error when one of `needed` ends or more than `spare` of the
/// nodes do, or with `false` when the operator asks to stop.
fn wait_for(
    supervisor: &mut Supervisor,
    what: &str,
    needed: &[&str],
    spare: usize,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let mut said = begun;
    while !done()? {
        supervisor.turn()?;
        if signals::requests() > 0 {
            return Ok(false);
        }
        let ended = |name: &&&str| supervisor.end_of(name).is_some();
        let dead = needed.iter().find(ended).or_else(|| NODES.iter().filter(ended).nth(spare));
        if let Some(name) = dead {
            bail!(failure(supervisor, name));
        }
        if said.elapsed() > SAY_EVERY {
            say(&format!("still waiting for {what} ({} s)", begun.elapsed().as_secs()));
            said = Instant::now();
        }
        let logs = supervisor.layout.logs();
        ensure!(
            begun.elapsed() < LIMIT,
            "waited in vain for {what}; see the logs in {}",
            logs.display()
        );
    }
    Ok(true)
}

/// What to say of a member that ended when it was needed.
fn failure(supervisor: &Supervisor, name: &str) -> String {
    let (layout, saved) = (&supervisor.layout, &supervisor.saved);
    let how = supervisor.end_of(name).unwrap_or("for an unknown reason");
    let log = layout.log(name);
    let hint = room::hint(layout, saved);
    format!("{hint}{name} ended {how}; the end of {}:\n{}", log.display(), log_tail(&log, 15))
}

/// Waits until the control plane answers; notes the cluster's identity.
pub(crate) fn control(supervisor: &mut Supervisor) -> anyhow::Result<bool> {
    let client = Client::new(supervisor.saved.control());
    let mut cluster = None;
    let up = wait_for(supervisor, "the control plane", &[CONTROL], 0, || {
        cluster = client.topology().ok().map(|topology| topology.cluster.to_string());
        Ok(cluster.is_some())
    })?;
    let before = supervisor.saved.cluster.clone();
    if let (Some(before), Some(now)) = (&before, &cluster) {
        ensure!(
            before == now,
            "{} holds cluster {now}, the directory was made for cluster {before}; put the right \
             store back, or choose another --dir",
            supervisor.layout.control().display()
        );
    }
    supervisor.saved.cluster = cluster.or(before);
    supervisor.layout.save(&supervisor.saved)?;
    Ok(up)
}

/// Waits until all its nodes have registered with this run's control plane.
pub(crate) fn nodes(supervisor: &mut Supervisor) -> anyhow::Result<bool> {
    let client = Client::new(supervisor.saved.control());
    let names: Vec<&str> = supervisor.saved.nodes().collect();
    wait_for(supervisor, "the storage nodes", &names, 0, || {
        let Ok(topology) = client.topology() else { return Ok(false) };
        Ok(topology.nodes.iter().filter(|node| node.seen_ms_ago.is_some()).count() >= names.len())
    })
}

/// Waits until a write is committed.
pub(crate) fn write(supervisor: &mut Supervisor) -> anyhow::Result<bool> {
    let mut config = postgres::Config::new();
    config.host("127.0.0.1").port(supervisor.saved.port).user("postgres").dbname("postgres");
    config.connect_timeout(Duration::from_secs(2)).application_name("sixfold dev up");
    wait_for(supervisor, "a first write", &[WRITER, CONTROL], WRITING_SPARES, || {
        let Ok(mut client) = config.connect(postgres::NoTls) else { return Ok(false) };
        // Leaves a message in the log and nothing in the database; commits, so it waits for four.
        let written =
            client.query("select pg_logical_emit_message(true, 'sixfold', 'dev up')", &[]).is_ok();
        Ok(written)
    })
}
