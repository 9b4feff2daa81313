//! Index builds larger than the buffer pool: killed in the middle and lost with the host, built again,
//! lost again right after, changed, and asked every question beside a scan of the table. Eviction is at
//! work all the time, so a page of a build that left the cache before its log had it would be missed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use postgres::Client;
use tests::cluster::{PATIENCE, connect_to};
use tests::hard::{column, lose_host, planned, reopen, run, same, sound, value};
use tests::{Cluster, Options, Shared};

static EVICTING: Shared = Shared::new(|| {
    let set = ["shared_buffers=1MB", "autovacuum=off", "maintenance_work_mem=1MB"];
    let set: Vec<&str> = set.iter().flat_map(|setting| ["--set", *setting]).collect();
    let mut options = Options::with(&set);
    options.environment.push(("SIXFOLD_EVICT_EVERYTHING".to_owned(), "true".to_owned()));
    Ok(options)
});

/// One access method's case.
struct Case {
    table: &'static str,
    /// Type and value of the indexed column `c` in row `n`.
    column: &'static str,
    value: &'static str,
    /// What follows `create index i on table`.
    index: &'static str,
    /// What is asked, through the index and without it.
    questions: &'static [&'static str],
    /// Bytes that the index has at least: more than the buffer pool, where its method allows.
    least: i64,
}

const POOL: i64 = 1 << 20;

const ROWS: i64 = 40_000;

/// Every question's answer is the same through the index and without it.
fn asked(client: &mut Client, case: &Case, when: &str) -> Result<()> {
    for question in case.questions {
        let sql = format!("select n from {} where {question} order by n", case.table);
        run(client, "set enable_seqscan = off")?;
        planned(client, &format!("{}_i", case.table), &sql)?;
        let by_index: Vec<i32> = column(client, &sql)?;
        run(client, "reset all; set enable_indexscan = off; set enable_bitmapscan = off")?;
        run(client, "set enable_indexonlyscan = off")?;
        planned(client, "Seq Scan", &sql)?;
        let by_table: Vec<i32> = column(client, &sql)?;
        run(client, "reset all")?;
        ensure!(!by_table.is_empty(), "nothing matches {question}");
        same(&format!("{when}: {question}"), &by_index, &by_table)?;
    }
    Ok(())
}

/// Starts the build, kills the host while it runs, and gives a connection to what is left.
fn kill_in_the_middle(cluster: &Cluster, case: &Case) -> Result<Client> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(300);
    loop {
        let (port, sql) = (cluster.port(), create_index(case));
        let build = std::thread::spawn(move || -> Result<()> {
            Ok(connect_to(port)?.batch_execute(&sql)?)
        });
        let mut watch = cluster.connect()?;
        let running = "select count(*) from pg_stat_progress_create_index";
        while value::<i64>(&mut watch, running)? == 0 && !build.is_finished() {}
        std::thread::sleep(pause);
        cluster.kill("writer", "KILL")?;
        let built = build.join().expect("no panic");
        let mut client = reopen(cluster)?;
        let index =
            format!("select count(*) from pg_index where indrelid = '{}'::regclass", case.table);
        let there = value::<i64>(&mut client, &index)? > 0;
        ensure!(there || built.is_err(), "the index of {} was built and is gone", case.table);
        if !there {
            return Ok(client);
        }
        // It was over, or over before its client heard of it: then it must be a good one.
        asked(&mut client, case, "killed at its end")?;
        ensure!(started.elapsed() < PATIENCE, "the build of {} is always over", case.table);
        pause /= 2;
        run(&mut client, &format!("drop index {}_i", case.table))?;
    }
}

fn create_index(case: &Case) -> String {
    format!("create index {0}_i on {0} {1}", case.table, case.index)
}

fn built_killed_and_built_again(case: &Case) -> Result<()> {
    let cluster = EVICTING.take()?;
    let mut client = cluster.connect()?;
    let Case { table, .. } = case;
    run(
        &mut client,
        &format!(
            "create table {table}(n int, c {0}, pad text);
             insert into {table} select n, {1}, repeat('p', 100) from generate_series(1, {ROWS}) n",
            case.column, case.value
        ),
    )?;
    let mut client = kill_in_the_middle(&cluster, case)?;
    let sum = format!("select sum(n)::bigint from {table}");
    ensure!(value::<i64>(&mut client, &sum)? == ROWS * (ROWS + 1) / 2, "the table has lost rows");

    run(&mut client, &create_index(case))?;
    let size: i64 = value(&mut client, &format!("select pg_relation_size('{table}_i')"))?;
    ensure!(size > case.least, "the index of {table} has only {size} bytes");
    asked(&mut client, case, "built")?;
    client = lose_host(&cluster)?;
    asked(&mut client, case, "lost after the build")?;
    run(
        &mut client,
        &format!(
            "delete from {table} where n % 3 = 0; vacuum {table};
             insert into {table} select n, {0}, 'new' from generate_series({1}, {1} + 6000) n",
            case.value,
            ROWS + 1
        ),
    )?;
    asked(&mut client, case, "changed")?;
    client = lose_host(&cluster)?;
    asked(&mut client, case, "lost after changes")?;
    sound(&cluster)
}

