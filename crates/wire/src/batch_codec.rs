//! A batch to bytes and back; the same bytes travel and lie in the hot log. Layout: `FORMAT.md`.
//!
//! Invariants: encoding is total and deterministic; decoding accepts exactly what encoding a valid
//! batch yields. Header and body have checksums of their own, both seeded with volume, group and
//! epoch, so that a batch in another's place does not pass. Bodies and images are slices of the
//! buffer that was decoded.

use bytes::Bytes;
use types::{Epoch, GroupId, Lsn, MembershipEpoch, PageKey, SegmentId, Span, VolumeId};

use crate::batch::{Batch, BatchHeader, Change, Part, PartMeta};
use crate::codec::{Reader, Wire, get_shared, put_shared, put_varint};
use crate::error::WireError;

const MAGIC: u32 = u32::from_le_bytes(*b"6fB\x01");

const SMALL_COUNT: usize = 3;
const SHARED_SHIFT: u32 = 2;
const FLAG_PREV_IN_BATCH: u8 = 1 << 4;
const FLAG_FOLLOWS: u8 = 1 << 5;
const FLAGS_KNOWN: u8 = 0x3f;

const KIND_APPLY: u8 = 0;
const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
const PREFIX_BITS: u32 = 5;

impl BatchHeader {
    /// Bytes of a header, before the body.
    pub const SIZE: usize = 104;

    /// Reads the header at the beginning of `bytes` and checks it, without looking at the body.
    /// Returns it with the whole batch's length in bytes, which may be more than is there.
    ///
    /// # Errors
    /// When the bytes are too few, not a batch, of another version, damaged, or over a limit.
    pub fn peek(bytes: &[u8]) -> Result<(BatchHeader, usize), WireError> {
        let raw = RawHeader::read(bytes)?;
        Ok((raw.header, BatchHeader::SIZE + raw.body_length))
    }
}

struct RawHeader {
    header: BatchHeader,
    body_length: usize,
    body_crc: u32,
    part_count: u32,
}

fn seed(segment: SegmentId, epoch: Epoch) -> u32 {
    let mut identity = [0; 28];
    identity[..16].copy_from_slice(&segment.volume.0.to_le_bytes());
    identity[16..20].copy_from_slice(&segment.group.0.to_le_bytes());
    identity[20..].copy_from_slice(&epoch.0.to_le_bytes());
    crc32c::crc32c(&identity)
}

