//! Free space is found again after the compute host is lost, although PostgreSQL does not log where
//! it is; and settings survive as soon as they are acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use postgres::Client;
use tests::cluster::{PATIENCE, connect_to, open_to_everyone};
use tests::metrics::writer_metric;
use tests::{Cluster, Options, Stock};

const ROWS: i32 = 30_000;

/// Waits until the volume knows the free space that VACUUM has found.
fn wait_until_kept(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let seen = writer_metric(cluster, "sixfold_free_space_seen")?;
    ensure!(seen > 0.0, "VACUUM was not noticed");
    while writer_metric(cluster, "sixfold_free_space_kept")? < seen {
        ensure!(begun.elapsed() < PATIENCE, "never in the volume: {}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn fill(client: &mut Client, round: i32) -> Result<()> {
    let sql = format!(
        "insert into t select n, {round}, repeat('x', 150) from generate_series(1, {ROWS}) n
         where {round} = 0 or n % 3 <> {round} % 3"
    );
    Ok(client.batch_execute(&sql)?)
}

/// Deletes two thirds of the table; VACUUM finds the room.
fn thin_out(client: &mut Client, round: i32) -> Result<()> {
    client.execute("delete from t where id % 3 <> $1 % 3", &[&round])?;
    client.batch_execute("vacuum t")?;
    // A commit: what VACUUM logged is durable with it, and has been looked at.
    Ok(client.execute("update rounds set n = $1", &[&round]).map(drop)?)
}

fn blocks(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("select pg_relation_size('t') / 8192", &[])?.get(0))
}

const SCHEMA: &str = "create table t(id int, round int, filler text); create index on t(id);
                      create table rounds as select 0 as n";

#[test]
fn room_found_by_vacuum_is_used_after_the_host_is_lost() -> Result<()> {
    let cluster = Cluster::up(Options::with(&["--set", "autovacuum=off"]))?;
    let directory = tempfile::Builder::new().prefix("sixfold-stock-").tempdir()?;
    open_to_everyone(directory.path())?;
    let stock = Stock::start(&directory.path().join("server"), &[("autovacuum", "off")])?;
    let mut beside = connect_to(stock.port)?;
    let mut client = cluster.connect()?;
    for server in [&mut client, &mut beside] {
        server.batch_execute(SCHEMA)?;
        fill(server, 0)?;
    }
    let before = blocks(&mut client)?;
    for round in 1..=4 {
        thin_out(&mut client, round)?;
        thin_out(&mut beside, round)?;
        if round % 2 == 0 {
            // An orderly stop leaves nothing behind, however soon after VACUUM it comes.
            drop(client);
            cluster.kill("writer", "TERM")?;
            cluster.wait_until("the writer is down", |status| {
                let processes = status["processes"].as_array().cloned().unwrap_or_default();
                processes.iter().any(|p| p["name"] == "writer" && p["state"] == "down")
            })?;
        } else {
            wait_until_kept(&cluster)?;
            drop(client);
            cluster.kill("writer", "KILL")?;
        }
        cluster.wipe("writer")?;
        cluster.start("writer")?;
        client = cluster.connect_when_ready()?;
        fill(&mut client, round)?;
        fill(&mut beside, round)?;
    }
    let (ours, theirs) = (blocks(&mut client)?, blocks(&mut beside)?);
    println!("blocks: {before} at first, then {ours}; a stock server {theirs}");
    ensure!(ours * 10 <= theirs * 11, "{ours} blocks, a stock server has {theirs}");
    let rows: i64 = client.query_one("select count(*) from t", &[])?.get(0);
    ensure!(rows == i64::from(ROWS), "{rows} rows");
    cluster.verify_volume().map(drop)
}

#[test]
fn free_space_survives_truncation_and_drops_beside_it() -> Result<()> {
    let cluster = Cluster::up(Options::with(&["--set", "autovacuum=off"]))?;
    let mut client = cluster.connect()?;
    // Maps of tables that VACUUM then cuts short, that are emptied, and that go.
    client.batch_execute(
        "create table cut as select n, repeat('x', 500) f from generate_series(1, 20000) n;
         create table emptied as select * from cut; create table gone as select * from cut;
         delete from cut where n % 2 = 0; delete from emptied where n % 2 = 0;
         delete from gone where n % 2 = 0",
    )?;
    client.batch_execute("vacuum")?;
    client.batch_execute("create table commits as select 1")?;
    wait_until_kept(&cluster)?;
    // From here on the volume has only what the log says: the cut is redone on the kept map.
    client.batch_execute("delete from cut where n > 1000")?;
    client.batch_execute("vacuum cut")?;
    client.batch_execute("truncate emptied; drop table gone")?;
    client.batch_execute("insert into emptied select * from cut")?;
    let size: i64 = client.query_one("select pg_relation_size('cut')", &[])?.get(0);
    drop(client);
    cluster.kill("writer", "KILL")?;
    cluster.wipe("writer")?;
    cluster.start("writer")?;
    let mut client = cluster.connect_when_ready()?;
    client.batch_execute(
        "insert into cut select n, repeat('x', 500) from generate_series(1, 400) n;
         insert into emptied select n, repeat('x', 500) from generate_series(1, 400) n",
    )?;
    let rows: i64 = client
        .query_one("select (select count(*) from cut) + (select count(*) from emptied)", &[])?
        .get(0);
    ensure!(rows == 500 + 400 + 500 + 400, "{rows} rows");
    let now: i64 = client.query_one("select pg_relation_size('cut')", &[])?.get(0);
    ensure!(now <= size + 8192, "{now} bytes, {size} before: its free space is forgotten");
    tests::tools::amcheck(&cluster)
}

#[test]
fn alter_system_is_kept_when_it_returns() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    for value in ["17MB", "18MB", "19MB"] {
        let mut client = cluster.connect_when_ready()?;
        client.batch_execute(&format!("alter system set work_mem = '{value}'"))?;
        cluster.kill("writer", "KILL")?; // nothing was committed since
        cluster.wipe("writer")?;
        cluster.start("writer")?;
        let mut client = cluster.connect_when_ready()?;
        let found: String = client.query_one("show work_mem", &[])?.get(0);
        ensure!(found == value, "ALTER SYSTEM was lost: work_mem is {found}, not {value}");
    }
    // Too few nodes: the statement waits for them as a commit does.
    for node in ["a1", "b1", "c1"] {
        cluster.kill(node, "KILL")?;
    }
    let port = cluster.port();
    let waiting = std::thread::spawn(move || -> Result<()> {
        Ok(connect_to(port)?.batch_execute("alter system set work_mem = '20MB'")?)
    });
    std::thread::sleep(Duration::from_secs(2));
    if waiting.is_finished() {
        bail!("acknowledged without a quorum: {:?}", waiting.join());
    }
    cluster.start("b1")?;
    waiting.join().expect("no panic")
}
