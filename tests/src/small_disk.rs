//! A small file system of a test's own, to run out of room on.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// A file system in memory, gone when dropped.
pub struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// One of so many megabytes that every user can reach. None, and the reason printed, where this
    /// process may not mount: root in a container without the right, or an ordinary user.
    ///
    /// # Errors
    /// When there is no `mount` at all.
    pub fn mount(megabytes: u64) -> Result<Option<SmallDisk>> {
        let dir = tempfile::Builder::new().prefix("sixfold-disk-").tempdir()?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=755"), "sixfold-test"])
            .arg(dir.path())
            .output()
            .context("run mount")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("skipped: no small file system can be mounted here: {}", said.trim());
            return Ok(None);
        }
        Ok(Some(SmallDisk { dir }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes all the room that is left; `false` gives it back.
    ///
    /// # Errors
    /// When the file cannot be made or removed.
    pub fn fill(&self, full: bool) -> Result<()> {
        let path = self.dir.path().join("filler");
        if !full {
            return std::fs::remove_file(&path).context("remove the filler");
        }
        let mut filler = std::fs::File::create(&path).context("make the filler")?;
        let zeros = vec![0; 4096];
        while filler.write_all(&zeros).is_ok() {}
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        match Command::new("umount").arg("--lazy").arg(self.dir.path()).status() {
            Ok(status) if status.success() => {}
            outcome => eprintln!("{} stays mounted: {outcome:?}", self.dir.path().display()),
        }
    }
}
