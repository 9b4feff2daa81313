//! `make test-full`: PostgreSQL's regression, isolation and contrib suites on a stock server and on a
//! cluster that evicts every block as soon as it may; then what is left behind is checked.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tests::suites::SETTINGS;
use tests::suites::report::{Compared, table};
use tests::suites::sound::{check, traffic};
use tests::suites::source::{Source, prepare};
use tests::suites::stock::Stock;
use tests::suites::suite::{Outcome, Suite, all};
use tests::{Cluster, Options};

const USAGE: &str = "usage: full [SUITE...]

Runs PostgreSQL's own suites on a stock server and on a cluster in test mode, and compares. SUITE is
one of: parallel serial isolation, a contrib module such as btree_gist, or a group of them
(regression, contrib); without any, all are run. Exit status: 0 alike and sound, 1 not, 2 usage.
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
    let chosen = choose(all(&source)?, wanted)?;
    eprintln!("PostgreSQL {}, {} suites", source.version, chosen.len());
    let mut compared = Vec::new();
    for group in chosen.chunk_by(|a, b| a.group == b.group) {
        let stock = on_stock(&source, group, work.path())?;
        compared.extend(on_sixfold(&source, group, stock, work.path())?);
    }
    println!("{}", table(&compared));
    let mut alike = true;
    for one in &compared {
        for complaint in one.complaints() {
            println!("NOT AS IT MUST BE: {}: {complaint}", one.suite);
            alike = false;
        }
    }
    work.disable_cleanup(!alike);
    Ok(alike)
}

fn choose(all: Vec<Suite>, wanted: &[String]) -> Result<Vec<Suite>> {
    let is = |suite: &Suite, wish: &String| *wish == suite.name || wish == suite.group;
    for wish in wanted {
        ensure!(all.iter().any(|suite| is(suite, wish)), "no suite `{wish}`\n\n{USAGE}");
    }
    let mut chosen = all;
    chosen.retain(|suite| wanted.is_empty() || wanted.iter().any(|wish| is(suite, wish)));
    Ok(chosen)
}

fn on_stock(source: &Source, group: &[Suite], work: &Path) -> Result<Vec<Outcome>> {
    let dir = work.join("stock").join(group[0].group);
    std::fs::create_dir_all(&dir)?;
    let stock = Stock::start(&dir.join("server")).context("start the stock server")?;
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
