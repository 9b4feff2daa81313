//! Bytes of a page file: blocks of entries, the sections behind them, the footer.
//!
//! Every block and section ends with a checksum seeded with the segment, the file's birth number and
//! its own offset, so that right bytes in the wrong place do not pass.

use bytes::Bytes;
use types::{Epoch, Lsn, PageKey, SegmentId, Span};

use crate::codec::{self, Malformed, Reader, get_segment, put_segment, put_varint};
use crate::version::{RangeDelete, Version, What};

/// Checksum behind a block.
pub(crate) const CRC: usize = 4;
/// Bytes of the file's footer.
pub(crate) const FOOTER: usize = 128;

const FOOTER_MAGIC: [u8; 8] = *b"6fPAGE\0\x01";

/// What binds a file's checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Binding {
    pub(crate) segment: SegmentId,
    /// Number given at the file's first writing, kept when it is copied.
    pub(crate) birth: u64,
}

impl Binding {
    fn crc(self, offset: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(codec::seed(self.segment, self.birth, offset), bytes)
    }

    /// Ends a block that will lie at `offset`.
    pub(crate) fn seal(self, offset: u64, block: &mut Vec<u8>) {
        let crc = self.crc(offset, block);
        block.extend_from_slice(&crc.to_le_bytes());
    }

    /// The content of a block read from `offset`.
    pub(crate) fn open(self, offset: u64, block: Bytes) -> Result<Bytes, Malformed> {
        let content = block.len().checked_sub(CRC).ok_or(Malformed("block too short"))?;
        let crc = block.slice(content..);
        let block = block.slice(..content);
        if *crc != self.crc(offset, &block).to_le_bytes() {
            return Err(Malformed("checksum of a block"));
        }
        Ok(block)
    }
}

/// Appends one entry; `previous` is the key of the entry before it in the block.
pub(crate) fn put_entry(
    out: &mut Vec<u8>,
    previous: Option<&PageKey>,
    key: &PageKey,
    version: &Version,
) {
    let shared =
        previous.map_or(0, |last| last.0.iter().zip(&key.0).take_while(|(a, b)| a == b).count());
    let kind = match version.what {
        What::Apply(_) => 0,
        What::Put(_) => 1,
        What::Image(_) => 2u8,
    };
    out.push(shared as u8 | kind << 5);
    out.extend_from_slice(&key.0[shared..]);
    put_varint(out, u64::from(version.number));
    put_varint(out, version.span.end.0);
    put_varint(out, version.span.end.bytes_since(version.span.start));
    codec::put_bytes(out, version.bytes());
}

/// Entries of a block, in order; bodies are slices of it.
pub(crate) fn entries(block: &Bytes) -> Result<Vec<(PageKey, Version)>, Malformed> {
    let mut reader = Reader::new(block);
    let mut entries = Vec::new();
    let mut key = PageKey::MIN;
    while !reader.is_done() {
        let first = reader.byte()?;
        let shared = usize::from(first & 0x1f);
        if shared > PageKey::SIZE {
            return Err(Malformed("key of an entry"));
        }
        key.0[shared..].copy_from_slice(reader.take(PageKey::SIZE - shared)?);
        let number = u32::try_from(reader.varint()?).map_err(|_| Malformed("change number"))?;
        let end = reader.varint()?;
        let start = end.checked_sub(reader.varint()?).ok_or(Malformed("span of an entry"))?;
        let length = reader.bytes()?.len();
        let body = block.slice(reader.at - length..reader.at);
        let what = match first >> 5 {
            0 => What::Apply(body),
            1 => What::Put(body),
            2 => What::Image(body),
            _ => return Err(Malformed("kind of an entry")),
        };
        let span = Span { start: Lsn(start), end: Lsn(end) };
        entries.push((key, Version { span, number, epoch: Epoch(0), what }));
    }
    Ok(entries)
}

/// Where a block lies and the first key in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockAt {
    pub(crate) first: PageKey,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

pub(crate) fn put_index(blocks: &[BlockAt]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blocks.len() * (PageKey::SIZE + 12));
    for block in blocks {
        out.extend_from_slice(&block.first.0);
        out.extend_from_slice(&block.offset.to_le_bytes());
        out.extend_from_slice(&block.length.to_le_bytes());
    }
    out
}

