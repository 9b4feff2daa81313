//! Pages that are evicted as soon as rule R4 allows it, under a buffer pool of 128 pages: whatever a
//! transaction reads again comes from the local cache where it must, and from storage else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postgres::Client;
use tests::cluster::{PATIENCE, connect_to};
use tests::hard::{change_host, column, lose_host, pairs, planned, run, same, sound, value};
use tests::{Options, Shared};

static EVICTING: Shared = Shared::new(|| {
    let set = ["--set", "shared_buffers=1MB", "--set", "autovacuum=off"];
    let mut options = Options::with(&set);
    options.environment.push(("SIXFOLD_EVICT_EVERYTHING".to_owned(), "true".to_owned()));
    Ok(options)
});

/// Reads a table larger than the buffer pool, so that PostgreSQL lets its other pages go, and waits
/// until eviction has been through the cache at least once more.
fn sweep(client: &mut Client) -> Result<()> {
    for _ in 0..3 {
        let rows: i64 = value(client, "select count(*) from sweep")?;
        ensure!(rows == 30_000, "the sweep sees {rows} rows");
        std::thread::sleep(Duration::from_millis(400));
    }
    Ok(())
}

fn create_sweep(client: &mut Client) -> Result<()> {
    run(
        client,
        "create table if not exists sweep(n int, pad text);
         truncate sweep;
         insert into sweep select n, repeat('s', 100) from generate_series(1, 30000) n",
    )
}

/// All rows of a cursor, sorted.
fn fetched(client: &mut Client, cursor: &str) -> Result<Vec<(i32, i32)>> {
    let mut found = pairs(client, &format!("fetch all from {cursor}"))?;
    found.sort_unstable();
    Ok(found)
}

#[test]
fn a_cursor_sees_its_own_moment_of_a_transaction_whose_pages_were_evicted() -> Result<()> {
    let cluster = EVICTING.take()?;
    let mut client = cluster.connect()?;
    create_sweep(&mut client)?;
    run(
        &mut client,
        "create table moments(id int, v int, pad text);
         insert into moments select n, 0, repeat('p', 60) from generate_series(1, 8000) n",
    )?;
    let mut expected: Vec<(i32, i32)> = (1..=8000).map(|id| (id, 0)).collect();
    run(&mut client, "begin")?;
    let mut cursors = vec![("c0", expected.clone())];
    run(&mut client, "declare c0 cursor for select id, v from moments")?;

    run(&mut client, "insert into moments select n, 1, '' from generate_series(8001, 10000) n")?;
    expected.extend((8001..=10_000).map(|id| (id, 1)));
    cursors.push(("c1", expected.clone()));
    run(&mut client, "declare c1 cursor for select id, v from moments")?;

    // Rows of this transaction change in it: their two command ids become one combined id.
    run(&mut client, "update moments set v = v + 10 where id % 2 = 0")?;
    expected.iter_mut().filter(|row| row.0 % 2 == 0).for_each(|row| row.1 += 10);
    cursors.push(("c2", expected.clone()));
    run(&mut client, "declare c2 cursor for select id, v from moments")?;

    sweep(&mut client)?;
    run(&mut client, "savepoint s; update moments set v = -1 where id % 3 = 0")?;
    sweep(&mut client)?;
    run(&mut client, "rollback to s; delete from moments where id % 5 = 0")?;
    expected.retain(|row| row.0 % 5 != 0);
    cursors.push(("c3", expected.clone()));
    run(&mut client, "declare c3 cursor for select id, v from moments")?;
    run(&mut client, "update moments set v = v + 100 where id % 7 = 0")?;
    expected.iter_mut().filter(|row| row.0 % 7 == 0).for_each(|row| row.1 += 100);

    sweep(&mut client)?;
    for (cursor, expected) in &cursors {
        same(cursor, &fetched(&mut client, cursor)?, expected)?;
    }
    let all = "select id, v from moments order by id";
    same("the transaction's own view", &pairs(&mut client, all)?, &expected)?;
    run(&mut client, "commit")?;
    let mut client = lose_host(&cluster)?;
    same("after the commit and a crash", &pairs(&mut client, all)?, &expected)?;
    sound(&cluster)
}

