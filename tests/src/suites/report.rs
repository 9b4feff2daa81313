//! The verdict on each suite and the table at the end.

use std::collections::BTreeSet;

use crate::suites::ALLOWED;
use crate::suites::sound::Traffic;
use crate::suites::suite::Outcome;

/// A suite run on both servers.
#[derive(Debug)]
pub struct Compared {
    /// The suite.
    pub suite: String,
    /// On the stock server.
    pub stock: Outcome,
    /// On the cluster.
    pub sixfold: Outcome,
    /// What its cache did meanwhile.
    pub traffic: Traffic,
    /// What did not hold afterwards.
    pub unsound: Option<String>,
}

impl Compared {
    /// Tests that did not end alike on both servers.
    #[must_use]
    pub fn differing(&self) -> Vec<&str> {
        let names: BTreeSet<&String> =
            self.stock.tests.keys().chain(self.sixfold.tests.keys()).collect();
        let of = |outcome: &Outcome, name: &str| outcome.tests.get(name).copied();
        names
            .into_iter()
            .map(String::as_str)
            .filter(|name| of(&self.stock, name) != of(&self.sixfold, name))
            .collect()
    }

    /// Tests that stock passes and the cluster does not, without a reason in [`ALLOWED`].
    #[must_use]
    pub fn broken(&self) -> Vec<&str> {
        let passed = |outcome: &Outcome, name: &str| outcome.tests.get(name) == Some(&true);
        let allowed = |test: &str| {
            ALLOWED.iter().any(|(suite, name, _)| *suite == self.suite && *name == test)
        };
        let differing = self.differing().into_iter();
        differing.filter(|test| passed(&self.stock, test) && !allowed(test)).collect()
    }

    /// Why the suite as a whole is not as it must be.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for test in self.broken() {
            let outputs = self.sixfold.outputs.display();
            complaints.push(format!("{test} is ok on stock and not here; see {outputs}"));
        }
        if self.stock.passed() == 0 {
            complaints.push("stock passes nothing: there is nothing to compare with".to_owned());
        }
        if self.traffic.evicted == 0 || self.traffic.fetched == 0 {
            complaints.push(format!("the test mode was not at work: {:?}", self.traffic));
        }
        if self.traffic.different > 0 {
            complaints.push(format!(
                "{} times a local page differed from storage's; see the writer's log",
                self.traffic.different
            ));
        }
        complaints.extend(self.unsound.clone());
        complaints
    }
}

/// The table: one line a suite, then the allowed differences that occurred.
#[must_use]
pub fn table(all: &[Compared]) -> String {
    let mut text = format!(
        "{:<12} {:>6} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9}  differing\n",
        "suite", "tests", "ok stock", "ok sixfold", "evicted", "fetched", "s stock", "s here"
    );
    for compared in all {
        let differing = compared.differing();
        text += &format!(
            "{:<12} {:>6} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9}  {}\n",
            compared.suite,
            compared.stock.tests.len(),
            compared.stock.passed(),
            compared.sixfold.passed(),
            compared.traffic.evicted,
            compared.traffic.fetched,
            compared.stock.took.as_secs(),
            compared.sixfold.took.as_secs(),
            if differing.is_empty() { "none".to_owned() } else { differing.join(" ") },
        );
    }
    for (suite, test, reason) in ALLOWED {
        let occurred =
            |compared: &&Compared| compared.suite == *suite && compared.differing().contains(test);
        if all.iter().any(|compared| occurred(&compared)) {
            text += &format!("allowed: {suite} {test}: {reason}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(tests: &[(&str, bool)]) -> Outcome {
        let tests = tests.iter().map(|(name, passed)| ((*name).to_owned(), *passed)).collect();
        Outcome { tests, ..Outcome::default() }
    }

    fn compared(stock: &[(&str, bool)], sixfold: &[(&str, bool)]) -> Compared {
        Compared {
            suite: "some".to_owned(),
            stock: outcome(stock),
            sixfold: outcome(sixfold),
            traffic: Traffic { evicted: 5, fetched: 4, different: 0 },
            unsound: None,
        }
    }

    #[test]
    fn what_stock_passes_must_pass_and_must_have_been_run() {
        let stock = [("a", true), ("b", false), ("c", true), ("d", true)];
        assert_eq!(compared(&stock, &stock).complaints(), Vec::<String>::new());
        let here = [("a", false), ("b", true), ("c", true)];
        assert_eq!(compared(&stock, &here).differing(), ["a", "b", "d"]);
        assert_eq!(compared(&stock, &here).broken(), ["a", "d"]);
        assert_eq!(compared(&stock, &here).complaints().len(), 2);
        assert!(!compared(&[("a", false)], &[("a", false)]).complaints().is_empty());
    }

    #[test]
    fn a_run_without_evictions_or_with_a_differing_page_is_no_success() {
        let mut idle = compared(&[("a", true)], &[("a", true)]);
        idle.traffic.evicted = 0;
        assert_eq!(idle.complaints().len(), 1);
        idle.traffic = Traffic { evicted: 1, fetched: 1, different: 1 };
        assert_eq!(idle.complaints().len(), 1);
    }
}
