//! Records into bytes: a record from its parts, and WAL segments from records, byte for byte as
//! PostgreSQL lays them out.

use bytes::{BufMut, Bytes, BytesMut};
use types::{Lsn, Span, Timeline};

use crate::checkpoint::CheckPoint;
use crate::layout::{self, BLOCK_SIZE, WAL_PAGE_SIZE, block as flag, op, page, record as header};
use crate::page::PageHeader;
use crate::record::{BlockRef, Compression, Record};

/// A record that cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a WAL record cannot be built: {0}")]
pub struct BuildError(pub &'static str);

/// The parts of a record to be built. `blocks` in ascending order of id.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Transaction.
    pub xid: u32,
    /// Resource manager.
    pub rmid: u8,
    /// Info bits.
    pub info: u8,
    /// Replication origin.
    pub origin: Option<u16>,
    /// Top-level transaction.
    pub top_xid: Option<u32>,
    /// Block references.
    pub blocks: Vec<BlockRef>,
    /// Main data.
    pub main: Bytes,
}

impl From<&Record> for Draft {
    fn from(record: &Record) -> Draft {
        Draft {
            xid: record.xid,
            rmid: record.rmid,
            info: record.info,
            origin: record.origin,
            top_xid: record.top_xid,
            blocks: record.blocks.clone(),
            main: record.main.clone(),
        }
    }
}

impl Draft {
    /// The record's bytes, following the record that starts at `prev`.
    ///
    /// # Errors
    /// [`BuildError`] when a length or an order is not possible.
    pub fn encode(&self, prev: Lsn) -> Result<Bytes, BuildError> {
        let payload: usize = self.blocks.iter().map(|block| block.data.len() + stored(block)).sum();
        let mut out =
            BytesMut::with_capacity(64 + 32 * self.blocks.len() + payload + self.main.len());
        out.put_u32_le(0);
        out.put_u32_le(self.xid);
        out.put_u64_le(prev.0);
        out.put_u8(self.info);
        out.put_u8(self.rmid);
        out.put_u16_le(0);
        out.put_u32_le(0);
        let mut before: Option<&BlockRef> = None;
        for block in &self.blocks {
            if block.id > header::BLOCK_ID_MAX || before.is_some_and(|before| before.id >= block.id)
            {
                return Err(BuildError("block references are out of order or too many"));
            }
            let same_rel = before.is_some_and(|before| before.rel == block.rel);
            put_block_header(&mut out, block, same_rel)?;
            before = Some(block);
        }
        if let Some(origin) = self.origin {
            out.put_u8(header::ID_ORIGIN);
            out.put_u16_le(origin);
        }
        if let Some(top_xid) = self.top_xid {
            out.put_u8(header::ID_TOP_XID);
            out.put_u32_le(top_xid);
        }
        match (u8::try_from(self.main.len()), u32::try_from(self.main.len())) {
            (Ok(0), _) => {}
            (Ok(short), _) => out.put_slice(&[header::ID_DATA_SHORT, short]),
            (_, Ok(long)) => {
                out.put_u8(header::ID_DATA_LONG);
                out.put_u32_le(long);
            }
            _ => return Err(BuildError("the main data is too long")),
        }
        for block in &self.blocks {
            if let Some(image) = &block.image {
                out.put_slice(&image.stored);
            }
            out.put_slice(&block.data);
        }
        out.put_slice(&self.main);
        match u32::try_from(out.len()) {
            Ok(length) if length <= header::LENGTH_MAX => {
                out[..4].copy_from_slice(&length.to_le_bytes());
            }
            _ => return Err(BuildError("the record is too long")),
        }
        let crc = Record::checksum(&out);
        out[header::CRC..header::SIZE].copy_from_slice(&crc.to_le_bytes());
        Ok(out.freeze())
    }
}

fn stored(block: &BlockRef) -> usize {
    block.image.as_ref().map_or(0, |image| image.stored.len())
}

