//! Statements that make PostgreSQL write every kind of record that changes a page.

use pgwal::layout::op::*;

use crate::server::{Server, Session};

/// Record types that the workload must have produced: all that change pages, but for
/// [`NOT_EXPECTED`].
pub fn must_appear() -> Vec<(u8, u8)> {
    let managers = [
        (rm::CLOG, &[clog::ZEROPAGE][..]),
        (
            rm::MULTIXACT,
            &[multixact::ZERO_OFF_PAGE, multixact::ZERO_MEM_PAGE, multixact::CREATE_ID],
        ),
        (rm::COMMIT_TS, &[commit_ts::ZEROPAGE]),
        (rm::XACT, xact::ALL),
        (rm::HEAP2, heap2::ALL),
        (rm::HEAP, heap::ALL),
        (rm::BTREE, btree::ALL),
        (rm::HASH, hash::ALL),
        (rm::GIN, gin::ALL),
        (rm::GIST, gist::ALL),
        (rm::SEQ, seq::ALL),
        (rm::SPGIST, spgist::ALL),
        (rm::BRIN, brin::ALL),
        (rm::GENERIC, generic::ALL),
    ];
    let all = managers.iter().flat_map(|(rmid, ops)| ops.iter().map(move |op| (*rmid, *op)));
    all.filter(|kind| !NOT_EXPECTED.contains(kind)).collect()
}

/// Written only while a logical slot lags behind a rewritten catalog, and only with
/// `wal_level=minimal`; neither changes a page.
const NOT_EXPECTED: &[(u8, u8)] = &[(rm::HEAP2, heap2::REWRITE), (rm::GIST, gist::ASSIGN_LSN)];

/// Runs all of it.
pub fn run(server: &Server) {
    type Part = fn(&Server);
    let parts: [(&str, Part); 9] = [
        ("heap", heap_tables),
        ("locks", locks),
        ("btree", btrees),
        ("hash", hashes),
        ("gin", gins),
        ("gist", gists),
        ("spgist", spgists),
        ("brin", brins),
        ("others", others),
    ];
    for (name, part) in parts {
        let begun = std::time::Instant::now();
        part(server);
        println!("workload {name}: {:?}", begun.elapsed());
    }
}

