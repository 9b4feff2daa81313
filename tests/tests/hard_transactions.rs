//! Transactions whose outcome must be looked up: every page comes back from storage without a hint, so
//! each row's visibility rests on what the volume has of statuses, members and prepared states.

use anyhow::{Result, ensure};
use postgres::Client;
use tests::hard::{change_host, column, lose_host, pairs, run, same, sound, value};
use tests::{Options, Shared};

static CLUSTER: Shared = Shared::new(|| {
    let set = ["max_prepared_transactions=20", "track_commit_timestamp=on", "autovacuum=off"];
    let set: Vec<&str> = set.iter().flat_map(|setting| ["--set", *setting]).collect();
    Ok(Options::with(&set))
});

#[test]
fn a_thousand_subtransactions_end_as_each_of_them_did() -> Result<()> {
    let cluster = CLUSTER.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create table nested(n int, kind text);
         create function nest(first int, last int, kind text) returns void language plpgsql as $$
         begin
           for n in first..last loop
             begin
               insert into nested values (n, kind);
               if n % 3 = 0 then raise exception 'undone'; end if;
             exception when raise_exception then null;
             end;
           end loop;
         end $$",
    )?;
    let kept = |first: i32, last: i32| (first..=last).filter(|n| n % 3 != 0);
    run(&mut client, "begin; select nest(1, 1000, 'a'); commit")?;
    // Savepoints inside savepoints, some rolled back with all that lies inside.
    run(&mut client, "begin")?;
    let mut expected: Vec<i32> = kept(1, 1000).collect();
    for block in 0..10 {
        let first = 2000 + block * 100;
        run(&mut client, &format!("savepoint outside; select nest({first}, {}, 'b')", first + 79))?;
        if block % 2 == 0 {
            run(&mut client, "rollback to outside; release outside")?;
        } else {
            expected.extend(kept(first, first + 79));
        }
    }
    run(&mut client, "commit")?;
    // Rolled back as a whole, ended in prepared state, and running when the host is lost.
    run(&mut client, "begin; select nest(4000, 4500, 'c'); rollback")?;
    run(&mut client, "begin; select nest(5000, 5200, 'd'); prepare transaction 'nested'")?;
    let mut running = cluster.connect()?;
    run(&mut running, "begin; select nest(6000, 6500, 'e')")?;
    let flushed = "insert into nested values (10000, 'f')"; // what ran before it is in the log too
    run(&mut client, flushed)?;
    let all = "select n from nested where n < 10000 order by n";
    same("before", &column(&mut client, all)?, &expected)?;
    client = lose_host(&cluster)?;
    same("after the crash", &column(&mut client, all)?, &expected)?;
    run(&mut client, "commit prepared 'nested'")?;
    expected.extend(kept(5000, 5200));
    same("with the prepared one", &column(&mut client, all)?, &expected)?;
    client = lose_host(&cluster)?;
    same("after another crash", &column(&mut client, all)?, &expected)?;
    run(&mut client, "vacuum (freeze) nested")?;
    client = change_host(&cluster)?;
    same("frozen", &column(&mut client, all)?, &expected)?;
    sound(&cluster)
}

fn locked(client: &mut Client, sql: &str) -> bool {
    let attempt = format!("set lock_timeout = '300ms'; {sql}");
    client.batch_execute(&attempt).is_err()
}

#[test]
fn prepared_transactions_keep_rows_locks_and_files_over_lost_hosts() -> Result<()> {
    let cluster = CLUSTER.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create table pt(n int primary key, v int);
         insert into pt select n, 0 from generate_series(1, 1000) n;
         create table pt_dropped_1(n int); create table pt_dropped_2(n int);
         insert into pt_dropped_1 values (1); insert into pt_dropped_2 values (2)",
    )?;
    for (name, first, table) in [("p1", 1, "pt_dropped_1"), ("p2", 101, "pt_dropped_2")] {
        run(
            &mut client,
            &format!(
                "begin; update pt set v = 1 where n between {first} and {first} + 49;
                 delete from pt where n between {first} + 50 and {first} + 59;
                 insert into pt select n, 2 from generate_series({first} + 2000, {first} + 2099) n;
                 create table pt_made_{name} as select n from generate_series(1, 3000) n;
                 create index on pt_made_{name}(n);
                 drop table {table};
                 select lo_from_bytea(0, 'prepared {name}');
                 prepare transaction '{name}'"
            ),
        )?;
    }
    let prepared = "select gid from pg_prepared_xacts order by gid";
    let both = ["p1".to_owned(), "p2".to_owned()];
    for round in 0..3 {
        client = if round == 1 { change_host(&cluster)? } else { lose_host(&cluster)? };
        let found = column::<String>(&mut client, prepared)?;
        let found: Vec<String> = found.into_iter().filter(|gid| gid.starts_with('p')).collect();
        same("prepared", &found, &both)?;
        let rows = pairs(&mut client, "select n, v from pt order by n")?;
        same("seen by others", &rows, &(1..=1000).map(|n| (n, 0)).collect::<Vec<_>>())?;
        ensure!(locked(&mut client, "update pt set v = 9 where n = 20"), "row 20 is not locked");
        ensure!(locked(&mut client, "delete from pt where n = 155"), "row 155 is not locked");
        ensure!(locked(&mut client, "select * from pt_dropped_1"), "the dropped table is free");
        ensure!(!locked(&mut client, "update pt set v = 0 where n = 500"), "row 500 is locked");
    }
    run(&mut client, "commit prepared 'p1'; rollback prepared 'p2'")?;
    let mut expected: Vec<(i32, i32)> =
        (1..=1000).filter(|n| !(51..=60).contains(n)).map(|n| (n, i32::from(n <= 50))).collect();
    expected.extend((2001..=2100).map(|n| (n, 2)));
    for round in 0..2 {
        let rows = pairs(&mut client, "select n, v from pt order by n")?;
        same(&format!("ended, round {round}"), &rows, &expected)?;
        let made: Vec<i32> = column(&mut client, "select n from pt_made_p1 order by n")?;
        same("the table made", &made, &(1..=3000).collect::<Vec<_>>())?;
        ensure!(value::<i32>(&mut client, "select n from pt_dropped_2")? == 2);
        let gone: bool = value(
            &mut client,
            "select to_regclass('pt_dropped_1') is null and to_regclass('pt_made_p2') is null",
        )?;
        ensure!(gone, "a table that should be gone is there");
        let objects = "select convert_from(lo_get(oid), 'UTF8') from pg_largeobject_metadata
                       where lo_get(oid) like 'prepared%'";
        same("large objects", &column::<String>(&mut client, objects)?, &["prepared p1".into()])?;
        client = lose_host(&cluster)?;
    }
    sound(&cluster)
}

