//! Databases copied file by file, at any size: `STRATEGY file_copy` and `SET TABLESPACE`; and
//! tablespaces.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use postgres::Client;
use tests::cluster::{PATIENCE, signal};
use tests::metrics::writer_metric;
use tests::tools::client_program;
use tests::{Cluster, Options};

/// Rows of the large table; with its index it has well over 100 MB.
const ROWS: i32 = 420_000;

/// Makes the database `big` and says what is in it.
fn make_big(cluster: &Cluster) -> Result<String> {
    cluster.connect()?.batch_execute("create database big")?;
    let mut client = cluster.connect_to_database("big")?;
    client.batch_execute(&format!(
        "create table rows as select n id, md5(n::text) || repeat('x', 200) what
           from generate_series(1, {ROWS}) n;
         create index on rows(id);
         create table wide(id int, what text); alter table wide alter what set storage external;
         insert into wide select n, repeat(md5(n::text), 2000) from generate_series(1, 20) n;
         create sequence numbers; select nextval('numbers');
         create unlogged table fleeting as select 1 as n;
         create table empty(n int);
         delete from rows where id % 10 = 0"
    ))?;
    client.batch_execute("vacuum")?;
    let size: i64 = client.query_one("select pg_database_size('big')", &[])?.get(0);
    ensure!(size > 100 << 20, "only {size} bytes");
    drop(client);
    contents(cluster, "big")
}

/// What is in a database, by content.
fn contents(cluster: &Cluster, database: &str) -> Result<String> {
    let mut client = cluster.connect_to_database(database)?;
    let row = client.query_one(
        "select concat_ws('/', (select count(*) || ' ' || sum(hashtext(r::text)) from rows r),
           (select count(*) || ' ' || sum(hashtext(w::text)) from wide w),
           (select count(*) from empty), (select count(*) from pg_class))",
        &[],
    )?;
    Ok(row.get(0))
}

fn amcheck(cluster: &Cluster, database: &str) -> Result<()> {
    cluster
        .connect_to_database(database)?
        .batch_execute("create extension if not exists amcheck")?;
    let arguments = ["--heapallindexed", "--parent-check", "-d", database];
    client_program(cluster, "pg_amcheck", &arguments).map(drop)
}

fn lose_the_host(cluster: &Cluster) -> Result<Client> {
    cluster.kill("writer", "KILL")?;
    cluster.wipe("writer")?;
    cluster.start("writer")?;
    cluster.connect_when_ready()
}

/// A directory that PostgreSQL may use as a tablespace.
fn place(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let path = cluster.data_dir().with_file_name(name);
    std::fs::create_dir(&path)?;
    let owner = std::fs::metadata(data_directory(cluster)?)?;
    chown(&path, Some(owner.uid()), Some(owner.gid()))?;
    Ok(path)
}

fn data_directory(cluster: &Cluster) -> Result<PathBuf> {
    Ok(PathBuf::from(cluster.writer()?["data_dir"].as_str().context("data_dir")?))
}

/// Every directory of a database below `base` belongs to a database.
fn check_directories(cluster: &Cluster, client: &mut Client) -> Result<()> {
    let known = client.query("select oid from pg_database", &[])?;
    let known: BTreeSet<String> =
        known.iter().map(|row| row.get::<_, u32>(0).to_string()).collect();
    for entry in std::fs::read_dir(data_directory(cluster)?.join("base"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        ensure!(!is_number || known.contains(&name), "base/{name} is nobody's");
    }
    Ok(())
}

fn check_twin(cluster: &Cluster, expected: &str) -> Result<()> {
    let found = contents(cluster, "twin")?;
    ensure!(found == expected, "the copy has {found}, its source {expected}");
    let mut client = cluster.connect_to_database("twin")?;
    let next: i64 = client.query_one("select nextval('numbers')", &[])?.get(0);
    ensure!(next > 1, "the sequence went back to {next}");
    Ok(())
}

#[test]
fn a_database_above_100_mb_is_copied_and_moved_and_outlives_the_host() -> Result<()> {
    let cluster = Cluster::up(Options::with(&["--cache-size", "64MB"]))?;
    let expected = make_big(&cluster)?;
    let mut client = cluster.connect()?;
    client.batch_execute("create database twin template big strategy file_copy")?;
    check_twin(&cluster, &expected)?;
    cluster.verify_volume()?;
    let mut client = lose_the_host(&cluster)?;
    check_twin(&cluster, &expected)?;
    let fleeting: i64 = cluster
        .connect_to_database("twin")?
        .query_one("select count(*) from fleeting", &[])?
        .get(0);
    ensure!(fleeting == 0, "an unlogged table kept {fleeting} rows");

    let path = place(&cluster, "space")?;
    client.batch_execute(&format!("create tablespace space location '{}'", path.display()))?;
    // A move that fails leaves pages behind in the volume; the next one must not take them for its own.
    let moving = start(&cluster, "alter database twin set tablespace space")?;
    client.execute(
        "select pg_cancel_backend(pid) from pg_stat_activity where query like 'alter database%'",
        &[],
    )?;
    ensure!(moving.join().expect("no panic").is_err(), "it was not cancelled");
    cluster.connect_to_database("twin")?.batch_execute(
        "truncate wide; insert into rows select 0, 'new' from generate_series(1, 99)",
    )?;
    let expected = contents(&cluster, "twin")?;
    client.batch_execute("alter database twin set tablespace space")?;
    check_twin(&cluster, &expected)?;
    let mut client = lose_the_host(&cluster)?;
    check_twin(&cluster, &expected)?;
    amcheck(&cluster, "twin")?;
    check_directories(&cluster, &mut client)?;
    client.batch_execute("drop database twin")?;
    client.batch_execute("drop database big")?;
    client.batch_execute("drop tablespace space")?;
    let mut client = lose_the_host(&cluster)?;
    check_directories(&cluster, &mut client)
}

#[test]
fn a_copy_killed_in_the_middle_leaves_nothing_and_works_the_next_time() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    let expected = make_big(&cluster)?;
    // The whole host is lost.
    let copying = start_copy(&cluster)?;
    let mut client = lose_the_host(&cluster)?;
    ensure!(copying.join().expect("no panic").is_err(), "acknowledged by a dead server");
    let twins: i64 =
        client.query_one("select count(*) from pg_database where datname = 'twin'", &[])?.get(0);
    ensure!(twins == 0);
    check_directories(&cluster, &mut client)?;

    // Only the daemon dies: the backend waits, and either succeeds or says that it has not.
    let copying = start_copy(&cluster)?;
    let daemon = cluster.writer()?["daemon_pid"].as_u64().context("daemon_pid")?;
    signal(u32::try_from(daemon)?, libc::SIGKILL);
    let begun = Instant::now();
    while !cluster.try_sixfold(&["dev", "start", "writer"])?.status.success() {
        ensure!(begun.elapsed() < PATIENCE, "the daemon does not start again");
        std::thread::sleep(Duration::from_millis(50)); // it has not quite gone yet
    }
    if copying.join().expect("no panic").is_err() {
        cluster
            .connect_when_ready()?
            .batch_execute("create database twin template big strategy file_copy")?;
    }
    check_twin(&cluster, &expected)?;
    let mut client = lose_the_host(&cluster)?;
    check_directories(&cluster, &mut client)?;
    check_twin(&cluster, &expected)?;
    ensure!(contents(&cluster, "big")? == expected, "the source has changed");
    amcheck(&cluster, "twin")
}