fn put_block_header(
    out: &mut BytesMut,
    block: &BlockRef,
    same_rel: bool,
) -> Result<(), BuildError> {
    let mut flags = block.fork as u8;
    for (set, bit) in [
        (block.image.is_some(), flag::HAS_IMAGE),
        (!block.data.is_empty(), flag::HAS_DATA),
        (block.will_init, flag::WILL_INIT),
        (same_rel, flag::SAME_REL),
    ] {
        flags |= if set { bit } else { 0 };
    }
    let data_length =
        u16::try_from(block.data.len()).map_err(|_| BuildError("a block's data is too long"))?;
    out.put_u8(block.id);
    out.put_u8(flags);
    out.put_u16_le(data_length);
    if let Some(image) = &block.image {
        let has_hole = image.hole_length > 0;
        let mut info = match image.compression {
            Compression::None => 0,
            Compression::Pglz => flag::IMAGE_PGLZ,
            Compression::Lz4 => flag::IMAGE_LZ4,
            Compression::Zstd => flag::IMAGE_ZSTD,
        };
        info |= if has_hole { flag::IMAGE_HAS_HOLE } else { 0 };
        info |= if image.apply { flag::IMAGE_APPLY } else { 0 };
        let plain = BLOCK_SIZE - usize::from(image.hole_length).min(BLOCK_SIZE);
        let fits = match image.compression {
            Compression::None => image.stored.len() == plain,
            _ => image.stored.len() < BLOCK_SIZE,
        };
        if !fits {
            return Err(BuildError("an image and its hole do not make a page"));
        }
        out.put_u16_le(image.stored.len() as u16);
        out.put_u16_le(image.hole_offset);
        out.put_u8(info);
        if has_hole && image.compression != Compression::None {
            out.put_u16_le(image.hole_length);
        }
    }
    if !same_rel {
        for part in [block.rel.tablespace, block.rel.database, block.rel.relation] {
            out.put_u32_le(part);
        }
    }
    out.put_u32_le(block.block);
    Ok(())
}

/// The record of a shutdown checkpoint.
#[must_use]
pub fn shutdown_checkpoint(checkpoint: &CheckPoint, prev: Lsn) -> Bytes {
    let draft = Draft {
        rmid: op::rm::XLOG,
        info: op::xlog::CHECKPOINT_SHUTDOWN,
        main: Bytes::copy_from_slice(&checkpoint.encode()),
        ..Draft::default()
    };
    draft.encode(prev).expect("a checkpoint is short and references no block")
}

/// A segment of WAL, whole, as its file holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Address of its first byte.
    pub start: Lsn,
    /// Its bytes, as many as a segment has.
    pub bytes: Vec<u8>,
}

/// Lays records into WAL pages.
///
/// In the first segment everything before the start position is zero, but for the headers of the
/// segment and of the page that the position lies on: enough for a server to start there.
/// Bit [`page::BKP_REMOVABLE`] of a page header tells whether a base backup was running when
/// PostgreSQL first used the page; no record says so. Set it with [`SegmentBuilder::removable`].
pub struct SegmentBuilder {
    timeline: Timeline,
    system_id: u64,
    segment_size: u32,
    removable: bool,
    /// End of the last record.
    at: Lsn,
    segments: Vec<Segment>,
}

impl SegmentBuilder {
    /// A builder whose first record follows position `start`, a multiple of eight.
    ///
    /// # Panics
    /// When the segment size is not a possible one, or `start` is not aligned or in a page header.
    #[must_use]
    pub fn new(
        timeline: Timeline,
        system_id: u64,
        segment_size: u32,
        start: Lsn,
    ) -> SegmentBuilder {
        assert!(layout::is_segment_size(segment_size), "segment size {segment_size}");
        let within = start.0 % WAL_PAGE_SIZE as u64;
        let size = layout::page_header_size(layout::page_of(start), segment_size) as u64;
        assert!(start.0.is_multiple_of(8) && (within == 0 || within >= size), "start {start}");
        let segments = Vec::new();
        let removable = true;
        let mut builder =
            SegmentBuilder { timeline, system_id, segment_size, removable, at: start, segments };
        let segment = layout::segment_start(start, segment_size);
        if start != segment {
            builder.page_header(segment, 0);
        }
        if within != 0 {
            builder.page_header(layout::page_of(start), 0);
        }
        builder
    }

    /// Whether the pages that follow say that no base backup is running (as from the start).
    pub fn removable(&mut self, removable: bool) {
        self.removable = removable;
    }

