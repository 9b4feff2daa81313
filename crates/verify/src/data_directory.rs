//! Pages from a data directory: a cold copy, or a base backup whose pages are of different moments.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use pgwal::ControlFile;
use pgwal::control_file::DbState;
use pgwal::keys::{Fork, Key, Rel};
use redo::State;
use types::Lsn;

use crate::error::VerifyError;
use crate::replay::{Before, Images};

const PAGE: u64 = 8192;
/// Blocks in a file of a relation (`RELSEG_SIZE`).
const FILE_BLOCKS: u32 = 131_072;
/// Pages in a file of an SLRU.
const FILE_PAGES: u32 = 32;
/// Directory of this version within a tablespace.
const VERSION_DIRECTORY: &str = "PG_15_202209061";

/// A data directory that nothing changes meanwhile.
#[derive(Clone, Debug)]
pub struct DataDirectory {
    path: PathBuf,
    control: ControlFile,
    /// From `backup_label`, which a base backup has.
    backup_start: Option<Lsn>,
}

impl DataDirectory {
    /// The data directory here.
    ///
    /// # Errors
    /// When it is none of PostgreSQL 15.
    pub fn open(path: &Path) -> Result<DataDirectory, VerifyError> {
        let file = path.join("global/pg_control");
        let bytes = fs::read(&file).map_err(|source| VerifyError::io(&file, source))?;
        let control = ControlFile::decode(&bytes)
            .map_err(|source| VerifyError::ControlFile { path: file, source })?;
        let backup_start = backup_start(&path.join("backup_label"))?;
        Ok(DataDirectory { path: path.to_owned(), control, backup_start })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `pg_control`.
    #[must_use]
    pub fn control(&self) -> &ControlFile {
        &self.control
    }

    /// Where recovery of it would begin.
    #[must_use]
    pub fn redo_start(&self) -> Lsn {
        self.backup_start.unwrap_or(self.control.checkpoint_copy.redo)
    }

    /// The page in its files; `None` when they end before it.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(&self, key: Key) -> Result<Option<Vec<u8>>, VerifyError> {
        let (path, number) = match key {
            Key::Block(rel, fork, block) => {
                (self.relation_file(rel, fork, block / FILE_BLOCKS), block % FILE_BLOCKS)
            }
            Key::Slru(area, page) => {
                let name = format!("{}/{:04X}", area.directory(), page / FILE_PAGES);
                (self.path.join(name), page % FILE_PAGES)
            }
            _ => return Ok(None),
        };
        let mut page = vec![0; PAGE as usize];
        let read = File::open(&path)
            .and_then(|file| file.read_exact_at(&mut page, u64::from(number) * PAGE));
        match read.map_err(|error| (error.kind(), error)) {
            Ok(()) => Ok(Some(page)),
            Err((io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof, _)) => Ok(None),
            Err((_, source)) => Err(VerifyError::Io { path, source }),
        }
    }

    fn relation_file(&self, rel: Rel, fork: Fork, number: u32) -> PathBuf {
        let directory = match rel.tablespace {
            1664 => self.path.join("global"),
            1663 => self.path.join(format!("base/{}", rel.database)),
            oid => self.path.join(format!("pg_tblspc/{oid}/{VERSION_DIRECTORY}/{}", rel.database)),
        };
        let suffix = if number == 0 { String::new() } else { format!(".{number}") };
        directory.join(format!("{}{}{suffix}", rel.relation, fork.suffix()))
    }
}

impl Images for DataDirectory {
    /// Maps and SLRU pages that are not there count as zeros. A block that is not there may belong
    /// to a relation that was cut or dropped before a base backup came to it: nothing is known.
    fn page(&mut self, key: Key) -> Result<Before, VerifyError> {
        Ok(match (self.read(key)?, key) {
            (Some(page), _) => Before::Known(page),
            (None, Key::Block(_, Fork::Main | Fork::Init, _)) => Before::Unknown,
            (None, _) => Before::Absent,
        })
    }

    fn state(&self) -> Option<State> {
        let exact = self.control.state == DbState::ShutDown && self.backup_start.is_none();
        exact.then(|| State::of_control_file(&self.control))
    }
}

/// Where a base backup's WAL begins; `None` when there is no such file.
fn backup_start(path: &Path) -> Result<Option<Lsn>, VerifyError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(VerifyError::io(path, source)),
    };
    let start = text
        .lines()
        .find_map(|line| line.strip_prefix("START WAL LOCATION: "))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok());
    match start {
        Some(start) => Ok(Some(start)),
        None => Err(VerifyError::BackupLabel { path: path.to_owned() }),
    }
}