impl RawHeader {
    fn write(&self, out: &mut [u8]) {
        let header = &self.header;
        let mut bytes = Vec::with_capacity(BatchHeader::SIZE);
        MAGIC.put(&mut bytes);
        0u32.put(&mut bytes);
        self.body_crc.put(&mut bytes);
        (self.body_length as u32).put(&mut bytes);
        header.segment.volume.put(&mut bytes);
        header.segment.group.put(&mut bytes);
        self.part_count.put(&mut bytes);
        header.epoch.put(&mut bytes);
        header.membership.put(&mut bytes);
        header.base.put(&mut bytes);
        header.last.put(&mut bytes);
        header.vdl.put(&mut bytes);
        header.low_water.put(&mut bytes);
        header.watermark.put(&mut bytes);
        let crc = crc32c::crc32c_append(seed(header.segment, header.epoch), &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        out.copy_from_slice(&bytes);
    }

    fn read(bytes: &[u8]) -> Result<RawHeader, WireError> {
        let bytes: &[u8; BatchHeader::SIZE] =
            bytes.first_chunk().ok_or(WireError::Short { what: "batch header" })?;
        let u32_at = |at: usize| {
            u32::from_le_bytes(*bytes[at..].first_chunk().expect("the header has a fixed size"))
        };
        let u64_at = |at: usize| {
            u64::from_le_bytes(*bytes[at..].first_chunk().expect("the header has a fixed size"))
        };
        if u32_at(0) != MAGIC {
            if u32_at(0) & 0xff_ffff == MAGIC & 0xff_ffff {
                return Err(WireError::Unknown { what: "batch format", value: bytes[3].into() });
            }
            return Err(WireError::Magic { what: "batch", found: u32_at(0) });
        }
        let volume = u128::from(u64_at(16)) | u128::from(u64_at(24)) << 64;
        let segment = SegmentId { volume: VolumeId(volume), group: GroupId(u32_at(32)) };
        let header = BatchHeader {
            segment,
            epoch: Epoch(u64_at(40)),
            membership: MembershipEpoch(u64_at(48)),
            base: Lsn(u64_at(56)),
            last: Lsn(u64_at(64)),
            vdl: Span { start: Lsn(u64_at(72)), end: Lsn(u64_at(80)) },
            low_water: Lsn(u64_at(88)),
            watermark: u64_at(96),
        };
        let (found, computed) =
            (u32_at(4), crc32c::crc32c_append(seed(segment, header.epoch), &bytes[8..]));
        if found != computed {
            return Err(WireError::Checksum { what: "batch header", found, computed });
        }
        let limit = types::BATCH_BYTES_MAX - BatchHeader::SIZE;
        if u32_at(12) as usize > limit {
            let (found, limit) = (u32_at(12).into(), limit as u64);
            return Err(WireError::Limit { what: "batch length", found, limit });
        }
        let (body_crc, body_length, part_count) = (u32_at(8), u32_at(12) as usize, u32_at(36));
        Ok(RawHeader { header, body_length, body_crc, part_count })
    }
}

/// What a part is written relative to.
struct Context {
    previous: Span,
    key: PageKey,
}

impl Context {
    fn new(base: Lsn) -> Context {
        Context { previous: Span { start: Lsn::MAX, end: base }, key: PageKey::MIN }
    }
}

impl Batch {
    /// The batch as bytes.
    ///
    /// # Panics
    /// When it is longer than 4 GiB or has more parts than fit 32 bits; a writer closes a batch
    /// far below [`types::BATCH_BYTES_MAX`], [`crate::PARTS_MAX`] and [`crate::CHANGES_MAX`],
    /// above which it is refused by every reader.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let bodies: usize = self.parts.iter().map(Part::bytes_estimate).sum();
        let mut out = Vec::with_capacity(BatchHeader::SIZE + bodies);
        self.encode_into(&mut out);
        out.into()
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.resize(begin + BatchHeader::SIZE, 0);
        let mut context = Context::new(self.header.base);
        self.parts.iter().for_each(|part| put_part(out, &mut context, part));
        let body = &out[begin + BatchHeader::SIZE..];
        assert!(u32::try_from(body.len()).is_ok(), "a batch is below 4 GiB");
        let raw = RawHeader {
            header: self.header.clone(),
            body_length: body.len(),
            body_crc: crc32c::crc32c_append(seed(self.header.segment, self.header.epoch), body),
            part_count: u32::try_from(self.parts.len()).expect("a batch has fewer parts"),
        };
        raw.write(&mut out[begin..begin + BatchHeader::SIZE]);
    }

    /// The batch that `bytes` hold, no more and no less; bodies share the buffer.
    ///
    /// # Errors
    /// When the bytes are not exactly one whole, undamaged, well-formed batch.
    pub fn decode(bytes: Bytes) -> Result<Batch, WireError> {
        Batch::decode_from(&mut Reader::new(bytes))
    }

    pub(crate) fn decode_from(from: &mut Reader) -> Result<Batch, WireError> {
        let header = from.take(BatchHeader::SIZE, "batch header")?;
        let raw = RawHeader::read(&header)?;
        let body = from.take(raw.body_length, "batch body")?;
        from.finish("batch")?;
        let header = raw.header;
        let computed = crc32c::crc32c_append(seed(header.segment, header.epoch), &body);
        if raw.body_crc != computed {
            let found = raw.body_crc;
            return Err(WireError::Checksum { what: "batch body", found, computed });
        }
        from.charge_parts(raw.part_count.into())?;
        let parts = from.nested(body, |from| get_parts(from, &header, raw.part_count))?;
        Ok(Batch { header, parts })
    }
}

