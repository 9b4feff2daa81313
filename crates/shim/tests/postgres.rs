//! Stock PostgreSQL under the library, with a driver of a few lines.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::{World, run, signal};

/// pgbench's invariant: the four sums of what its transactions did agree.
fn check_books(world: &World) {
    let sums = world.psql(
        "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches) \
         and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history) \
         and (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history) \
         and (select count(*) from pgbench_accounts) = 100000",
    );
    assert_eq!(sums, "t", "the books do not balance");
    world.psql("create extension if not exists amcheck");
    world.psql("select bt_index_check(oid, true) from pg_class where relname in ('pgbench_accounts_pkey', 'pg_class_oid_index', 'pg_attribute_relid_attnum_index')");
    assert_eq!(world.psql("select count(*) from pg_class, verify_heapam(oid) where relname like 'pgbench%' and relkind = 'r'"), "0");
}

fn work(world: &World, transactions: u32) {
    let transactions = transactions.to_string();
    run(world.client("pgbench").args(["-n", "-c", "4", "-t", &transactions, "postgres"]));
}

#[test]
fn pgbench_runs_over_a_skeleton_and_survives_restarts_crashes_and_eviction() {
    let mut world = World::make(54_901);
    world.start_driver();
    let server = world.start_server();
    assert!(world.fetched.load(SeqCst) > 50, "the catalog came from storage");
    run(world.client("pgbench").args(["-i", "-s", "1", "-q", "postgres"]));
    work(&world, 200);
    check_books(&world);

    // A backend dies in the middle of its work: PostgreSQL restarts its processes and replays.
    let busy = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            world.client("pgbench").args(["-n", "-c", "2", "-T", "2", "postgres"]).output()
        });
        std::thread::sleep(Duration::from_millis(700));
        let pid = world
            .psql("select pid from pg_stat_activity where application_name = 'pgbench' limit 1");
        signal(pid.parse().expect("pid"), libc::SIGKILL);
        load.join().expect("no panic")
    });
    assert!(!busy.expect("pgbench ran").status.success(), "its connection was to be cut");
    let end = Instant::now() + Duration::from_secs(20);
    while !world
        .client("psql")
        .args(["-d", "postgres", "-c", "select 1"])
        .output()
        .expect("psql")
        .status
        .success()
    {
        assert!(Instant::now() < end, "no crash restart:\n{}", world.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(world.log().contains("all server processes terminated; reinitializing"));
    check_books(&world);
    world.psql("create database copied strategy file_copy");
    world.psql("create table gone as select generate_series(1, 20000) n; drop table gone");
    world.psql("create table cut as select generate_series(1, 20000) n; truncate cut; insert into cut values (1)");
    world.psql("vacuum full cut");
    world.psql("create unlogged table fast as select generate_series(1, 1000) n");
    world.stop_server(server);

    world.evict_everything();
    let before = world.fetched.load(SeqCst);
    let server = world.start_server();
    check_books(&world);
    assert!(world.fetched.load(SeqCst) > before + 1000, "the accounts came from storage");
    assert_eq!(world.psql("select sum(n) from cut"), "1");
    assert_eq!(world.psql("select count(*) from fast"), "1000");
    work(&world, 50);
    check_books(&world);
    assert!(
        run(world.client("psql").args([
            "-d",
            "copied",
            "-A",
            "-t",
            "-c",
            "select count(*) > 0 from pg_class"
        ]))
        .stdout
        .starts_with(b"t")
    );
    world.stop_server(server);
    assert!(!world.log().contains("PANIC"), "{}", world.log());
}

#[test]
fn a_commit_waits_for_the_driver_however_long_it_is_gone() {
    let mut world = World::make(54_902);
    world.start_driver();
    let server = world.start_server();
    world.psql("create table t (n int)");
    world.durable.store(false, SeqCst);
    let mut client = world
        .client("psql")
        .args(["-d", "postgres", "-c", "insert into t values (1)"])
        .spawn()
        .expect("psql");
    std::thread::sleep(Duration::from_millis(700));
    assert!(client.try_wait().expect("own child").is_none(), "acknowledged, but not durable");
    world.kill_driver();
    std::thread::sleep(Duration::from_millis(500));
    assert!(client.try_wait().expect("own child").is_none(), "acknowledged by nobody");
    world.durable.store(true, SeqCst);
    world.start_driver();
    assert!(client.wait().expect("own child").success());
    assert_eq!(world.psql("select count(*) from t"), "1");
    world.stop_server(server);
}

#[test]
fn a_fenced_server_stops_and_acknowledges_nothing() {
    let mut world = World::make(54_903);
    world.start_driver();
    let mut server = world.start_server();
    world.psql("create table t (n int)");
    world.durable.store(false, SeqCst);
    let mut client = world
        .client("psql")
        .args(["-d", "postgres", "-c", "insert into t values (1)"])
        .spawn()
        .expect("psql");
    std::thread::sleep(Duration::from_millis(300));
    world.board.fence();
    assert!(!client.wait().expect("own child").success(), "must not be told that it is committed");
    let end = Instant::now() + Duration::from_secs(10);
    while server.try_wait().expect("own child").is_none() {
        assert!(Instant::now() < end, "still running:\n{}", world.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(world.log().contains("FENCED"), "{}", world.log());
}

#[test]
fn a_server_without_a_driver_does_not_start() {
    let world = World::make(54_904);
    let started = Instant::now();
    let mut server = world.spawn_server();
    assert!(!server.wait().expect("own child").success());
    assert!(started.elapsed() > Duration::from_secs(5), "the driver may be a little later");
    assert!(world.log().contains("postmaster.pid"), "{}", world.log());
}

#[test]
fn growth_past_the_limit_is_postgresql_s_own_error_and_harms_nothing() {
    let mut world = World::make(54_905);
    world.start_driver();
    let server = world.start_server();
    world.psql("create table t (n int); insert into t select generate_series(1, 1000)");
    world.board.set_no_room(seam::NoRoom::Volume, true);
    let mut grow = world.client("psql");
    grow.args(["-d", "postgres", "-c", "insert into t select generate_series(1, 100000)"]);
    let output = grow.output().expect("psql");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"));
    assert_eq!(world.psql("select count(*) from t"), "1000");
    world.board.set_no_room(seam::NoRoom::Volume, false);
    assert!(grow.output().expect("psql").status.success());
    assert_eq!(world.psql("select count(*) from t"), "101000");
    world.stop_server(server);
}

#[test]
fn programs_outside_the_data_directory_are_unharmed() {
    let world = World::make(54_906);
    let scratch = world.root.path().join("run");
    // A board that is fenced and no driver: whatever the library touched would hang or die.
    world.board.fence();
    let script = "cd \"$1\" && mkdir -p base/5 pg_wal && echo one > base/5/16384 && cp base/5/16384 base/5/16385 \
        && dd if=base/5/16385 of=pg_wal/000000010000000000000001 conv=fsync 2>/dev/null \
        && mv base/5/16385 base/5/16386 && ln base/5/16386 base/5/16387 && sync base/5/16387 \
        && cat pg_wal/000000010000000000000001 base/5/16387 && rm -r base pg_wal";
    let mut shell = common::as_user("/bin/sh");
    shell.args(["-c", script, "sh"]).arg(&scratch);
    shell.env("LD_PRELOAD", common::library(world.root.path()));
    shell.env("SIXFOLD_INSTANCE", world.root.path().join("instance"));
    assert_eq!(run(&mut shell).stdout, b"one\none\n");
    shell.env_remove("SIXFOLD_INSTANCE");
    assert_eq!(run(&mut shell).stdout, b"one\none\n");
}