#[test]
fn commit_timestamps_are_the_same_after_a_lost_host() -> Result<()> {
    let cluster = CLUSTER.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create table stamped(n int);
         create procedure stamp(first int, last int) language plpgsql as $$
         begin
           for n in first..last loop insert into stamped values (n); commit; end loop;
         end $$",
    )?;
    // Three pages of 819 timestamps; one transaction that stamps its subtransactions too.
    run(&mut client, "call stamp(1, 1800)")?;
    run(
        &mut client,
        "begin; insert into stamped values (3001); savepoint s; insert into stamped values (3002);
         savepoint t; insert into stamped values (3003); commit",
    )?;
    let stamps = "select n, pg_xact_commit_timestamp(xmin)::text from stamped order by n";
    let before: Vec<(i32, Option<String>)> = pairs(&mut client, stamps)?;
    ensure!(before.len() == 1803 && before.iter().all(|stamp| stamp.1.is_some()));
    client = lose_host(&cluster)?;
    same("timestamps", &pairs(&mut client, stamps)?, &before)?;
    run(&mut client, "call stamp(4001, 4100)")?;
    let before: Vec<(i32, Option<String>)> = pairs(&mut client, stamps)?;
    client = change_host(&cluster)?;
    same("timestamps after a clean end", &pairs(&mut client, stamps)?, &before)?;
    sound(&cluster)
}

/// Locks each row in a subtransaction of its own: lockers of the same rows would otherwise share one
/// multixact for all of them.
fn lock_each(client: &mut Client, table: &str, rows: i32) -> Result<()> {
    run(
        client,
        &format!(
            "do $$ begin for i in 1..{rows} loop
               begin perform 1 from {table} where n = i for key share;
               exception when division_by_zero then null; end;
             end loop; end $$"
        ),
    )
}

#[test]
fn shared_row_locks_are_read_with_all_their_members_after_a_lost_host() -> Result<()> {
    let cluster = CLUSTER.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create table shared(n int primary key, v int);
         insert into shared select n, 0 from generate_series(1, 2500) n",
    )?;
    // Each row's xmax becomes a multixact of a locker and an updater; whether the row is dead is
    // told by the updater among the members.
    let mut locker = cluster.connect()?;
    let mut second = cluster.connect()?;
    run(&mut locker, "begin; select 1 from shared for key share")?;
    run(&mut second, "begin")?;
    lock_each(&mut second, "shared", 2500)?;
    run(&mut client, "update shared set v = 1 where n % 2 = 0")?;
    run(&mut client, "begin; update shared set v = 2 where n % 2 = 1; rollback")?;
    run(&mut client, "begin; update shared set v = v + 10 where n % 4 = 0; commit")?;
    let expected: Vec<(i32, i32)> =
        (1..=2500).map(|n| (n, if n % 4 == 0 { 11 } else { i32::from(n % 2 == 0) })).collect();
    let all = "select n, v from shared order by n";
    same("before", &pairs(&mut client, all)?, &expected)?;
    let mut client = lose_host(&cluster)?;
    same("after the crash", &pairs(&mut client, all)?, &expected)?;
    run(&mut client, "select 1 from shared for update; update shared set v = v + 1")?;
    let expected: Vec<(i32, i32)> = expected.into_iter().map(|(n, v)| (n, v + 1)).collect();
    run(&mut client, "vacuum (freeze) shared")?;
    let mut client = lose_host(&cluster)?;
    same("updated and frozen", &pairs(&mut client, all)?, &expected)?;
    sound(&cluster)
}