    /// The pages that follow belong to this timeline.
    pub fn set_timeline(&mut self, timeline: Timeline) {
        self.timeline = timeline;
    }

    /// End of the last record.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Where the next record will start.
    #[must_use]
    pub fn next_start(&self) -> Lsn {
        layout::record_start(self.at, self.segment_size)
    }

    /// Appends a record (as [`Draft::encode`] or the decoder gives it); where it lies. A switch
    /// record takes the rest of its segment.
    ///
    /// # Panics
    /// When `record` is shorter than a record's header: a programmer's error.
    pub fn push(&mut self, record: &[u8]) -> Span {
        assert!(record.len() >= header::SIZE, "{} bytes are no record", record.len());
        let page_size = WAL_PAGE_SIZE as u64;
        if self.at.0.is_multiple_of(page_size) {
            self.page_header(self.at, 0);
        }
        let start = self.next_start();
        let mut at = start;
        let mut rest = record;
        loop {
            let room = (page_size - at.0 % page_size) as usize;
            let (now, later) = rest.split_at(rest.len().min(room));
            self.write(at, now);
            at = at.plus(now.len() as u64);
            rest = later;
            if rest.is_empty() {
                break;
            }
            self.page_header(at, rest.len() as u32);
            at = layout::record_start(at, self.segment_size);
        }
        let mut end = at.aligned();
        if record[header::RMID] == op::rm::XLOG && record[header::INFO] & 0xf0 == op::xlog::SWITCH {
            end = Lsn(end.0.next_multiple_of(u64::from(self.segment_size)));
        }
        self.at = end;
        Span { start, end }
    }

    /// The segments, in order; the last is filled up with zeros.
    #[must_use]
    pub fn finish(self) -> Vec<Segment> {
        self.segments
    }

    /// The segments that are complete: nothing more will be written to them.
    pub fn take_complete(&mut self) -> Vec<Segment> {
        let open = layout::segment_start(self.at, self.segment_size);
        let complete = self.segments.iter().take_while(|segment| segment.start < open).count();
        self.segments.drain(..complete).collect()
    }

    fn page_header(&mut self, at: Lsn, remaining: u32) {
        let long = at.0.is_multiple_of(u64::from(self.segment_size));
        let mut info = if remaining > 0 { page::FIRST_IS_CONTRECORD } else { 0 };
        info |= if long { page::LONG_HEADER } else { 0 };
        info |= if self.removable { page::BKP_REMOVABLE } else { 0 };
        let header = PageHeader {
            magic: layout::PAGE_MAGIC,
            info,
            timeline: self.timeline,
            address: at,
            remaining,
            long: long.then_some((self.system_id, self.segment_size, WAL_PAGE_SIZE as u32)),
        };
        let mut bytes = Vec::with_capacity(page::LONG_SIZE);
        header.encode(&mut bytes);
        self.write(at, &bytes);
    }

    /// Writes bytes that do not cross a segment's end.
    fn write(&mut self, at: Lsn, bytes: &[u8]) {
        let start = layout::segment_start(at, self.segment_size);
        if self.segments.last().is_none_or(|segment| segment.start != start) {
            let bytes = vec![0; self.segment_size as usize];
            self.segments.push(Segment { start, bytes });
        }
        let offset = at.bytes_since(start) as usize;
        if let Some(segment) = self.segments.last_mut() {
            segment.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// What a server needs to start at `at`: the segment (two when the record crosses into the next)
/// with nothing but a shutdown checkpoint that follows position `at`, and where that lies.
/// `checkpoint.redo` and the timelines are filled in.
#[must_use]
pub fn opening_segments(
    timeline: Timeline,
    system_id: u64,
    segment_size: u32,
    at: Lsn,
    prev: Lsn,
    checkpoint: &CheckPoint,
) -> (Vec<Segment>, Span, CheckPoint) {
    let mut builder = SegmentBuilder::new(timeline, system_id, segment_size, at);
    let redo = builder.next_start();
    let filled =
        CheckPoint { redo, timeline, prev_timeline: timeline, oldest_active_xid: 0, ..*checkpoint };
    let span = builder.push(&shutdown_checkpoint(&filled, prev));
    (builder.finish(), span, filled)
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment {{ start: {}, {} bytes }}", self.start, self.bytes.len())
    }
}
