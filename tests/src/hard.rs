//! What the tests of the hard cases have in common: the crash, what is asked afterwards, and the
//! comparison with what the client expects.

use anyhow::{Context, Result, ensure};
use postgres::types::FromSqlOwned;
use postgres::{Client, Row};

use crate::Cluster;
use crate::tools::amcheck;

/// Kill -9 of the compute host, its disk thrown away, and a connection to what storage gives back.
///
/// # Errors
/// When the writer does not come back.
pub fn lose_host(cluster: &Cluster) -> Result<Client> {
    cluster.kill("writer", "KILL")?;
    reopen(cluster)
}

/// An orderly stop of the writer, its disk thrown away, and a connection to what storage gives back.
///
/// # Errors
/// When the writer does not come back.
pub fn change_host(cluster: &Cluster) -> Result<Client> {
    cluster.kill("writer", "TERM")?;
    reopen(cluster)
}

/// A writer that has ended starts with an empty disk.
///
/// # Errors
/// When it does not come back.
pub fn reopen(cluster: &Cluster) -> Result<Client> {
    cluster.wipe("writer")?;
    cluster.start("writer")?;
    cluster.connect_when_ready()
}

/// The first column of all rows.
///
/// # Errors
/// When the query fails.
pub fn column<T: FromSqlOwned>(client: &mut Client, sql: &str) -> Result<Vec<T>> {
    Ok(rows(client, sql)?.iter().map(|row| row.get(0)).collect())
}

/// The first two columns of all rows.
///
/// # Errors
/// When the query fails.
pub fn pairs<A: FromSqlOwned, B: FromSqlOwned>(
    client: &mut Client,
    sql: &str,
) -> Result<Vec<(A, B)>> {
    Ok(rows(client, sql)?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// All rows.
///
/// # Errors
/// When the query fails, with the query.
pub fn rows(client: &mut Client, sql: &str) -> Result<Vec<Row>> {
    client.query(sql, &[]).with_context(|| sql.to_owned())
}

/// The one value that a query gives.
///
/// # Errors
/// When the query fails, with the query.
pub fn value<T: FromSqlOwned>(client: &mut Client, sql: &str) -> Result<T> {
    Ok(client.query_one(sql, &[]).with_context(|| sql.to_owned())?.get(0))
}

/// Runs statements one by one, as a script would: VACUUM and its like refuse to be part of a message
/// of several. They are told apart by semicolons outside of dollar quotes.
///
/// # Errors
/// When one fails, with the statement.
pub fn run(client: &mut Client, script: &str) -> Result<()> {
    let mut statement = String::new();
    for (index, text) in script.split("$$").enumerate() {
        if index % 2 == 1 {
            statement += &format!("$${text}$$");
            continue;
        }
        let mut pieces = text.split(';').peekable();
        while let Some(piece) = pieces.next() {
            statement += piece;
            if pieces.peek().is_some() {
                run_one(client, &std::mem::take(&mut statement))?;
            }
        }
    }
    if statement.trim().is_empty() { Ok(()) } else { run_one(client, &statement) }
}

fn run_one(client: &mut Client, statement: &str) -> Result<()> {
    client.batch_execute(statement).with_context(|| statement.chars().take(300).collect::<String>())
}

/// Compares what is there with what should be, and names the first differences.
///
/// # Errors
/// When they differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &[T], expected: &[T]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    let at = at.unwrap_or(found.len().min(expected.len()));
    let near = |items: &[T]| format!("{:?}", items.iter().skip(at).take(3).collect::<Vec<_>>());
    anyhow::bail!(
        "{what}: {} found, {} expected; from number {at} on {} instead of {}",
        found.len(),
        expected.len(),
        near(found),
        near(expected)
    )
}

/// That a query's plan uses a certain node, without which the test would show nothing.
///
/// # Errors
/// When it does not.
pub fn planned(client: &mut Client, node: &str, sql: &str) -> Result<()> {
    let plan = column::<String>(client, &format!("explain (costs off) {sql}"))?.join("\n");
    ensure!(plan.contains(node), "the plan of {sql} has no {node}:\n{plan}");
    Ok(())
}

/// What every test ends with: heaps and indexes are sound and agree, and storage gives what the writer
/// has.
///
/// # Errors
/// With what is not.
pub fn sound(cluster: &Cluster) -> Result<()> {
    amcheck(cluster)?;
    cluster.verify_volume().map(drop)
}

/// An empty directory that belongs to the user as which PostgreSQL runs.
///
/// # Errors
/// When there is no such user.
pub fn directory_for_postgres() -> Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new().prefix("sixfold-space-").tempdir()?;
    // SAFETY: geteuid has no arguments and cannot fail; getpwnam gets a C string, and what it gives is
    // read before anybody else in this process may ask.
    let owner = unsafe {
        let entry = libc::getpwnam(c"postgres".as_ptr());
        (libc::geteuid() == 0).then(|| entry.as_ref().map(|entry| (entry.pw_uid, entry.pw_gid)))
    };
    if let Some(owner) = owner {
        let (user, group) = owner.context("there is no user `postgres`")?;
        std::os::unix::fs::chown(dir.path(), Some(user), Some(group))?;
    }
    Ok(dir)
}
