//! A cluster's ordinary life: start, work, clean stop, resume, a thrown-away compute host.

use anyhow::{Result, ensure};
use tests::tools::{amcheck, check_pgbench_sums, pgbench, pgbench_fingerprint};
use tests::{Cluster, Options};

#[test]
fn pages_from_storage_alone_pass_amcheck_and_keep_every_row() -> Result<()> {
    let mut cluster = Cluster::up(Options::default())?;
    pgbench(&cluster, &["-i", "-q", "-s", "5"])?;
    pgbench(&cluster, &["-c", "8", "-j", "2", "-T", "10"])?;
    cluster.connect()?.batch_execute("vacuum")?;
    amcheck(&cluster)?;
    cluster.verify_volume()?;
    check_pgbench_sums(&cluster)?;
    let before = pgbench_fingerprint(&cluster)?;

    cluster.kill("writer", "TERM")?;
    cluster.wait_until("the writer is down", |status| {
        status["processes"].as_array().is_some_and(|processes| {
            processes.iter().any(|p| p["name"] == "writer" && p["state"] == "down")
        })
    })?;
    cluster.wipe("writer")?;
    cluster.start("writer")?;
    cluster.connect_when_ready()?;
    amcheck(&cluster)?;
    ensure!(pgbench_fingerprint(&cluster)? == before, "rows changed over a wipe");
    cluster.verify_volume()?;

    // And once more through a clean stop of everything.
    cluster.down()?;
    cluster.resume()?;
    ensure!(pgbench_fingerprint(&cluster)? == before, "rows changed over a restart");
    check_pgbench_sums(&cluster)?;
    pgbench(&cluster, &["-c", "4", "-j", "2", "-t", "50"])?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}

#[test]
fn catalog_state_outlives_the_compute_host() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    let mut client = cluster.connect()?;
    client.batch_execute(
        "create table kept(id serial primary key, what text);
         create index on kept using gin (to_tsvector('simple', what));
         insert into kept(what) select 'row ' || n from generate_series(1, 5000) n;
         create unlogged table fleeting(id int);
         insert into fleeting values (1);
         create sequence numbers; select nextval('numbers') from generate_series(1, 100);
         create schema other; create view other.v as select count(*) from kept;
         create role somebody; create materialized view m as select * from kept where id < 100;
         alter table kept add column extra int default 7",
    )?;
    client.batch_execute("create database second")?;
    client.batch_execute("create database third strategy file_copy")?;
    client.batch_execute("alter system set work_mem = '17MB'")?;
    client
        .batch_execute(
            "begin; insert into kept(what) values ('prepared'); prepare transaction 'p1'",
        )
        .or_else(|error| {
            // max_prepared_transactions is zero by default; then there is nothing to keep.
            client.batch_execute("rollback").map_err(|_| error)
        })?;
    client.batch_execute(
        "drop table if exists gone; create table gone as select 1; drop table gone",
    )?;
    drop(client);
    cluster.verify_volume()?;

    cluster.kill("writer", "KILL")?;
    cluster.wipe("writer")?;
    cluster.start("writer")?;
    let mut client = cluster.connect_when_ready()?;
    let count: i64 = client.query_one("select count(*) from kept where extra = 7", &[])?.get(0);
    ensure!(count == 5000, "{count} rows of 5000");
    let found: i64 = client
        .query_one(
            "select count(*) from kept where to_tsvector('simple', what) @@ to_tsquery('simple', '77')",
            &[],
        )?
        .get(0);
    ensure!(found == 1, "the GIN index finds {found} rows");
    let next: i64 = client.query_one("select nextval('numbers')", &[])?.get(0);
    ensure!(next > 100, "sequence went back to {next}");
    let empty: i64 = client.query_one("select count(*) from fleeting", &[])?.get(0);
    ensure!(empty == 0, "an unlogged table kept {empty} rows over a crash");
    let databases: i64 = client
        .query_one("select count(*) from pg_database where datname in ('second', 'third')", &[])?
        .get(0);
    ensure!(databases == 2, "{databases} of 2 databases");
    let mem: String = client.query_one("show work_mem", &[])?.get(0);
    ensure!(mem == "17MB", "ALTER SYSTEM was lost: work_mem is {mem}");
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}
