//! What can be wrong with WAL bytes. Every error names the position and the fact.

use types::Lsn;

/// WAL bytes that are not what PostgreSQL writes, or that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// Bytes were fed that do not continue those before: the caller's mistake, nothing was taken.
    #[error("WAL bytes at {at} do not continue the stream, which is at {expected}")]
    Gap {
        /// Where the bytes given begin.
        at: Lsn,
        /// Where the stream continues.
        expected: Lsn,
    },
    /// A page header is wrong. While the page is still being written it may yet become right.
    #[error("WAL page header at {at}: {problem}")]
    Page {
        /// The page's address.
        at: Lsn,
        /// The record that was being read, to rewind to.
        record: Lsn,
        /// What is wrong.
        problem: PageProblem,
    },
    /// A record is invalid as it stands. While its bytes are still being written it may yet become
    /// valid: rewind to `start` and feed it again from there.
    #[error("WAL record at {start} of claimed length {length}: {problem}")]
    Record {
        /// Where the record begins.
        start: Lsn,
        /// The length that its header claims (`xl_tot_len`).
        length: u32,
        /// What is wrong.
        problem: RecordProblem,
    },
    /// The checksum is right, the content is not: no server of this version wrote it.
    #[error("WAL record at {start} (manager {rmid}, info {info:#04x}) is malformed: {what}")]
    Malformed {
        /// Where the record begins.
        start: Lsn,
        /// Its resource manager.
        rmid: u8,
        /// Its info bits.
        info: u8,
        /// What is wrong.
        what: &'static str,
    },
    /// A record type that no built-in resource manager of PostgreSQL 15 has.
    #[error(
        "WAL record at {start} has info {info:#04x}, which resource manager {rmid} ({manager}) of \
         PostgreSQL 15 does not know"
    )]
    Unknown {
        /// Where the record begins.
        start: Lsn,
        /// Its resource manager.
        rmid: u8,
        /// The manager's name, or `?`.
        manager: &'static str,
        /// Its info bits.
        info: u8,
    },
    /// A record of an extension's resource manager: its effects cannot be known.
    #[error(
        "WAL record at {start} belongs to the extension's resource manager {rmid}; volumes hold \
         built-in resource managers only: remove the extension that registers it"
    )]
    CustomManager {
        /// Where the record begins.
        start: Lsn,
        /// The extension's resource manager, 128..=255.
        rmid: u8,
    },
}

/// What is wrong with a page header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageProblem {
    /// Not this version's magic number (zero: the page is not written yet).
    #[error("magic {0:#06x} is not that of PostgreSQL 15")]
    Magic(u16),
    /// Unknown flag bits, or a long header where none belongs, or none at a segment's start.
    #[error("flags {0:#06x} are not possible here")]
    Flags(u16),
    /// The page is another one: left over from a recycled segment.
    #[error("it says it is page {0}")]
    Address(Lsn),
    /// Not the timeline that is being read.
    #[error("timeline {found} instead of {expected}")]
    Timeline {
        /// On the page.
        found: u32,
        /// Asked for, or that of the page before.
        expected: u32,
    },
    /// The segment belongs to another cluster.
    #[error("system identifier {found} instead of {expected}")]
    SystemId {
        /// On the page.
        found: u64,
        /// Asked for.
        expected: u64,
    },
    /// The segment has another size.
    #[error("segment size {0} is not the one being read")]
    SegmentSize(u32),
    /// The segment has another page size.
    #[error("WAL page size {0} is not 8192")]
    PageSize(u32),
    /// It does not continue the record before by what is left of it.
    #[error("continues a record by {found} bytes instead of {expected}")]
    Remaining {
        /// `xlp_rem_len`.
        found: u32,
        /// What the record being read still lacks; zero: none is being read.
        expected: u32,
    },
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// Shorter than a header, or longer than any record.
    #[error("the length is not possible")]
    Length,
    /// The checksum differs.
    #[error("checksum {computed:#010x} computed, {stored:#010x} stored")]
    Checksum {
        /// Over the bytes at hand.
        computed: u32,
        /// In the header.
        stored: u32,
    },
    /// It does not name the record before.
    #[error("it follows the record at {found}, not {expected}")]
    Prev {
        /// `xl_prev`.
        found: Lsn,
        /// Start of the record before.
        expected: Lsn,
    },
    /// It cannot begin here: inside a page header or at an odd address.
    #[error("no record can begin here")]
    Position,
    /// A header inside the record contradicts another or the length.
    #[error("{0}")]
    Content(&'static str),
}
