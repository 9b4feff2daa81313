//! Every index access method, its pages split, emptied, deleted and used again.

use crate::server::Server;

pub fn btrees(server: &Server) {
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
    // Wide keys that do not compress: few fit on a page, so inner pages split, too, and go with
    // the leaves below them, those of the leftmost branch as well.
    s.run(
        "
        create function wide(i int) returns text language sql as
          $$ select string_agg(md5(i::text || j::text), '') from generate_series(1, 60) j $$;
        create table deep (i int, t text); create index deep_t on deep (t);
        insert into deep select i, wide(i) from generate_series(1, 600) i;
        delete from deep where t between '4' and 'c'; vacuum deep; select txid_current(); vacuum deep;
        insert into deep select i, wide(i) from generate_series(601, 700) i;
        delete from deep; vacuum deep; vacuum deep;
        insert into deep select i, wide(i) from generate_series(701, 720) i; -- a new level above the leaf
    ",
    );
}

pub fn hashes(server: &Server) {
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

pub fn gins(server: &Server) {
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
    // A tree so deep that inner pages split, too.
    s.run(
        "
        create table gdeep (a text[]); create index on gdeep using gin (a) with (fastupdate = off);
        insert into gdeep select array[wide(i)] from generate_series(1, 300) i;
    ",
    );
}

pub fn gists(server: &Server) {
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
        create table docs (d tsvector);
        create index on docs using gist (d tsvector_ops (siglen = 2000)); -- few entries on inner pages
        insert into docs select to_tsvector('simple', md5(i::text) || ' ' || md5((i * 7)::text)) from generate_series(1, 2500) i;
    ");
}

pub fn spgists(server: &Server) {
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

pub fn brins(server: &Server) {
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