/// Pages whose mark and whose bit in the map disagree; the map must never say more than the page.
fn disagreements(client: &mut Client, table: &str) -> Result<()> {
    let wrong: i64 = value(
        client,
        &format!(
            "select (select count(*) from pg_visibility('{table}')
                     where all_visible and not pd_all_visible)
                  + (select count(*) from pg_check_visible('{table}'))
                  + (select count(*) from pg_check_frozen('{table}'))"
        ),
    )?;
    ensure!(wrong == 0, "{wrong} pages or rows of {table} are not as visible as their map says");
    Ok(())
}

/// The numbers that an index-only scan finds.
fn index_only(client: &mut Client, table: &str) -> Result<Vec<i32>> {
    run(client, "set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off")?;
    let sql = format!("select n from {table} where n > 0 order by n");
    planned(client, "Index Only Scan", &sql)?;
    let found = column(client, &sql)?;
    run(client, "reset enable_seqscan; reset enable_bitmapscan; reset enable_sort")?;
    Ok(found)
}

fn marked(client: &mut Client) -> Result<i64> {
    value(client, "select all_visible from pg_visibility_map_summary('seen')")
}

/// VACUUM marks nothing while an older transaction runs, such as one in which the daemon keeps what
/// PostgreSQL does not log.
fn vacuum_until_marked(client: &mut Client) -> Result<()> {
    let started = Instant::now();
    loop {
        run(client, "vacuum seen")?;
        if marked(client)? > 100 {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "VACUUM marks no pages");
    }
}

#[test]
fn marks_set_without_a_page_lsn_and_their_map_agree_after_eviction_and_crash() -> Result<()> {
    let cluster = EVICTING.take()?;
    let mut client = cluster.connect()?;
    create_sweep(&mut client)?;
    run(
        &mut client,
        "create extension if not exists pg_visibility;
         create table seen(n int primary key, v int, pad text);
         insert into seen select n, 0, repeat('p', 80) from generate_series(1, 20000) n",
    )?;
    let mut expected: Vec<i32> = (1..=20_000).collect();
    for round in 0..4 {
        // VACUUM marks the pages by records that move no LSN of theirs.
        vacuum_until_marked(&mut client)?;
        sweep(&mut client)?;
        disagreements(&mut client, "seen").with_context(|| format!("round {round}, evicted"))?;
        if round % 2 == 1 {
            client = lose_host(&cluster)?;
            disagreements(&mut client, "seen").with_context(|| format!("round {round}, lost"))?;
        }
        ensure!(marked(&mut client)? > 100, "round {round}: the marks are gone");
        // Deletes, updates and locks clear marks, each by a flag of its own record.
        run(
            &mut client,
            &format!(
                "delete from seen where n % 400 = {round};
                 update seen set v = v + 1 where n % 300 = {round};
                 begin; select 1 from seen where n % 500 = {round} for update; commit;
                 insert into seen select n, 0, '' from generate_series({0}, {0} + 9) n",
                30_000 + round * 10
            ),
        )?;
        expected.retain(|n| n % 400 != round);
        expected.extend(30_000 + round * 10..30_000 + round * 10 + 10);
        sweep(&mut client)?;
        disagreements(&mut client, "seen")?;
        same("evicted", &index_only(&mut client, "seen")?, &expected)?;
        client = lose_host(&cluster)?;
        disagreements(&mut client, "seen")?;
        same("lost", &index_only(&mut client, "seen")?, &expected)?;
    }
    run(&mut client, "vacuum (freeze) seen")?;
    let mut client = lose_host(&cluster)?;
    disagreements(&mut client, "seen")?;
    same("frozen", &index_only(&mut client, "seen")?, &expected)?;
    sound(&cluster)
}

