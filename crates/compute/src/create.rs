//! Makes a fresh database with stock `initdb`, in a scratch directory, ready to be imported.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// A data directory that is removed when it is no longer needed.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Runs `initdb` in `<instance>/initdb`.
    ///
    /// # Errors
    /// When it fails; its output is in the message.
    pub fn initdb(pg_bin: &Path, instance: &Path) -> anyhow::Result<Scratch> {
        let path = instance.join("initdb");
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot clear {}", path.display()))?;
        }
        let scratch = Scratch { path };
        let program = pg_bin.join("initdb");
        let output = Command::new(&program)
            .arg("-D")
            .arg(&scratch.path)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"])
            .args(["--no-sync", "--no-instructions"])
            .env_remove("LD_PRELOAD")
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        if !output.status.success() {
            bail!(
                "{} failed ({}): {}",
                program.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(scratch)
    }

    /// The data directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the scratch directory");
        }
    }
}
