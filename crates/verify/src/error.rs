//! Why a comparison cannot be made. Every error names the file, and the place where one is known.

use std::io;
use std::path::{Path, PathBuf};

use pgwal::WalError;
use pgwal::control_file::ControlFileError;
use types::Lsn;

/// What stops a run before its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No WAL here.
    #[error(
        "{} has no WAL segments of PostgreSQL 15 (files named like 000000010000000000000001): give a \
         pg_wal directory, a data directory or an archive of plain files",
        path.display()
    )]
    NoSegments {
        /// The directory.
        path: PathBuf,
    },
    /// A file with a segment's name is none.
    #[error("{} is not a WAL segment of PostgreSQL 15: {what}", path.display())]
    NotASegment {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Later segments are there, this one is not.
    #[error("{} is missing, and WAL goes on after it: WAL up to {at} was compared", path.display())]
    MissingSegment {
        /// The file.
        path: PathBuf,
        /// End of the last record read.
        at: Lsn,
    },
    /// WAL of several timelines that do not follow from each other.
    #[error(
        "{} holds WAL of timeline {timeline} and others, but no readable history of it: {what}",
        path.display()
    )]
    Timelines {
        /// The history file.
        path: PathBuf,
        /// The newest timeline.
        timeline: u32,
        /// What is wrong with it.
        what: String,
    },
    /// Damage, with WAL after it; or a record that is not PostgreSQL 15's.
    #[error("{} at {at}: {source}; WAL goes on after it, so this is not its end", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in the log.
        at: Lsn,
        /// What is wrong.
        source: WalError,
    },
    /// A whole record that cannot be interpreted.
    #[error("{} at {at}: {source}", path.display())]
    Record {
        /// The segment.
        path: PathBuf,
        /// The record's start.
        at: Lsn,
        /// What is wrong.
        source: WalError,
    },
    /// The images need WAL that is not there.
    #[error(
        "{} begins at {first}, but the pages in {} need WAL from {needed} on",
        wal.display(),
        images.display()
    )]
    BeginsLate {
        /// The WAL directory.
        wal: PathBuf,
        /// The data directory.
        images: PathBuf,
        /// First byte at hand.
        first: Lsn,
        /// First byte needed.
        needed: Lsn,
    },
    /// WAL and images are of different clusters.
    #[error(
        "{} is of cluster {found}, the pages in {} are of cluster {expected} (system identifiers)",
        wal.display(),
        images.display()
    )]
    AnotherCluster {
        /// The WAL directory.
        wal: PathBuf,
        /// The data directory.
        images: PathBuf,
        /// Of the WAL.
        found: u64,
        /// Of the images.
        expected: u64,
    },
    /// No data directory of this version.
    #[error("{}: {source}: give a data directory of PostgreSQL 15", path.display())]
    ControlFile {
        /// The control file.
        path: PathBuf,
        /// What is wrong.
        source: ControlFileError,
    },
    /// `backup_label` says nothing that can be understood.
    #[error("{} does not name where WAL begins", path.display())]
    BackupLabel {
        /// The file.
        path: PathBuf,
    },
}

impl VerifyError {
    /// Makes an error of the system's.
    pub(crate) fn io(path: &Path, source: io::Error) -> VerifyError {
        VerifyError::Io { path: path.to_owned(), source }
    }
}
