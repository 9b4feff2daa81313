//! What only stopping, crashing, promoting and configuring a server makes it write.

use std::fs;

use pgwal::layout::{WAL_PAGE_SIZE, page_of, segment_name};
use types::{Lsn, Timeline};

use crate::server::Server;

const SEGMENT: u64 = 16 << 20;

/// With `wal_log_hints`, the first hint on a page after a checkpoint is logged as an image.
pub fn hints(server: &mut Server) {
    server.restart_with(&["wal_log_hints = on"]);
    let mut s = server.session("postgres");
    s.run("
        create table hint (id int, p point, a int[], t text);
        create index on hint (id); create index on hint using hash (id);
        create index on hint using gist (p); create index on hint using gin (a);
        create index on hint using spgist (p); create index on hint using brin (id);
        insert into hint select g, point(g, g), array[g, g % 7], md5(g::text) from generate_series(1, 6000) g;
        checkpoint; select count(*) from hint;
        delete from hint where id % 2 = 0;
        checkpoint; select count(*) from hint;
        set enable_seqscan = off; set enable_bitmapscan = off;
        select count(*) from hint where id > 0; select count(*) from hint where p <@ box '(0,0,9000,9000)';
        select count(*) from hint where id = 4000;
        checkpoint;
        select count(*) from hint where id > 0; select count(*) from hint where p <@ box '(0,0,9000,9000)';
        update hint set t = 'x' where id < 500; vacuum hint; checkpoint; select count(*) from hint;
    ");
}

/// Every database is frozen, so that transaction status, timestamps and multixacts of the past go.
pub fn truncation(server: &mut Server) {
    server
        .session("postgres")
        .run("update pg_database set datallowconn = true where datname = 'template0';");
    server.program("vacuumdb", &["--all", "--freeze", "--quiet"]);
    server.session("postgres").run("checkpoint;");
}

/// A crash loses the end of a record; then a standby without a primary is promoted.
pub fn crash_and_promotion(server: &mut Server) {
    let mut s = server.session("postgres");
    s.run("create table survivors as select g i from generate_series(1, 500) g; checkpoint;");
    s.run("select pg_switch_wal();");
    s.run("insert into survivors values (501);");
    let at: Lsn = s.run("select pg_current_wal_insert_lsn();").trim().parse().expect("a position");
    s.run("select pg_logical_emit_message(true, 'cut', repeat('x', 300000));");
    drop(s);
    server.crash();
    // The message survives in part: its pages from the fourth on were never written.
    let name = segment_name(Timeline(1), at.0 / SEGMENT, SEGMENT as u32);
    let file = server.data().join("pg_wal").join(name);
    let mut bytes = fs::read(&file).expect("the segment");
    let cut = page_of(at).plus(4 * WAL_PAGE_SIZE as u64);
    bytes[(cut.0 % SEGMENT) as usize..].fill(0);
    fs::write(&file, bytes).expect("writable");
    server.start();
    server
        .session("postgres")
        .run("insert into survivors values (502); delete from survivors where i < 9;");
    server.promote();
    server.session("postgres").run("insert into survivors values (503); vacuum survivors;");
}

/// Tables made and filled in one transaction are not logged before its end; GiST then needs
/// positions of the log that no other record gives it.
pub fn minimal(server: &mut Server) {
    server.restart_with(&["max_wal_senders = 0", "wal_level = minimal"]);
    server.session("postgres").run(
        "
        begin; create table unlogged_yet (p point, id int);
        create index on unlogged_yet using gist (p); create index on unlogged_yet (id);
        insert into unlogged_yet select point(g % 100, g % 77), g from generate_series(1, 2000) g;
        commit;
        insert into unlogged_yet select point(g % 100, g % 77), g from generate_series(1, 500) g;
        delete from unlogged_yet where id % 3 = 0; vacuum unlogged_yet;
    ",
    );
}
