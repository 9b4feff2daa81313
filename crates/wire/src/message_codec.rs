//! Messages and handshakes to bytes and back.
//!
//! Invariant: numbers of kinds and tags are never reused; a new kind gets a new number, and a
//! number that is not known is refused by name. Evolution is by [`crate::PROTOCOL_VERSION`].

use bytes::Bytes;
use types::Holder;

use crate::batch::{Batch, PartMeta};
use crate::codec::{Reader, Wire, get_shared, put_shared, put_varint, wire_struct};
use crate::error::WireError;
use crate::message::{
    Hello, Message, PageAnswer, Peer, Refusal, SegmentReport, SegmentSpec, Speaker, Welcome,
};

/// Encodes an enum as numbered variants: struct-like, one-field and bare ones. Gives the number, the
/// fields' bytes, and the way back, from one table, so that the directions cannot differ.
macro_rules! wire_variants {
    ($type:ident, $what:literal,
     { $($n0:literal $v0:ident { $($field:ident),+ $(,)? },)* }
     { $($n1:literal $v1:ident,)* }
     { $($n2:literal $v2:ident,)* }) => {
        impl $type {
            fn variant_number(&self) -> u8 {
                match self {
                    $($type::$v0 { .. } => $n0,)*
                    $($type::$v1(..) => $n1,)*
                    $($type::$v2 => $n2,)*
                }
            }

            fn put_fields(&self, out: &mut Vec<u8>) {
                let _ = &out;
                match self {
                    $($type::$v0 { $($field),+ } => { $($field.put(out);)+ })*
                    $($type::$v1(value) => value.put(out),)*
                    $($type::$v2 => {})*
                }
            }

            fn get_fields(number: u8, from: &mut Reader) -> Result<$type, WireError> {
                let _ = &from;
                Ok(match number {
                    $($n0 => $type::$v0 { $($field: Wire::get(from)?),+ },)*
                    $($n1 => $type::$v1(Wire::get(from)?),)*
                    $($n2 => $type::$v2,)*
                    value => return Err(WireError::Unknown { what: $what, value: value.into() }),
                })
            }
        }
    };
}

/// The number before the fields, for enums inside other values.
macro_rules! wire_tagged {
    ($($type:ident),*) => {$(
        impl Wire for $type {
            const BYTES_MIN: usize = 1;
            const COUNT_MAX: u64 = 1 << 16;
            fn put(&self, out: &mut Vec<u8>) {
                out.push(self.variant_number());
                self.put_fields(out);
            }
            fn get(from: &mut Reader) -> Result<Self, WireError> {
                let number = from.byte("tag")?;
                $type::get_fields(number, from)
            }
        }
    )*};
}

wire_variants!(Refusal, "refusal",
    {
        1 Version { ours, theirs },
        2 Cluster { ours, theirs },
        3 Fenced { asked, current },
        4 NotAdopted { epoch },
        8 Behind { scl, asked },
        9 Forgotten { horizon, asked },
    }
    { 6 NoSegment, 7 Hydrating, 10 Poisoned, 11 Damaged, 12 Malformed, 13 Deleted, }
    {}
);
wire_variants!(PageAnswer, "page answer",
    { 2 Page { version, bytes }, }
    { 3 Failed, }
    { 1 Absent, }
);
wire_variants!(Speaker, "speaker",
    {
        1 Node { node, incarnation },
        2 Instance { name, volume },
    }
    {}
    { 3 Control, }
);
wire_tagged!(Refusal, PageAnswer, Speaker);

wire_struct!(Hello, 2 + 16 + 1 + 1, { version, cluster, from, az });
wire_struct!(Welcome, 2 + 16 + 1, { node, incarnation, az });
wire_struct!(SegmentReport, 8 + 8 + 1 + 16 + 8 + 8 + 8 + 8 + 1, {
    scl, sealed, history, vdl, low_water, watermark, membership, since, full,
});
wire_struct!(Holder, 1 + 8, { node, since });
wire_struct!(Peer, 1 + 8 + 1, { holder, address });
wire_struct!(SegmentSpec, 20 + 8 + 1 + 1 + 1, { segment, membership, members, joining, fresh });

impl Wire for PartMeta {
    const BYTES_MIN: usize = 16 + 8 + 1;
    fn put(&self, out: &mut Vec<u8>) {
        self.span.put(out);
        self.prev.put(out);
        put_varint(out, self.shared.len() as u64);
        put_shared(out, &self.shared);
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        let (span, prev) = (Wire::get(from)?, Wire::get(from)?);
        let count = from.count("sharers", 1, crate::CHANGES_MAX)?;
        Ok(PartMeta { span, prev, shared: get_shared(from, count)? })
    }
}

wire_variants!(Message, "message kind",
    {
        17 Ack { segment, epoch, scl, since, full },
        18 Seal { segment, epoch },
        19 Report { segment, report },
        20 AskTail { segment, epoch, history, after },
        21 Tail { segment, history, after, base, parts },
        22 Adopt { segment, history, vdl, until, peer },
        23 AskReport { segment },
        24 Pull { segment, history, after, bytes_max },
        25 Fill { segment, report, batches },
        26 AskManifest { segment },
        27 Manifest { segment, report, manifest },
        28 AskFile { segment, file, offset, length },
        30 ReadPages { segment, read_point, complete_to, keys },
        32 ReadVersions { segment, read_point, complete_to, keys },
        34 Scan { segment, read_point, complete_to, from, to, bytes_max },
        35 Entries { entries, next },
        42 DropSegment { segment, membership },
    }
    { 16 Append, 29 Chunk, 31 Pages, 33 Versions, 36 CreateSegment, 39 Segments, 41 Refused, }
    { 38 ListSegments, 40 Done, }
);

/// Kind of a frame whose payload is exactly one encoded batch, which carries its own checksums.
pub(crate) const KIND_APPEND: u8 = 16;

impl Message {
    /// The number that stands for this kind of message in a frame.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.variant_number()
    }

    pub(crate) fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Message::Append(batch) => batch.encode_into(out),
            other => other.put_fields(out),
        }
    }

    pub(crate) fn get_payload(kind: u8, payload: Bytes) -> Result<Message, WireError> {
        let mut from = Reader::new(payload);
        if kind == KIND_APPEND {
            return Batch::decode_from(&mut from).map(Message::Append);
        }
        let message = Message::get_fields(kind, &mut from)?;
        from.finish("message")?;
        Ok(message)
    }
}
