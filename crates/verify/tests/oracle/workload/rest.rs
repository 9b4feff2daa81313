//! Sequences, databases, tablespaces, relation maps, origins, messages; and full-page images.

use crate::server::Server;

pub fn others(server: &Server) {
    let mut s = server.session("postgres");
    let place = server.scratch("space");
    s.run(&format!("create tablespace elsewhere location '{}';", place.display()));
    s.run("
        create sequence sq1; select count(nextval('sq1')) from generate_series(1, 500);
        select setval('sq1', 10); alter sequence sq1 increment 7; select nextval('sq1');
        create table ser (id serial, t text); insert into ser (t) select 'x' from generate_series(1, 100);
        truncate ser restart identity; drop sequence sq1;
        create extension bloom;
        create table bl (a int, b int); create index on bl using bloom (a, b);
        insert into bl select i, i * 2 from generate_series(1, 1500) i;
        delete from bl where a % 3 = 0; vacuum bl;
        insert into bl select i, i * 2 from generate_series(1, 1000) i;
        create table sp1 (id int) tablespace elsewhere; insert into sp1 select generate_series(1, 500);
        drop table sp1; drop tablespace elsewhere;
        select pg_logical_emit_message(true, 'a', 'b');
        select pg_logical_emit_message(false, 'not transactional', repeat('long ', 5000));
        create table dropped as select generate_series(1, 1000) i; drop table dropped;
        vacuum full pg_class; vacuum full pg_database; reindex table pg_class;
        select pg_create_restore_point('here');
        create table lobj (o oid); insert into lobj select lo_from_bytea(0, decode(repeat('ab', 5000), 'hex'));
        alter table h add column extra int default 7; update h set extra = 8 where id < 100;
        select count(lo_create(0)) from generate_series(1, 9000);
        begin; insert into l values (5004, 1); prepare transaction 'p3';
        select pg_backup_start('label', fast => true); select pg_backup_stop(wait_for_archive => false);
        checkpoint; select pg_switch_wal();
        commit prepared 'p3';
    ");
    s.run(
        "
        select pg_replication_origin_create('o'); select pg_replication_origin_session_setup('o');
        begin; select pg_replication_origin_xact_setup('0/1234', '2020-01-02 03:04:05');
        insert into ser (t) values ('replicated'); commit;
        select pg_replication_origin_session_reset();
        select pg_replication_origin_advance('o', '0/9999'); select pg_replication_origin_drop('o');
    ",
    );
}

/// Databases made in both ways, changed afterwards, moved and dropped.
pub fn databases(server: &Server) {
    let mut s = server.session("postgres");
    s.run(
        "
        set allow_in_place_tablespaces = on;
        create tablespace side location '';
        create database logged_copy strategy wal_log; create database file_copy strategy file_copy;
        create database moved tablespace side;
    ",
    );
    for database in ["logged_copy", "file_copy", "moved"] {
        server.session(database).run(&format!(
            "
            create table t (i int primary key, s text);
            insert into t select g, md5(g::text) from generate_series(1, 2000) g;
            update t set s = 'x' where i % 3 = 0; delete from t where i % 5 = 0;
            vacuum; vacuum full pg_class; reindex system {database};
        "
        ));
    }
    s.run("
        drop database file_copy; create database file_copy template logged_copy strategy file_copy;
        alter database logged_copy set tablespace side; alter database logged_copy set tablespace pg_default;
        drop database moved; drop tablespace side;
    ");
    server.session("file_copy").run("update t set s = 'again' where i % 2 = 0; vacuum t;");
}

/// Rewrites of a catalog that a logical slot may still decode.
pub fn logical(server: &Server) {
    let mut s = server.session("postgres");
    s.run("
        select pg_create_logical_replication_slot('slot', 'pgoutput');
        create table after_slot (i int); alter table after_slot add column j int; drop table after_slot;
        vacuum full pg_class; vacuum full pg_attribute;
        select pg_drop_replication_slot('slot');
    ");
}

pub fn images(server: &Server) {
    let mut s = server.session("postgres");
    // With full-page images, which replay restores; some records change a page beyond its image.
    s.run("alter system set full_page_writes = on; select pg_reload_conf(); select pg_sleep(0.3); checkpoint;");
    for compression in ["off", "pglz", "lz4", "zstd"] {
        s.run(&format!("set wal_compression = {compression};"));
        s.run("
            checkpoint;
            update h set a = a + 1 where id % 13 = 0;
            insert into bt select (g * 31) % 40000, g % 3, md5(g::text) from generate_series(1, 1500) g;
            insert into hs select g, 'w' from generate_series(1, 4000) g;
            insert into gs select i, point((i * 31) % 1000, (i * 37) % 1000) from generate_series(1, 2500) i;
            insert into g select i, array[5, 6, i] from generate_series(1, 2000) i;
            insert into sp select i, 'images/' || md5(i::text) from generate_series(1, 1500) i;
            insert into br select i, md5(i::text) from generate_series(1, 1000) i;
            insert into ser (t) values ('y'), ('z');
            delete from h where id % 17 = 0; vacuum h;
        ");
    }
}
