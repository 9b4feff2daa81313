//! Ranks: a crate depends only on crates of lower rank, so that the shape stays what it is drawn as.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Nothing may be built upon these, not even tests of others.
const LEAVES: &[&str] =
    &["sixfold-sim", "sixfold-model", "sixfold-tests", "sixfold-bench", "xtask"];
/// Rule R7: these know no PostgreSQL ...
const ENGINE_FREE: &[&str] = &[
    "sixfold-types",
    "sixfold-wire",
    "sixfold-quorum",
    "sixfold-protocol",
    "sixfold-segstore",
    "sixfold-env",
];
/// ... so they may not depend on what does.
const ENGINE: &[&str] = &["sixfold-pgwal", "sixfold-redo", "sixfold-seam", "postgres"];

/// One crate of the workspace.
#[derive(Clone, Debug)]
pub(super) struct Package {
    pub name: String,
    pub manifest: PathBuf,
    pub rank: Option<u64>,
    pub dependencies: Vec<Dependency>,
}

/// What a crate depends on.
#[derive(Clone, Debug)]
pub(super) struct Dependency {
    pub name: String,
    /// Only for its tests.
    pub dev: bool,
}

/// The workspace's crates, as cargo tells them.
pub(super) fn packages(root: &Path) -> Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let list = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    Ok(list.iter().map(package).collect())
}

fn package(value: &Value) -> Package {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let dependencies = value["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    Package {
        name: text(&value["name"]),
        manifest: text(&value["manifest_path"]).into(),
        rank: value["metadata"]["sixfold"]["rank"].as_u64(),
        dependencies: dependencies
            .iter()
            .map(|d| Dependency { name: text(&d["name"]), dev: d["kind"] == "dev" })
            .collect(),
    }
}

/// Complaints about dependencies.
pub(super) fn check(packages: &[Package]) -> Vec<String> {
    let ranks: BTreeMap<&str, u64> =
        packages.iter().filter_map(|p| Some((p.name.as_str(), p.rank?))).collect();
    let mut complaints = Vec::new();
    for package in packages {
        let name = &package.name;
        let Some(rank) = package.rank else {
            complaints.push(format!(
                "{name}: has no rank; add `rank = N` under [package.metadata.sixfold], above the \
                 ranks of all it depends on"
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let other = dependency.name.as_str();
            if LEAVES.contains(&other) {
                complaints
                    .push(format!("{name}: depends on {other}; nothing may, move what you need"));
            }
            let Some(other_rank) = ranks.get(other).filter(|_| !dependency.dev) else { continue };
            if *other_rank >= rank {
                complaints.push(format!(
                    "{name} (rank {rank}): depends on {other} (rank {other_rank}); move what you \
                     need to a lower crate, or turn the dependency round"
                ));
            }
        }
        let engine = package.dependencies.iter().filter(|d| !d.dev).map(|d| d.name.as_str());
        for other in engine.filter(|other| ENGINE.contains(other)) {
            if ENGINE_FREE.contains(&name.as_str()) {
                complaints.push(format!(
                    "{name}: depends on {other}, but knows no PostgreSQL (rule R7); go through \
                     `types::Engine`"
                ));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, rank: Option<u64>, dependencies: &[(&str, bool)]) -> Package {
        let dependency =
            |(name, dev): &(&str, bool)| Dependency { name: (*name).into(), dev: *dev };
        Package {
            name: name.to_owned(),
            manifest: PathBuf::new(),
            rank,
            dependencies: dependencies.iter().map(dependency).collect(),
        }
    }

    #[test]
    fn depending_upwards_sideways_on_leaves_or_on_the_engine_is_reported() {
        let low = package("low", Some(1), &[("high", false)]);
        let high = package("high", Some(2), &[("low", false), ("even", false)]);
        let even = package("even", Some(2), &[("high", true), ("sixfold-sim", true)]);
        let wire = package("sixfold-wire", Some(9), &[("postgres", false)]);
        let complaints = check(&[low, high, even, wire, package("bare", None, &[])]);
        let expected = [
            "low (rank 1): depends on high",
            "high (rank 2): depends on even",
            "even: depends on sixfold-sim",
            "sixfold-wire: depends on postgres",
            "bare: has no rank",
        ];
        assert_eq!(complaints.len(), expected.len(), "{complaints:#?}");
        for (complaint, start) in complaints.iter().zip(expected) {
            assert!(complaint.starts_with(start), "{complaint}");
        }
    }
}
