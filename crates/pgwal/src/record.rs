//! A decoded WAL record (PostgreSQL 15: `access/xlogrecord.h`).

use bytes::Bytes;
use types::Span;

use crate::keys::{Fork, Rel};

/// A record with its headers taken apart. `bytes` is the record as `xl_tot_len` counts it (headers
/// included, WAL page headers left out); all other slices are views of it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where the record lies in the log. `end` is what PostgreSQL stamps on pages (`EndRecPtr`):
    /// the aligned end; after XLOG_SWITCH the end of the segment.
    pub span: Span,
    /// `xl_prev`: start of the record before.
    pub prev: types::Lsn,
    /// `xl_xid`.
    pub xid: u32,
    /// `xl_rmid`.
    pub rmid: u8,
    /// `xl_info`, all eight bits.
    pub info: u8,
    /// Replication origin, if the record names one.
    pub origin: Option<u16>,
    /// Top-level transaction id, if the record names one (wal_level=logical).
    pub top_xid: Option<u32>,
    /// Block references in order of id.
    pub blocks: Vec<BlockRef>,
    /// The record's main data.
    pub main: Bytes,
    /// The whole record.
    pub bytes: Bytes,
}

impl Record {
    /// The resource manager's own bits of `info` (`~XLR_INFO_MASK`).
    #[must_use]
    pub fn op(&self) -> u8 {
        self.info & 0xf0
    }

    /// The block reference with this id.
    #[must_use]
    pub fn block(&self, id: u8) -> Option<&BlockRef> {
        self.blocks.iter().find(|block| block.id == id)
    }
}

/// A record's reference to one block.
#[derive(Clone, Debug)]
pub struct BlockRef {
    /// Reference number within the record, `0..=32`.
    pub id: u8,
    /// The relation.
    pub rel: Rel,
    /// The fork.
    pub fork: Fork,
    /// The block's number in the fork.
    pub block: u32,
    /// `BKPBLOCK_WILL_INIT`: redo initialises the page, its old content does not matter.
    pub will_init: bool,
    /// A full-page image, if the record carries one for this block.
    pub image: Option<BlockImage>,
    /// Data belonging to this block (`XLogRecGetBlockData`); may be empty.
    pub data: Bytes,
}

/// A full-page image inside a record, as stored (perhaps compressed, perhaps with a hole).
#[derive(Clone, Debug)]
pub struct BlockImage {
    /// Stored bytes.
    pub stored: Bytes,
    /// Where the hole of zeros begins.
    pub hole_offset: u16,
    /// Length of the hole of zeros.
    pub hole_length: u16,
    /// How `stored` is compressed.
    pub compression: Compression,
    /// `BKPIMAGE_APPLY`: replay restores it. Otherwise it is only there to be compared
    /// (`wal_consistency_checking`).
    pub apply: bool,
}

/// Compression of a full-page image (`BKPIMAGE_COMPRESS_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As is.
    None,
    /// PostgreSQL's own.
    Pglz,
    /// LZ4 block format.
    Lz4,
    /// Zstandard.
    Zstd,
}