impl Part {
    /// About how many bytes the part takes in a batch (never less than it does, but for the first
    /// keys of a batch): for whoever fills batches up to a limit.
    #[must_use]
    pub fn bytes_estimate(&self) -> usize {
        let changes = self.changes.iter().map(|change| match change {
            Change::Apply(_) => 21,
            Change::Put(_, content) => 26 + content.len(),
            Change::Delete { .. } => 42,
        });
        40 + self.meta.shared.len() * 5 + self.body.len() + changes.sum::<usize>()
    }
}

fn put_part(out: &mut Vec<u8>, context: &mut Context, part: &Part) {
    let Part { meta, changes, body } = part;
    let gap = meta.span.start.0.wrapping_sub(context.previous.end.0);
    let prev_in_batch = meta.prev == context.previous.start;
    let mut flags = changes.len().min(SMALL_COUNT) as u8;
    flags |= (meta.shared.len().min(SMALL_COUNT) as u8) << SHARED_SHIFT;
    flags |= if prev_in_batch { FLAG_PREV_IN_BATCH } else { 0 };
    flags |= if gap == 0 { FLAG_FOLLOWS } else { 0 };
    out.push(flags);
    if gap != 0 {
        put_varint(out, gap);
    }
    put_varint(out, meta.span.end.0.wrapping_sub(meta.span.start.0));
    if !prev_in_batch {
        put_varint(out, meta.span.start.0.wrapping_sub(meta.prev.0));
    }
    if meta.shared.len() >= SMALL_COUNT {
        put_varint(out, meta.shared.len() as u64);
    }
    put_shared(out, &meta.shared);
    if changes.len() >= SMALL_COUNT {
        put_varint(out, changes.len() as u64);
    }
    changes.iter().for_each(|change| put_change(out, &mut context.key, change));
    body.put(out);
    context.previous = meta.span;
}

fn put_change(out: &mut Vec<u8>, before: &mut PageKey, change: &Change) {
    match change {
        Change::Apply(key) => put_key(out, before, KIND_APPLY, key),
        Change::Put(key, content) => {
            put_key(out, before, KIND_PUT, key);
            content.put(out);
        }
        Change::Delete { from, to } => {
            put_key(out, before, KIND_DELETE, from);
            put_key(out, before, KIND_DELETE, to);
        }
    }
}

/// A key as the number of leading bytes it has in common with the one before, and the rest.
fn put_key(out: &mut Vec<u8>, before: &mut PageKey, kind: u8, key: &PageKey) {
    let common = before.0.iter().zip(&key.0).take_while(|(a, b)| a == b).count();
    out.push(kind << PREFIX_BITS | common as u8);
    out.extend_from_slice(&key.0[common..]);
    *before = *key;
}

fn get_parts(
    from: &mut Reader,
    header: &BatchHeader,
    part_count: u32,
) -> Result<Vec<Part>, WireError> {
    // flags, length and body length: no part is shorter.
    if from.remaining() / 3 < part_count as usize {
        return Err(WireError::Short { what: "parts" });
    }
    let mut context = Context::new(header.base);
    let mut parts = Vec::with_capacity(part_count as usize);
    for _ in 0..part_count {
        parts.push(get_part(from, &mut context)?);
    }
    if context.previous.end != header.last {
        return Err(WireError::Invalid { what: "a batch that does not end where its header says" });
    }
    from.finish("parts")?;
    Ok(parts)
}