pub(crate) fn get_index(bytes: &[u8], file_bytes: u64) -> Result<Vec<BlockAt>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut blocks = Vec::with_capacity(bytes.len() / (PageKey::SIZE + 12));
    while !reader.is_done() {
        let block = BlockAt { first: reader.key()?, offset: reader.u64()?, length: reader.u32()? };
        if block.offset.checked_add(u64::from(block.length)).is_none_or(|end| end > file_bytes) {
            return Err(Malformed("block beyond the file"));
        }
        blocks.push(block);
    }
    Ok(blocks)
}

pub(crate) fn put_deletes(deletes: &[RangeDelete]) -> Vec<u8> {
    let mut out = Vec::new();
    for delete in deletes {
        out.extend_from_slice(&delete.from.0);
        out.extend_from_slice(&delete.to.0);
        out.extend_from_slice(&delete.span.start.0.to_le_bytes());
        out.extend_from_slice(&delete.span.end.0.to_le_bytes());
        out.extend_from_slice(&delete.number.to_le_bytes());
    }
    out
}

pub(crate) fn get_deletes(bytes: &[u8]) -> Result<Vec<RangeDelete>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut deletes = Vec::new();
    while !reader.is_done() {
        deletes.push(RangeDelete {
            from: reader.key()?,
            to: reader.key()?,
            span: Span { start: reader.lsn()?, end: reader.lsn()? },
            number: reader.u32()?,
            epoch: Epoch(0),
        });
    }
    Ok(deletes)
}

/// A section's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Section {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The last bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Footer {
    pub(crate) index: Section,
    pub(crate) filter: Section,
    pub(crate) deletes: Section,
}

impl Footer {
    pub(crate) fn encode(&self, binding: Binding, offset: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER);
        out.extend_from_slice(&FOOTER_MAGIC);
        put_segment(&mut out, binding.segment);
        out.extend_from_slice(&binding.birth.to_le_bytes());
        for section in [self.index, self.filter, self.deletes] {
            out.extend_from_slice(&section.offset.to_le_bytes());
            out.extend_from_slice(&section.length.to_le_bytes());
        }
        out.resize(FOOTER - CRC, 0);
        binding.seal(offset, &mut out);
        out
    }

    pub(crate) fn decode(binding: Binding, offset: u64, raw: Bytes) -> Result<Footer, Malformed> {
        let content = binding.open(offset, raw)?;
        let mut reader = Reader::new(&content);
        if reader.fixed::<8>()? != FOOTER_MAGIC
            || get_segment(&mut reader)? != binding.segment
            || reader.u64()? != binding.birth
        {
            return Err(Malformed("footer of another file"));
        }
        let mut section = || -> Result<Section, Malformed> {
            let found = Section { offset: reader.u64()?, length: reader.u64()? };
            let end = found.offset.checked_add(found.length);
            if end.is_none_or(|end| end > offset) || found.length < CRC as u64 {
                return Err(Malformed("section beyond the file"));
            }
            Ok(found)
        };
        Ok(Footer { index: section()?, filter: section()?, deletes: section()? })
    }
}

/// Two bits positions' worth of hash of a key.
pub(crate) fn key_hash(key: &PageKey) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for chunk in key.0.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    }
    hash ^ (hash >> 32)
}

const FILTER_PROBES: u64 = 6;

fn probes(hash: u64, bits: u64) -> impl Iterator<Item = usize> {
    let step = (hash >> 33) | 1;
    (0..FILTER_PROBES).map(move |i| (hash.wrapping_add(step.wrapping_mul(i)) % bits) as usize)
}

/// A set of keys that may say yes wrongly, but never no: ten bits a key.
pub(crate) fn filter(hashes: &[u64]) -> Vec<u8> {
    let bytes = (hashes.len() * 10).div_ceil(8).max(8);
    let mut filter = vec![0u8; bytes];
    for hash in hashes {
        for bit in probes(*hash, bytes as u64 * 8) {
            filter[bit / 8] |= 1 << (bit % 8);
        }
    }
    filter
}

/// Whether the filter may hold a key of this hash.
pub(crate) fn filter_may_hold(filter: &[u8], hash: u64) -> bool {
    let bits = filter.len() as u64 * 8;
    bits == 0 || probes(hash, bits).all(|bit| filter[bit / 8] & (1 << (bit % 8)) != 0)
}
