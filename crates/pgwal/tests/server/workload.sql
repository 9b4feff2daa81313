-- A workload with at least one record of every kind that one session can make in a few seconds.
\set ON_ERROR_STOP on
set client_min_messages = warning;

-- Heap and every index manager.
create table plain (id serial primary key, a int, b text, fill text) with (fillfactor = 70);
create index on plain (a);
create index on plain using hash (b);
insert into plain (a, b, fill) select g % 97, 'text ' || g, repeat('x', 40) from generate_series(1, 3000) g;
update plain set fill = repeat('y', 40) where id % 7 = 0;
update plain set a = a + 1000 where id % 11 = 0;
delete from plain where id % 13 = 0;
vacuum plain;
insert into plain (a, b) select 5, 'again ' || g from generate_series(1, 300) g on conflict do nothing;
update plain set fill = 'after vacuum' where id % 50 = 1;
delete from plain where id % 50 = 2;
vacuum (freeze) plain;
select count(*) from (select 1 from plain where id < 40 for update) locked;
create table copied (a int, b int);
copy copied from program 'seq 1 2000 | sed "s/.*/&\t&/"';
create table speculative (id int primary key);
insert into speculative values (1) on conflict (id) do nothing;
insert into speculative values (1) on conflict (id) do update set id = 2;
create table dup (a int);
create index on dup (a);
insert into dup select 7 from generate_series(1, 4000);
insert into dup select g from generate_series(1, 4000) g;
delete from dup where a > 100;
vacuum dup;
insert into dup select g from generate_series(1, 9000) g;

create table docs (id int, words int[], place point, range int4range);
create index on docs using gin (words) with (fastupdate = on, gin_pending_list_limit = 64);
create index on docs using gist (place);
create index on docs using gist (range);
create index on docs using spgist (place);
create index on docs using brin (id) with (pages_per_range = 2, autosummarize = off);
insert into docs select g, array[g % 10, g % 100, g], point(g % 50, g / 50), int4range(g, g + 5)
  from generate_series(1, 3000) g;
select brin_summarize_new_values('docs_id_idx');
select brin_desummarize_range('docs_id_idx', 0);
delete from docs where id % 3 = 0;
vacuum docs;
insert into docs select g, array[1, 2], point(1, 1), int4range(1, 2) from generate_series(1, 800) g;
delete from docs where id < 2500;
vacuum docs;
vacuum docs;
insert into docs select g, array[g], point(g, g), int4range(g, g + 1) from generate_series(1, 800) g;
create table many_hash (a int);
create index many_hash_idx on many_hash using hash (a);
insert into many_hash select g from generate_series(1, 6000) g;
insert into many_hash select 1 from generate_series(1, 3000) g;
delete from many_hash where a % 2 = 1;
vacuum many_hash;

create extension bloom;
create index on docs using bloom (id);
insert into docs select g, array[g], point(g, g), int4range(g, g + 1) from generate_series(1, 300) g;
delete from docs where id = 7;
vacuum docs;

-- Sequences, messages, restore points, oids, toast.
create sequence counter;
select count(nextval('counter')) from generate_series(1, 100);
select pg_logical_emit_message(true, 'prefix', 'in a transaction');
select pg_logical_emit_message(false, 'prefix', repeat('long ', 5000));
select pg_create_restore_point('here');
create table toasted (id int, big text);
alter table toasted alter big set storage external;
insert into toasted select g, repeat(md5(g::text), 700) from generate_series(1, 30) g;
update toasted set big = big || 'x' where id < 5;

-- Subtransactions, locks on locks, multixacts.
begin;
select from plain where id = 1 for key share;
savepoint a;
update plain set fill = 'sub' where id = 1;
savepoint b;
update plain set fill = 'sub sub' where id = 3;
rollback to b;
commit;
do $$
begin
  for i in 1..2300 loop
    perform from copied where a = 1 for key share;
    begin
      perform from dup where a = 7 limit 1;
      perform from plain where id = 1 + i % 500 for key share;
      begin
        update plain set fill = 'm' where id = 1 + i % 500;
      exception when others then raise;
      end;
      if i % 10 = 0 then raise exception 'undo'; end if;
    exception when raise_exception then null;
    end;
  end loop;
end $$;
do $$
begin
  for i in 1..33000 loop
    begin
      insert into speculative values (i + 10) on conflict do nothing;
    exception when others then null;
    end;
  end loop;
