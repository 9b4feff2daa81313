//! Where the stock server's programs and our preload library are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Where Debian's packages for version 15 put the programs.
const DEBIAN: &str = "/usr/lib/postgresql/15/bin";

/// The directory of PostgreSQL 15's programs: the one given, else Debian's.
pub(crate) fn programs(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = given.unwrap_or(Path::new(DEBIAN));
    let advice = "install it (Debian, Ubuntu: `apt-get install postgresql-15`) or set \
                  SIXFOLD_PG_BIN to the directory of its programs";
    if !["postgres", "initdb"].iter().all(|program| dir.join(program).is_file()) {
        bail!("PostgreSQL 15 (postgresql-15) is not in {}; {advice}", dir.display());
    }
    let answer = Command::new(dir.join("postgres"))
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}/postgres; {advice}", dir.display()))?;
    let version = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    if !version.starts_with("postgres (PostgreSQL) 15.") {
        bail!(
            "{} holds `{version}`, PostgreSQL 15 (postgresql-15) is needed; {advice}",
            dir.display()
        );
    }
    Ok(dir.to_owned())
}

/// The preload library: the one given, else the one beside this program.
pub(crate) fn shim(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let beside = || {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Ok::<_, anyhow::Error>(program.with_file_name("libsixfold_shim.so"))
    };
    let path = given.map_or_else(beside, |path| Ok(path.to_owned()))?;
    if !path.is_file() {
        bail!(
            "the preload library {} is missing; build it (`cargo build -p sixfold-shim`, with \
             --release for a release build) or set SIXFOLD_SHIM to its file",
            path.display()
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_server_or_library_is_named_with_what_to_do() {
        let error = programs(Some(Path::new("/nonexistent"))).expect_err("absent").to_string();
        assert!(
            error.contains("/nonexistent") && error.contains("install postgresql-15"),
            "{error}"
        );
        let error = shim(Some(Path::new("/nonexistent.so"))).expect_err("absent").to_string();
        assert!(error.contains("SIXFOLD_SHIM"), "{error}");
    }
}
