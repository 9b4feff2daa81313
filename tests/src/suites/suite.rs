//! One suite: which tests, and one run of them against one server.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{signal_group, wait_for_exit};
use crate::stock::{directory_for_postgres, unprivileged};
use crate::suites::source::Source;
use crate::tools::pg_bin;

/// Modules whose suites are run: index types, custom access paths, and those that look at pages.
const CONTRIB: [&str; 10] = [
    "btree_gin",
    "btree_gist",
    "pg_trgm",
    "hstore",
    "ltree",
    "intarray",
    "bloom",
    "cube",
    "amcheck",
    "pageinspect",
];
/// Longest run of a suite; the serial one takes minutes.
const LIMIT: Duration = Duration::from_secs(3600);

/// A suite of tests.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Its name here.
    pub name: String,
    /// Suites of one group are run on one server, one after the other.
    pub group: &'static str,
    /// The program that runs it, below the server's libraries.
    program: &'static str,
    /// Its directory in the source.
    inputs: String,
    /// Further arguments: what to run, and how.
    arguments: Vec<String>,
}

/// What a run gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether it passed, by test.
    pub tests: BTreeMap<String, bool>,
    /// How long it took.
    pub took: Duration,
    /// Where results and differences from what is expected lie.
    pub outputs: PathBuf,
}

impl Outcome {
    /// Tests passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.tests.values().filter(|passed| **passed).count()
    }
}

/// Every suite, in the order in which they are run.
///
/// # Errors
/// When the source is not as expected.
pub fn all(source: &Source) -> Result<Vec<Suite>> {
    const REGRESS: &str = "pgxs/src/test/regress/pg_regress";
    let regress = |name: &str, further: &[&str]| {
        let schedule = source.tree.join("src/test/regress/parallel_schedule");
        let mut arguments = vec![format!("--schedule={}", schedule.display())];
        arguments.extend(further.iter().map(ToString::to_string));
        let inputs = "src/test/regress".to_owned();
        Suite { name: name.to_owned(), group: "regression", program: REGRESS, inputs, arguments }
    };
    let schedule = source.tree.join("src/test/isolation/isolation_schedule");
    let isolation = Suite {
        name: "isolation".to_owned(),
        group: "isolation",
        program: "pgxs/src/test/isolation/pg_isolation_regress",
        inputs: "src/test/isolation".to_owned(),
        arguments: vec![
            format!("--schedule={}", schedule.display()),
            // Left out of the schedule for servers that refuse prepared transactions.
            "prepared-transactions".to_owned(),
            "prepared-transactions-cic".to_owned(),
        ],
    };
    let mut suites = vec![
        regress("parallel", &["--max-concurrent-tests=20"]),
        regress("serial", &["--max-connections=1"]),
        isolation,
    ];
    for module in CONTRIB {
        let inputs = format!("contrib/{module}");
        let makefile = source.tree.join(&inputs).join("Makefile");
        let text = fs::read_to_string(&makefile)
            .with_context(|| format!("read {}", makefile.display()))?;
        let mut arguments = vec!["--dbname=contrib_regression".to_owned()];
        arguments.extend(tests_of(&text));
        ensure!(arguments.len() > 1, "{} names no tests", makefile.display());
        let name = module.to_owned();
        suites.push(Suite { name, group: "contrib", program: REGRESS, inputs, arguments });
    }
    Ok(suites)
}

/// The tests that a module's makefile names.
fn tests_of(makefile: &str) -> Vec<String> {
    let joined = makefile.replace("\\\n", " ");
    let list = joined.lines().find_map(|line| line.strip_prefix("REGRESS = ")).unwrap_or("");
    list.split_whitespace().map(ToOwned::to_owned).collect()
}

impl Suite {
    /// Runs it against the server on `port`, with everything it writes in `outputs`.
    ///
    /// # Errors
    /// When it cannot be run at all, or does not end.
    pub fn run(&self, source: &Source, port: u16, outputs: &Path) -> Result<Outcome> {
        let began = Instant::now();
        let mut run = self.start(source, port, outputs)?;
        wait_for_exit(&mut run.child, LIMIT).with_context(|| format!("suite {}", self.name))?;
        let tests = run.tests()?;
        ensure!(!tests.is_empty(), "suite {} ran no test; see {}", self.name, outputs.display());
        Ok(Outcome { tests, took: began.elapsed(), outputs: outputs.to_owned() })
    }

    /// Starts it as [`Suite::run`] does and leaves it running.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, source: &Source, port: u16, outputs: &Path) -> Result<Run> {
        directory_for_postgres(outputs)?;
        let inputs = source.tree.join(&self.inputs);
        let printed = outputs.join("printed");
        let out = File::create(&printed)?;
        let child = unprivileged(&pg_bin().join("../lib").join(self.program))?
            .current_dir(&inputs)
            .env_remove("PGOPTIONS")
            .args(["--host=127.0.0.1", "--user=postgres"])
            .arg(format!("--port={port}"))
            .arg(format!("--bindir={}", pg_bin().display()))
            .arg(format!("--dlpath={}", source.libraries.display()))
            .arg(format!("--inputdir={}", inputs.display()))
            .arg(format!("--outputdir={}", outputs.display()))
            .args(&self.arguments)
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("run {} (postgresql-15's)", self.program))?;
        Ok(Run { child, printed })
    }
}

/// A suite under way; what it has started ends with it.
#[derive(Debug)]
pub struct Run {
    child: Child,
    printed: PathBuf,
}

impl Run {
    /// The tests that are through so far.
    ///
    /// # Errors
    /// When its output cannot be read.
    pub fn tests(&self) -> Result<BTreeMap<String, bool>> {
        let printed =
            fs::read(&self.printed).with_context(|| format!("read {}", self.printed.display()))?;
        Ok(tests_in(&String::from_utf8_lossy(&printed)))
    }

    /// Whether it has come to its end.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        signal_group(self.child.id(), libc::SIGKILL);
        if let Err(error) = self.child.wait() {
            eprintln!("waiting for a suite: {error}");
        }
    }
}

/// The tests in what `pg_regress` prints, and whether each passed.
fn tests_in(printed: &str) -> BTreeMap<String, bool> {
    let mut tests = BTreeMap::new();
    for line in printed.lines() {
        let Some((left, right)) = line.split_once(" ... ") else { continue };
        let name = left.trim_start().trim_start_matches("test ").trim();
        if !name.is_empty() && !name.contains(char::is_whitespace) {
            tests.insert(name.to_owned(), right.trim_start().starts_with("ok "));
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_passed_only_if_it_says_so() {
        let printed = "test test_setup                   ... ok          151 ms\n\
             parallel group (3 tests):  text char name\n     \
             text                         ... FAILED       75 ms\n     \
             char                         ... failed (ignored)       75 ms\n     \
             name                         ... FAILED (test process exited with exit code 2)   9 ms\n\
             ======================\n 3 of 4 tests failed.\n";
        let tests: Vec<(String, bool)> = tests_in(printed).into_iter().collect();
        let expected = [("char", false), ("name", false), ("test_setup", true), ("text", false)];
        assert_eq!(tests, expected.map(|(name, passed)| (name.to_owned(), passed)));
    }

    #[test]
    fn a_makefile_names_its_tests_over_several_lines() {
        let makefile = "DATA = a.sql\nREGRESS = one two \\\n\tthree\n\nSHLIB_LINK += x\n";
        assert_eq!(tests_of(makefile), ["one", "two", "three"]);
    }
}
