//! Files of the directory before, used again for the one being laid out.
//!
//! Why: a file system such as ext4 does not give out an inode again soon after its file was
//! deleted, and looks past all such inodes one by one; deleting a directory of thousands of files
//! and making another costs more than everything else an opening does. So the old directories are
//! moved aside, their files are renamed into place and cut to nothing, and what is left over is
//! deleted once PostgreSQL runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::skeleton::make_directory;

/// Where old directories wait.
const ASIDE: &str = "old";

/// See the module's description.
#[derive(Debug, Default)]
pub struct Spares {
    files: Vec<PathBuf>,
}

impl Spares {
    /// Moves these directories of the instance aside; those that do not exist are passed over.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn move_aside(instance: &Path, names: &[&str]) -> anyhow::Result<()> {
        let aside = instance.join(ASIDE);
        make_directory(&aside)?;
        for name in names {
            let from = instance.join(name);
            let free = (0u32..).map(|number| aside.join(number.to_string()));
            let Some(to) = free.into_iter().find(|path| !path.exists()) else { continue };
            match fs::rename(&from, &to) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot move {} aside", from.display()));
                }
            }
        }
        Ok(())
    }

    /// The files that were moved aside.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn collect(instance: &Path) -> anyhow::Result<Spares> {
        let mut spares = Spares::default();
        let mut directories = vec![instance.join(ASIDE)];
        while let Some(directory) = directories.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot list {}", directory.display()));
                }
            };
            for entry in entries {
                let entry = entry.with_context(|| format!("in {}", directory.display()))?;
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                    Ok(kind) if kind.is_file() => spares.files.push(entry.path()),
                    _ => {}
                }
            }
        }
        Ok(spares)
    }

    /// Puts a spare file, emptied, at `path`. Without spares nothing is there, and the file that is
    /// then created is just as good.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn place(&mut self, path: &Path) -> io::Result<()> {
        let Some(spare) = self.files.pop() else { return Ok(()) };
        File::options().write(true).truncate(true).open(&spare)?;
        fs::rename(&spare, path)
    }

    /// Deletes what is left over, in a thread of its own: nobody waits for it.
    ///
    /// # Errors
    /// When the thread cannot be had.
    pub fn sweep_later(instance: &Path) -> io::Result<()> {
        let instance = instance.to_owned();
        let work = move || match Spares::sweep(&instance) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "cannot delete the directory before"),
        };
        std::thread::Builder::new().name("sweep".to_owned()).spawn(work).map(drop)
    }

    /// Deletes what is left over.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn sweep(instance: &Path) -> io::Result<()> {
        fs::remove_dir_all(instance.join(ASIDE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_come_back_empty_and_the_rest_goes() {
        let scratch = tempfile::tempdir().expect("a directory");
        let instance = scratch.path();
        for (name, content) in [("pgdata/base/1", "one"), ("pgdata/base/2", "two")] {
            let path = instance.join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        Spares::move_aside(instance, &["pgdata", "never-made"]).expect("moved");
        assert!(!instance.join("pgdata").exists());
        let mut spares = Spares::collect(instance).expect("collected");
        for name in ["a", "b", "c"] {
            spares.place(&instance.join(name)).expect("placed");
        }
        for name in ["a", "b"] {
            assert_eq!(fs::read(instance.join(name)).expect("there"), b"");
        }
        assert!(!instance.join("c").exists(), "there were only two");
        Spares::sweep(instance).expect("swept");
        assert!(!instance.join(ASIDE).exists());
    }
}
