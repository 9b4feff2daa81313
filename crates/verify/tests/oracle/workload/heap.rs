//! Tables: tuples, locks on them, transactions.

use crate::server::{Server, Session};

pub fn heap_tables(server: &Server) {
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

pub fn locks(server: &Server) {
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
