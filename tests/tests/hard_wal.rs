//! Where the log ends when the host is lost: on and beside the borders of pages and segments, in the
//! middle of a record's header, after a switch; and what full-page images give back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postgres::Client;
use tests::cluster::{PATIENCE, connect_to, signal};
use tests::hard::{change_host, column, lose_host, pairs, reopen, run, same, sound, value};
use tests::{Cluster, Options, Shared};

static QUIET: Shared = Shared::new(|| Ok(Options::with(&["--set", "autovacuum=off"])));

const PAGE: u64 = 8192;
const SEGMENT: u64 = 16 << 20;
/// Bytes of a record that carries a message of more than 255 bytes, beside the message.
const MESSAGE_OVERHEAD: u64 = 24 + 5 + 24 + 1;

/// Where a record is put that is to begin here: behind the header of a page that begins here.
fn behind_header(at: u64) -> u64 {
    match at {
        at if at.is_multiple_of(SEGMENT) => at + 40,
        at if at.is_multiple_of(PAGE) => at + 24,
        at => at,
    }
}

/// End of a record of so many bytes.
fn end_of(start: u64, bytes: u64) -> u64 {
    let (mut at, mut left) = (behind_header(start), bytes);
    while left > PAGE - at % PAGE {
        left -= PAGE - at % PAGE;
        at = behind_header(at + PAGE - at % PAGE);
    }
    (at + left).next_multiple_of(8)
}

fn position(client: &mut Client, which: &str) -> Result<u64> {
    let sql = format!("select (pg_current_wal_{which}_lsn() - '0/0')::bigint");
    Ok(u64::try_from(value::<i64>(client, &sql)?)?)
}

/// Bytes of the commit records that [`Ending::reach`] writes.
fn commit_bytes(client: &mut Client) -> Result<u64> {
    for _ in 0..20 {
        run(client, "begin; insert into ends default values")?;
        let start = position(client, "insert")?;
        run(client, "commit")?;
        let end = position(client, "flush")?;
        if end / PAGE == start / PAGE && end - start < 100 {
            return Ok(end - start);
        }
    }
    anyhow::bail!("no commit of its own on one page")
}

/// Commits so that the last record ends `offset` beside a multiple of `unit`; gives that position.
fn commit_ending_at(client: &mut Client, unit: u64, offset: i64) -> Result<u64> {
    let commit = commit_bytes(client)?;
    for _ in 0..20 {
        run(client, "begin; insert into ends default values")?;
        let start = position(client, "insert")?;
        let wanted = ((start + 2000) / unit + 1).saturating_mul(unit).saturating_add_signed(offset);
        let longest = wanted - start - commit - MESSAGE_OVERHEAD;
        let length = (0..longest.saturating_sub(400))
            .map(|less| longest - less)
            .find(|length| end_of(end_of(start, MESSAGE_OVERHEAD + length), commit) == wanted)
            .with_context(|| format!("no record ends {offset} beside a multiple of {unit}"))?;
        let message = format!("select pg_logical_emit_message(false, '', repeat('x', {length}))");
        run(client, &format!("{message}; commit"))?;
        // Something else may have been logged in between.
        if position(client, "flush")? == wanted {
            return Ok(wanted);
        }
    }
    anyhow::bail!("the log does not end {offset} beside a multiple of {unit}")
}

/// Positions beside a page's or segment's end: headers that do not fit, fit exactly, are cut, and
/// records that end just behind the next header.
const BESIDE: [i64; 7] = [0, -8, -16, -24, -32, 24 + 8, 24 + 24];

fn rows_of_ends(client: &mut Client) -> Result<i64> {
    value(client, "select count(*) from ends")
}

#[test]
fn a_log_that_ends_on_or_beside_a_page_s_end_goes_on_from_there() -> Result<()> {
    let cluster = QUIET.take()?;
    let mut client = cluster.connect()?;
    run(&mut client, "create table if not exists ends(n bigserial)")?;
    for (index, offset) in BESIDE.into_iter().enumerate() {
        let end = commit_ending_at(&mut client, PAGE, offset)?;
        let expected = rows_of_ends(&mut client)?;
        if index % 2 == 1 {
            // A record that nobody waits for begins there, and may be in the log as a whole or not.
            let begun = "select pg_logical_emit_message(false, '', repeat('y', 30000))";
            run(&mut client, begun)?;
        }
        client = lose_host(&cluster).with_context(|| format!("ended at {end:#x}"))?;
        let found = rows_of_ends(&mut client)?;
        ensure!(found == expected, "ended {offset} beside a page: {found} rows of {expected}");
        let next = position(&mut client, "flush")?;
        ensure!(next > end, "the log goes on at {next:#x}, it had ended at {end:#x}");
        // And once more with nothing but the first writer's checkpoint behind it.
        client = lose_host(&cluster)?;
        ensure!(rows_of_ends(&mut client)? == expected);
    }
    sound(&cluster)
}

