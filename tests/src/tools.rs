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
        "{program} {arguments:?} failed ({}): {}\n{}",
        output.status,
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

/// The four sums of pgbench's tables, which every transaction keeps equal.
///
/// # Errors
/// When they differ.
pub fn check_pgbench_sums(cluster: &Cluster) -> Result<i64> {
    let row = cluster.connect()?.query_one(
        "select (select coalesce(sum(abalance), 0) from pgbench_accounts)::bigint,
                (select coalesce(sum(tbalance), 0) from pgbench_tellers)::bigint,
                (select coalesce(sum(bbalance), 0) from pgbench_branches)::bigint,
                (select coalesce(sum(delta), 0) from pgbench_history)::bigint",
        &[],
    )?;
    let sums: Vec<i64> = (0..4).map(|i| row.get(i)).collect();
    ensure!(sums.windows(2).all(|pair| pair[0] == pair[1]), "pgbench's sums differ: {sums:?}");
    Ok(sums[0])
}
