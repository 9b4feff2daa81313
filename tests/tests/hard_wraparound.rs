//! Counters at the end of their range, crossed under a running volume and looked at from storage alone.

use anyhow::{Context, Result, ensure};
use postgres::Client;
use tests::aged::{Counters, with_counters};
use tests::hard::{change_host, column, lose_host, pairs, run, same, sound, value};
use tests::{Options, Shared};

/// Tables that the new directory holds, with the numbers that are given again after the wrap.
const OLD_TENANTS: i32 = 30;

fn settings(extra: &[&str]) -> Options {
    let set = ["autovacuum=off", "max_prepared_transactions=5"];
    let set = set.iter().chain(extra).flat_map(|setting| ["--set", *setting]);
    Options::with(&set.collect::<Vec<_>>())
}

/// Just below half the circle of transactions, and at the ends of the circles of multixacts, of their
/// members and of object ids.
static HALFWAY: Shared = Shared::new(|| {
    let steps = [
        Counters { xid: 1_200_000_000, multi: 1_500_000_000, member: 1_000_000_000, oid: 20_000 },
        Counters { xid: 1_800_000_000, multi: 3_000_000_000, member: 2_500_000_000, oid: 20_000 },
        Counters {
            xid: (1 << 31) - 2500,
            multi: u32::MAX - 150,
            // The end falls into a multixact that is the last one of its row, before the updater.
            member: u32::MAX - 2402,
            oid: u32::MAX - 30,
        },
    ];
    let tenants: Vec<String> = (1..=OLD_TENANTS)
        .map(|n| {
            format!(
                "create table old_tenant_{n} as select n, 'old tenant ' || n as c
                 from generate_series(1, 1500) n"
            )
            .replace('\n', " ")
        })
        .collect();
    let tenants: Vec<&str> = tenants.iter().map(String::as_str).collect();
    with_counters(settings(&[]), &steps, &tenants)
});

/// Just below the end of the circle of transactions, where the epoch moves on.
static EPOCH_END: Shared = Shared::new(|| {
    let step = |xid| Counters { xid, multi: 300, member: 300, oid: 20_000 };
    let steps = [step(1_500_000_000), step(3_000_000_000), step(u32::MAX - 1000)];
    with_counters(settings(&["track_commit_timestamp=on"]), &steps, &[])
});

/// Commits a row at a time, each under its own transaction id.
fn one_by_one(client: &mut Client, table: &str, first: i32, last: i32) -> Result<()> {
    run(
        client,
        &format!(
            "do $$ begin for n in {first}..{last} loop
               insert into {table} values (n); commit; end loop; end $$"
        ),
    )
}

/// The next transaction's 64-bit id, which is durable when it is known.
fn next_xid(client: &mut Client) -> Result<u64> {
    run(client, "create table if not exists ids(id text)")?;
    let text: String =
        value(client, "insert into ids values (pg_current_xact_id()::text) returning id")?;
    text.parse().context("a transaction id")
}

#[test]
fn transactions_on_both_sides_of_two_to_the_31_are_told_apart() -> Result<()> {
    let cluster = HALFWAY.take()?;
    let mut client = cluster.connect()?;
    run(&mut client, "create table half(n int); create table burnt(n int)")?;
    let before = next_xid(&mut client)?;
    ensure!(((1 << 31) - 2500..(1 << 31) - 450).contains(&before), "it begins at {before}");
    run(&mut client, "set synchronous_commit = off")?;
    one_by_one(&mut client, "burnt", 1, i32::try_from((1 << 31) - 400 - before)?)?;
    run(&mut client, "reset synchronous_commit")?;
    one_by_one(&mut client, "half", 1, 300)?;
    // Ended differently, and still running, on the one side and looked at from the other.
    run(&mut client, "begin; insert into half values (-1); rollback")?;
    let mut running = cluster.connect()?;
    run(&mut running, "begin; insert into half values (-2); select pg_current_xact_id()")?;
    run(&mut client, "begin; insert into half values (1000); prepare transaction 'half'")?;
    one_by_one(&mut client, "half", 301, 900)?;
    let after = next_xid(&mut client)?;
    ensure!(after > 1 << 31, "it has come to {after}");
    let all = "select n from half order by n";
    let mut expected: Vec<i32> = (1..=900).collect();
    client = lose_host(&cluster)?;
    ensure!(next_xid(&mut client)? > after, "an id was given twice");
    same("after the crash", &column(&mut client, all)?, &expected)?;
    run(&mut client, "commit prepared 'half'")?;
    expected.push(1000);
    same("with the prepared one", &column(&mut client, all)?, &expected)?;
    run(&mut client, "delete from half where n % 10 = 0; vacuum (freeze) half")?;
    expected.retain(|n| n % 10 != 0);
    client = lose_host(&cluster)?;
    same("frozen", &column(&mut client, all)?, &expected)?;
    // Freezing every database cuts off the statuses before; what is left must still be there.
    for database in ["postgres", "template1"] {
        cluster.connect_to_database(database)?.batch_execute("vacuum (freeze)")?;
    }
    client = change_host(&cluster)?;
    same("everything frozen", &column(&mut client, all)?, &expected)?;
    sound(&cluster)
}