#[test]
fn pages_cut_off_by_a_truncation_come_back_unmarked() -> Result<()> {
    let cluster = EVICTING.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create extension if not exists pg_visibility;
         create table cut(n int primary key, pad text);
         insert into cut select n, repeat('p', 500) from generate_series(1, 10000) n;
         vacuum (freeze) cut;
         delete from cut where n > 2000;
         vacuum cut",
    )?;
    let size = "select pg_relation_size('cut') / 8192";
    let short: i64 = value(&mut client, size)?;
    ensure!(short < 200, "VACUUM has not cut the table: {short} pages");
    client = lose_host(&cluster)?;
    ensure!(value::<i64>(&mut client, size)? == short, "the size is not the one left");
    disagreements(&mut client, "cut")?;

    // The same pages again, with rows nobody else may see yet, and rows that go.
    let mut other = cluster.connect()?;
    run(
        &mut client,
        "begin; insert into cut select n, repeat('q', 500) from generate_series(20001, 26000) n",
    )?;
    let committed: Vec<i32> = (1..=2000).collect();
    same("others' view", &index_only(&mut other, "cut")?, &committed)?;
    run(&mut client, "commit; delete from cut where n > 25000")?;
    let expected: Vec<i32> = committed.into_iter().chain(20_001..=25_000).collect();
    same("before the crash", &index_only(&mut client, "cut")?, &expected)?;
    drop(other);
    client = lose_host(&cluster)?;
    disagreements(&mut client, "cut")?;
    same("after the crash", &index_only(&mut client, "cut")?, &expected)?;
    ensure!(value::<i64>(&mut client, size)? > short + 300, "the table has grown again");

    // All the way down, by TRUNCATE in the transaction that made the file, and up again.
    run(
        &mut client,
        "begin; create table whole(n int primary key, pad text);
         insert into whole select n, repeat('r', 500) from generate_series(1, 5000) n;
         truncate whole; insert into whole values (7, ''); commit; vacuum whole",
    )?;
    let mut client = lose_host(&cluster)?;
    same("the truncated table", &index_only(&mut client, "whole")?, &[7])?;
    ensure!(value::<i64>(&mut client, "select pg_relation_size('whole')")? == 8192);
    disagreements(&mut client, "whole")?;
    sound(&cluster)
}

#[test]
fn what_is_read_ahead_never_overwrites_what_was_written() -> Result<()> {
    let cluster = EVICTING.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create table ahead(id int, k int, v int, pad text) with (fillfactor = 50);
         insert into ahead select n, n % 50, 0, repeat('p', 200) from generate_series(1, 12000) n;
         create index on ahead(k); create index on ahead(id); analyze ahead",
    )?;
    let port = cluster.port();
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| -> Result<i32> {
        let reader = scope.spawn(|| -> Result<usize> {
            let mut client = connect_to(port)?;
            run(&mut client, "set enable_seqscan = off; set enable_indexscan = off")?;
            run(&mut client, "set effective_io_concurrency = 200")?;
            let mut scans = 0;
            while !stop.load(Ordering::SeqCst) {
                let sql = format!("select count(*) from ahead where k = {}", scans % 50);
                let found: i64 = value(&mut client, &sql)?;
                ensure!(found == 240, "a bitmap scan finds {found} rows of 240");
                scans += 1;
            }
            Ok(scans)
        });
        let (started, mut rounds) = (Instant::now(), 0);
        while started.elapsed() < Duration::from_secs(8) {
            for part in 0..10 {
                let set = format!("update ahead set v = v + 1 where id % 10 = {part}");
                run(&mut client, &set)?;
            }
            rounds += 1;
        }
        stop.store(true, Ordering::SeqCst);
        let scans = reader.join().expect("the reader does not panic")?;
        ensure!(scans >= 3, "only {scans} scans");
        Ok(rounds)
    })?;
    let mut client = lose_host(&cluster)?;
    let expected: Vec<(i32, i32)> = (1..=12_000).map(|id| (id, rounds)).collect();
    let all = "select id, v from ahead order by id";
    same("every update", &pairs(&mut client, all)?, &expected)?;
    client = change_host(&cluster)?;
    same("after a clean end", &pairs(&mut client, all)?, &expected)?;
    sound(&cluster)
}
