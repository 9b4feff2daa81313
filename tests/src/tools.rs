//! PostgreSQL's own programs, run against a cluster.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::Cluster;

/// Directory of PostgreSQL's programs: `SIXFOLD_PG_BIN`, else Debian's for version 15.
#[must_use]
pub fn pg_bin() -> PathBuf {
    std::env::var_os("SIXFOLD_PG_BIN")
        .map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from)
}

/// User and group to run PostgreSQL's programs as; `None` when this process need not change.
///
/// # Errors
/// When we are root and there is no user `postgres`.
pub fn postgres_user() -> Result<Option<(u32, u32)>> {
    // SAFETY: geteuid(2) touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.context("there is no user postgres")?.split(':').skip(2);
    let mut number = || fields.next().context("a line of /etc/passwd is short");
    Ok(Some((number()?.parse()?, number()?.parse()?)))
}

/// Runs one of PostgreSQL's client programs against the writer; gives its standard output.
///
/// # Errors
/// With what it printed when it fails.
pub fn client_program(cluster: &Cluster, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(pg_bin().join(program))
        .args(["-h", "127.0.0.1", "-p", &cluster.port().to_string(), "-U", "postgres"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?} failed ({}): {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        cluster.logs()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `pgbench` with these arguments on the database `postgres`.
///
/// # Errors
/// When it fails, which includes any client's abort.
pub fn pgbench(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let mut all = arguments.to_vec();
    all.push("postgres");
    let output = client_program(cluster, "pgbench", &all)?;
    Ok(output)
}

/// `pg_amcheck --heapallindexed` over the database `postgres`: every heap and index, structurally
/// and against each other.
///
/// # Errors
/// With the corruption it names.
pub fn amcheck(cluster: &Cluster) -> Result<()> {
    cluster.connect()?.batch_execute("create extension if not exists amcheck")?;
    client_program(cluster, "pg_amcheck", &["--heapallindexed", "--parent-check", "-d", "postgres"])
        .map(drop)
}

/// Rows and a hash of their content, of each of pgbench's tables, read from the heap. A page that
/// came back empty shows here and not always elsewhere: amcheck passes over empty pages, and sums
/// miss rows that hold nothing yet.
///
/// # Errors
/// When PostgreSQL refuses.
pub fn pgbench_fingerprint(cluster: &Cluster) -> Result<Vec<(i64, String)>> {
    let mut client = cluster.connect()?;
    client.batch_execute("set enable_indexscan = off; set enable_indexonlyscan = off")?;
    let tables = ["accounts", "tellers", "branches", "history"];
    let print = |table: &str| -> Result<(i64, String)> {
        let query = format!(
            "select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text
             from pgbench_{table} t"
        );
        let row = client.query_one(&query, &[])?;
        Ok((row.get(0), row.get(1)))
    };
    tables.map(print).into_iter().collect()
}

/// The four sums of pgbench's tables, which every transaction keeps equal, and the numbers of their
/// rows, which stay as they were made.
///
/// # Errors
/// When they differ.
pub fn check_pgbench_sums(cluster: &Cluster) -> Result<i64> {
    let row = cluster.connect()?.query_one(
        "select (select coalesce(sum(abalance), 0) from pgbench_accounts)::bigint,
                (select coalesce(sum(tbalance), 0) from pgbench_tellers)::bigint,
                (select coalesce(sum(bbalance), 0) from pgbench_branches)::bigint,
                (select coalesce(sum(delta), 0) from pgbench_history)::bigint,
                (select count(abalance) from pgbench_accounts),
                (select count(tbalance) from pgbench_tellers),
                (select count(bbalance) from pgbench_branches)",
        &[],
    )?;
    let sums: Vec<i64> = (0..4).map(|i| row.get(i)).collect();
    ensure!(sums.windows(2).all(|pair| pair[0] == pair[1]), "pgbench's sums differ: {sums:?}");
    let (accounts, tellers, branches): (i64, i64, i64) = (row.get(4), row.get(5), row.get(6));
    ensure!(
        accounts == 100_000 * branches && tellers == 10 * branches,
        "{branches} branches have {tellers} tellers and {accounts} accounts"
    );
    Ok(sums[0])
}
