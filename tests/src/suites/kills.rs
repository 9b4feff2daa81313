//! The writer killed at random moments of a suite: whatever was under way, storage and the writer
//! that is opened next agree on every page, and indexes agree with their tables.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postgres::Client;

use crate::suites::sound::{amcheck, traffic};
use crate::suites::source::Source;
use crate::suites::suite::Suite;
use crate::{Cluster, Moments};

/// How often the writer is killed.
pub const KILLS: u64 = 20;
/// A kill comes after fewer tests than this, so that some are always under way.
const MOST_TESTS: u64 = 190;
/// Longest time in which some test must get through.
const STALL: Duration = Duration::from_secs(600);

/// What the kills met.
#[derive(Debug, Default)]
pub struct Killed {
    /// Tests that were through before each kill.
    pub after: Vec<usize>,
    /// Pages found in the cache after the kills and compared with storage's.
    pub compared: u64,
    /// Blocks evicted before the kills, each compared with storage's where both had the same LSN.
    pub evicted: u64,
}

impl std::fmt::Display for Killed {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Killed { after, compared, evicted } = self;
        write!(
            to,
            "kills: {} of the writer, after {after:?} tests; {evicted} pages evicted (compared with \
             storage's where the LSN was the same) and {compared} compared after the kills, none \
             different; every index agrees with its table",
            after.len(),
        )
    }
}

/// Kills the writer [`KILLS`] times while `suite` runs, each time from its beginning.
///
/// # Errors
/// Saying what did not hold, and after which kill.
pub fn run(source: &Source, suite: &Suite, cluster: &Cluster, outputs: &Path) -> Result<Killed> {
    let mut moments = Moments::default();
    let mut killed = Killed::default();
    for round in 1..=KILLS {
        let outputs = outputs.join(format!("kill-{round}"));
        let after = kill_once(source, suite, cluster, &outputs, &mut moments, &mut killed)
            .with_context(|| format!("kill {round} of {KILLS}"))?;
        eprintln!("{:<12} {round} of {KILLS}, after {after} tests: sound", "kill");
        killed.after.push(after);
    }
    ensure!(killed.evicted > 0, "the test mode was not at work: no block was evicted");
    Ok(killed)
}

fn kill_once(
    source: &Source,
    suite: &Suite,
    cluster: &Cluster,
    outputs: &Path,
    moments: &mut Moments,
    killed: &mut Killed,
) -> Result<usize> {
    clear(cluster).context("drop what the run before has left")?;
    let before = traffic(cluster)?;
    let wanted = moments.below(MOST_TESTS);
    let mut run = suite.start(source, cluster.port(), outputs)?;
    let (mut through, mut since) = (0, Instant::now());
    while through as u64 <= wanted {
        ensure!(!run.has_ended()?, "the suite ended; see {}", outputs.display());
        ensure!(since.elapsed() < STALL, "no test gets through; see {}", outputs.display());
        std::thread::sleep(Duration::from_millis(20));
        let tests = run.tests()?.len();
        if tests > through {
            (through, since) = (tests, Instant::now());
        }
    }
    moments.pause(1500);
    let traffic = traffic(cluster)?.since(before)?;
    cluster.kill("writer", "KILL")?;
    drop(run);
    ensure!(traffic.different == 0, "{} evicted pages differed from storage's", traffic.different);
    killed.evicted += traffic.evicted;
    if moments.below(2) == 0 {
        cluster.wipe("writer")?;
    }
    cluster.start("writer")?;
    drop(cluster.connect_when_ready()?);
    // Reads every table and index, which the cache thus gets from storage.
    amcheck(cluster)?;
    let report = cluster.verify_volume()?;
    killed.compared += report["counts"]["main"]["compared"].as_u64().context("pages compared")?;
    Ok(through)
}

/// Drops what the suite makes, whatever it was at.
fn clear(cluster: &Cluster) -> Result<()> {
    let mut client = cluster.connect()?;
    let databases = "select datname::text from pg_database
         where not datistemplate and datname <> 'postgres'";
    for row in client.query(databases, &[])? {
        let database: String = row.get(0);
        let mut inside = cluster.connect_to_database(&database)?;
        for ties in [
            "select format('rollback prepared %L', gid) from pg_prepared_xacts
             where database = current_database()",
            // Without a slot there is nobody on the other side to be asked.
            "select format('alter subscription %1$I disable; drop subscription %1$I',
                           subname) from pg_subscription where subslotname is null",
            "select format('alter subscription %1$I disable;
                           alter subscription %1$I set (slot_name = none);
                           drop subscription %1$I',
                           subname) from pg_subscription where subslotname is not null",
        ] {
            execute_each(&mut inside, ties)?;
        }
        drop(inside);
        client.batch_execute(&format!("drop database \"{database}\" with (force)"))?;
    }
    execute_each(
        &mut client,
        "select format('drop tablespace %I', spcname) from pg_tablespace where spcname !~ '^pg_'",
    )?;
    execute_each(
        &mut client,
        "select format('drop owned by %1$I; drop role %1$I', rolname) from pg_roles
         where rolname !~ '^pg_' and rolname <> 'postgres'",
    )
}

/// Executes what a query gives as statements.
fn execute_each(client: &mut Client, query: &str) -> Result<()> {
    for row in client.query(query, &[])? {
        let statement: String = row.get(0);
        client.batch_execute(&statement).with_context(|| statement.clone())?;
    }
    Ok(())
}
