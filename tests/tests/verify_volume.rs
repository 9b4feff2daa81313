//! The volume comparison itself: it looks at everything, finds what is changed behind PostgreSQL's
//! back, and says so when it cannot tell.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::tools::pgbench;
use tests::{Cluster, Options};

/// A workload that leaves something of every kind that is compared.
const EVERYTHING: &str = "
    create table plain(id int primary key, what text, at point, tags int[], body tsvector, span int4range);
    insert into plain select n, md5(n::text), point(n, n % 97), array[n, n % 7],
        to_tsvector('simple', 'w' || n % 50), int4range(n, n + 5) from generate_series(1, 20000) n;
    create index on plain using hash (what);
    create index on plain using gist (at);
    create index on plain using spgist (at);
    create index on plain using spgist (what);
    create index on plain using gin (tags);
    create index on plain using gin (body);
    create index on plain using brin (id);
    update plain set what = 'x' || id, tags = tags || 9 where id % 3 = 0;
    delete from plain where id % 11 = 0;
    vacuum plain;
    insert into plain select n, 'y', point(1, n), array[n], 'z', 'empty' from generate_series(30001, 34000) n;
    create table cut as select * from plain;
    delete from cut where id > 500;
    vacuum cut;
    create unlogged table fleeting(id int primary key);
    insert into fleeting values (1);
    create sequence counted increment by -3;
    select nextval('counted') from generate_series(1, 5);
    create table toasted as select n, repeat(md5(n::text), 3000) || n as big from generate_series(1, 50) n;
    create table emptied as select * from plain;
    truncate emptied;
    create table locked(id int primary key);
    insert into locked select generate_series(1, 100);
    vacuum full pg_class;
    select lo_from_bytea(0, decode(repeat('00ff', 20000), 'hex'))";

fn batch(cluster: &Cluster, sql: &str) -> Result<()> {
    let mut client = cluster.connect()?;
    for statement in sql.split(';') {
        client.batch_execute(statement).with_context(|| statement.to_owned())?;
    }
    Ok(())
}

/// Two transactions that lock the same rows at the same time make multixacts.
fn multixacts(cluster: &Cluster) -> Result<()> {
    let (mut one, mut two) = (cluster.connect()?, cluster.connect()?);
    for client in [&mut one, &mut two] {
        client.batch_execute("begin; select from locked for share")?;
    }
    one.batch_execute("commit")?;
    two.batch_execute("commit")?;
    Ok(())
}

/// An empty directory that belongs to the server's user.
fn place_for_the_server(cluster: &Cluster) -> Result<PathBuf> {
    let place = cluster.data_dir().with_file_name("place");
    std::fs::create_dir(&place)?;
    let owner = std::fs::metadata(data_dir(cluster)?)?;
    std::os::unix::fs::chown(&place, Some(owner.uid()), Some(owner.gid()))?;
    Ok(place)
}

