//! What a storage node keeps on its disk, and how to spoil it.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::{Cluster, Moments};

/// Where a log's first unit begins, and what units are padded to.
const SECTOR: u64 = 512;
/// Bytes of a unit before its entries.
const UNIT_HEADER: u64 = 48;

/// A structure on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// The first block of a page file.
    FirstBlock,
    /// One in its middle.
    Block,
    /// A page file's index, or what lies beside it.
    Index,
    /// Its last bytes.
    Footer,
    /// What names a segment's files.
    Manifest,
    /// Whose disk it is.
    Identity,
    /// The header of the newest log file.
    LogHeader,
    /// The first unit in it: what is known of the segments' directories.
    Ledger,
    /// A unit in its middle.
    LogMiddle,
    /// The last unit.
    LogTail,
}

/// Every structure that a running node has in memory too, or whose content peers have.
pub const STRUCTURES: [Structure; 9] = [
    Structure::FirstBlock,
    Structure::Block,
    Structure::Index,
    Structure::Footer,
    Structure::Manifest,
    Structure::Identity,
    Structure::LogHeader,
    Structure::Ledger,
    Structure::LogMiddle,
];

/// A bit that was flipped.
#[derive(Clone, Debug)]
pub struct Spoilt {
    /// In which file.
    pub path: PathBuf,
    inode: u64,
    at: u64,
    byte: u8,
}

impl Spoilt {
    /// Whether it is flipped still: a running node may have put another file there, for reasons of its
    /// own, before it looked.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let look = || -> std::io::Result<bool> {
            let file = File::open(&self.path)?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, self.at)?;
            Ok(file.metadata()?.ino() == self.inode && byte[0] == self.byte)
        };
        look().unwrap_or(false)
    }
}

/// One node's directory.
#[derive(Clone, Debug)]
pub struct NodeDisk {
    dir: PathBuf,
}

impl NodeDisk {
    /// The disk of a node of this cluster.
    #[must_use]
    pub fn of(cluster: &Cluster, node: &str) -> NodeDisk {
        NodeDisk { dir: cluster.data_dir().join("nodes").join(node) }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Page files, longest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn page_files(&self) -> Result<Vec<PathBuf>> {
        let mut files = self.below("seg", ".pages")?;
        let length = |path: &PathBuf| path.metadata().map_or(0, |found| found.len());
        files.retain(|path| length(path) > 0);
        files.sort_by_key(|path| std::cmp::Reverse(length(path)));
        Ok(files)
    }

    fn below(&self, place: &str, ending: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut places = vec![self.dir.join(place)];
        while let Some(place) = places.pop() {
            let entries = std::fs::read_dir(&place)
                .with_context(|| format!("cannot list {}", place.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    places.push(path);
                } else if path.to_string_lossy().ends_with(ending) {
                    found.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// The newest log file, and where its units begin.
    ///
    /// # Errors
    /// When there is none with a unit.
    pub fn newest_log(&self) -> Result<(PathBuf, Vec<u64>)> {
        let mut newest = None;
        for path in self.below("log", ".log")? {
            let life = number(&File::open(&path)?, 24)?;
            if newest.as_ref().is_none_or(|(known, _)| *known < life) {
                newest = Some((life, path));
            }
        }
        let (life, path) = newest.filter(|(life, _)| *life > 0).context("no log file is used")?;
        let file = File::open(&path)?;
        let (mut units, mut at) = (Vec::new(), SECTOR);
        // A unit's header names its life and its offset.
        while at + UNIT_HEADER < file.metadata()?.len()
            && (number(&file, at + 8)?, number(&file, at + 16)?) == (life, at)
        {
            units.push(at);
            let length = number(&file, at)? >> 32;
            at += (UNIT_HEADER + length).next_multiple_of(SECTOR);
        }
        ensure!(!units.is_empty(), "{} holds nothing", path.display());
        Ok((path, units))
    }

    /// Flips a bit of this structure.
    ///
    /// # Errors
    /// When there is no such structure, or the file cannot be changed.
    pub fn spoil(&self, structure: Structure) -> Result<Spoilt> {
        let page_file = || self.page_files()?.into_iter().next().context("no page file");
        let (path, at) = match structure {
            Structure::FirstBlock => (page_file()?, 40),
            Structure::Block => middle(page_file()?)?,
            Structure::Index => before_end(page_file()?, 300)?,
            Structure::Footer => before_end(page_file()?, 3)?,
            Structure::Manifest => {
                let found = self.below("seg", "/MANIFEST")?.into_iter().next();
                middle(found.context("no manifest")?)?
            }
            Structure::Identity => middle(self.dir.join("identity.json"))?,
            Structure::LogHeader => (self.newest_log()?.0, 40),
            Structure::Ledger => (self.newest_log()?.0, SECTOR + UNIT_HEADER + 30),
            Structure::LogMiddle => {
                let (path, units) = self.newest_log()?;
                ensure!(units.len() > 2, "{} has no middle", path.display());
                (path, units[units.len() / 2] + UNIT_HEADER + 9)
            }
            Structure::LogTail => {
                let (path, units) = self.newest_log()?;
                (path, units[units.len() - 1] + UNIT_HEADER + 9)
            }
        };
        flip(&path, at)
    }

    /// Flips up to twenty bytes of one file of its segments, or of its log, while the node runs; gives
    /// what was done. None when the node has nothing yet.
    pub fn spoil_any(&self, moments: &mut Moments) -> Option<String> {
        // A file may be merged away between listing and spoiling it.
        (0..20).find_map(|_| self.try_spoil(moments).ok())
    }

    fn try_spoil(&self, moments: &mut Moments) -> Result<String> {
        let mut files = self.below("seg", "")?;
        files.push(self.newest_log()?.0);
        let path = &files[moments.below(files.len() as u64) as usize];
        let length = match path.extension().is_some_and(|ending| ending == "log") {
            true => self.newest_log()?.1.last().map_or(SECTOR, |last| *last),
            false => path.metadata()?.len(),
        };
        let count = 1 + moments.below(20);
        for _ in 0..count {
            flip(path, moments.below(length.max(1)))?;
        }
        let name = path.strip_prefix(&self.dir).unwrap_or(path).display();
        Ok(format!("{count} bytes of {name}"))
    }
}

fn middle(path: PathBuf) -> Result<(PathBuf, u64)> {
    let length = path.metadata()?.len();
    Ok((path, length / 2))
}

fn before_end(path: PathBuf, distance: u64) -> Result<(PathBuf, u64)> {
    let length = path.metadata()?.len();
    Ok((path, length.saturating_sub(distance)))
}

fn number(file: &File, at: u64) -> Result<u64> {
    let mut raw = [0; 8];
    file.read_exact_at(&mut raw, at)?;
    Ok(u64::from_le_bytes(raw))
}

/// Flips a bit of a file.
///
/// # Errors
/// When it is shorter, or cannot be changed.
pub fn flip(path: &Path, at: u64) -> Result<Spoilt> {
    let what = || format!("flip a bit of {} at {at}", path.display());
    let file = File::options().read(true).write(true).open(path).with_context(what)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).with_context(what)?;
    let byte = byte[0] ^ 0x10;
    file.write_all_at(&[byte], at).with_context(what)?;
    let inode = file.metadata().with_context(what)?.ino();
    Ok(Spoilt { path: path.to_owned(), inode, at, byte })
}
