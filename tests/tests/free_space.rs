//! Free space is found again after the compute host is lost, although PostgreSQL does not log where
//! it is; and settings survive as soon as they are acknowledged.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postgres::Client;
use tests::cluster::{PATIENCE, connect_to, signal, wait_for_exit};
use tests::metrics::writer_metric;
use tests::tools::pg_bin;
use tests::{Cluster, Options};

const ROWS: i32 = 30_000;

/// A stock server of its own, beside the cluster.
struct Stock {
    directory: tempfile::TempDir,
    port: u16,
    server: Child,
}

impl Stock {
    fn start() -> Result<Stock> {
        let directory = tempfile::Builder::new().prefix("sixfold-stock-").tempdir()?;
        let user = own(directory.path())?;
        let as_user = |program: &str| {
            let mut command = Command::new(pg_bin().join(program));
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let data = directory.path().join("data");
        let made =
            as_user("initdb").arg("-D").arg(&data).args(["-U", "postgres", "-N"]).status()?;
        ensure!(made.success(), "initdb: {made}");
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = std::fs::File::create(directory.path().join("log"))?;
        let server = as_user("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-k", "", "-c", "autovacuum=off", "-c", "fsync=off"])
            .stderr(log)
            .spawn()?;
        Ok(Stock { directory, port, server })
    }

