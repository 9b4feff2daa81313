//! A decoded WAL record (PostgreSQL 15: `access/xlogrecord.h`), and taking one apart.

use std::ops::{Deref, Range};

use bytes::Bytes;
use smallvec::SmallVec;
use types::{Lsn, Span};

use crate::cursor::Cursor;
use crate::error::{RecordProblem, WalError};
use crate::keys::{Fork, Rel};
use crate::layout::{BLOCK_SIZE, block as flag, record as layout};

/// Where a record's bytes are: shared ([`Bytes`]: views keep the buffer) or borrowed (`&[u8]`: nothing
/// is counted, for whoever only reads the record while it has the bytes).
pub trait Source: Clone + Default + Deref<Target = [u8]> {
    /// A view of these bytes, which must be within them.
    fn part(&self, range: Range<usize>) -> Self;
    /// The bytes to keep.
    fn into_shared(self) -> Bytes;
}

impl Source for Bytes {
    fn part(&self, range: Range<usize>) -> Bytes {
        self.slice(range)
    }

    fn into_shared(self) -> Bytes {
        self
    }
}

impl Source for &[u8] {
    fn part(&self, range: Range<usize>) -> Self {
        &self[range]
    }

    fn into_shared(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

/// A record with its headers taken apart. `bytes` is the record as `xl_tot_len` counts it (headers
/// included, WAL page headers left out); all other slices are views of it.
#[derive(Clone, Debug)]
pub struct Record<B = Bytes> {
    /// Where the record lies in the log. `end` is what PostgreSQL stamps on pages (`EndRecPtr`):
    /// the aligned end; after XLOG_SWITCH the end of the segment.
    pub span: Span,
    /// `xl_prev`: start of the record before.
    pub prev: Lsn,
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
    pub blocks: Vec<BlockRef<B>>,
    /// The record's main data.
    pub main: B,
    /// The whole record.
    pub bytes: B,
}

impl Record {
    /// The checksum that PostgreSQL stores in a record's header; zero for less than a header.
    #[must_use]
    pub fn checksum(bytes: &[u8]) -> u32 {
        let Some(body) = bytes.get(layout::SIZE..) else { return 0 };
        crc32c::crc32c_append(crc32c::crc32c(body), &bytes[..layout::CRC])
    }
}

impl<B: Source> Record<B> {
    /// Takes a record apart. `bytes` are the whole record, without page headers. The checksum is
    /// not looked at: the stream decoder has done that, and [`Record::checksum`] does it again.
    ///
    /// # Errors
    /// [`WalError::Record`] when the headers contradict each other or the length.
    #[inline]
    pub fn parse(span: Span, bytes: B) -> Result<Record<B>, WalError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Parser { header: Cursor::new(&bytes) }.run(span, &bytes).map_err(|what| WalError::Record {
            start: span.start,
            length,
            problem: RecordProblem::Content(what),
        })
    }

    /// The resource manager's own bits of `info` (`~XLR_INFO_MASK`).
    #[must_use]
    pub fn op(&self) -> u8 {
        self.info & 0xf0
    }

    /// The block reference with this id.
    #[must_use]
    pub fn block(&self, id: u8) -> Option<&BlockRef<B>> {
        self.blocks.iter().find(|block| block.id == id)
    }
}

/// A record's reference to one block.
#[derive(Clone, Debug)]
pub struct BlockRef<B = Bytes> {
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
    pub image: Option<BlockImage<B>>,
    /// Data belonging to this block (`XLogRecGetBlockData`); may be empty.
    pub data: B,
}

/// A full-page image inside a record, as stored (perhaps compressed, perhaps with a hole).
#[derive(Clone, Debug)]
pub struct BlockImage<B = Bytes> {
    /// Stored bytes.
    pub stored: B,
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

/// Why a record cannot be taken apart.
type Wrong = &'static str;

const SHORT: Wrong = "it ends inside its headers";

struct Parser<'a, B> {
    header: Cursor<'a, B>,
}

/// Lengths of a block reference's image and data, which follow all headers.
type Lengths = (usize, usize);

impl<B: Source> Parser<'_, B> {
    #[inline(always)]
    fn run(mut self, span: Span, bytes: &B) -> Result<Record<B>, Wrong> {
        let total = self.header.u32().ok_or(SHORT)?;
        let xid = self.header.u32().ok_or(SHORT)?;
        let prev = Lsn(self.header.u64().ok_or(SHORT)?);
        let info = self.header.u8().ok_or(SHORT)?;
        let rmid = self.header.u8().ok_or(SHORT)?;
        self.header.skip(layout::SIZE - layout::RMID - 1).ok_or(SHORT)?;
        if total as usize != bytes.len() {
            return Err("its length is not that of its bytes");
        }
        let mut record = Record {
            span,
            prev,
            xid,
            rmid,
            info,
            origin: None,
            top_xid: None,
            blocks: Vec::new(),
            main: B::default(),
            bytes: bytes.clone(),
        };
        self.fragments(&mut record)?;
        Ok(record)
    }

