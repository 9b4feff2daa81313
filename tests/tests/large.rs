//! Databases of a gigabyte: minutes each, so `make test-large` runs them.

use anyhow::{Context, Result, ensure};
use postgres::Client;
use tests::resident::{resident_bytes, wait_for_resident_below};
use tests::tools::{amcheck, check_pgbench_sums, pgbench, pgbench_fingerprint};
use tests::{Cluster, Options};

const MIB: u64 = 1 << 20;

#[test]
#[ignore = "minutes"]
fn three_quarters_of_a_gigabyte_come_back_from_storage_as_they_were() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    pgbench(&cluster, &["-i", "-q", "-s", "50"])?;
    let said = pgbench(&cluster, &["-c", "8", "-j", "2", "-T", "60"])?;
    eprintln!("{said}");
    cluster.connect()?.batch_execute("vacuum")?;
    amcheck(&cluster)?;
    check_pgbench_sums(&cluster)?;
    let before = pgbench_fingerprint(&cluster)?;
    cluster.verify_volume()?;

    cluster.kill("writer", "KILL")?;
    cluster.wipe("writer")?;
    cluster.start("writer")?;
    drop(cluster.connect_when_ready()?);
    amcheck(&cluster)?;
    check_pgbench_sums(&cluster)?;
    ensure!(pgbench_fingerprint(&cluster)? == before, "rows changed over a wipe");
    cluster.verify_volume().map(drop)
}

#[test]
#[ignore = "minutes"]
fn a_gigabyte_through_a_cache_of_64_mb() -> Result<()> {
    const CACHE: u64 = 64 * MIB;
    // What eviction leaves alone: visibility and free space maps.
    const SLACK: u64 = 4 * MIB;
    let unhurried = "autovacuum_vacuum_cost_delay=0";
    let cluster = Cluster::up(Options::with(&["--cache-size", "64MB", "--set", unhurried]))?;
    pgbench(&cluster, &["-i", "-q", "-s", "70"])?;
    let mut client = cluster.connect()?;
    let size: i64 = client.query_one("select pg_database_size('postgres')", &[])?.get(0);
    ensure!(size > 1 << 30, "the database has only {size} bytes");
    let told = |what: &str| -> Result<()> {
        eprintln!("after {what}: {} MiB on the local disk", resident_bytes(&cluster)? / MIB);
        Ok(())
    };
    told("loading")?;
    pgbench(&cluster, &["-c", "8", "-j", "2", "-T", "10"])?;
    told("pgbench")?;
    check_pgbench_sums(&cluster)?;
    wait_for_resident_below(&cluster, CACHE + SLACK)?;

    client.batch_execute("set enable_seqscan = off")?;
    let count = |client: &mut Client, query: &str| -> Result<i64> {
        Ok(client.query_one(query, &[])?.get(0))
    };
    let range = "select count(*) from pgbench_accounts where aid between 1000001 and 1400000";
    ensure!(count(&mut client, range)? == 400_000, "an index scan misses rows");
    client.batch_execute("create index by_branch on pgbench_accounts (bid, aid)")?;
    told("create index")?;
    let branch = "select count(*) from pgbench_accounts where bid = 7";
    ensure!(count(&mut client, branch)? == 100_000, "the new index misses rows");
    client.batch_execute("create table copy as select * from pgbench_accounts")?;
    told("create table as")?;
    let equal = "select count(*) from copy c join pgbench_accounts a using (aid)
         where c.abalance = a.abalance and c.bid = a.bid and c.filler = a.filler";
    ensure!(count(&mut client, equal)? == 7_000_000, "the copy is not one");
    own_rows(&mut client).context("a transaction that reads its own rows")?;
    told("the transaction")?;
    drop(client);
    check_pgbench_sums(&cluster)?;
    wait_for_resident_below(&cluster, CACHE + SLACK)?;
    amcheck(&cluster)?;
    cluster.verify_volume()?;
    wait_for_resident_below(&cluster, CACHE + SLACK)?;
    told("everything")
}

/// Updates more rows than the cache holds and reads them back through cursors opened before and
/// after, then rolls back.
fn own_rows(client: &mut Client) -> Result<()> {
    const ROWS: i32 = 600_000;
    let mut transaction = client.transaction()?;
    let old: i64 = transaction
        .query_one("select sum(abalance) from pgbench_accounts where aid <= $1", &[&ROWS])?
        .get(0);
    transaction.batch_execute(&format!(
        "declare before cursor for select aid, abalance from pgbench_accounts where aid <= {ROWS};
         update pgbench_accounts set abalance = 1000000 + aid where aid <= {ROWS};
         declare after cursor for select aid, abalance from pgbench_accounts where aid <= {ROWS};
         update pgbench_accounts set abalance = -1 where aid <= 1000"
    ))?;
    let new = (1..=i64::from(ROWS)).map(|aid| 1_000_000 + aid).sum();
    for (cursor, expected) in [("after", new), ("before", old)] {
        let (mut seen, mut sum) = (0, 0);
        loop {
            let rows = transaction.query(&format!("fetch 20000 from {cursor}"), &[])?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let (aid, balance): (i32, i32) = (row.get(0), row.get(1));
                let right = cursor == "before" || balance == 1_000_000 + aid;
                ensure!(right, "cursor {cursor} sees {balance} for {aid}");
                sum += i64::from(balance);
            }
            seen += i32::try_from(rows.len())?;
        }
        ensure!(seen == ROWS && sum == expected, "cursor {cursor}: {seen} rows, sum {sum}");
    }
    Ok(transaction.rollback()?)
}
