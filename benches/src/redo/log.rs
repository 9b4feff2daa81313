//! The log as bytes on disk: segment files in, records out.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pgwal::{ControlFile, Decoder, Waiting};
use redo::Record;
use types::{Lsn, Timeline};

const SEGMENT: u64 = 16 << 20;
/// Bytes of the log read at a time.
const READ: usize = 256 << 10;

/// Calls `work` with every record after the one at `start`, until the log ends.
///
/// # Errors
/// When a file cannot be read, or `work` fails.
pub fn each_record(
    start: Lsn,
    segments: &[PathBuf],
    mut work: impl FnMut(&Record<'_>) -> Result<()>,
) -> Result<()> {
    let mut decoder = Decoder::new(start, None, SEGMENT as u32, None, Some(Timeline(1)));
    let (mut at, mut piece) = (start, vec![0; READ]);
    for file in segments {
        let number = at.0 / SEGMENT;
        let name = pgwal::layout::segment_name(Timeline(1), number, SEGMENT as u32);
        if file.file_name().is_none_or(|found| *found != *name) {
            continue;
        }
        let mut file = fs::File::open(file)?;
        file.seek(SeekFrom::Start(at.0 % SEGMENT))?;
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                break;
            }
            decoder.feed(at, &piece[..count])?;
            at = at.plus(count as u64);
            loop {
                // An error is the remains of an older use of the file: the log ends there.
                let Ok(next) = decoder.next_borrowed() else { return Ok(()) };
                let Some(record) = next else { break };
                if record.span.start > start {
                    work(&record)?;
                }
            }
            if decoder.waiting() == Waiting::Zeros {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Start of the log that belongs to a base copy.
///
/// # Errors
/// When its `pg_control` cannot be read.
pub fn start_of(data: &Path) -> Result<Lsn> {
    let control = fs::read(data.join("global/pg_control"))?;
    Ok(ControlFile::decode(&control).context("pg_control")?.checkpoint)
}