    /// Reads the fragment headers, then hands out what follows them in the same order.
    #[inline(always)] // So that the record is made where the caller wants it: moving it costs more.
    fn fragments(&mut self, record: &mut Record<B>) -> Result<(), Wrong> {
        let mut lengths: SmallVec<[Lengths; 4]> = SmallVec::new();
        let (mut payload, mut main_length) = (0usize, 0usize);
        // The main data's header is the last; a record without main data ends where only payload
        // is left.
        while self.header.left() > payload {
            match self.header.u8().ok_or(SHORT)? {
                layout::ID_DATA_SHORT => {
                    main_length = usize::from(self.header.u8().ok_or(SHORT)?);
                    payload += main_length;
                    break;
                }
                layout::ID_DATA_LONG => {
                    main_length = self.header.u32().ok_or(SHORT)? as usize;
                    payload += main_length;
                    break;
                }
                layout::ID_ORIGIN => record.origin = Some(self.header.u16().ok_or(SHORT)?),
                layout::ID_TOP_XID => record.top_xid = Some(self.header.u32().ok_or(SHORT)?),
                id @ 0..=layout::BLOCK_ID_MAX => {
                    let before = record.blocks.last();
                    if before.is_some_and(|before| before.id >= id) {
                        return Err("block references are out of order");
                    }
                    let rel_before = before.map(|before| before.rel);
                    let (block, (image, data)) = block_header(&mut self.header, id, rel_before)?;
                    payload += image + data;
                    lengths.push((image, data));
                    if record.blocks.is_empty() {
                        // Nearly all records that have any have one or two.
                        record.blocks = Vec::with_capacity(2);
                    }
                    record.blocks.push(block);
                }
                _ => return Err("it has a fragment of an unknown kind"),
            }
        }
        if self.header.left() != payload {
            return Err("its fragments are not as long as the record");
        }
        for (block, (image_length, data_length)) in record.blocks.iter_mut().zip(lengths) {
            if let Some(image) = &mut block.image {
                image.stored = self.header.take(image_length).ok_or(SHORT)?;
            }
            if data_length > 0 {
                block.data = self.header.take(data_length).ok_or(SHORT)?;
            }
        }
        if main_length > 0 {
            record.main = self.header.take(main_length).ok_or(SHORT)?;
        }
        Ok(())
    }
}

#[inline(always)] // As `Parser::fragments`.
fn block_header<B: Source>(
    header: &mut Cursor<'_, B>,
    id: u8,
    rel_before: Option<Rel>,
) -> Result<(BlockRef<B>, Lengths), Wrong> {
    let flags = header.u8().ok_or(SHORT)?;
    let data_length = usize::from(header.u16().ok_or(SHORT)?);
    let fork = Fork::from_number(flags & flag::FORK_MASK).ok_or("it names an unknown fork")?;
    if (flags & flag::HAS_DATA != 0) != (data_length > 0) {
        return Err("a block reference's data flag contradicts its length");
    }
    let (image, image_length) = if flags & flag::HAS_IMAGE != 0 {
        let (image, length) = image_header(header)?;
        (Some(image), length)
    } else {
        (None, 0)
    };
    let rel = if flags & flag::SAME_REL != 0 {
        rel_before.ok_or("its first block reference names no relation")?
    } else {
        Rel {
            tablespace: header.u32().ok_or(SHORT)?,
            database: header.u32().ok_or(SHORT)?,
            relation: header.u32().ok_or(SHORT)?,
        }
    };
    let block = header.u32().ok_or(SHORT)?;
    if block == u32::MAX {
        return Err("it references the invalid block number");
    }
    let will_init = flags & flag::WILL_INIT != 0;
    let block = BlockRef { id, rel, fork, block, will_init, image, data: B::default() };
    Ok((block, (image_length, data_length)))
}

fn image_header<B: Source>(header: &mut Cursor<'_, B>) -> Result<(BlockImage<B>, usize), Wrong> {
    let length = header.u16().ok_or(SHORT)?;
    let hole_offset = header.u16().ok_or(SHORT)?;
    let flags = header.u8().ok_or(SHORT)?;
    let compression = match flags & flag::IMAGE_COMPRESSED {
        0 => Compression::None,
        flag::IMAGE_PGLZ => Compression::Pglz,
        flag::IMAGE_LZ4 => Compression::Lz4,
        flag::IMAGE_ZSTD => Compression::Zstd,
        _ => return Err("an image has two compressions"),
    };
    let has_hole = flags & flag::IMAGE_HAS_HOLE != 0;
    let block_size = BLOCK_SIZE as u16;
    let hole_length = match (compression, has_hole) {
        (Compression::None, _) => {
            block_size.checked_sub(length).ok_or("an image is longer than a block")?
        }
        (_, true) => header.u16().ok_or(SHORT)?,
        (_, false) => 0,
    };
    if has_hole && (hole_offset == 0 || hole_length == 0 || length == block_size) {
        return Err("an image's hole is empty");
    }
    if !has_hole && (hole_offset != 0 || hole_length != 0) {
        return Err("an image is shorter than a block and has no hole");
    }
    if compression != Compression::None && length >= block_size {
        return Err("a compressed image is as long as a block");
    }
    if u32::from(hole_offset) + u32::from(hole_length) > u32::from(block_size) {
        return Err("an image's hole is beyond the block");
    }
    let apply = flags & flag::IMAGE_APPLY != 0;
    let stored = B::default();
    let image = BlockImage { stored, hole_offset, hole_length, compression, apply };
    Ok((image, usize::from(length)))
}
