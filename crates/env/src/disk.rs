//! What a store asks of a disk, and what can go wrong with it.
//!
//! The durability model is the weakest that POSIX allows: a write is durable once `sync` (or a
//! durable write) has returned, a name once `sync_dir` of its directory has returned. A failed sync
//! says nothing about what is on the medium, and a second one is no evidence either: callers stop.

use std::fmt;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A new file, to read and write; an error when the name is taken.
    Create,
}

/// What was being done when an error occurred.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Opening or creating a file.
    Open,
    /// Listing a directory.
    List,
    /// Renaming.
    Rename,
    /// Removing a file or directory.
    Remove,
    /// Making a directory's names durable.
    SyncDir,
    /// Creating a directory.
    CreateDir,
    /// Asking for free space.
    FreeBytes,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making a file's content durable.
    Sync,
    /// Asking for or changing a file's length.
    Length,
    /// Reserving space.
    Allocate,
}

/// What kind of failure; tells the caller what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// No such name.
    Missing,
    /// The name is taken.
    Exists,
    /// No space left.
    Full,
    /// The file ends before the bytes asked for.
    Eof,
    /// The medium or the system failed; what it holds is unknown.
    Failed,
}

/// A disk operation that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {} at offset {offset}: {detail}{}", path.display(), advice(*kind))]
pub struct DiskError {
    /// What was being done.
    pub operation: Operation,
    /// To what.
    pub path: PathBuf,
    /// Where in the file; zero where it does not matter.
    pub offset: u64,
    /// Class of failure.
    pub kind: ErrorKind,
    /// The system's words.
    pub detail: String,
}

/// What the operator does about it, where that follows from the class.
fn advice(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::Full => format!("; {}", crate::room::FULL),
        _ => String::new(),
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open",
            Operation::List => "list",
            Operation::Rename => "rename",
            Operation::Remove => "remove",
            Operation::SyncDir => "sync directory",
            Operation::CreateDir => "create directory",
            Operation::FreeBytes => "free space of",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Sync => "sync",
            Operation::Length => "length of",
            Operation::Allocate => "allocate",
        })
    }
}

/// A file system, as far as a store needs one. Shared between threads.
pub trait Disk: Send + Sync {
    /// Opens or creates a file.
    ///
    /// # Errors
    /// `Missing`, `Exists`, or the system's failure.
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>, DiskError>;

    /// Names in a directory, sorted.
    ///
    /// # Errors
    /// `Missing`, or the system's failure.
    fn list(&self, directory: &Path) -> Result<Vec<String>, DiskError>;

    /// Renames a file, replacing a file of the new name. Durable after `sync_dir` only.
    ///
    /// # Errors
    /// `Missing`, or the system's failure.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Removes a file; open handles stay readable. Durable after `sync_dir` only.
    ///
    /// # Errors
    /// `Missing`, or the system's failure.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `Missing`, or the system's failure.
    fn remove_dir(&self, path: &Path) -> Result<(), DiskError>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// `Missing`, or the system's failure.
    fn sync_dir(&self, directory: &Path) -> Result<(), DiskError>;

    /// Creates a directory and those above it; no error when it exists.
    ///
    /// # Errors
    /// The system's failure.
    fn create_dir(&self, directory: &Path) -> Result<(), DiskError>;

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// The system's failure.
    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError>;
}

/// An open file. Every method may be called from several threads at once.
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `Eof` when the file ends first, or the system's failure.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError>;

    /// Writes all slices one after another, not yet durable.
    ///
    /// # Errors
    /// `Full`, or the system's failure; then any part may have been written.
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError>;

    /// Writes all slices one after another and returns when they are durable; one system call where
    /// the system can. Bytes of other writes are not made durable by this.
    ///
    /// # Errors
    /// `Full`, or the system's failure; then any part may be durable.
    fn write_at_durable(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError>;

    /// Makes content and length durable.
    ///
    /// # Errors
    /// The system's failure; never to be retried.
    fn sync(&self) -> Result<(), DiskError>;

    /// Lets the next read of these bytes come from the medium: what the system has cached of them and
    /// need not write is dropped, where it can be told to.
    fn uncache(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// The system's failure.
    fn len(&self) -> Result<u64, DiskError>;

    /// Whether the length is zero.
    ///
    /// # Errors
    /// As [`File::len`].
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Cuts, or extends with zeros.
    ///
    /// # Errors
    /// The system's failure.
    fn set_len(&self, length: u64) -> Result<(), DiskError>;
}
