//! The ledger: what the log knows of the segments' directories.
//!
//! Whenever a manifest has become durable, its generation is noted in the log; every life of the log
//! begins with all of it. So an opening notices a directory that is gone, or that is older than the log:
//! an earlier copy, put back. Such a segment has lost what it promised and begins again (S15).

use bytes::Bytes;
use types::SegmentId;
use wire::SegmentSpec;

use crate::codec::{Malformed, Reader, get_spec, put_spec, put_varint};
use crate::log::{Entry, Kind, Position};
use crate::manifest::{Manifest, get_position, put_position};

/// What is noted of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Noted {
    /// Where in the log it was added: tells one use of its name from another.
    pub(crate) origin: Position,
    /// Its manifest's generation, or an earlier one.
    pub(crate) generation: u64,
    /// Its members, for when its manifest is damaged.
    pub(crate) spec: SegmentSpec,
}

impl Noted {
    pub(crate) fn of(manifest: &Manifest) -> Noted {
        let Manifest { origin, generation, spec, .. } = manifest;
        Noted { origin: *origin, generation: *generation, spec: spec.clone() }
    }

    /// As an entry of the log.
    pub(crate) fn entry(&self) -> Entry {
        let mut payload = Vec::new();
        put_position(&mut payload, self.origin);
        put_varint(&mut payload, self.generation);
        put_spec(&mut payload, &self.spec);
        Entry { segment: self.spec.segment, kind: Kind::Ledger, payload: payload.into() }
    }

    pub(crate) fn decode(segment: SegmentId, payload: &Bytes) -> Result<Noted, Malformed> {
        let mut reader = Reader::new(payload);
        let origin = get_position(&mut reader)?;
        let generation = reader.varint()?;
        let spec = get_spec(&mut reader)?;
        if spec.segment != segment || !reader.is_done() {
            return Err(Malformed("note of another segment"));
        }
        Ok(Noted { origin, generation, spec })
    }

    /// Whether a directory with this manifest is the one last noted, or a newer one: a crash may come
    /// between the manifest and its note.
    pub(crate) fn is_met_by(&self, manifest: &Manifest) -> bool {
        manifest.origin == self.origin && manifest.generation >= self.generation
    }
}

/// The entry that says that a segment is held no more.
pub(crate) fn dropped(segment: SegmentId) -> Entry {
    Entry { segment, kind: Kind::Ledger, payload: Bytes::new() }
}
