//! Logical decoding while the writer is lost: a decoder shows what is flushed, and flushed means
//! durable, so what it has shown to anybody is there on the next host. (Slots are not: each host begins
//! with none.)

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::cluster::{PATIENCE, connect_to};
use tests::hard::{column, reopen, run, same, sound, value};
use tests::{Options, Shared};

static LOGICAL: Shared = Shared::new(|| {
    let set = ["--set", "wal_level=logical", "--set", "autovacuum=off"];
    Ok(Options::with(&set))
});

/// Inserts numbers from `first` on until its connection breaks; gives those acknowledged.
fn write(port: u16, first: i32) -> Result<Vec<i32>> {
    let mut client = connect_to(port)?;
    let mut acknowledged = Vec::new();
    for n in first.. {
        let pad = n % 700;
        let sql = format!("insert into decoded values ({n}, repeat('d', {pad}))");
        if client.batch_execute(&sql).is_err() {
            break;
        }
        acknowledged.push(n);
    }
    Ok(acknowledged)
}

/// Decodes until its connection breaks; gives the numbers shown.
fn decode(port: u16) -> Result<BTreeSet<i32>> {
    let mut client = connect_to(port)?;
    let mut shown = BTreeSet::new();
    let sql = "select (regexp_match(data, 'INSERT: n.integer.:([0-9]+)'))[1]::int
               from pg_logical_slot_get_changes('shown', null, null) where data like '%INSERT%'";
    while let Ok(rows) = client.query(sql, &[]) {
        shown.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    Ok(shown)
}

#[test]
fn what_logical_decoding_has_shown_is_there_after_the_writer_is_lost() -> Result<()> {
    let cluster = LOGICAL.take()?;
    let mut client = cluster.connect()?;
    run(&mut client, "create table decoded(n int primary key, pad text)")?;
    for round in 0..4i32 {
        run(
            &mut client,
            "select pg_create_logical_replication_slot('shown', 'test_decoding')
             where not exists (select from pg_replication_slots where slot_name = 'shown')",
        )?;
        let port = cluster.port();
        let first = round * 1_000_000;
        let writers =
            [first, first + 500_000].map(|first| std::thread::spawn(move || write(port, first)));
        let decoder = std::thread::spawn(move || decode(port));
        let progress = format!("select count(*) from decoded where n >= {first}");
        let started = Instant::now();
        while value::<i64>(&mut client, &progress)? < 100 {
            ensure!(started.elapsed() < PATIENCE, "the clients make no progress");
        }
        std::thread::sleep(Duration::from_millis(50 + u64::from(round.unsigned_abs()) * 67));
        cluster.kill("writer", "KILL")?;
        let shown = decoder.join().expect("no panic")?;
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.extend(writer.join().expect("no panic")?);
        }
        client = reopen(&cluster)?;
        let there: BTreeSet<i32> =
            column(&mut client, "select n from decoded where pad = repeat('d', n % 700)")?
                .into_iter()
                .collect();
        let lost: Vec<i32> = shown.difference(&there).copied().collect();
        same("shown by the decoder and lost", &lost, &[])?;
        let lost: Vec<i32> = acknowledged.into_iter().filter(|n| !there.contains(n)).collect();
        same("acknowledged and lost", &lost, &[])?;
        ensure!(shown.len() >= 50, "the decoder has shown only {} rows", shown.len());
    }
    sound(&cluster)
}
