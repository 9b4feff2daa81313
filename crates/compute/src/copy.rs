//! `CREATE DATABASE ... STRATEGY file_copy` and `ALTER DATABASE ... SET TABLESPACE`: one small record
//! that copies a whole directory of files.
//!
//! - D19: the source is read from storage at the record before, and the pages are part of the record
//!   itself. A group takes one part of a record, of bounded size, so a larger database cannot be
//!   copied this way: the writer stops, and nothing of the copy has happened.

use std::time::Duration;

use anyhow::anyhow;
use pgwal::keys::Key;
use wire::Change;

use crate::draft::Draft;
use crate::pages::PageReader;
use crate::router::DatabaseCopy;
use crate::volume_log::{LogError, VolumeLog};
use crate::volume_view::Shared;

/// Bytes of pages that one record may carry.
const COPY_BYTES_MAX: usize = types::BATCH_BYTES_MAX / 4 * 3;
/// Blocks read at once.
const RUN: u32 = 256;

/// Reads the source's pages, adds them to the record and submits it.
///
/// # Errors
/// When the source cannot be read, or is too large.
pub fn copy_database(
    log: &mut VolumeLog,
    shared: &Shared,
    reader: &mut PageReader,
    copy: DatabaseCopy,
) -> Result<(), LogError> {
    let DatabaseCopy { mut record, forks } = copy;
    // What is copied is the source as of the record before: that must be readable.
    log.send();
    while log.vdl().start < record.prev {
        log.turn(Duration::from_millis(20))?;
    }
    let mut draft = Draft::new();
    let mut bytes = 0;
    for (from, to, fork, blocks) in forks {
        shared.router_mut().catalog.create_fork(&mut draft, to, fork);
        if blocks > 0 {
            shared.router_mut().catalog.touch(&mut draft, to, fork, blocks - 1);
        }
        let mut first = 0;
        while first < blocks {
            let run = first..blocks.min(first + RUN);
            let found = reader.read_blocks(shared, from, fork, run.clone())?;
            for (block, page) in run.clone().zip(found) {
                let Some(page) = page else { continue };
                bytes += page.len();
                let group = shared.router_mut().catalog.touch(&mut draft, to, fork, block);
                draft.push(group, Change::Put(Key::Block(to, fork, block).encode(), page));
            }
            if bytes > COPY_BYTES_MAX {
                return Err(anyhow!(
                    "the database copied at {} is larger than {COPY_BYTES_MAX} bytes; use CREATE \
                     DATABASE ... STRATEGY wal_log",
                    record.span
                )
                .into());
            }
            first = run.end;
        }
    }
    for (group, changes) in draft.into_parts() {
        match record.parts.iter_mut().find(|(known, ..)| *known == group) {
            Some((_, known, _)) => known.extend(changes),
            None => record.parts.push((group, changes, bytes::Bytes::new())),
        }
    }
    record.parts.sort_by_key(|(group, ..)| *group);
    log.writer().submit(record);
    Ok(())
}