    fn connect(&self) -> Result<Client> {
        let begun = Instant::now();
        loop {
            match connect_to(self.port) {
                Ok(client) => return Ok(client),
                Err(error) if begun.elapsed() > PATIENCE => {
                    let log = std::fs::read_to_string(self.directory.path().join("log"));
                    return Err(error.context(log.unwrap_or_default()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        signal(self.server.id(), libc::SIGQUIT);
        if let Err(error) = wait_for_exit(&mut self.server, PATIENCE) {
            eprintln!("the stock server: {error}");
        }
    }
}

/// Gives a directory to the user that PostgreSQL runs as, when that is not us.
fn own(path: &Path) -> Result<Option<(u32, u32)>> {
    // SAFETY: geteuid(2) touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.context("no user `postgres`")?.split(':').skip(2);
    let mut number = || fields.next().and_then(|field| field.parse().ok());
    let ids = number().zip(number()).context("ids of `postgres`")?;
    std::os::unix::fs::chown(path, Some(ids.0), Some(ids.1))?;
    Ok(Some(ids))
}

/// Waits until the volume knows the free space that VACUUM has found.
fn wait_until_kept(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let seen = writer_metric(cluster, "sixfold_free_space_seen")?;
    ensure!(seen > 0.0, "VACUUM was not noticed");
    while writer_metric(cluster, "sixfold_free_space_kept")? < seen {
        ensure!(begun.elapsed() < PATIENCE, "never in the volume: {}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn fill(client: &mut Client, round: i32) -> Result<()> {
    let sql = format!(
        "insert into t select n, {round}, repeat('x', 150) from generate_series(1, {ROWS}) n
         where {round} = 0 or n % 3 <> {round} % 3"
    );
    Ok(client.batch_execute(&sql)?)
}

/// Deletes two thirds of the table; VACUUM finds the room.
fn thin_out(client: &mut Client, round: i32) -> Result<()> {
    client.execute("delete from t where id % 3 <> $1 % 3", &[&round])?;
    client.batch_execute("vacuum t")?;
    // A commit: what VACUUM logged is durable with it, and has been looked at.
    Ok(client.execute("update rounds set n = $1", &[&round]).map(drop)?)
}

fn blocks(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("select pg_relation_size('t') / 8192", &[])?.get(0))
}

const SCHEMA: &str = "create table t(id int, round int, filler text); create index on t(id);
                      create table rounds as select 0 as n";

#[test]
fn room_found_by_vacuum_is_used_after_the_host_is_lost() -> Result<()> {
    let cluster = Cluster::up(Options::with(&["--set", "autovacuum=off"]))?;
    let stock = Stock::start()?;
    let mut beside = stock.connect()?;
    let mut client = cluster.connect()?;
    for server in [&mut client, &mut beside] {
        server.batch_execute(SCHEMA)?;
        fill(server, 0)?;
    }
    let before = blocks(&mut client)?;
    for round in 1..=4 {
        thin_out(&mut client, round)?;
        thin_out(&mut beside, round)?;
        if round % 2 == 0 {
            // An orderly stop leaves nothing behind, however soon after VACUUM it comes.
            drop(client);
            cluster.kill("writer", "TERM")?;
            cluster.wait_until("the writer is down", |status| {
                let processes = status["processes"].as_array().cloned().unwrap_or_default();
                processes.iter().any(|p| p["name"] == "writer" && p["state"] == "down")
            })?;
        } else {
            wait_until_kept(&cluster)?;
            drop(client);
            cluster.kill("writer", "KILL")?;
        }
        cluster.wipe("writer")?;
        cluster.start("writer")?;
        client = cluster.connect_when_ready()?;
        fill(&mut client, round)?;
        fill(&mut beside, round)?;
    }
    let (ours, theirs) = (blocks(&mut client)?, blocks(&mut beside)?);
    println!("blocks: {before} at first, then {ours}; a stock server {theirs}");
    ensure!(ours * 10 <= theirs * 11, "{ours} blocks, a stock server has {theirs}");
    let rows: i64 = client.query_one("select count(*) from t", &[])?.get(0);
    ensure!(rows == i64::from(ROWS), "{rows} rows");
    cluster.verify_volume().map(drop)
}

#[test]
fn free_space_survives_truncation_and_drops_beside_it() -> Result<()> {
    let cluster = Cluster::up(Options::with(&["--set", "autovacuum=off"]))?;
    let mut client = cluster.connect()?;
    // Maps of tables that VACUUM then cuts short, that are emptied, and that go.
    client.batch_execute(
        "create table cut as select n, repeat('x', 500) f from generate_series(1, 20000) n;
         create table emptied as select * from cut; create table gone as select * from cut;
         delete from cut where n % 2 = 0; delete from emptied where n % 2 = 0;
         delete from gone where n % 2 = 0",
    )?;
    client.batch_execute("vacuum")?;
    client.batch_execute("create table commits as select 1")?;
    wait_until_kept(&cluster)?;
    // From here on the volume has only what the log says: the cut is redone on the kept map.
    client.batch_execute("delete from cut where n > 1000")?;
    client.batch_execute("vacuum cut")?;
    client.batch_execute("truncate emptied; drop table gone")?;
    client.batch_execute("insert into emptied select * from cut")?;
    let size: i64 = client.query_one("select pg_relation_size('cut')", &[])?.get(0);
    drop(client);
    cluster.kill("writer", "KILL")?;
    cluster.wipe("writer")?;
    cluster.start("writer")?;
    let mut client = cluster.connect_when_ready()?;
    client.batch_execute(
        "insert into cut select n, repeat('x', 500) from generate_series(1, 400) n;
         insert into emptied select n, repeat('x', 500) from generate_series(1, 400) n",
    )?;
    let rows: i64 = client
        .query_one("select (select count(*) from cut) + (select count(*) from emptied)", &[])?
        .get(0);
    ensure!(rows == 500 + 400 + 500 + 400, "{rows} rows");
    let now: i64 = client.query_one("select pg_relation_size('cut')", &[])?.get(0);
    ensure!(now <= size + 8192, "{now} bytes, {size} before: its free space is forgotten");
    tests::tools::amcheck(&cluster)
}

#[test]
fn alter_system_is_kept_when_it_returns() -> Result<()> {
    let cluster = Cluster::up(Options::default())?;
    for value in ["17MB", "18MB", "19MB"] {
        let mut client = cluster.connect_when_ready()?;
        client.batch_execute(&format!("alter system set work_mem = '{value}'"))?;
        cluster.kill("writer", "KILL")?; // nothing was committed since
        cluster.wipe("writer")?;
        cluster.start("writer")?;
        let mut client = cluster.connect_when_ready()?;
        let found: String = client.query_one("show work_mem", &[])?.get(0);
        ensure!(found == value, "ALTER SYSTEM was lost: work_mem is {found}, not {value}");
    }
    // Too few nodes: the statement waits for them as a commit does.
    for node in ["a1", "b1", "c1"] {
        cluster.kill(node, "KILL")?;
    }
    let port = cluster.port();
    let waiting = std::thread::spawn(move || -> Result<()> {
        Ok(connect_to(port)?.batch_execute("alter system set work_mem = '20MB'")?)
    });
    std::thread::sleep(Duration::from_secs(2));
    if waiting.is_finished() {
        bail!("acknowledged without a quorum: {:?}", waiting.join());
    }
    cluster.start("b1")?;
    waiting.join().expect("no panic")
}
