//! A cache much smaller than the database: right results, and local disk back within its bound.

use anyhow::{Result, ensure};
use tests::resident::wait_for_resident_below;
use tests::tools::{amcheck, check_pgbench_sums, pgbench};
use tests::{Cluster, Options};

#[test]
fn a_small_cache_gives_right_results_and_stays_small() -> Result<()> {
    const CACHE: u64 = 32 << 20;
    // What eviction leaves alone: visibility and free space maps, catalogs' small files.
    const SLACK: u64 = 8 << 20;
    // A vacuum at full speed: what it is at cannot be compared until it is through.
    let unhurried = "autovacuum_vacuum_cost_delay=0";
    let cluster = Cluster::up(Options::with(&["--cache-size", "32MB", "--set", unhurried]))?;
    cluster.connect()?.batch_execute("alter system set shared_buffers = '16MB'")?;
    pgbench(&cluster, &["-i", "-q", "-s", "20"])?;
    pgbench(&cluster, &["-c", "4", "-j", "2", "-T", "8"])?;
    check_pgbench_sums(&cluster)?;
    cluster.verify_volume()?;
    wait_for_resident_below(&cluster, CACHE + SLACK)?;

    let mut client = cluster.connect()?;
    client.batch_execute("create index by_filler on pgbench_accounts (abalance, aid)")?;
    client.batch_execute(
        "create table copy as select aid, bid, abalance, filler from pgbench_accounts",
    )?;
    let counts = client.query_one(
        "select (select count(*) from copy), (select count(*) from pgbench_accounts)",
        &[],
    )?;
    ensure!(counts.get::<_, i64>(0) == 2_000_000 && counts.get::<_, i64>(1) == 2_000_000);
    let probe: i64 = client
        .query_one("select count(*) from pgbench_accounts where aid between 5000 and 9000", &[])?
        .get(0);
    ensure!(probe == 4001, "an index scan found {probe} rows of 4001");

    // A transaction must see its own rows as it wrote them, through a cursor opened before.
    let mut transaction = client.transaction()?;
    transaction.batch_execute(
        "declare before cursor for select aid, abalance from pgbench_accounts where aid <= 300000;
         update pgbench_accounts set abalance = 1000000 + aid where aid <= 300000;
         declare after cursor for select aid, abalance from pgbench_accounts where aid <= 300000;
         update pgbench_accounts set abalance = -1 where aid <= 1000",
    )?;
    let mut seen = 0;
    loop {
        let rows = transaction.query("fetch 10000 from after", &[])?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            let (aid, balance): (i32, i32) = (row.get(0), row.get(1));
            ensure!(balance == 1_000_000 + aid, "the cursor sees {balance} for {aid}");
        }
        seen += rows.len();
    }
    ensure!(seen == 300_000, "the cursor saw {seen} rows");
    let old: i64 = transaction
        .query("fetch all from before", &[])?
        .iter()
        .filter(|row| row.get::<_, i32>(1) < 1_000_000 && row.get::<_, i32>(1) != -1)
        .count()
        .try_into()?;
    ensure!(old >= 299_000, "the earlier cursor sees only {old} old rows");
    transaction.rollback()?;
    drop(client);
    check_pgbench_sums(&cluster)?;
    wait_for_resident_below(&cluster, CACHE + SLACK)?;
    amcheck(&cluster)?;
    cluster.verify_volume().map(drop)
}