#[test]
fn a_gin_build_killed_in_the_middle_can_be_built_again() -> Result<()> {
    built_killed_and_built_again(&Case {
        table: "h_gin",
        column: "int[]",
        value: "array[n % 7, 100 + n % 1000, 10000 + n, 100000 + n * 3]",
        index: "using gin (c)",
        questions: &["c @> array[3]", "c @> array[3, 200]", "c && array[10007, 100030]"],
        least: POOL,
    })
}

#[test]
fn a_sorted_gist_build_killed_in_the_middle_can_be_built_again() -> Result<()> {
    built_killed_and_built_again(&Case {
        table: "h_gist_sorted",
        column: "point",
        value: "point((n * 7919) % 1000, (n * 37) % 997)",
        index: "using gist (c)",
        questions: &["c <@ box '(0,0,300,400)'", "c <@ box '(990,0,1000,1000)'"],
        least: POOL,
    })
}

#[test]
fn a_buffered_gist_build_killed_in_the_middle_can_be_built_again() -> Result<()> {
    built_killed_and_built_again(&Case {
        table: "h_gist_buffered",
        column: "box",
        value: "box(point((n * 7919) % 1000, n % 997), point((n * 7919) % 1000 + 3, n % 997 + 5))",
        index: "using gist (c) with (buffering = on)",
        questions: &["c && box '(0,0,300,400)'", "c <@ box '(900,0,1010,500)'"],
        least: POOL,
    })
}

#[test]
fn an_spgist_build_killed_in_the_middle_can_be_built_again() -> Result<()> {
    built_killed_and_built_again(&Case {
        table: "h_spgist",
        column: "text collate \"C\"",
        value: "'prefix/' || n % 50 || '/' || md5(n::text)",
        index: "using spgist (c)",
        questions: &["c = 'prefix/7/' || md5('7')", "c ^@ 'prefix/3/'", "c < 'prefix/2'"],
        least: POOL,
    })
}

#[test]
fn a_hash_build_killed_in_the_middle_can_be_built_again() -> Result<()> {
    built_killed_and_built_again(&Case {
        table: "h_hash",
        column: "text",
        value: "case when n % 4 = 0 then 'same' else md5(n::text) end",
        index: "using hash (c)",
        questions: &["c = 'same'", "c = md5('17')", "c = md5('39998')"],
        least: POOL,
    })
}

#[test]
fn a_brin_build_killed_in_the_middle_can_be_built_again() -> Result<()> {
    built_killed_and_built_again(&Case {
        table: "h_brin",
        column: "text",
        value: "md5((n / 20)::text)",
        index: "using brin (c text_bloom_ops(n_distinct_per_range = 900,
                false_positive_rate = 0.0005)) with (pages_per_range = 1)",
        questions: &["c = md5('17')", "c = md5('1999')", "c = md5('0')"],
        least: 64 << 10,
    })
}

#[test]
fn a_unique_btree_build_killed_in_the_middle_can_be_built_again() -> Result<()> {
    built_killed_and_built_again(&Case {
        table: "h_btree",
        column: "text",
        value: "md5(n::text)",
        index: "(c, n) include (pad)",
        questions: &["c between 'a' and 'b'", "c = md5('17')", "c > 'fff'"],
        least: POOL,
    })
}

#[test]
fn a_concurrent_build_killed_in_the_middle_leaves_an_invalid_index_that_reindex_mends() -> Result<()>
{
    let cluster = EVICTING.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create table h_conc(n int primary key, c text);
         insert into h_conc select n, md5(n::text) from generate_series(1, 30000) n",
    )?;
    // Somebody's old snapshot keeps the build from its end.
    let mut holder = cluster.connect()?;
    run(&mut holder, "begin isolation level repeatable read; select count(*) from h_conc")?;
    let port = cluster.port();
    let build = std::thread::spawn(move || -> Result<()> {
        let sql = "create index concurrently h_conc_i on h_conc(c)";
        Ok(connect_to(port)?.batch_execute(sql)?)
    });
    let waits =
        "select count(*) from pg_stat_progress_create_index where phase like 'waiting for old%'";
    let started = Instant::now();
    while value::<i64>(&mut client, waits)? == 0 {
        if started.elapsed() > PATIENCE {
            bail!("the build does not come to its last wait");
        }
        run(&mut client, "update h_conc set c = md5(c) where n % 100 = 7")?;
    }
    let mut client = lose_host(&cluster)?;
    ensure!(build.join().expect("no panic").is_err(), "the build ended");
    let valid = "select indisvalid from pg_index where indexrelid = 'h_conc_i'::regclass";
    ensure!(!value::<bool>(&mut client, valid)?, "a build that never ended is valid");
    run(&mut client, "reindex index concurrently h_conc_i")?;
    let mut client = lose_host(&cluster)?;
    ensure!(value::<bool>(&mut client, valid)?, "reindexed and not valid");
    let sql = "select n from h_conc where c between '1' and '5' order by n";
    run(&mut client, "set enable_indexscan = off; set enable_bitmapscan = off")?;
    let by_table: Vec<i32> = column(&mut client, sql)?;
    run(&mut client, "reset all; set enable_seqscan = off")?;
    planned(&mut client, "h_conc_i", sql)?;
    same("reindexed", &column(&mut client, sql)?, &by_table)?;
    sound(&cluster)
}