fn get_part(from: &mut Reader, context: &mut Context) -> Result<Part, WireError> {
    let flags = from.byte("part")?;
    if flags & !FLAGS_KNOWN != 0 {
        return Err(WireError::Unknown { what: "part flags", value: flags.into() });
    }
    let gap = if flags & FLAG_FOLLOWS == 0 { nonzero(from, "gap before a part")? } else { 0 };
    let length = nonzero(from, "length of a record")?;
    let beyond = WireError::Invalid { what: "a position beyond 64 bits" };
    let start = context.previous.end.0.checked_add(gap).ok_or(beyond.clone())?;
    let end = start.checked_add(length).ok_or(beyond.clone())?;
    let prev = if flags & FLAG_PREV_IN_BATCH == 0 {
        let back = from.varint("distance to the previous record")?;
        let prev = Lsn(start.checked_sub(back).ok_or(beyond)?);
        if prev == context.previous.start {
            return Err(WireError::Invalid { what: "a previous record written the long way" });
        }
        prev
    } else if context.previous.start == Lsn::MAX {
        return Err(WireError::Invalid {
            what: "a first part whose previous record is in the batch",
        });
    } else {
        context.previous.start
    };
    let shared_count = small_or_counted(from, usize::from(flags >> SHARED_SHIFT & 3), "sharers")?;
    let shared = get_shared(from, shared_count)?;
    let change_count = small_or_counted(from, usize::from(flags & 3), "changes")?;
    from.charge_changes(change_count as u64)?;
    let mut changes = Vec::with_capacity(change_count);
    for _ in 0..change_count {
        changes.push(get_change(from, &mut context.key)?);
    }
    let body = Bytes::get(from)?;
    context.previous = Span { start: Lsn(start), end: Lsn(end) };
    Ok(Part { meta: PartMeta { span: context.previous, prev, shared }, changes, body })
}

fn nonzero(from: &mut Reader, what: &'static str) -> Result<u64, WireError> {
    match from.varint(what)? {
        0 => Err(WireError::Invalid { what: "a gap or length of zero" }),
        value => Ok(value),
    }
}

fn small_or_counted(
    from: &mut Reader,
    small: usize,
    what: &'static str,
) -> Result<usize, WireError> {
    if small < SMALL_COUNT {
        return Ok(small);
    }
    match from.count(what, 1, crate::CHANGES_MAX)? {
        count if count < SMALL_COUNT => Err(WireError::Invalid { what: "a small count spelt out" }),
        count => Ok(count),
    }
}

fn get_change(from: &mut Reader, before: &mut PageKey) -> Result<Change, WireError> {
    match get_key(from, before)? {
        (KIND_APPLY, key) => Ok(Change::Apply(key)),
        (KIND_PUT, key) => Ok(Change::Put(key, Bytes::get(from)?)),
        (KIND_DELETE, start) => match get_key(from, before)? {
            (KIND_DELETE, end) => Ok(Change::Delete { from: start, to: end }),
            _ => Err(WireError::Invalid { what: "a deletion without an end" }),
        },
        (kind, _) => Err(WireError::Unknown { what: "kind of change", value: kind.into() }),
    }
}

fn get_key(from: &mut Reader, before: &mut PageKey) -> Result<(u8, PageKey), WireError> {
    let tag = from.byte("change")?;
    let (kind, common) = (tag >> PREFIX_BITS, usize::from(tag & ((1 << PREFIX_BITS) - 1)));
    if common > PageKey::SIZE {
        return Err(WireError::Invalid { what: "more common bytes than a key has" });
    }
    let rest = from.take(PageKey::SIZE - common, "page key")?;
    if common < PageKey::SIZE && rest[0] == before.0[common] {
        return Err(WireError::Invalid {
            what: "a key with fewer common bytes than it could have",
        });
    }
    before.0[common..].copy_from_slice(&rest);
    Ok((kind, *before))
}

impl Wire for Batch {
    const BYTES_MIN: usize = 4 + BatchHeader::SIZE;
    fn put(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        0u32.put(out);
        self.encode_into(out);
        let length = (out.len() - begin - 4) as u32;
        out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        let length = u32::get(from)? as usize;
        let bytes = from.take(length, "batch")?;
        from.nested(bytes, Batch::decode_from)
    }
}
