//! What must hold after a suite: the test mode was at work and found nothing, indexes agree with
//! their tables, and storage alone gives back the same database.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::Cluster;
use crate::metrics::writer_metric;
use crate::tools::client_program;

/// What the cache did while a suite ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Blocks evicted.
    pub evicted: u64,
    /// Blocks fetched because PostgreSQL waited, or ahead of need.
    pub fetched: u64,
    /// Blocks found to differ from storage's.
    pub different: u64,
}

impl Traffic {
    /// What has come about since `before`.
    ///
    /// # Errors
    /// When another daemon counts by now.
    pub fn since(self, before: Traffic) -> Result<Traffic> {
        let difference = || {
            Some(Traffic {
                evicted: self.evicted.checked_sub(before.evicted)?,
                fetched: self.fetched.checked_sub(before.fetched)?,
                different: self.different.checked_sub(before.different)?,
            })
        };
        difference().context("the writer's daemon was started again during the suite")
    }
}

/// The cache's counters since the daemon's start.
///
/// # Errors
/// When the writer's metrics cannot be read.
pub fn traffic(cluster: &Cluster) -> Result<Traffic> {
    let value = |name: &str| -> Result<u64> { Ok(writer_metric(cluster, name)? as u64) };
    Ok(Traffic {
        evicted: value("sixfold_cache_evicted_blocks")?,
        fetched: value("sixfold_cache_demanded_blocks")?
            + value("sixfold_cache_prefetched_blocks")?,
        different: value("sixfold_cache_different_blocks")?,
    })
}

/// Checks the cluster as it is, then throws its compute host away and checks what storage gives.
///
/// # Errors
/// Saying what does not hold.
pub fn check(cluster: &Cluster) -> Result<()> {
    amcheck(cluster)?;
    cluster.verify_volume()?;
    let before = dump(cluster)?;
    cluster.kill("writer", "KILL")?;
    cluster.wipe("writer")?;
    cluster.start("writer")?;
    drop(cluster.connect_when_ready()?);
    same(&before, &dump(cluster)?).context("after a new start from storage alone")?;
    amcheck(cluster).context("on pages that all came from storage")?;
    cluster.verify_volume().context("on pages that all came from storage").map(drop)
}

/// Every index against its table, in every database.
///
/// # Errors
/// With the corruption it names.
pub fn amcheck(cluster: &Cluster) -> Result<()> {
    // The suite `vacuum` makes it of a function that the check's empty search_path does not find; a
    // kill in its middle leaves it behind, and stock's pg_amcheck fails on it as well.
    let uncheckable = "--exclude-index=*.vaccluster_wrap_do_analyze_idx";
    let arguments =
        ["--all", "--install-missing", "--heapallindexed", "--parent-check", uncheckable];
    client_program(cluster, "pg_amcheck", &arguments).map(drop)
}

/// Beginnings of a dump's lines that may change: of a sequence up to 32 values may be skipped, and
/// each dump is bracketed by words made up for it.
const MAY_CHANGE: [&str; 3] = ["SELECT pg_catalog.setval(", "\\restrict ", "\\unrestrict "];

/// The whole cluster as text, without unlogged rows, which a new host does not have.
fn dump(cluster: &Cluster) -> Result<String> {
    client_program(cluster, "pg_dumpall", &["--no-unlogged-table-data"])
}

fn same(before: &str, after: &str) -> Result<()> {
    let lines = |text: &str| -> Vec<String> {
        let kept = text.lines().filter(|line| !MAY_CHANGE.iter().any(|it| line.starts_with(it)));
        kept.map(ToOwned::to_owned).collect()
    };
    let (before, after) = (lines(before), lines(after));
    ensure!(before.len() > 100, "the dump has only {} lines", before.len());
    if before == after {
        return Ok(());
    }
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    before.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    after.iter().for_each(|line| *counts.entry(line).or_default() -= 1);
    counts.retain(|_, count| *count != 0);
    let first: Vec<_> = counts.iter().take(20).collect();
    bail!(
        "the dump has changed: {} lines before, {} after, {} of other number (+ before, - after): \
         {first:#?}",
        before.len(),
        after.len(),
        counts.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_may_differ_in_a_sequence_only() {
        let rows: String = (0..200).map(|row| format!("{row}\n")).collect();
        let with = |line: &str| format!("{rows}{line}\n");
        let value = |value| with(&format!("SELECT pg_catalog.setval('s', {value}, true);"));
        assert!(same(&value(1), &value(33)).is_ok());
        assert!(same(&with("7\tx"), &with("7\ty")).is_err());
        assert!(same(&rows, &with("200")).is_err());
        assert!(same("", "").is_err(), "nothing was dumped");
    }
}
