//! Counts instructions of fixed work under valgrind and compares them with what is on record: a
//! regression shows, however noisy the machine.
//!
//! The count for one item is the difference of two runs that differ only in how often the work is done,
//! so that starting up does not count.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Where the counts are kept.
const RECORD: &str = "benches/instructions.json";
/// Each kind of work of `crates/redo/examples/instructions.rs`.
const KINDS: [&str; 3] = ["decode", "effects", "redo"];
const TIMES: [u64; 2] = [1, 5];
/// How much a count may grow, in percent: other processors take other ways through `memcpy`.
const TOLERANCE: f64 = 5.0;

/// Complaints about counts that have grown; with `record`, writes them down instead.
pub fn run(root: &Path, record: bool) -> Result<Vec<String>> {
    build(root)?;
    let mut counts = BTreeMap::new();
    for kind in KINDS {
        counts.insert(kind.to_owned(), per_item(root, kind)?);
    }
    let path = root.join(RECORD);
    if record {
        fs::write(&path, serde_json::to_string_pretty(&counts)? + "\n")?;
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {RECORD}"))?;
    let known: BTreeMap<String, f64> = serde_json::from_str(&text).context(RECORD)?;
    Ok(compare(&known, &counts))
}

fn compare(known: &BTreeMap<String, f64>, counts: &BTreeMap<String, f64>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (kind, count) in counts {
        let Some(before) = known.get(kind) else {
            complaints.push(format!("{kind}: not on record; `cargo xtask instructions --record`"));
            continue;
        };
        let change = (count / before - 1.0) * 100.0;
        println!("{kind}: {count} instructions an item, {before} on record ({change:+.1} %)");
        if change > TOLERANCE {
            complaints.push(format!(
                "{kind}: {change:.1} % more instructions than {RECORD} has; make it cheaper, or say \
                 why it is worth it and run `cargo xtask instructions --record`"
            ));
        } else if change < -TOLERANCE {
            println!("{kind}: a gain; keep it with `cargo xtask instructions --record`");
        }
    }
    complaints
}

fn build(root: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "-p", "sixfold-redo"])
        .args(["--example", "instructions"])
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the work to be counted does not build");
    Ok(())
}

/// Instructions for one item, to a tenth.
fn per_item(root: &Path, kind: &str) -> Result<f64> {
    let (few, _) = counted(root, kind, TIMES[0])?;
    let (many, items) = counted(root, kind, TIMES[1])?;
    let all = many.saturating_sub(few) as f64 / (TIMES[1] - TIMES[0]) as f64;
    Ok((all / items as f64 * 10.0).round() / 10.0)
}

/// Instructions of a whole run, and the items that one time is.
fn counted(root: &Path, kind: &str, times: u64) -> Result<(u64, u64)> {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let program = root.join(target).join("release/examples/instructions");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(&program)
        .args([kind, &times.to_string()])
        .output()
        .context("cannot run valgrind (apt-get install valgrind)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{kind}: {said}");
    let instructions = said
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .with_context(|| format!("valgrind did not say what it counted: {said}"))?;
    let items = String::from_utf8_lossy(&output.stdout).trim().parse().context("items")?;
    Ok((instructions, items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_may_grow_by_the_tolerance_and_not_by_more() {
        let counts = |count| BTreeMap::from([("redo".to_owned(), count)]);
        for (count, complaints) in [(1000.0, 0), (1049.0, 0), (1051.0, 1), (500.0, 0)] {
            assert_eq!(compare(&counts(1000.0), &counts(count)).len(), complaints, "{count}");
        }
        assert_eq!(compare(&BTreeMap::new(), &counts(1.0)).len(), 1);
    }
}
