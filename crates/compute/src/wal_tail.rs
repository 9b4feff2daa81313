//! Reads the local WAL as PostgreSQL writes it: whole records, in order, once.
//!
//! - D11: reading stops at the first record that is not complete. A record all of whose bytes lie
//!   before the last page written must be complete: if it is not, local WAL is damaged, and the
//!   writer stops without acknowledging it.
//!
//! PostgreSQL writes whole pages and rewrites its last one while it fills, so that page, and only
//! that page, may be caught half-written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use pgwal::decode::Decoder;
use pgwal::layout::{WAL_PAGE_SIZE, page_of, segment_name};
use pgwal::{Record, WalError};
use types::{Lsn, Timeline};

/// Most bytes read before records are handed on.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Why the local WAL cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// A segment file cannot be read.
    #[error("cannot read {} at offset {offset}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// PostgreSQL has written past something that is not a record.
    #[error("local WAL is damaged below {written}, which PostgreSQL has written: {source}")]
    Damaged {
        /// End of what it has written.
        written: Lsn,
        /// What is wrong.
        source: WalError,
    },
}

/// See the module's description.
#[derive(Debug)]
pub struct WalTail {
    directory: PathBuf,
    timeline: Timeline,
    segment_size: u32,
    decoder: Decoder,
    file: Option<(u64, PathBuf, File)>,
    buffer: Vec<u8>,
}

impl WalTail {
    /// Reads on after the record that starts at `prev` and ends at `position`.
    #[must_use]
    pub fn new(
        pgdata: &Path,
        timeline: Timeline,
        segment_size: u32,
        system_id: u64,
        prev: Lsn,
        position: Lsn,
    ) -> WalTail {
        let decoder = Decoder::new(position, Some(prev), segment_size, Some(system_id), None);
        WalTail {
            directory: pgdata.join("pg_wal"),
            timeline,
            segment_size,
            decoder,
            file: None,
            buffer: Vec::new(),
        }
    }

    /// End of the last record returned.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// Hands over every whole record below `written`, the end of what PostgreSQL says it has
    /// written (read before this call). Stops early when `take` returns false.
    ///
    /// # Errors
    /// When a file cannot be read, or D11 is broken.
    pub fn read(
        &mut self,
        written: Lsn,
        take: &mut dyn FnMut(Record) -> bool,
    ) -> Result<(), TailError> {
        let start = self.decoder.rewind();
        if written <= start {
            return Ok(());
        }
        loop {
            let at = self.decoder.wants();
            let exhausted = at >= written;
            if !exhausted {
                self.feed(at, written)?;
            }
            loop {
                match self.decoder.next() {
                    Ok(Some(record)) => {
                        if !take(record) {
                            return Ok(());
                        }
                    }
                    Ok(None) => break,
                    Err(source) if must_be_whole(&source, written) => {
                        return Err(TailError::Damaged { written, source });
                    }
                    Err(_) => return Ok(()),
                }
            }
            if exhausted {
                return self.check_zeros(written);
            }
        }
    }

    /// Zeros where a record should begin are the end of what is written only on the last page.
    fn check_zeros(&self, written: Lsn) -> Result<(), TailError> {
        let at = self.decoder.position();
        let zeros = self.decoder.waiting() == pgwal::decode::Waiting::Zeros;
        if zeros && at.plus(WAL_PAGE_SIZE as u64) < last_page(written) {
            let problem = pgwal::error::RecordProblem::Length;
            let source = WalError::Record { start: at, length: 0, problem };
            return Err(TailError::Damaged { written, source });
        }
        Ok(())
    }

    fn feed(&mut self, at: Lsn, written: Lsn) -> Result<(), TailError> {
        let segment_size = u64::from(self.segment_size);
        let segment = at.0 / segment_size;
        let offset = at.0 % segment_size;
        let length = written.bytes_since(at).min(segment_size - offset).min(READ_BYTES_MAX);
        if self.file.as_ref().is_none_or(|(number, ..)| *number != segment) {
            let name = segment_name(self.timeline, segment, self.segment_size);
            let path = self.directory.join(name);
            let file = File::open(&path).map_err(|source| TailError::Io {
                path: path.clone(),
                offset,
                source,
            })?;
            self.file = Some((segment, path, file));
        }
        let Some((_, path, file)) = &self.file else { return Ok(()) };
        self.buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        file.read_exact_at(&mut self.buffer, offset).map_err(|source| TailError::Io {
            path: path.clone(),
            offset,
            source,
        })?;
        self.decoder.feed(at, &self.buffer).map_err(|source| TailError::Damaged { written, source })
    }
}

/// Start of the page that may still be changing.
fn last_page(written: Lsn) -> Lsn {
    page_of(Lsn(written.0.saturating_sub(1)))
}

/// Whether everything that the error is about lies before the last page written.
fn must_be_whole(error: &WalError, written: Lsn) -> bool {
    let last = last_page(written);
    match error {
        WalError::Page { at, .. } => *at < last,
        WalError::Record { start, length, .. } => {
            // Page headers lengthen a record by less than a hundredth.
            let span = u64::from(*length) + u64::from(*length) / 128 + 2 * WAL_PAGE_SIZE as u64;
            start.plus(span) < last
        }
        WalError::Gap { .. } => true,
        WalError::Malformed { .. } | WalError::Unknown { .. } | WalError::CustomManager { .. } => {
            true // the checksum held
        }
    }
}
