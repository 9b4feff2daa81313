//! Layout of PostgreSQL 15's WAL: every number that another major version may change.
//!
//! WAL is a sequence of 8 KiB pages in segment files. Each page begins with a header, long on a
//! segment's first page. Records start at multiples of eight and run through page headers.

use types::{Lsn, Timeline};

pub mod op;

/// `XLOG_PAGE_MAGIC` of PostgreSQL 15.
pub const PAGE_MAGIC: u16 = 0xD110;
/// `XLOG_BLCKSZ`.
pub const WAL_PAGE_SIZE: usize = 8192;
/// `BLCKSZ`.
pub const BLOCK_SIZE: usize = 8192;
/// Header of a data page up to its line pointers (`SizeOfPageHeaderData`, aligned).
pub const PAGE_HEADER_SIZE: usize = 24;
/// `wal_segment_size` unless initdb was told otherwise.
pub const SEGMENT_SIZE_DEFAULT: u32 = 16 << 20;

/// Fields of the header of every WAL page, by offset.
pub mod page {
    /// u16, [`super::PAGE_MAGIC`].
    pub const MAGIC: usize = 0;
    /// u16, flags.
    pub const INFO: usize = 2;
    /// u32, timeline of the first record on the page.
    pub const TIMELINE: usize = 4;
    /// u64, address of the page.
    pub const ADDRESS: usize = 8;
    /// u32, what is left of the record begun on an earlier page.
    pub const REMAINING: usize = 16;
    /// Size with padding.
    pub const SHORT_SIZE: usize = 24;
    /// u64, long header only.
    pub const SYSTEM_ID: usize = 24;
    /// u32, long header only.
    pub const SEGMENT_SIZE: usize = 32;
    /// u32, long header only.
    pub const PAGE_SIZE: usize = 36;
    /// Size of the long header.
    pub const LONG_SIZE: usize = 40;

    /// The page begins with the rest of a record.
    pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
    /// The header is long.
    pub const LONG_HEADER: u16 = 0x0002;
    /// Full-page images that begin here may be removed by an archiver.
    pub const BKP_REMOVABLE: u16 = 0x0004;
    /// The rest of the record before was lost in a crash; this page begins afresh.
    pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
    /// All of them.
    pub const ALL_FLAGS: u16 = 0x000f;
}

/// Fields of a record's header, by offset.
pub mod record {
    /// u32, length of the whole record.
    pub const TOTAL_LENGTH: usize = 0;
    /// u32, transaction.
    pub const XID: usize = 4;
    /// u64, start of the record before.
    pub const PREV: usize = 8;
    /// u8.
    pub const INFO: usize = 16;
    /// u8, resource manager.
    pub const RMID: usize = 17;
    /// u32, CRC-32C of what follows the header, then of the header up to here.
    pub const CRC: usize = 20;
    /// Size.
    pub const SIZE: usize = 24;
    /// No record is longer (PostgreSQL: `MaxAllocSize`, which bounds its reader).
    pub const LENGTH_MAX: u32 = 0x3fff_ffff;

    /// Reserved low bits of `info`: the record changes files in ways its block references omit.
    pub const SPECIAL_REL_UPDATE: u8 = 0x01;
    /// Images are there to be compared after replay.
    pub const CHECK_CONSISTENCY: u8 = 0x02;

    /// Largest number of a block reference.
    pub const BLOCK_ID_MAX: u8 = 32;
    /// Main data of up to 255 bytes.
    pub const ID_DATA_SHORT: u8 = 255;
    /// Main data, u32 length.
    pub const ID_DATA_LONG: u8 = 254;
    /// Replication origin, u16.
    pub const ID_ORIGIN: u8 = 253;
    /// Top-level transaction, u32.
    pub const ID_TOP_XID: u8 = 252;
}

/// A block reference's header: `id u8, fork_flags u8, data_length u16`, then if flagged
/// the image's `length u16, hole_offset u16, info u8` and perhaps `hole_length u16`,
/// then the relation (12 bytes, unless the same as before), then the block u32.
pub mod block {
    /// Fork number.
    pub const FORK_MASK: u8 = 0x0f;
    /// An image is included.
    pub const HAS_IMAGE: u8 = 0x10;
    /// Data is included.
    pub const HAS_DATA: u8 = 0x20;
    /// Redo initialises the page.
    pub const WILL_INIT: u8 = 0x40;
    /// The relation is that of the reference before.
    pub const SAME_REL: u8 = 0x80;

