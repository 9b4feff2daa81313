//! Bytes of the hot log: a file's header, and the unit, which is what one append writes.
//!
//! A unit begins on a sector of its own and is checked as a whole, so a torn write leaves nothing of
//! it, and no later write touches a sector that holds acknowledged bytes. File life and offset are
//! bound into every checksum: what an earlier life left in a recycled file is not a unit.

use bytes::Bytes;
use types::{Incarnation, SegmentId};

use crate::codec::{Malformed, Reader, get_segment, put_segment};

/// Bytes written whole or not at all; units begin on multiples.
pub(crate) const SECTOR: u64 = 512;
/// Bytes of a file before its first unit.
pub(crate) const FILE_HEADER: u64 = SECTOR;
/// Bytes of a unit before its entries.
pub(crate) const UNIT_HEADER: usize = 48;
/// Bytes of an entry before its payload.
pub(crate) const ENTRY_HEADER: usize = 28;

const FILE_MAGIC: [u8; 8] = *b"6fLOG\0\0\x03";
const FILE_HEADER_USED: usize = 64;
const UNIT_MAGIC: u32 = u32::from_le_bytes(*b"6fU\x01");

/// A place in the log: life of the file, then offset in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Position {
    pub(crate) life: u64,
    pub(crate) offset: u64,
}

/// Where an entry's payload lies.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Location {
    pub(crate) life: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Location {
    /// Its place in the log's order.
    pub(crate) fn position(&self) -> Position {
        Position { life: self.life, offset: self.offset }
    }
}

/// What an entry's payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Batch = 1,
    State = 2,
    Ledger = 3,
}

/// One entry, to write or as read.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) segment: SegmentId,
    pub(crate) kind: Kind,
    pub(crate) payload: Bytes,
}

/// What the header of a log file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileHeader {
    /// Number of this life; every use of a file has another.
    pub(crate) life: u64,
    /// Where the units of the life before this one end.
    pub(crate) previous_end: u64,
    /// The oldest life that was still needed when this one began.
    pub(crate) oldest: u64,
    /// Bytes of the file: one that is shorter was cut.
    pub(crate) bytes: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self, incarnation: Incarnation) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_HEADER as usize);
        out.extend_from_slice(&FILE_MAGIC);
        out.extend_from_slice(&incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.life.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&self.oldest.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.resize(FILE_HEADER_USED - 4, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(FILE_HEADER as usize, 0);
        out
    }

    pub(crate) fn decode(bytes: &[u8], incarnation: Incarnation) -> Option<FileHeader> {
        let used = bytes.get(..FILE_HEADER_USED)?;
        let (body, crc) = used.split_at(FILE_HEADER_USED - 4);
        if crc != crc32c::crc32c(body).to_le_bytes() {
            return None;
        }
        let mut reader = Reader::new(body);
        let known = reader.fixed::<8>().ok()? == FILE_MAGIC
            && reader.fixed::<16>().ok()? == incarnation.0.to_le_bytes();
        let mut next = || reader.u64().ok();
        let (life, previous_end, oldest, bytes) = (next()?, next()?, next()?, next()?);
        let header = FileHeader { life, previous_end, oldest, bytes };
        known.then_some(header)
    }
}

/// What the header of a unit says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UnitHeader {
    pub(crate) at: Position,
    /// Number of the write, ascending over the whole log.
    pub(crate) write: u64,
    /// Bytes of entries.
    pub(crate) length: u32,
    body_crc: u32,
}

fn seed(incarnation: Incarnation, at: Position) -> u32 {
    let mut identity = [0; 32];
    identity[..16].copy_from_slice(&incarnation.0.to_le_bytes());
    identity[16..24].copy_from_slice(&at.life.to_le_bytes());
    identity[24..].copy_from_slice(&at.offset.to_le_bytes());
    crc32c::crc32c(&identity)
}

/// Bytes that a unit of so many entry bytes takes, padding included.
pub(crate) fn unit_bytes(length: u64) -> u64 {
    (UNIT_HEADER as u64 + length).next_multiple_of(SECTOR)
}