#[test]
fn a_log_that_ends_on_or_beside_a_segment_s_end_goes_on_from_there() -> Result<()> {
    let cluster = QUIET.take()?;
    let mut client = cluster.connect()?;
    run(&mut client, "create table if not exists ends(n bigserial)")?;
    for offset in [0, -8, -24, 40 + 8] {
        let end = commit_ending_at(&mut client, SEGMENT, offset)?;
        let expected = rows_of_ends(&mut client)?;
        client = lose_host(&cluster).with_context(|| format!("ended at {end:#x}"))?;
        let found = rows_of_ends(&mut client)?;
        ensure!(found == expected, "ended {offset} beside a segment: {found} rows of {expected}");
        run(&mut client, "insert into ends default values")?;
    }
    sound(&cluster)
}

#[test]
fn a_daemon_that_dies_beside_a_page_s_end_ships_on_from_there() -> Result<()> {
    let cluster = QUIET.take()?;
    let mut client = cluster.connect()?;
    run(&mut client, "create table if not exists ends(n bigserial)")?;
    for (unit, offset) in [(PAGE, 0), (PAGE, -8), (PAGE, 32), (SEGMENT, 0)] {
        commit_ending_at(&mut client, unit, offset)?;
        let daemon = cluster.writer()?["daemon_pid"].as_u64().context("daemon_pid")?;
        signal(u32::try_from(daemon)?, libc::SIGKILL);
        let port = cluster.port();
        let waiting = std::thread::spawn(move || -> Result<()> {
            run(&mut connect_to(port)?, "insert into ends default values")
        });
        std::thread::sleep(Duration::from_millis(300));
        ensure!(!waiting.is_finished(), "a commit did not wait for the daemon");
        cluster.start("writer")?;
        waiting.join().expect("no panic")?;
        // The session of before goes on.
        let expected = rows_of_ends(&mut client)?;
        client = lose_host(&cluster)?;
        ensure!(rows_of_ends(&mut client)? == expected, "{offset} beside a multiple of {unit}");
    }
    sound(&cluster)
}

#[test]
fn switched_segments_are_passed_over_when_the_host_is_lost_right_after() -> Result<()> {
    let cluster = QUIET.take()?;
    let mut client = cluster.connect()?;
    run(&mut client, "create table switched(n int primary key)")?;
    let mut expected = Vec::new();
    for n in 0..12 {
        run(&mut client, &format!("insert into switched values ({n})"))?;
        expected.push(n);
        match n % 4 {
            0 => run(&mut client, "select pg_switch_wal()")?,
            1 => run(&mut client, "select pg_switch_wal(), pg_switch_wal()")?,
            2 => run(&mut client, "checkpoint; select pg_switch_wal(); checkpoint")?,
            // One that begins on a segment's first record.
            _ => run(&mut client, "select pg_switch_wal(); select txid_current()")?,
        }
        if n % 2 == 0 {
            client = if n == 6 { change_host(&cluster)? } else { lose_host(&cluster)? };
        }
        same("rows", &column(&mut client, "select n from switched order by n")?, &expected)?;
    }
    sound(&cluster)
}

/// Clients whose records have every length, killed at odd moments.
#[test]
fn records_of_every_length_cut_by_kills_lose_nothing_acknowledged() -> Result<()> {
    let cluster = QUIET.take()?;
    let mut client = cluster.connect()?;
    run(&mut client, "create table cuts(who int, n int, pad text, primary key (who, n))")?;
    for round in 0..6i32 {
        let port = cluster.port();
        let writers: Vec<_> = (0..3)
            .map(|who| {
                std::thread::spawn(move || {
                    let who = round * 3 + who;
                    let Ok(mut client) = connect_to(port) else { return (who, 0) };
                    for n in 1.. {
                        let length = (n * 7919 + who * 104_729) % 20_011;
                        let sql = format!(
                            "select pg_logical_emit_message(false, 'p', repeat('m', {length}));
                             insert into cuts values ({who}, {n}, repeat('c', {length} / 10))"
                        );
                        if client.batch_execute(&sql).is_err() {
                            return (who, n - 1);
                        }
                    }
                    (who, 0)
                })
            })
            .collect();
        let progress = format!("select count(*) from cuts where who >= {}", round * 3);
        let started = std::time::Instant::now();
        while value::<i64>(&mut client, &progress)? < 30 {
            ensure!(started.elapsed() < PATIENCE, "the clients make no progress");
        }
        std::thread::sleep(Duration::from_millis(u64::from(round.unsigned_abs()) * 37 % 100));
        cluster.kill("writer", "KILL")?;
        let promised: Vec<(i32, i32)> =
            writers.into_iter().map(|writer| writer.join().expect("no panic")).collect();
        client = reopen(&cluster)?;
        for (who, n) in promised {
            let rows: i64 = value(
                &mut client,
                &format!(
                    "select count(*) from cuts where who = {who} and n <= {n}
                     and length(pad) = ((n * 7919 + who * 104729) % 20011) / 10"
                ),
            )?;
            ensure!(rows == i64::from(n), "client {who} was promised {n} rows, {rows} are there");
        }
    }
    sound(&cluster)
}