    /// The image has a hole.
    pub const IMAGE_HAS_HOLE: u8 = 0x01;
    /// The image is to be restored by replay.
    pub const IMAGE_APPLY: u8 = 0x02;
    /// The image is compressed with pglz.
    pub const IMAGE_PGLZ: u8 = 0x04;
    /// The image is compressed with LZ4.
    pub const IMAGE_LZ4: u8 = 0x08;
    /// The image is compressed with Zstandard.
    pub const IMAGE_ZSTD: u8 = 0x10;
    /// Any of the three.
    pub const IMAGE_COMPRESSED: u8 = IMAGE_PGLZ | IMAGE_LZ4 | IMAGE_ZSTD;
}

const _: () = {
    assert!(page::REMAINING + 4 <= page::SHORT_SIZE && page::SHORT_SIZE.is_multiple_of(8));
    assert!(page::PAGE_SIZE + 4 == page::LONG_SIZE && page::LONG_SIZE.is_multiple_of(8));
    assert!(record::CRC + 4 == record::SIZE && record::RMID < record::CRC);
    assert!(WAL_PAGE_SIZE.is_power_of_two() && BLOCK_SIZE.is_power_of_two());
};

/// Whether `size` is a possible `wal_segment_size`: a power of two from 1 MiB to 1 GiB.
#[must_use]
pub fn is_segment_size(size: u32) -> bool {
    size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size)
}

/// Size of the page header at `page`, which must be a page's address.
#[must_use]
pub fn page_header_size(page: Lsn, segment_size: u32) -> usize {
    if page.0.is_multiple_of(u64::from(segment_size)) { page::LONG_SIZE } else { page::SHORT_SIZE }
}

/// Address of the page that `lsn` lies on.
#[must_use]
pub fn page_of(lsn: Lsn) -> Lsn {
    Lsn(lsn.0 & !(WAL_PAGE_SIZE as u64 - 1))
}

/// Start of the segment that `lsn` lies in.
#[must_use]
pub fn segment_start(lsn: Lsn, segment_size: u32) -> Lsn {
    Lsn(lsn.0 & !(u64::from(segment_size) - 1))
}

/// Where a record that follows one ending at `end` begins: behind the page header when `end` is a
/// page's first byte.
#[must_use]
pub fn record_start(end: Lsn, segment_size: u32) -> Lsn {
    if end.0.is_multiple_of(WAL_PAGE_SIZE as u64) {
        Lsn(end.0 + page_header_size(end, segment_size) as u64)
    } else {
        end
    }
}

/// Name of a segment's file, for example `000000010000000000000001`.
#[must_use]
pub fn segment_name(timeline: Timeline, segment: u64, segment_size: u32) -> String {
    let per_id = (1u64 << 32) / u64::from(segment_size);
    format!("{:08X}{:08X}{:08X}", timeline.0, segment / per_id, segment % per_id)
}

/// Timeline and number of the segment in a file of this name; `None` when it is not a segment's.
#[must_use]
pub fn parse_segment_name(name: &str, segment_size: u32) -> Option<(Timeline, u64)> {
    let plain = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    if name.len() != 24 || !name.bytes().all(plain) || !is_segment_size(segment_size) {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(&name[at..at + 8], 16).ok();
    let per_id = (1u64 << 32) / u64::from(segment_size);
    let (timeline, high, low) = (word(0)?, u64::from(word(8)?), u64::from(word(16)?));
    (timeline != 0 && low < per_id).then(|| (Timeline(timeline), high * per_id + low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_are_those_of_postgres() {
        let name = segment_name(Timeline(3), 0x1_05, SEGMENT_SIZE_DEFAULT);
        assert_eq!(name, "000000030000000100000005");
        assert_eq!(parse_segment_name(&name, SEGMENT_SIZE_DEFAULT), Some((Timeline(3), 0x105)));
        assert_eq!(segment_name(Timeline(1), 1 << 12, 1 << 20), "000000010000000100000000");
        for bad in [
            "00000003000000010000010a",
            "000000030000000100000100",
            "00000000000000010000000A",
            "000000030000000100000005.partial",
        ] {
            assert_eq!(parse_segment_name(bad, SEGMENT_SIZE_DEFAULT), None, "{bad}");
        }
    }

    #[test]
    fn records_begin_behind_page_headers() {
        let size = 1 << 20;
        assert_eq!(record_start(Lsn(0x10_0000), size), Lsn(0x10_0028));
        assert_eq!(record_start(Lsn(0x10_2000), size), Lsn(0x10_2018));
        assert_eq!(record_start(Lsn(0x10_2008), size), Lsn(0x10_2008));
    }
}
