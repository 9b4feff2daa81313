//! Relations that change their files: PostgreSQL's own mapped catalogs, tablespaces, unlogged relations.

use std::time::Duration;

use anyhow::{Result, ensure};
use postgres::Client;
use tests::cluster::connect_to;
use tests::hard::{
    change_host, column, directory_for_postgres, lose_host, planned, reopen, run, same, sound,
    value,
};
use tests::{Cluster, Options, Shared};

static CLUSTER: Shared = Shared::new(|| Ok(Options::with(&["--set", "autovacuum=off"])));

/// Catalogs whose files are found by the relation maps, of the database and shared ones.
const MAPPED: [&str; 6] =
    ["pg_class", "pg_attribute", "pg_proc", "pg_type", "pg_database", "pg_authid"];

/// Everything the server knows about its relations is there and consistent.
fn catalogs_are_whole(client: &mut Client, tables: i32) -> Result<()> {
    let names: Vec<String> = column(
        client,
        "select relname::text from pg_class where relname ~ '^mapped_[0-9]+$' order by oid",
    )?;
    let expected: Vec<String> = (1..=tables).map(|n| format!("mapped_{n}")).collect();
    same("tables", &names, &expected)?;
    let columns: i64 = value(
        client,
        "select count(*) from pg_attribute a join pg_class c on c.oid = attrelid
         where relname ~ '^mapped_[0-9]+$' and attnum > 0",
    )?;
    ensure!(columns == i64::from(tables) * 2, "{columns} columns of {tables} tables");
    run(client, "set enable_seqscan = off")?;
    planned(client, "Index", "select oid from pg_class where relname = 'mapped_1'")?;
    for n in 1..=tables {
        let sql = format!("select count(*) from mapped_{n} where b = 'row'");
        ensure!(value::<i64>(client, &sql)? == 10, "rows of mapped_{n}");
    }
    run(client, "reset enable_seqscan")?;
    let roles: i64 =
        value(client, "select count(*) from pg_roles where rolname like 'mapped_role%'")?;
    ensure!(roles == 5, "{roles} roles of 5");
    Ok(())
}

fn make_table(client: &mut Client, n: i32) -> Result<()> {
    run(
        client,
        &format!(
            "create table mapped_{n} as select g a, 'row'::text b from generate_series(1, 10) g"
        ),
    )
}

#[test]
fn rewritten_catalogs_are_found_by_their_maps_after_lost_hosts() -> Result<()> {
    let cluster = CLUSTER.take()?;
    let mut client = cluster.connect()?;
    for n in 1..=5 {
        run(&mut client, &format!("create role mapped_role_{n}"))?;
    }
    let mut tables = 0;
    let mut numbers = Vec::new();
    for round in 0..3 {
        for _ in 0..10 {
            tables += 1;
            make_table(&mut client, tables)?;
        }
        for catalog in MAPPED {
            run(&mut client, &format!("vacuum full {catalog}"))?;
            run(&mut client, &format!("reindex table {catalog}"))?;
        }
        let files = MAPPED.map(|catalog| format!("pg_relation_filenode('{catalog}')")).join(",");
        let now: Vec<i64> = value(&mut client, &format!("select array[{files}]::bigint[]"))?;
        ensure!(numbers.iter().all(|before| *before != now), "nothing was rewritten");
        numbers.push(now);
        client = if round == 1 { change_host(&cluster)? } else { lose_host(&cluster)? };
        let there: Vec<i64> = value(&mut client, &format!("select array[{files}]::bigint[]"))?;
        same("files of the catalogs", &there, numbers.last().expect("just pushed"))?;
        catalogs_are_whole(&mut client, tables)?;
    }
    sound(&cluster)
}

#[test]
fn rewriting_catalogs_killed_at_any_moment_leaves_the_old_or_the_new_ones() -> Result<()> {
    let cluster = CLUSTER.take()?;
    for round in 0..4u64 {
        let port = cluster.port();
        let rewriter = std::thread::spawn(move || -> Result<()> {
            let mut client = connect_to(port)?;
            loop {
                for catalog in MAPPED {
                    run(&mut client, &format!("vacuum full {catalog}"))?;
                    run(&mut client, &format!("reindex table {catalog}"))?;
                }
                run(&mut client, "reindex system postgres")?;
            }
        });
        std::thread::sleep(Duration::from_millis(300 + round * 170));
        cluster.kill("writer", "KILL")?;
        ensure!(rewriter.join().expect("no panic").is_err(), "the rewriting has no end");
        let mut client = reopen(&cluster)?;
        let before: i64 = value(&mut client, "select count(*) from pg_class")?;
        run(
            &mut client,
            "create table killed_rewrite(n int primary key); drop table killed_rewrite",
        )?;
        ensure!(value::<i64>(&mut client, "select count(*) from pg_class")? == before);
        let broken: i64 = value(
            &mut client,
            "select count(*) from pg_attribute a left join pg_class c on c.oid = attrelid
             where c.oid is null",
        )?;
        ensure!(broken == 0, "{broken} columns without a relation");
    }
    sound(&cluster)
}