#[test]
fn the_epoch_of_transactions_moves_on_and_is_kept() -> Result<()> {
    let cluster = EPOCH_END.take()?;
    let mut client = cluster.connect()?;
    run(&mut client, "create table epoch(n int)")?;
    let before = next_xid(&mut client)?;
    ensure!(((1 << 32) - 1001..1 << 32).contains(&before), "it begins at {before}");
    one_by_one(&mut client, "epoch", 1, 500)?;
    run(&mut client, "begin; insert into epoch values (-1); rollback")?;
    run(&mut client, "begin; insert into epoch values (5000); prepare transaction 'epoch'")?;
    // Lost just before the end, so that the next writer's counter comes from storage on both sides.
    client = lose_host(&cluster)?;
    let middle = next_xid(&mut client)?;
    ensure!(before + 500 < middle && middle < 1 << 32, "it has come to {middle}");
    one_by_one(&mut client, "epoch", 501, 2500)?;
    let after = next_xid(&mut client)?;
    ensure!(after > 1 << 32, "the epoch has not moved on: {after}");
    let stamps = "select n, pg_xact_commit_timestamp(xmin)::text from epoch where n > 0 order by n";
    let stamped: Vec<(i32, Option<String>)> = pairs(&mut client, stamps)?;
    let all = "select n from epoch order by n";
    let mut expected: Vec<i32> = (1..=2500).collect();
    client = lose_host(&cluster)?;
    let reopened = next_xid(&mut client)?;
    ensure!(reopened > after, "the next id is {reopened}, it was {after}");
    same("after the crash", &column(&mut client, all)?, &expected)?;
    same("commit timestamps", &pairs(&mut client, stamps)?, &stamped)?;
    run(&mut client, "commit prepared 'epoch'")?;
    expected.push(5000);
    one_by_one(&mut client, "epoch", 6001, 6100)?;
    expected.extend(6001..=6100);
    client = change_host(&cluster)?;
    same("in the new epoch", &column(&mut client, all)?, &expected)?;
    run(&mut client, "vacuum (freeze)")?;
    client = lose_host(&cluster)?;
    same("frozen", &column(&mut client, all)?, &expected)?;
    ensure!(next_xid(&mut client)? > reopened);
    sound(&cluster)
}

#[test]
fn multixacts_and_their_members_wrap_round_and_keep_their_updaters() -> Result<()> {
    let cluster = HALFWAY.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create table circle(n int primary key, v int);
         insert into circle select n, 0 from generate_series(1, 400) n",
    )?;
    // Up to three lockers and an updater a row, each row's with ids of their own (rows with the same
    // lockers would share a multixact): a thousand multixacts, over the end of both circles.
    let mut lockers = [cluster.connect()?, cluster.connect()?, cluster.connect()?];
    for locker in &mut lockers {
        run(
            locker,
            "begin; do $$ begin for i in 1..400 loop
               begin perform 1 from circle where n = i for key share;
               exception when division_by_zero then null; end;
             end loop; end $$",
        )?;
    }
    run(&mut client, "update circle set v = 1 where n % 2 = 0")?;
    run(&mut client, "begin; update circle set v = 2 where n % 3 = 1; rollback")?;
    let multi = "select next_multixact_id::text::bigint from pg_control_checkpoint()";
    run(&mut client, "checkpoint")?;
    let next: i64 = value(&mut client, multi)?;
    ensure!(next < 10_000, "multixacts have not wrapped round: the next is {next}");
    let offset: i64 =
        value(&mut client, "select next_multi_offset::text::bigint from pg_control_checkpoint()")?;
    ensure!(offset < 100_000, "members have not wrapped round: the next is at {offset}");
    let all = "select n, v from circle order by n";
    let expected: Vec<(i32, i32)> = (1..=400).map(|n| (n, i32::from(n % 2 == 0))).collect();
    same("before", &pairs(&mut client, all)?, &expected)?;
    client = lose_host(&cluster)?;
    same("after the crash", &pairs(&mut client, all)?, &expected)?;
    run(&mut client, "update circle set v = v + 1")?;
    run(&mut client, "vacuum (freeze) circle")?;
    let expected: Vec<(i32, i32)> = expected.into_iter().map(|(n, v)| (n, v + 1)).collect();
    client = lose_host(&cluster)?;
    same("updated and frozen", &pairs(&mut client, all)?, &expected)?;
    sound(&cluster)
}

