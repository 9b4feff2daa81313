//! Redo against PostgreSQL itself: WAL written under `wal_consistency_checking` holds the page that
//! each record must lead to; replaying it with [`redo`] and comparing proves redo, record by record.
//!
//! Reading order: [`tally`] (what is counted), [`replay`] (records in, counts and findings out; pure,
//! pages come from an [`Images`]), [`compare`] (two pages under PostgreSQL's masks), [`table`] (counts
//! as text); [`wal_directory`] and [`data_directory`] read files.

pub mod compare;
pub mod data_directory;
mod error;
pub mod replay;
pub mod table;
pub mod tally;
pub mod wal_directory;

pub use data_directory::DataDirectory;
pub use error::VerifyError;
pub use replay::{Images, NoImages, Replay};
pub use tally::{Finding, Place, Tally};
pub use wal_directory::{Wal, WalDirectory};

/// Replays a log to its end.
///
/// # Errors
/// [`VerifyError`] when the log or the images cannot be read, or a record is not known.
pub fn run<I: Images>(wal: &mut Wal<'_>, replay: &mut Replay<I>) -> Result<(), VerifyError> {
    while let Some(record) = wal.next()? {
        step(wal, replay, &record)?;
    }
    Ok(())
}

/// Replays one record.
///
/// # Errors
/// As [`run`].
pub fn step<I: Images>(
    wal: &Wal<'_>,
    replay: &mut Replay<I>,
    record: &pgwal::Record,
) -> Result<(), VerifyError> {
    replay.record(record).map_err(|error| match error {
        replay::ReplayError::Record(source) => wal.refuse(record, source),
        replay::ReplayError::Images(error) => error,
    })
}

/// The pages of a data directory and the log that follows them, checked to belong together.
///
/// # Errors
/// [`VerifyError::AnotherCluster`] and [`VerifyError::BeginsLate`].
pub fn start_of(wal: &WalDirectory, images: &DataDirectory) -> Result<types::Lsn, VerifyError> {
    let (found, expected) = (wal.system_id(), images.control().system_id);
    let (needed, first) = (images.redo_start(), wal.first());
    let paths = || (wal.path().to_owned(), images.path().to_owned());
    if found != expected {
        let (wal, images) = paths();
        return Err(VerifyError::AnotherCluster { wal, images, found, expected });
    }
    if first > needed {
        let (wal, images) = paths();
        return Err(VerifyError::BeginsLate { wal, images, first, needed });
    }
    Ok(needed)
}