fn count(report: &Value, pointer: &str) -> u64 {
    report["counts"].pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

#[test]
fn everything_that_is_in_the_volume_is_compared_and_the_same() -> Result<()> {
    let arguments = ["--set", "max_prepared_transactions=5", "--set", "track_commit_timestamp=on"];
    let cluster = Cluster::up(Options::with(&arguments))?;
    batch(&cluster, EVERYTHING)?;
    multixacts(&cluster)?;
    let mut client = cluster.connect()?;
    let place = place_for_the_server(&cluster)?;
    client.batch_execute(&format!("create tablespace other location '{}'", place.display()))?;
    client.batch_execute("create table elsewhere tablespace other as select 1")?;
    client.batch_execute("create database copied")?;
    client.batch_execute("create database copied_by_files strategy file_copy")?;
    client
        .batch_execute("begin; insert into locked values (1000); prepare transaction 'waiting'")?;
    drop(client);
    for (pass, held) in [("as PostgreSQL wrote it", 2000), ("after another opening", 1)] {
        let report = cluster.verify_volume().context(pass)?;
        ensure!(count(&report, "/main/compared") >= held, "{pass}: {report:#}");
        for field in [
            "/databases",
            "/tablespaces",
            "/relation_maps",
            "/prepared_transactions",
            "/relations",
            "/sizes",
            "/vm/forks",
            "/init/forks",
            "/slru_pages/pg_xact",
            "/slru_pages/pg_multixact~1offsets",
            "/slru_pages/pg_multixact~1members",
            "/slru_pages/pg_commit_ts",
            "/fsm_forks_not_compared",
            "/unlogged_relations",
        ] {
            ensure!(count(&report, field) > 0, "{pass}: no {field} in {report:#}");
        }
        if pass == "as PostgreSQL wrote it" {
            ensure!(count(&report, "/vm/compared") > 0 && count(&report, "/init/compared") > 0);
            cluster.kill("writer", "KILL")?;
            cluster.wipe("writer")?;
            cluster.start("writer")?;
            cluster.connect_when_ready()?.batch_execute("select count(*) from plain")?;
        }
    }
    Ok(())
}

/// The local file of a relation.
fn local_file(cluster: &Cluster, relation: &str) -> Result<PathBuf> {
    let path: String = cluster
        .connect()?
        .query_one("select pg_relation_filepath($1::text::regclass)", &[&relation])?
        .get(0);
    Ok(data_dir(cluster)?.join(path))
}

fn data_dir(cluster: &Cluster) -> Result<PathBuf> {
    Ok(PathBuf::from(cluster.writer()?["data_dir"].as_str().context("data_dir")?))
}

/// The differences that are found now; each look must find all of them.
fn differences(cluster: &Cluster) -> Result<Vec<Value>> {
    let output = cluster.try_sixfold(&["verify-volume", "--json"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["outcome"] == "different", "{report:#}");
    Ok(report["differences"].as_array().context("differences")?.clone())
}

#[test]
fn what_is_changed_behind_the_server_s_back_is_found_and_named() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    batch(
        &cluster,
        "create table t as select n, 'text ' || n as what from generate_series(1, 5000) n;
         create table longer as select 1;
         vacuum t;
         vacuum longer;
         checkpoint",
    )?;
    cluster.verify_volume()?;
    let (t, longer) = (local_file(&cluster, "t")?, local_file(&cluster, "longer")?);
    // The first column of the third page's first row.
    let file = OpenOptions::new().read(true).write(true).open(&t)?;
    let mut line = [0; 4];
    file.read_exact_at(&mut line, 2 * 8192 + 24)?;
    let row = u64::from(u32::from_le_bytes(line) & 0x7fff);
    file.write_all_at(&[0xff], 2 * 8192 + row + 24)?;
    // A bit of the visibility map.
    let map =
        t.with_file_name(format!("{}_vm", t.file_name().context("a name")?.to_string_lossy()));
    let map = OpenOptions::new().write(true).open(map)?;
    map.write_all_at(&[0x57], 24)?;
    // A page too many, with something on it.
    OpenOptions::new().write(true).open(&longer)?.write_all_at(&[7; 8192], 8192)?;
    let settings = data_dir(&cluster)?.join("postgresql.auto.conf");
    OpenOptions::new().append(true).open(settings)?.write_all(b"work_mem = '1MB'\n")?;
    // A transaction that never was.
    let xact = data_dir(&cluster)?.join("pg_xact/0000");
    OpenOptions::new().write(true).open(xact)?.write_all_at(&[0x55], 8191)?;

    let found = differences(&cluster)?;
    let one = |kind: &str, fork: &str| {
        let fits = |d: &&Value| d["kind"] == kind && (fork.is_empty() || d["fork"] == fork);
        found.iter().find(fits).with_context(|| format!("no {kind} {fork} among {found:#?}"))
    };
    ensure!(found.len() == 5, "{found:#?}");
    let page = one("page", "main")?;
    let how = page["how"].as_str().context("how")?;
    ensure!(
        page["block"] == 2 && how.contains("tuple at item 1: data offset 0..1: ff locally"),
        "{page:#}"
    );
    ensure!(one("page", "vm")?["how"].as_str().context("how")?.contains("blocks 0..4"));
    ensure!(one("size", "main")?["how"].as_str().context("how")?.contains("block 1 is not blank"));
    one("settings", "")?;
    ensure!(one("slru_page", "")?["how"].as_str().context("how")?.contains("byte 8191"));

    // People read the same, and a script that asks another way gets the same status.
    let output = cluster.try_sixfold(&["verify-volume"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1) && text.starts_with("DIFFERENT"), "{text}");
    Ok(())
}

#[test]
fn under_load_pages_on_the_move_are_no_differences() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    pgbench(&cluster, &["-i", "-q", "-s", "2"])?;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| pgbench(&cluster, &["-c", "4", "-T", "8"]));
        for _ in 0..2 {
            let output = cluster.try_sixfold(&["verify-volume", "--json"])?;
            let said = String::from_utf8_lossy(&output.stderr);
            let report: Value =
                serde_json::from_slice(&output.stdout).context(said.into_owned())?;
            // Some page may be written in every look; then it says that it cannot tell.
            let expected = if report["unsettled"] == serde_json::json!([]) { 0 } else { 2 };
            ensure!(output.status.code() == Some(expected), "{report:#}");
            ensure!(report["differences"] == serde_json::json!([]), "{report:#}");
        }
        load.join().expect("pgbench's thread")
    })?;
    cluster.verify_volume().map(drop)
}

/// A Gin index is logged when it is whole: until then storage knows an empty file. CREATE INDEX
/// CONCURRENTLY holds no transaction id while it builds.
#[test]
fn an_index_that_is_being_built_is_no_difference() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    let mut client = cluster.connect()?;
    client.batch_execute(
        "create table t as select array[n] as tags from generate_series(1, 10) n;
         create function waits(tags int[]) returns int[] immutable language plpgsql as
             'begin perform pg_advisory_xact_lock(7); return tags; end';
         select pg_advisory_lock(7)",
    )?;
    std::thread::scope(|scope| {
        let mut other = cluster.connect()?;
        let build = "create index concurrently on t using gin (waits(tags))";
        let build = scope.spawn(move || other.batch_execute(build));
        let waiting = "select from pg_locks where locktype = 'advisory' and not granted";
        while client.query(waiting, &[])?.is_empty() {
            ensure!(!build.is_finished(), "the build does not wait: {:?}", build.join());
            std::thread::sleep(Duration::from_millis(20));
        }
        let compare = scope.spawn(|| cluster.verify_volume().map(drop));
        // Time for more than the two looks that make a difference certain.
        std::thread::sleep(Duration::from_secs(6));
        client.batch_execute("select pg_advisory_unlock(7)")?;
        build.join().expect("the building thread")?;
        compare.join().expect("the comparing thread")
    })
}

#[test]
fn without_a_write_quorum_or_a_writer_it_says_that_it_cannot_tell() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    let refused = |words: &str| -> Result<()> {
        let output = cluster.try_sixfold(&["verify-volume"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && said.contains(words),
            "{}: {said}",
            output.status
        );
        Ok(())
    };
    for name in ["a1", "a2", "b1"] {
        cluster.kill(name, "KILL")?;
    }
    refused("only 3 of group 0")?;
    for name in ["a1", "a2", "b1"] {
        cluster.start(name)?;
    }
    cluster.verify_volume()?;
    cluster.kill("writer", "KILL")?;
    refused("writer")
}
