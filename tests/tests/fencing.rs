//! One writer: a stopped writer that wakes up behind another one is refused and stopped, also when
//! only the nodes can tell it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::cluster::{PATIENCE, connect_to};
use tests::{Cluster, Ledger, Options};

#[test]
fn a_writer_that_slept_through_a_takeover_is_refused_and_its_postgres_stopped() -> Result<()> {
    take_over_while_it_sleeps(true)
}

#[test]
fn the_nodes_alone_refuse_a_writer_that_slept_when_the_control_plane_is_dead() -> Result<()> {
    take_over_while_it_sleeps(false)
}

/// Puts a writer under load to sleep, opens another, and wakes it: with the control plane there to
/// tell it, or only the nodes. Its clients go on trying all the while, so that anything it still
/// acknowledges is a promise broken.
fn take_over_while_it_sleeps(control_lives: bool) -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(100, PATIENCE)?;
    let postgres = cluster.writer()?["pid"].as_u64().context("pid")?;
    let before = cluster.status()?["volume"]["epoch"].as_u64().context("epoch")?;
    cluster.kill("writer", "STOP")?;

    // A second writer in a directory and on a port of its own.
    let port = cluster.port() + 1;
    let mut second = tests::cluster::second_writer(&cluster, port)?;
    let started = Instant::now();
    let mut client = loop {
        match connect_to(port) {
            Ok(client) => break client,
            Err(error) => ensure!(
                started.elapsed() < PATIENCE,
                "the second writer does not open: {error:#}\n{}",
                cluster.logs()
            ),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    client.batch_execute(
        "insert into ledger_a values (-1, 1); insert into ledger_b values (-1, 1)",
    )?;
    let taken: i64 = client.query_one("select count(*) from ledger_a", &[])?.get(0);

    if !control_lives {
        cluster.kill("control", "KILL")?;
    }
    cluster.kill("writer", "CONT")?;
    let started = Instant::now();
    while std::path::Path::new(&format!("/proc/{postgres}/stat")).exists() {
        ensure!(started.elapsed() < PATIENCE, "the old PostgreSQL goes on\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    let promises = ledger.stop();
    promises.verify(&mut client)?;
    let after: i64 = client.query_one("select count(*) from ledger_a", &[])?.get(0);
    ensure!(after == taken, "{} rows of the old writer appeared after the takeover", after - taken);
    if !control_lives {
        cluster.start("control")?;
    }
    let status = cluster.wait_until("the control plane answers", |status| {
        status["volume"]["epoch"].as_u64().is_some()
    })?;
    let epoch = status["volume"]["epoch"].as_u64().context("epoch")?;
    ensure!(epoch > before, "epoch {epoch} is not above {before}");
    drop(client);
    cluster.verify_volume()?;
    tests::cluster::signal(second.id(), libc::SIGTERM);
    tests::cluster::wait_for_exit(&mut second, PATIENCE)?;
    Ok(())
}