fn heap_tables(server: &Server) {
    let mut s = server.session("postgres");
    s.run("
        create table h (id int primary key, a int, b text, c text) with (fillfactor = 70);
        insert into h select g, g, repeat('x', g % 50), 'end of the row' from generate_series(1, 3000) g;
        update h set a = a + 1 where id % 3 = 0;
        update h set b = b || 'y' where id % 5 = 0;
        update h set id = id + 100000 where id % 7 = 0;
        update h set a = a + 1 where id % 2 = 0;
        update h set a = a + 1 where id % 2 = 0;
        delete from h where id % 11 = 0;
        select count(*) from h where a > 5;
        update h set a = a + 1 where id % 2 = 0;
        vacuum h;
        update h set a = 0 where id < 50;
        delete from h where id between 60 and 70;
        insert into h select g, g, 'n', 'm' from generate_series(200000, 200100) g;
        vacuum (freeze) h;
        insert into h values (1000000, 1, 'z', 'z') on conflict do nothing;
        insert into h values (1000000, 1, 'z', 'z') on conflict (id) do update set a = h.a + 1;
        select 1 from h where id = 1000000 for update;
        begin; savepoint s1; insert into h values (1000001, 1, 'a', 'b'); rollback to s1;
        insert into h values (1000002, 1, 'a', 'b'); savepoint s2; delete from h where id = 3; commit;
        begin; insert into h values (1000003, 1, 'a', 'b'); rollback;
        create table m (id int, t text);
        copy (select g, md5(g::text) from generate_series(1, 20000) g) to '/dev/null';
        insert into m select g, md5(g::text) from generate_series(1, 20000) g;
        delete from m where id > 300; vacuum m;
        insert into m select g, md5(g::text) from generate_series(1, 500) g; vacuum m;
        begin; truncate m; insert into m values (1, 'x'); commit;
        truncate m;
        create table toasted (id int, t text);
        alter table toasted alter t set storage external;
        insert into toasted select g, repeat(md5(g::text), 500) from generate_series(1, 30) g;
        update toasted set t = t || 'more' where id % 3 = 0;
        delete from toasted where id % 4 = 0;
        vacuum toasted;
        create table parts (id int, p int) partition by list (p);
        create table parts1 partition of parts for values in (1);
        create table parts2 partition of parts for values in (2);
        insert into parts select g, 1 from generate_series(1, 100) g;
        update parts set p = 2 where id % 2 = 0;
        analyze;
    ");
    let input: String = (1..4000).map(|n| format!("{n}\tcopied row {n}\n")).collect();
    s.run(&format!("create table copied (id int, t text);\ncopy copied from stdin;\n{input}\\.\n"));
    s.run(&format!(
        "begin; create table frozen (id int, t text);\ncopy frozen from stdin with (freeze);\n{input}\\.\ncommit;"
    ));
    s.run(
        "
        update frozen set t = 'thawed' where id % 500 = 0; delete from frozen where id = 7;
        vacuum (freeze) copied; vacuum frozen;
        insert into copied values (1, 'x'), (2, 'y');
        create materialized view mv as select * from h; refresh materialized view mv;
        cluster h using h_pkey; vacuum full copied;
    ",
    );
}

fn locks(server: &Server) {
    let (mut a, mut b) = (server.session("postgres"), server.session("postgres"));
    a.run("create table l (id int primary key, v int); insert into l select g, g from generate_series(1, 4000) g; vacuum (freeze) l;");
    a.run("create table ref (id int references l);");
    // A row shared by two transactions is a multixact.
    a.run("begin; select count(*) from (select 1 from l where id <= 50 for share) x;");
    b.run("begin; select count(*) from (select 1 from l where id <= 50 for key share) x; commit;");
    a.run("commit;");
    a.run("begin; update l set v = v + 1 where id between 100 and 150;");
    b.run("begin; select count(*) from (select 1 from l where id between 90 and 160 for key share) x;");
    b.run("insert into ref values (120), (121);");
    a.run("commit;");
    b.run("update l set v = v + 1 where id between 100 and 110; commit;");
    a.run("begin; select 1 from l where id = 200 for update; savepoint s; select 1 from l where id = 201 for no key update; rollback to s; commit;");
    // Subtransactions lock what their parent has locked: thousands of multixacts and of
    // transaction ids, so that new pages of both are begun.
    a.run(
        "
        create procedure many(n int) language plpgsql as $$
        declare i int;
        begin
          for i in 1..n loop
            perform 1 from l where id = i for key share;
            begin
              perform 1 from l where id = i for update;
              if i % 3 = 0 then raise exception 'undo'; end if;
            exception when raise_exception then null;
            end;
          end loop;
        end $$;
        call many(3500);
        create temp table many_xids (i int);
        do $$ begin for i in 1..34000 loop
          begin insert into many_xids values (i); exception when raise_exception then null; end;
        end loop; end $$;
    ",
    );
    a.run("vacuum (freeze) l; update l set v = 0 where id % 10 = 0; vacuum (freeze) l;");
    speculative(server, &mut a);
    // Prepared transactions.
    a.run("begin; insert into l values (5001, 1); savepoint x; insert into l values (5002, 1); prepare transaction 'p1';");
    a.run("begin; insert into l values (5003, 1); select 1 from l where id = 77 for share; prepare transaction 'p2';");
    a.run("commit prepared 'p1'; rollback prepared 'p2';");
}

/// Two sessions insert the same key; the one that comes second takes its row back. An index
/// expression that waits for locks keeps each where it must be.
fn speculative(server: &Server, control: &mut Session) {
    control.run(
        "
        create table spec (k text, v int);
        create function wait_for(k text, v int) returns text immutable language plpgsql as $$
        begin
          if pg_try_advisory_xact_lock(current_setting('spec.session')::int, 1) then
            perform pg_advisory_xact_lock(current_setting('spec.session')::int, 2);
          else
            perform pg_advisory_xact_lock(current_setting('spec.session')::int, 3);
          end if;
          return k;
        end $$;
        create unique index spec_k on spec (wait_for(k, 0));
        select pg_advisory_lock(s, l) from generate_series(1, 2) s, generate_series(1, 3) l;
    ",
    );
    let blocked = |control: &mut Session, count: &str| {
        for _ in 0..500 {
            let waiting = "select count(*) from pg_locks where not granted;";
            if control.run(waiting).trim() == count {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the sessions do not wait as they should");
    };
    let mut sessions = [server.session("postgres"), server.session("postgres")];
    for (number, session) in (1..).zip(&mut sessions) {
        session.run(&format!("set spec.session = {number};"));
        session.send(
            "insert into spec values ('k', 1)
             on conflict (wait_for(k, 0)) do update set v = spec.v + 1;",
        );
    }
    blocked(control, "2");
    let unlock = |control: &mut Session, session: u32, lock: u32| {
        control.run(&format!("select pg_advisory_unlock({session}, {lock});"));
    };
    for (session, lock) in [(1, 1), (2, 1), (1, 3), (2, 3)] {
        unlock(control, session, lock);
    }
    blocked(control, "2");
    unlock(control, 2, 2);
    sessions[1].wait();
    unlock(control, 1, 2);
    sessions[0].wait();
}

fn btrees(server: &Server) {
    let mut s = server.session("postgres");
    s.run("
        create table bt (k int, d int, t text);
        create index bt_k on bt (k); create index bt_d on bt (d); create index bt_t on bt (t);
        insert into bt select (g * 7919) % 20011, g % 10, repeat(chr(97 + g % 26), 30) || g from generate_series(1, 8000) g;
        insert into bt select g, g % 10, md5(g::text) from generate_series(30000, 34000) g;
        vacuum bt;
        delete from bt where d = 3; vacuum bt;
        insert into bt select g, 3, md5(g::text) from generate_series(50000, 52000) g;
        insert into bt select g, g % 10, 'q' from generate_series(60000, 63000) g;
        update bt set d = d + 1 where k % 4 = 0;
        set enable_seqscan = off; set enable_bitmapscan = off;
        delete from bt where k between 30000 and 31000;
        select count(*) from bt where k between 29000 and 32000;
        select count(*) from bt where d = 4;
        insert into bt select g, 4, 'again' from generate_series(30000, 31000) g;
        update bt set t = t || '!' where d = 4;
        update bt set t = t || '!' where d = 4;
        delete from bt where k between 30100 and 33900; vacuum bt;
        insert into bt select g, g % 3, md5(g::text) from generate_series(70000, 76000) g;
        vacuum bt;
        delete from bt where k > 10; vacuum bt; vacuum bt;
        insert into bt select (g * 31) % 40000, g % 3, md5(g::text) from generate_series(1, 9000) g;
        vacuum bt;
        create index bt_u on bt (t, k) include (d);
        reindex index bt_k;
    ");
    // Non-HOT updates of one version after the other: deletion bottom up.
    s.run(
        "
        create table churn (id int primary key, v int, w int); create index churn_v on churn (v);
        insert into churn select g, g % 20, 0 from generate_series(1, 2000) g;
    ",
    );
    for _ in 0..12 {
        s.run("update churn set v = v + 1 where id % 2 = 0; update churn set w = w + 1, v = v - 1 where id % 2 = 0;");
    }
    // A posting list is split by a position in its middle.
    s.run(
        "
        create table post (d int, pad text); create index post_d on post (d);
        insert into post select 1, repeat('x', 100) from generate_series(1, 3000);
        delete from post where ctid::text like '%,_)' ; vacuum post;
        insert into post select 1, repeat('y', 100) from generate_series(1, 300);
    ",
    );
    // A whole tree above a leaf goes.
    s.run("
        create table deep (t text); create index deep_t on deep (t);
        insert into deep select repeat(md5(g::text), 30) || lpad(g::text, 8, '0') from generate_series(1, 2500) g;
        delete from deep; vacuum deep; vacuum deep;
        insert into deep select repeat(md5(g::text), 30) || lpad(g::text, 8, '0') from generate_series(1, 1500) g;
        delete from deep where ctid < '(200,1)'; vacuum deep; select txid_current(); vacuum deep;
        insert into deep select repeat(md5(g::text), 30) || lpad(g::text, 8, '0') from generate_series(1, 1500) g;
    ");
}

fn hashes(server: &Server) {
    let mut s = server.session("postgres");
    s.run(
        "
        create table hs (k int, t text); create index hs_k on hs using hash (k);
        insert into hs select g, 'x' from generate_series(1, 12000) g;
        insert into hs select 7, 'same' from generate_series(1, 3000);
        delete from hs where k = 7 and t = 'same'; vacuum hs;
        insert into hs select 8, 'same' from generate_series(1, 3000);
        delete from hs where ctid::text like '%2)' ; vacuum hs;
        delete from hs where k between 100 and 10000; vacuum hs;
        insert into hs select g, 'y' from generate_series(1, 8000) g;
        set enable_seqscan = off; set enable_bitmapscan = off;
        create table hv (k int, t text); create index hv_k on hv using hash (k);
        insert into hv select g % 5, 'x' from generate_series(1, 2500) g;
        delete from hv where ctid::text like '%1)';
        select count(*) from hv where k = 0; select count(*) from hv where k = 1;
        select count(*) from hv where k = 2; select count(*) from hv where k = 3;
        select count(*) from hv where k = 4;
        insert into hv select g % 5, 'z' from generate_series(1, 4000) g;
        vacuum hv;
        create unlogged table hu (k int); create index on hu using hash (k);
    ",
    );
}

fn gins(server: &Server) {
    let mut s = server.session("postgres");
    s.run("
        create table g (id int, a int[]);
        create index g_a on g using gin (a) with (fastupdate = off);
        create index g_f on g using gin (a) with (fastupdate = on, gin_pending_list_limit = 64);
        insert into g select i, array[i % 10, i % 500, i] from generate_series(1, 5000) i;
        select gin_clean_pending_list('g_f');
        insert into g select i, array[1, 2, i] from generate_series(1, 2000) i;
        delete from g where id % 3 = 0; vacuum g;
        insert into g select i, array[1, i] from generate_series(1, 3000) i;
        delete from g where id < 4000; vacuum g; vacuum g;
        insert into g select i, array[3, 4, i] from generate_series(1, 3000) i;
        delete from g where id <= 3000; vacuum g;
        vacuum g;
        create table gt (id int, d tsvector); create index on gt using gin (d);
        insert into gt select i, to_tsvector('simple', md5(i::text) || ' common ' || md5((i + 1)::text)) from generate_series(1, 1000) i;
        vacuum gt;
        create table gp (id int, a int[]);
        create index on gp using gin (a) with (fastupdate = off);
        insert into gp select i, array[1] from generate_series(1, 30000) i;
        delete from gp where id between 3000 and 28000; vacuum gp; vacuum gp;
        insert into gp select i, array[1] from generate_series(1, 12000) i;
        vacuum gp;
    ");
}

fn gists(server: &Server) {
    let mut s = server.session("postgres");
    s.run("
        create table gs (id int, p point); create index gs_p on gs using gist (p);
        insert into gs select i, point((i * 7919) % 1000, (i * 104729) % 1000) from generate_series(1, 8000) i;
        delete from gs where id % 3 = 0; vacuum gs;
        insert into gs select i, point(i % 100, i % 77) from generate_series(1, 5000) i;
        delete from gs where id < 7500; vacuum gs; vacuum gs;
        select txid_current(); vacuum gs;
        insert into gs select i, point((i * 31) % 1000, (i * 37) % 1000) from generate_series(1, 6000) i;
        set enable_seqscan = off; set enable_bitmapscan = off;
        delete from gs where id % 2 = 0;
        select count(*) from gs where p <@ box '(0,0,1000,1000)';
        insert into gs select i, point((i * 31) % 1000, (i * 37) % 1000) from generate_series(1, 4000) i;
        create table gr (r int4range); create index on gr using gist (r);
        insert into gr select int4range(i, i + i % 50 + 1) from generate_series(1, 3000) i;
        delete from gr where lower(r) % 3 = 0; vacuum gr;
    ");
}

fn spgists(server: &Server) {
    let mut s = server.session("postgres");
    s.run("
        create table sp (id int, t text); create index sp_t on sp using spgist (t);
        insert into sp select i, 'prefix/common/' || (i % 100) || '/' || md5(i::text) from generate_series(1, 6000) i;
        insert into sp select i, repeat(chr(97 + i % 26), i % 200) from generate_series(1, 4000) i;
        delete from sp where id % 3 = 0; vacuum sp;
        insert into sp select i, 'prefix/other/' || i from generate_series(1, 4000) i;
        insert into sp select i, null from generate_series(1, 2000) i;
        delete from sp where t is null and id % 2 = 0;
        delete from sp where t like 'prefix/common/1%'; vacuum sp;
        select txid_current(); vacuum sp; vacuum sp;
        create table sq (id int, p point); create index sq_p on sq using spgist (p);
        insert into sq select i, point((i * 7919) % 1000, (i * 104729) % 1000) from generate_series(1, 5000) i;
        delete from sq where id % 2 = 0; vacuum sq;
        insert into sq select i, point(1, 1) from generate_series(1, 2000) i;
        delete from sq; vacuum sq; vacuum sq;
        insert into sq select i, point(i, i) from generate_series(1, 3000) i;
        create table small (p point); create index on small using spgist (p);
        insert into small select point(i, i) from generate_series(1, 20) i;
        delete from small where p[0] > 5; vacuum small;
        create table words (t text); create index on words using spgist (t);
        insert into words select chr(33 + i % 90) || chr(33 + (i / 90) % 90) || i from generate_series(1, 6000) i;
        create index sp_built on sp using spgist (t);
        insert into sp select i, 'later/' || md5(i::text) from generate_series(1, 3000) i;
    ");
}

fn brins(server: &Server) {
    let mut s = server.session("postgres");
    s.run("
        create table br (id int, t text);
        insert into br select i, repeat('a', 10) from generate_series(1, 10000) i;
        create index br_i on br using brin (id, t) with (pages_per_range = 2);
        insert into br select i, repeat('b', 200) from generate_series(1, 10000) i;
        select brin_summarize_new_values('br_i');
        update br set t = repeat('z', 900) where id % 100 = 0;
        update br set t = '0' where id % 150 = 0;
        select brin_desummarize_range('br_i', 2);
        select brin_summarize_new_values('br_i');
        vacuum br;
        create index br_m on br using brin (id int4_minmax_multi_ops) with (pages_per_range = 1, autosummarize = on);
        insert into br select (i * 7919) % 100000, 'm' from generate_series(1, 5000) i;
        create index br_b on br using brin (t text_bloom_ops) with (pages_per_range = 1);
        insert into br select i, md5(i::text) from generate_series(1, 5000) i;
        vacuum br;
    ");
}

fn others(server: &Server) {
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
        select pg_replication_origin_create('o'); select pg_replication_origin_drop('o');
        create database copy;
        create table dropped as select generate_series(1, 1000) i; drop table dropped;
        vacuum full pg_class; vacuum full pg_database; reindex table pg_class;
        select pg_create_restore_point('here');
        create table lobj (o oid); insert into lobj select lo_from_bytea(0, decode(repeat('ab', 5000), 'hex'));
        alter table h add column extra int default 7; update h set extra = 8 where id < 100;
        begin; insert into l values (5004, 1); prepare transaction 'p3';
        checkpoint; select pg_switch_wal();
    ");
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