#[test]
fn numbers_of_dropped_relations_are_given_again_without_their_pages() -> Result<()> {
    let cluster = HALFWAY.take()?;
    let mut client = cluster.connect()?;
    let numbers = "select relfilenode::bigint from pg_class
                   where relname like 'old_tenant%' and relkind = 'r' order by 1";
    let old: Vec<i64> = column(&mut client, numbers)?;
    ensure!(old.len() == OLD_TENANTS as usize && old.iter().all(|number| *number < 20_000));
    for n in 1..=OLD_TENANTS {
        let rows: i64 = value(&mut client, &format!("select count(*) from old_tenant_{n}"))?;
        ensure!(rows == 1500, "old tenant {n} has {rows} rows");
        run(&mut client, &format!("drop table old_tenant_{n}"))?;
    }
    run(&mut client, "checkpoint")?; // the files go, and with them what keeps their numbers taken
    let mut again = Vec::new();
    for n in 1..=40 {
        // Tables that take another number of ids vary where the next one begins.
        run(&mut client, &format!("create table between_{n}(n int)"))?;
        run(&mut client, &format!("create table new_tenant_{n}(n int, c text)"))?;
        let number: i64 =
            value(&mut client, &format!("select pg_relation_filenode('new_tenant_{n}')::bigint"))?;
        let oid: i64 =
            value(&mut client, &format!("select 'new_tenant_{n}'::regclass::oid::bigint"))?;
        ensure!(oid >= 16_384, "an id below those of users: {oid}");
        if old.contains(&number) {
            again.push(n);
        }
    }
    ensure!(!again.is_empty(), "no number was given again; old ones {old:?}");
    // Empty at first, then with one row, then grown over the place of the old pages.
    client = lose_host(&cluster)?;
    for n in &again {
        let found: i64 = value(&mut client, &format!("select count(*) from new_tenant_{n}"))?;
        ensure!(found == 0, "new tenant {n} begins with {found} rows");
        run(&mut client, &format!("insert into new_tenant_{n} values (1, 'new')"))?;
    }
    client = lose_host(&cluster)?;
    let all = |n: i32| format!("select n, c from new_tenant_{n} order by n");
    for n in &again {
        let found: Vec<(i32, String)> = pairs(&mut client, &all(*n))?;
        same("one row", &found, &[(1, "new".to_owned())])?;
        run(
            &mut client,
            &format!("insert into new_tenant_{n} select g, 'new' from generate_series(2, 3000) g"),
        )?;
    }
    client = lose_host(&cluster)?;
    let expected: Vec<(i32, String)> = (1..=3000).map(|n| (n, "new".to_owned())).collect();
    for n in &again {
        same("grown", &pairs(&mut client, &all(*n))?, &expected)?;
    }
    // Object ids go on behind the wrap, and none is given twice.
    run(&mut client, "create table after_wrap(n int); select lo_from_bytea(0, 'after the wrap')")?;
    let twice: i64 = value(
        &mut client,
        "select count(*) from (select relfilenode from pg_class where relfilenode <> 0
         group by relfilenode, reltablespace having count(*) > 1) d",
    )?;
    ensure!(twice == 0, "{twice} file numbers are taken twice");
    sound(&cluster)
}
