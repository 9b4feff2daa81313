//! A segment's manifest: the only thing that says which page files exist and what they cover.
//!
//! Replaced whole by `env::recipes::replace`. Layout: `FORMAT.md`.

use std::path::Path;

use env::{Disk, recipes};
use types::{Lsn, SegmentId};
use wire::SegmentSpec;

use crate::codec::{
    self, Malformed, Reader, get_segment, get_spec, get_state, put_segment, put_spec, put_state,
    put_varint,
};
use crate::entry::SegmentState;
use crate::error::StoreError;
use crate::log::Position;
use crate::pages::FileMeta;

/// Name of the file in its segment's directory.
pub(crate) const NAME: &str = "MANIFEST";

const MAGIC: [u8; 8] = *b"6fMAN\0\0\x04";

/// What a manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Manifest {
    pub(crate) spec: SegmentSpec,
    /// Ascends with every replacement of the manifest.
    pub(crate) generation: u64,
    pub(crate) state: SegmentState,
    /// State entries at or before this are contained in `state`.
    pub(crate) state_at: Position,
    /// Log entries at or before this belong to an earlier segment of the same name.
    pub(crate) origin: Position,
    /// Log entries before this are contained in state or files.
    pub(crate) covered: Position,
    pub(crate) flushed: Lsn,
    pub(crate) horizon: Lsn,
    /// Number of the next page file.
    pub(crate) next_file: u64,
    /// In the order of `layers`.
    pub(crate) files: Vec<FileMeta>,
}

pub(crate) fn put_position(out: &mut Vec<u8>, position: Position) {
    put_varint(out, position.life);
    put_varint(out, position.offset);
}

pub(crate) fn get_position(reader: &mut Reader<'_>) -> Result<Position, Malformed> {
    Ok(Position { life: reader.varint()?, offset: reader.varint()? })
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_segment(&mut out, self.spec.segment);
        put_spec(&mut out, &self.spec);
        put_varint(&mut out, self.generation);
        put_state(&mut out, &self.state);
        for position in [self.state_at, self.origin, self.covered] {
            put_position(&mut out, position);
        }
        put_varint(&mut out, self.flushed.0);
        put_varint(&mut out, self.horizon.0);
        put_varint(&mut out, self.next_file);
        put_varint(&mut out, self.files.len() as u64);
        for file in &self.files {
            let FileMeta { number, birth, bytes, low, high, images, deltas, deletes, from } = *file;
            for value in [number, birth, bytes, low.0, high.0, images, deltas, deletes] {
                put_varint(&mut out, value);
            }
            out.push(u8::from(from.is_some()));
            out.extend(from.iter().flat_map(|key| key.0));
        }
        let crc = crc32c::crc32c_append(codec::seed(self.spec.segment, 0, 0), &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(segment: SegmentId, bytes: &[u8]) -> Result<Manifest, Malformed> {
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed("cut short"))?;
        if *crc != crc32c::crc32c_append(codec::seed(segment, 0, 0), content).to_le_bytes() {
            return Err(Malformed("checksum"));
        }
        let mut reader = Reader::new(content);
        if reader.fixed::<8>()? != MAGIC || get_segment(&mut reader)? != segment {
            return Err(Malformed("manifest of another segment or format"));
        }
        let spec = get_spec(&mut reader)?;
        let generation = reader.varint()?;
        let state = get_state(&mut reader)?;
        let state_at = get_position(&mut reader)?;
        let origin = get_position(&mut reader)?;
        let covered = get_position(&mut reader)?;
        let flushed = Lsn(reader.varint()?);
        let horizon = Lsn(reader.varint()?);
        let next_file = reader.varint()?;
        let mut files = Vec::new();
        for _ in 0..reader.varint()? {
            let mut next = || reader.varint();
            let file = FileMeta {
                number: next()?,
                birth: next()?,
                bytes: next()?,
                low: Lsn(next()?),
                high: Lsn(next()?),
                images: next()?,
                deltas: next()?,
                deletes: next()?,
                from: None,
            };
            let from = match reader.byte()? {
                0 => None,
                1 => Some(reader.key()?),
                _ => return Err(Malformed("kind of a file")),
            };
            files.push(FileMeta { from, ..file });
        }
        if !reader.is_done() {
            return Err(Malformed("bytes after the manifest"));
        }
        Ok(Manifest {
            spec,
            generation,
            state,
            state_at,
            origin,
            covered,
            flushed,
            horizon,
            next_file,
            files,
        })
    }

    /// Replaces the manifest in `dir`, durably.
    pub(crate) fn save(&self, disk: &dyn Disk, dir: &Path) -> Result<(), env::DiskError> {
        recipes::replace(disk, &dir.join(NAME), &self.encode())
    }

    /// Reads the manifest in `dir`; `None` when there is none.
    pub(crate) fn load(
        disk: &dyn Disk,
        dir: &Path,
        segment: SegmentId,
    ) -> Result<Option<Manifest>, StoreError> {
        let path = dir.join(NAME);
        let Some(content) = recipes::read_all(disk, &path)? else { return Ok(None) };
        Manifest::decode(segment, &content).map(Some).map_err(|Malformed(why)| {
            StoreError::Damaged { what: path.display().to_string(), why: why.to_owned() }
        })
    }
}
