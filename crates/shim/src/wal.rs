//! The log: writes are counted, flushes wait for the quorum (rule R1).

use seam::Flush;

use crate::table::Wal;
use crate::{driver, process};

/// After a write to the log at `offset` of its file: counts it (rule H1).
pub fn wrote(wal: Wal, offset: u64, result: isize) -> isize {
    let Ok(bytes @ 1..) = u64::try_from(result) else { return result };
    process::quietly(|| {
        // Without a board the segment could not have been opened.
        if let Ok(board) = process::board() {
            let end = wal.start.saturating_add(offset).saturating_add(bytes);
            board.wal_written(end, wal.timeline);
        }
        if wal.synchronous {
            flush();
        }
    });
    result
}

/// Waits until everything written to the log is durable. Returns only then.
pub fn flush() {
    process::quietly(|| match process::board().map(|board| board.flush(driver::ring)) {
        Ok(Flush::Durable) => {}
        Ok(Flush::Fenced) => driver::stop(),
        // Cannot be: a WAL segment is opened only with a board. But never report success.
        Err(_errno) => driver::stop(),
    });
}