#[test]
fn tables_in_tablespaces_are_found_on_a_host_without_their_directories() -> Result<()> {
    let cluster = CLUSTER.take()?;
    let mut client = cluster.connect()?;
    let places = [directory_for_postgres()?, directory_for_postgres()?];
    for (name, place) in ["first_space", "second_space"].iter().zip(&places) {
        let place = place.path().display();
        run(&mut client, &format!("create tablespace {name} location '{place}'"))?;
    }
    run(
        &mut client,
        "create table spaced(n int primary key using index tablespace second_space, c text)
           tablespace first_space;
         insert into spaced select n, md5(n::text) from generate_series(1, 5000) n;
         create table moved as select n from generate_series(1, 3000) n;
         create table left_behind(n int) tablespace first_space;
         create unlogged table spaced_unlogged(n int) tablespace first_space;
         insert into spaced_unlogged values (1)",
    )?;
    let expected: Vec<i32> = (1..=5000).collect();
    let all = "select n from spaced where c = md5(n::text) order by n";
    cluster.kill("writer", "KILL")?;
    drop(places); // the next host does not have them
    let mut client = reopen(&cluster)?;
    same("after the crash", &column(&mut client, all)?, &expected)?;
    ensure!(value::<i64>(&mut client, "select count(*) from spaced_unlogged")? == 0);
    run(
        &mut client,
        "alter table moved set tablespace second_space;
         alter index spaced_pkey set tablespace pg_default;
         drop table left_behind; insert into moved select n from generate_series(3001, 4000) n",
    )?;
    client = lose_host(&cluster)?;
    let moved: Vec<i32> = column(&mut client, "select n from moved order by n")?;
    same("moved", &moved, &(1..=4000).collect::<Vec<_>>())?;
    same("still there", &column(&mut client, all)?, &expected)?;
    run(
        &mut client,
        "alter table spaced set tablespace pg_default; drop table spaced_unlogged;
         drop tablespace first_space",
    )?;
    client = change_host(&cluster)?;
    same("back in the default place", &column(&mut client, all)?, &expected)?;
    let spaces: Vec<String> = column(
        &mut client,
        "select spcname::text from pg_tablespace where spcname like '%_space' order by 1",
    )?;
    same("tablespaces", &spaces, &["second_space".to_owned()])?;
    sound(&cluster)
}

const UNLOGGED: &str = "select (select count(*) from u1) + (select count(*) from u1 where t = 'x')";

fn unlogged_is_empty_and_usable(client: &mut Client) -> Result<()> {
    ensure!(value::<i64>(client, UNLOGGED)? == 0, "an unlogged table has rows of another host");
    run(
        client,
        "insert into u1(t) select 'x' from generate_series(1, 3000);
         insert into u1(t, p, a, b) values ('y', '(1,2)', '{1,2}', 5);
         set enable_seqscan = off",
    )?;
    for (index, question) in [
        ("u1_pkey", "n = 17"),
        ("u1_g", "p <@ box '(0,0,3,3)'"),
        ("u1_a", "a @> '{2}'"),
        ("u1_h", "t = 'y'"),
        ("u1_b", "b = 5"),
    ] {
        let sql = format!("select count(*) from u1 where {question}");
        planned(client, index, &sql)?;
        ensure!(value::<i64>(client, &sql)? == 1, "{question} by {index}");
    }
    run(client, "reset enable_seqscan")?;
    let first: i64 = value(client, "select min(n) from u1")?;
    ensure!(first == 1, "the unlogged sequence begins at {first}");
    Ok(())
}

#[test]
fn unlogged_tables_are_empty_and_usable_after_any_end() -> Result<()> {
    let mut cluster = CLUSTER.take()?;
    let mut client = cluster.connect()?;
    run(
        &mut client,
        "create unlogged table u1(n bigserial primary key, t text, p point, a int[], b int);
         alter sequence u1_n_seq set unlogged;
         create index u1_g on u1 using gist(p); create index u1_a on u1 using gin(a);
         create index u1_h on u1 using hash(t); create index u1_b on u1 using brin(b);
         create unlogged table becomes_logged(n int primary key);
         insert into becomes_logged select generate_series(1, 4000);
         create table becomes_unlogged(n int primary key);
         insert into becomes_unlogged select generate_series(1, 4000)",
    )?;
    unlogged_is_empty_and_usable(&mut client)?;
    run(&mut client, "alter table becomes_logged set logged")?;
    run(&mut client, "alter table becomes_unlogged set unlogged")?;
    let logged = "select n from becomes_logged order by n";
    let expected: Vec<i32> = (1..=4000).collect();
    for end in ["crash", "clean stop of the writer", "clean stop of everything", "crash"] {
        client = match end {
            "crash" => lose_host(&cluster)?,
            "clean stop of the writer" => change_host(&cluster)?,
            _ => everything_stopped(&mut cluster)?,
        };
        unlogged_is_empty_and_usable(&mut client)?;
        same(end, &column(&mut client, logged)?, &expected)?;
        ensure!(value::<i64>(&mut client, "select count(*) from becomes_unlogged")? == 0);
        run(&mut client, "insert into becomes_unlogged values (1)")?;
    }
    sound(&cluster)
}

fn everything_stopped(cluster: &mut Cluster) -> Result<Client> {
    cluster.down()?;
    cluster.resume()?;
    cluster.connect()
}