end $$;

-- Two-phase commit, with subtransactions and dropped files.
create table doomed (a int);
create table spared (a int);
begin; insert into plain (a) values (1); savepoint s; insert into plain (a) values (2);
drop table doomed; prepare transaction 'first one';
begin; insert into plain (a) values (3); drop table spared; create table unborn (a int); prepare transaction 'second';
checkpoint;
commit prepared 'first one';
rollback prepared 'second';

-- Truncation, drops, unlogged relations, rewriting.
create table short (a int, b text);
insert into short select g, repeat('z', 100) from generate_series(1, 3000) g;
vacuum short;
delete from short where a > 100;
vacuum short;
truncate plain;
create unlogged table quick (a int primary key);
insert into quick select generate_series(1, 100);
alter table quick set logged;
begin; create table never (a int); rollback;
drop table copied;
alter table docs add column extra int default random();
vacuum full pg_class;
vacuum full pg_authid;
reindex table pg_database;

-- Visibility maps that are set, cut and cleared in part by every kind of record that does so.
create table seen (id int, b text) with (fillfactor = 90);
insert into seen select g, repeat('s', 150) from generate_series(1, 20000) g;
vacuum (freeze) seen;
delete from seen where id > 17001;
vacuum (freeze) seen;
insert into seen values (0, 'one');
copy seen from program 'seq 30001 30100 | sed "s/$/\\tcopied/"';
delete from seen where id in (100, 5000, 9001);
update seen set b = 'hot' where id in (200, 6000, 9002);
update seen set b = repeat('moved', 300) where id in (300, 7000, 9003);
begin; select from seen where id % 1000 = 1 for update; commit;
begin; select from seen where id = 400 for key share; savepoint s; update seen set b = 'x' where id = 400; commit;
create table seen_too (like plain);
insert into seen_too select * from plain;
insert into seen_too (id, a) select g, g from generate_series(1, 9000) g;
vacuum seen_too;
update seen_too set a = 0 where id % 400 = 3;

-- Replication origins.
select pg_replication_origin_create('origin');
select pg_replication_origin_session_setup('origin');
begin;
select pg_replication_origin_xact_setup('0/1234', '2020-01-02 03:04:05');
insert into plain (a) values (77);
commit;
select pg_replication_origin_session_reset();
select pg_replication_origin_advance('origin', '0/9999');
select pg_replication_origin_drop('origin');

-- Databases and tablespaces.
set allow_in_place_tablespaces = on;
create tablespace side location '';
create database logged_copy strategy wal_log;
create database file_copy strategy file_copy;
create database elsewhere tablespace side;
drop database file_copy;
drop database elsewhere;
create table aside (a int) tablespace side;
insert into aside values (1);
drop table aside;
drop tablespace side;

-- Base backup and WAL switches.
select pg_backup_start('label', fast => true) is not null;
insert into plain (a) values (78);
select lsn from pg_backup_stop(wait_for_archive => false);
select pg_switch_wal() is not null;
insert into plain (a) values (79);
checkpoint;
select pg_switch_wal() is not null;
select count(lo_create(0)) from generate_series(1, 9000);

-- Full-page images under each compression; indexes that nobody touches afterwards.
create table source as select g as a, 'row ' || g || repeat(' and so on', g % 7) as b from generate_series(1, 4000) g;
set wal_compression = pglz;
create index image_pglz on source (b, a);
set wal_compression = lz4;
create index image_lz4 on source (b, a);
set wal_compression = zstd;
create index image_zstd on source (b, a);
set wal_compression = off;
create index image_plain on source (b, a);
create table touched as select * from source;
checkpoint;
set wal_compression = pglz; update touched set a = -a where a % 40 = 1;
checkpoint;
set wal_compression = lz4; update touched set a = -a where a % 40 = 2;
checkpoint;
set wal_compression = zstd; update touched set a = -a where a % 40 = 3;
set wal_consistency_checking = 'all';
insert into docs select g, array[g], point(g, g), int4range(g, g + 1), 1 from generate_series(1, 100) g;
update plain set a = 1;
reset wal_consistency_checking;

-- One that stays prepared; from here on nothing is all-visible.
begin; insert into speculative values (-1); savepoint s; insert into speculative values (-2); savepoint t;
insert into speculative values (-3); prepare transaction 'kept';
