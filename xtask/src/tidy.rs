//! House rules as checks. Every complaint names the file, what is wrong and what to do.
//!
//! Reading order: [`ranks`] (who may depend on whom), [`sources`] (headers, sizes, purity),
//! [`size_ratchet`] (files that are too long, and may only shrink).

mod ranks;
mod size_ratchet;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// All complaints about the workspace at `root`.
pub(crate) fn run(root: &Path) -> Result<Vec<String>> {
    let packages = ranks::packages(root)?;
    let mut complaints = ranks::check(&packages);
    complaints.extend(manifests(&packages, root)?);
    let mut files = Vec::new();
    for dir in ["crates", "xtask", "tests", "benches", "fuzz"] {
        rust_files(&root.join(dir), &mut files)?;
    }
    files.sort();
    let mut sizes = Vec::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        complaints.extend(sources::check(&name, &text));
        sizes.push((name, text.lines().count()));
    }
    complaints.extend(size_ratchet::check(&sizes));
    Ok(complaints)
}

/// What every crate's directory must have.
fn manifests(packages: &[ranks::Package], root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for package in packages {
        let dir = package.manifest.parent().unwrap_or(root);
        let name = dir.strip_prefix(root).unwrap_or(dir).display();
        if dir.starts_with(root.join("crates")) && !dir.join("README.md").is_file() {
            complaints.push(format!(
                "{name}: has no README.md; say what it is, its numbered rules, what a crash leaves, \
                 how it is tested"
            ));
        }
        let manifest = fs::read_to_string(&package.manifest)
            .with_context(|| format!("cannot read {}", package.manifest.display()))?;
        if !manifest.contains("[lints]\nworkspace = true") {
            complaints.push(format!(
                "{name}/Cargo.toml: does not take the workspace's lints; add `[lints]` with \
                 `workspace = true`"
            ));
        }
    }
    Ok(complaints)
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}