type Copying = std::thread::JoinHandle<Result<(), postgres::Error>>;

fn start_copy(cluster: &Cluster) -> Result<Copying> {
    start(cluster, "create database twin template big strategy file_copy")
}

/// Starts to copy a large database, and returns while its pages are on their way into the volume.
fn start(cluster: &Cluster, sql: &'static str) -> Result<Copying> {
    let mut session = cluster.connect_when_ready()?;
    let sent = || writer_metric(cluster, "sixfold_sent_bytes_total");
    let before = sent()?;
    let copying = std::thread::spawn(move || session.batch_execute(sql));
    let begun = Instant::now();
    // Six copies of some of more than 100 MB.
    while sent()? - before < 120e6 {
        ensure!(!copying.is_finished(), "already copied: {:?}", copying.join());
        ensure!(begun.elapsed() < PATIENCE, "nothing is copied");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(copying)
}

#[test]
fn tables_move_between_tablespaces_and_outlive_the_host() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    let mut client = cluster.connect()?;
    let path = place(&cluster, "space")?;
    client.batch_execute(&format!("create tablespace space location '{}'", path.display()))?;
    client.batch_execute(
        "create table moved as select n, repeat('x', 100) f from generate_series(1, 20000) n;
         create index moved_n on moved(n);
         create table born tablespace space as select n from generate_series(1, 1000) n;
         create table back as select n from generate_series(1, 500) n;
         alter table moved set tablespace space; alter index moved_n set tablespace space;
         alter table back set tablespace space; alter table back set tablespace pg_default;
         create unlogged table fleeting(n int) tablespace space; insert into fleeting values (1)",
    )?;
    let mut client = lose_the_host(&cluster)?;
    let check = |client: &mut Client, expected: [i64; 4]| -> Result<()> {
        let row = client.query_one(
            "select (select count(*) from moved), (select count(*) from born),
                    (select count(*) from back), (select count(*) from fleeting)",
            &[],
        )?;
        let found = [0, 1, 2, 3].map(|column: usize| row.get::<_, i64>(column));
        ensure!(found == expected, "{found:?}, expected {expected:?}");
        Ok(())
    };
    check(&mut client, [20_000, 1_000, 500, 0])?;
    cluster.verify_volume()?;
    // A backend's crash makes the server sync all its directories; none of them is a copy.
    client.batch_execute("insert into fleeting values (1), (2)")?;
    let pid: i32 = client.query_one("select pg_backend_pid()", &[])?.get(0);
    signal(u32::try_from(pid)?, libc::SIGKILL);
    std::thread::sleep(Duration::from_millis(300));
    check(&mut cluster.connect_when_ready()?, [20_000, 1_000, 500, 0])?;
    let mut client = lose_the_host(&cluster)?;
    check(&mut client, [20_000, 1_000, 500, 0])?;
    tests::tools::amcheck(&cluster)?;
    ensure!(client.batch_execute("drop tablespace space").is_err(), "it is not empty");
    client.batch_execute("drop table moved, born, back, fleeting")?;
    client.batch_execute("drop tablespace space")?;
    let mut client = lose_the_host(&cluster)?;
    let left: i64 = client.query_one("select count(*) from pg_tablespace", &[])?.get(0);
    ensure!(left == 2, "{left} tablespaces");
    Ok(())
}
