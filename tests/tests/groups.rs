//! One volume over many protection groups: growth, records that span groups, recovery.

use anyhow::{Context, Result, ensure};
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
