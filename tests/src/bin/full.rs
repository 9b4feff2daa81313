//! `make test-full`: PostgreSQL's regression, isolation and contrib suites on a stock server and on a
//! cluster that evicts every block as soon as it may; then what is left behind is checked. Then the
//! regression suite again, with the writer killed in its middle.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tests::Stock;
use tests::suites::SETTINGS;
use tests::suites::kills::{self, Killed};
use tests::suites::report::{Compared, table};
use tests::suites::sound::{check, traffic};
use tests::suites::source::{Source, prepare};
use tests::suites::suite::{Outcome, Suite, all};
use tests::{Cluster, Options};

/// How the runs with kills are called.
const KILLS: &str = "kills";

const USAGE: &str = "usage: full [SUITE...]

Runs PostgreSQL's own suites on a stock server and on a cluster in test mode, and compares. SUITE is
one of: parallel serial isolation, a contrib module such as btree_gist, a group of them (regression,
contrib), or kills: the writer killed at random moments of the parallel schedule, where
SIXFOLD_TEST_SEED sets the moments. Without any, all are run. Exit status: 0 alike and sound, 1 not, 2 usage.
What the runs wrote stays in /tmp/sixfold-full-* when something is wrong.";

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.iter().any(|argument| argument.starts_with('-')) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match run(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<bool> {
    let mut work = tempfile::Builder::new().prefix("sixfold-full-").tempdir()?;
    work.disable_cleanup(true);
    tests::cluster::open_to_everyone(work.path())?;
    let cache = tests::cluster::target_dir().join("postgresql-source");
    eprintln!("fetching PostgreSQL's suites (kept in {})", cache.display());
    let source = prepare(&cache, work.path())?;
    let all = all(&source)?;
    let chosen = choose(&all, wanted)?;
    eprintln!("PostgreSQL {}, {} suites", source.version, chosen.len());
    let mut compared = Vec::new();
    for group in chosen.chunk_by(|a, b| a.group == b.group) {
        let stock = on_stock(&source, group, work.path())?;
        compared.extend(on_sixfold(&source, group, stock, work.path())?);
    }
    let mut alike = true;
    if wanted.is_empty() || wanted.iter().any(|wish| wish == KILLS) {
        match killed(&source, &all[0], work.path()) {
            Ok(killed) => println!("{killed}"),
            Err(error) => {
                println!("NOT AS IT MUST BE: {KILLS}: {error:#}");
                alike = false;
            }
        }
    }
    println!("{}", table(&compared));
    for one in &compared {
        for complaint in one.complaints() {
            println!("NOT AS IT MUST BE: {}: {complaint}", one.suite);
            alike = false;
        }
    }
    work.disable_cleanup(!alike);
    Ok(alike)
}

fn choose(all: &[Suite], wanted: &[String]) -> Result<Vec<Suite>> {
    let is = |suite: &Suite, wish: &String| *wish == suite.name || wish == suite.group;
    for wish in wanted {
        let known = wish == KILLS || all.iter().any(|suite| is(suite, wish));
        ensure!(known, "no suite `{wish}`\n\n{USAGE}");
    }
    let chosen = |suite: &&Suite| wanted.is_empty() || wanted.iter().any(|wish| is(suite, wish));
    Ok(all.iter().filter(chosen).cloned().collect())
}

/// Kills the writer in the middle of this suite.
fn killed(source: &Source, suite: &Suite, work: &Path) -> Result<Killed> {
    let dir = work.join(KILLS);
    std::fs::create_dir_all(&dir)?;
    let mut cluster = Cluster::up(in_test_mode())?;
    let killed = kills::run(source, suite, &cluster, &dir);
    if killed.is_err() {
        keep_log(&cluster, &dir.join("writer.log"))?;
    }
    let down = cluster.down();
    killed.and_then(|killed| down.map(|()| killed))
}

fn on_stock(source: &Source, group: &[Suite], work: &Path) -> Result<Vec<Outcome>> {
    let dir = work.join("stock").join(group[0].group);
    std::fs::create_dir_all(&dir)?;
    let stock = Stock::start(&dir.join("server"), SETTINGS).context("start the stock server")?;
    group
        .iter()
        .map(|suite| {
            let outcome = suite.run(source, stock.port, &dir.join(&suite.name))?;
            tell("stock", suite, &outcome);
            Ok(outcome)
        })
        .collect()
}

/// Runs the suites on one cluster; each new suite begins with the daemon that the last check started.
fn on_sixfold(
    source: &Source,
    group: &[Suite],
    stock: Vec<Outcome>,
    work: &Path,
) -> Result<Vec<Compared>> {
    let dir = work.join("sixfold").join(group[0].group);
    std::fs::create_dir_all(&dir)?;
    let mut cluster = Cluster::up(in_test_mode())?;
    let log = std::fs::read_to_string(writer_log(&cluster))?;
    ensure!(log.contains("test mode"), "the daemon does not say that it is in the test mode");
    let mut compared = Vec::new();
    for (suite, stock) in group.iter().zip(stock) {
        let before = traffic(&cluster)?;
        let sixfold = suite.run(source, cluster.port(), &dir.join(&suite.name))?;
        tell("sixfold", suite, &sixfold);
        let traffic = traffic(&cluster)?.since(before)?;
        let unsound = check(&cluster).err().map(|error| format!("{error:#}"));
        eprintln!("{:<12} checked: {}", suite.name, unsound.as_deref().unwrap_or("sound"));
        compared.push(Compared { suite: suite.name.clone(), stock, sixfold, traffic, unsound });
        if compared.last().is_some_and(|last| !last.complaints().is_empty()) {
            keep_log(&cluster, &dir.join(format!("{}.writer.log", suite.name)))?;
        }
    }
    cluster.down()?;
    Ok(compared)
}

/// A small cache, and out of it what may go, as soon as it may.
fn in_test_mode() -> Options {
    let settings = SETTINGS.iter().map(|(name, value)| format!("--set={name}={value}"));
    let mut arguments = vec!["--cache-size=16MB".to_owned()];
    arguments.extend(settings);
    let environment = vec![("SIXFOLD_EVICT_EVERYTHING".to_owned(), "true".to_owned())];
    Options { arguments, environment, ..Options::default() }
}

fn tell(server: &str, suite: &Suite, outcome: &Outcome) {
    let (passed, tests) = (outcome.passed(), outcome.tests.len());
    let seconds = outcome.took.as_secs();
    eprintln!("{:<12} {server:<8} {passed} of {tests} ok in {seconds} s", suite.name);
}

fn writer_log(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().join("log/writer.log")
}

fn keep_log(cluster: &Cluster, to: &Path) -> Result<()> {
    let log = writer_log(cluster);
    std::fs::copy(&log, to).with_context(|| format!("copy {}", log.display()))?;
    Ok(())
}