fn images_since(client: &mut Client, start: &str) -> Result<i64> {
    value(
        client,
        &format!(
            "select coalesce(sum(fpi_length), 0)::bigint
             from pg_get_wal_records_info('{start}', pg_current_wal_flush_lsn())"
        ),
    )
}

fn images_in(cluster: &Cluster, compression: &str) -> Result<()> {
    let mut client = cluster.connect()?;
    let table = format!("images_{compression}");
    // The log before the opening is not on this host: begin with a segment of its own.
    run(&mut client, "select pg_switch_wal()")?;
    let start: String = value(&mut client, "select pg_current_wal_insert_lsn()::text")?;
    run(
        &mut client,
        &format!(
            "create extension if not exists pg_walinspect;
             set wal_compression = {compression};
             create table {table}(n int, v int, c text) with (fillfactor = 70);
             insert into {table} select n, 0, md5(n::text) || repeat('z', n % 200)
               from generate_series(1, 8000) n;
             create index {table}_b on {table}(n);
             create index {table}_g on {table} using gin (to_tsvector('simple', c));
             create index {table}_s on {table} using spgist (c);
             create index {table}_h on {table} using hash (n);
             checkpoint;
             update {table} set v = v + 1 where n % 7 = 0;
             delete from {table} where n % 11 = 0;
             insert into {table} select n, 0, md5(n::text) from generate_series(8001, 9000) n;
             checkpoint;
             vacuum {table};
             update {table} set v = v + 1 where n % 13 = 0"
        ),
    )?;
    let images = images_since(&mut client, &start)?;
    ensure!(images > 100_000, "only {images} bytes of images under {compression}");
    let expected: Vec<(i32, i32)> = (1..=9000)
        .filter(|n| n % 11 != 0 || *n > 8000)
        .map(|n| (n, i32::from(n % 7 == 0 && n <= 8000) + i32::from(n % 13 == 0)))
        .collect();
    let mut client = lose_host(cluster)?;
    let whole = format!(
        "select n, v from {table}
         where c = md5(n::text) || repeat('z', case when n <= 8000 then n % 200 else 0 end) order by n"
    );
    same(&format!("under {compression}"), &pairs(&mut client, &whole)?, &expected)?;
    run(&mut client, "set enable_seqscan = off")?;
    for (index, question) in [
        ("b", "n = 14".to_owned()),
        ("g", "to_tsvector('simple', c) @@ to_tsquery('simple', md5('8500'))".to_owned()),
        ("s", "c = md5('8500')".to_owned()),
    ] {
        let sql = format!("select count(*) from {table} where {question}");
        ensure!(value::<i64>(&mut client, &sql)? == 1, "index {index} under {compression}");
    }
    Ok(())
}

static IMAGES: Shared = Shared::new(|| {
    let set = ["--set", "full_page_writes=on", "--set", "autovacuum=off"];
    Ok(Options::with(&set))
});

#[test]
fn full_page_images_in_every_compression_give_their_pages_back() -> Result<()> {
    let cluster = IMAGES.take()?;
    for compression in ["off", "pglz", "lz4", "zstd"] {
        images_in(&cluster, compression)?;
    }
    sound(&cluster)
}

#[test]
fn counted_positions_are_postgres_own() {
    assert_eq!(end_of(0x100_0028, 8), 0x100_0030);
    assert_eq!(end_of(0x100_1ff8, 8), 0x100_2000, "a record that fills its page");
    assert_eq!(end_of(0x100_1ff8, 24), 0x100_2000 + 24 + 16, "a header in two pages");
    assert_eq!(end_of(0x1ff_fff8, 16), 0x200_0000 + 40 + 8, "a header in two segments");
}
