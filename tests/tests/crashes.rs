//! Kill -9 of the compute host: nothing acknowledged is lost, nothing is there by half.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::{PATIENCE, signal};
use tests::tools::amcheck;
use tests::{Cluster, Ledger, Moments, Options};

#[test]
fn twenty_kills_of_the_writer_lose_no_acknowledged_transaction() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    let mut moments = Moments::default();
    for round in 0..20 {
        let ledger = Ledger::start(cluster.port(), round * 10, 6);
        ledger.wait_for_progress(20, PATIENCE)?;
        moments.pause(700);
        cluster.kill("writer", "KILL")?;
        ledger.ask_to_stop();
        let promises = ledger.stop();
        cluster.wipe("writer")?;
        cluster.start("writer")?;
        let mut client = cluster.connect_when_ready()?;
        let checked = promises.verify(&mut client).with_context(|| format!("round {round}"))?;
        ensure!(checked >= 20, "round {round} checked only {checked}");
    }
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn a_daemon_killed_under_a_living_postgres_comes_back_and_sessions_survive() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    let mut session = cluster.connect()?;
    session.batch_execute("create temp table mine as select 42 as answer")?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    for _ in 0..3 {
        ledger.wait_for_progress(50, PATIENCE)?;
        let daemon = cluster.writer()?["daemon_pid"].as_u64().context("daemon_pid")?;
        signal(u32::try_from(daemon)?, libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(300));
        let stuck = ledger.acknowledged();
        std::thread::sleep(Duration::from_millis(700));
        ensure!(ledger.acknowledged() <= stuck + 4, "commits went on without the daemon");
        cluster.start("writer")?;
    }
    ledger.wait_for_progress(50, PATIENCE)?;
    ensure!(ledger.errors() == 0, "{} statements failed", ledger.errors());
    let promises = ledger.stop();
    promises.verify(&mut cluster.connect()?)?;
    let answer: i32 = session.query_one("select answer from mine", &[])?.get(0);
    ensure!(answer == 42);
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn recovery_killed_at_random_moments_ends_right() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    let mut moments = Moments::default();
    let ledger = Ledger::start(cluster.port(), 0, 4);
    ledger.wait_for_progress(100, PATIENCE)?;
    cluster.kill("writer", "KILL")?;
    let promises = ledger.stop();
    for _ in 0..12 {
        // `start` may report that what it started died; that is the point here.
        cluster.try_sixfold(&["dev", "start", "writer"])?;
        moments.pause(600);
        cluster.try_sixfold(&["dev", "kill", "writer"])?;
    }
    cluster.start("writer")?;
    promises.verify(&mut cluster.connect_when_ready()?)?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn a_killed_backend_is_postgres_own_crash_restart() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    Ledger::create(&mut cluster.connect()?)?;
    let ledger = Ledger::start(cluster.port(), 0, 4);
    for _ in 0..3 {
        ledger.wait_for_progress(100, PATIENCE)?;
        let mut client = cluster.connect_when_ready()?;
        let backend: i32 = client.query_one("select pg_backend_pid()", &[])?.get(0);
        signal(u32::try_from(backend)?, libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(200));
        cluster.connect_when_ready()?;
    }
    ledger.wait_for_progress(50, PATIENCE)?;
    let promises = ledger.stop();
    promises.verify(&mut cluster.connect_when_ready()?)?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}