/// Bytes of entries in a unit.
pub(crate) fn entries_bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| (ENTRY_HEADER + entry.payload.len()) as u64).sum()
}

/// Encodes a unit. Returns its bytes and, for each entry, where its payload lies.
pub(crate) fn encode(
    incarnation: Incarnation,
    at: Position,
    write: u64,
    entries: &[Entry],
) -> (Vec<u8>, Vec<Location>) {
    let length = usize::try_from(entries_bytes(entries)).expect("a unit fits in memory");
    let total = usize::try_from(unit_bytes(length as u64)).expect("a unit fits in memory");
    let mut out = Vec::with_capacity(total);
    out.resize(UNIT_HEADER, 0);
    let mut locations = Vec::with_capacity(entries.len());
    for entry in entries {
        put_segment(&mut out, entry.segment);
        out.extend_from_slice(&(entry.kind as u32).to_le_bytes());
        let length = u32::try_from(entry.payload.len()).expect("entries are bounded by a batch");
        out.extend_from_slice(&length.to_le_bytes());
        locations.push(Location { life: at.life, offset: at.offset + out.len() as u64, length });
        out.extend_from_slice(&entry.payload);
    }
    let seed = seed(incarnation, at);
    let body_crc = crc32c::crc32c_append(seed, &out[UNIT_HEADER..]);
    let mut header = Vec::with_capacity(UNIT_HEADER);
    header.extend_from_slice(&UNIT_MAGIC.to_le_bytes());
    header.extend_from_slice(&(length as u32).to_le_bytes());
    header.extend_from_slice(&at.life.to_le_bytes());
    header.extend_from_slice(&at.offset.to_le_bytes());
    header.extend_from_slice(&write.to_le_bytes());
    header.extend_from_slice(&body_crc.to_le_bytes());
    header.resize(UNIT_HEADER - 4, 0);
    let crc = crc32c::crc32c_append(seed, &header);
    header.extend_from_slice(&crc.to_le_bytes());
    out[..UNIT_HEADER].copy_from_slice(&header);
    out.resize(total, 0);
    (out, locations)
}

/// Reads a unit's header that lies at this offset; `None` when there is none.
pub(crate) fn header(incarnation: Incarnation, offset: u64, bytes: &[u8]) -> Option<UnitHeader> {
    let raw = bytes.get(..UNIT_HEADER)?;
    let mut reader = Reader::new(raw);
    let magic = reader.u32().ok()?;
    let length = reader.u32().ok()?;
    let at = Position { life: reader.u64().ok()?, offset: reader.u64().ok()? };
    let write = reader.u64().ok()?;
    let body_crc = reader.u32().ok()?;
    let (covered, crc) = raw.split_at(UNIT_HEADER - 4);
    let valid = magic == UNIT_MAGIC
        && at.offset == offset
        && crc == crc32c::crc32c_append(seed(incarnation, at), covered).to_le_bytes();
    valid.then_some(UnitHeader { at, write, length, body_crc })
}

impl UnitHeader {
    /// Checks and splits the entry bytes of this unit.
    pub(crate) fn entries(
        &self,
        incarnation: Incarnation,
        body: &Bytes,
    ) -> Result<Vec<(Entry, Location)>, Malformed> {
        if crc32c::crc32c_append(seed(incarnation, self.at), body) != self.body_crc {
            return Err(Malformed("checksum of a log unit"));
        }
        let mut reader = Reader::new(body);
        let mut entries = Vec::new();
        while !reader.is_done() {
            let segment = get_segment(&mut reader)?;
            let kind = match reader.u32()? {
                1 => Kind::Batch,
                2 => Kind::State,
                3 => Kind::Ledger,
                _ => return Err(Malformed("kind of a log entry")),
            };
            let length = reader.u32()?;
            let start = reader.at;
            reader.take(length as usize)?;
            let payload = body.slice(start..reader.at);
            let offset = self.at.offset + (UNIT_HEADER + start) as u64;
            let location = Location { life: self.at.life, offset, length };
            entries.push((Entry { segment, kind, payload }, location));
        }
        Ok(entries)
    }
}
