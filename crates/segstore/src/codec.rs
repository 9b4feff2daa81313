//! Values to bytes and back, for manifests, log entries and page files: little-endian numbers and
//! LEB128. The reader never believes a length before it has seen the bytes.

use types::{
    Epoch, EpochStart, GroupId, History, Holder, Lsn, MembershipEpoch, NodeId, PageKey, SegmentId,
    Span, Timeline, VolumeId,
};
use wire::{Peer, SegmentSpec};

use crate::entry::SegmentState;

/// Bytes that are not what the format says; the caller names file and offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A cursor over bytes.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed("length"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed("cut short"))?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        Ok(*taken.first_chunk::<N>().ok_or(Malformed("cut short"))?)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.fixed::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.fixed().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.fixed().map(u64::from_le_bytes)
    }

    pub(crate) fn lsn(&mut self) -> Result<Lsn, Malformed> {
        self.u64().map(Lsn)
    }

    pub(crate) fn key(&mut self) -> Result<PageKey, Malformed> {
        self.fixed().map(PageKey)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("number too long"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.varint()?;
        self.take(usize::try_from(count).map_err(|_| Malformed("length"))?)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("not text"))
    }
}

pub(crate) fn put_segment(out: &mut Vec<u8>, segment: SegmentId) {
    out.extend_from_slice(&segment.volume.0.to_le_bytes());
    out.extend_from_slice(&segment.group.0.to_le_bytes());
}

pub(crate) fn get_segment(reader: &mut Reader<'_>) -> Result<SegmentId, Malformed> {
    let volume = VolumeId(u128::from_le_bytes(reader.fixed()?));
    Ok(SegmentId { volume, group: GroupId(reader.u32()?) })
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_state(out: &mut Vec<u8>, state: &SegmentState) {
    put_u64(out, state.sealed.0);
    put_u64(out, state.membership.0);
    put_u64(out, state.vdl.start.0);
    put_u64(out, state.vdl.end.0);
    put_u64(out, state.low_water.0);
    put_u64(out, state.watermark);
    out.push(u8::from(state.full));
    put_varint(out, state.history.entries().len() as u64);
    for entry in state.history.entries() {
        put_u64(out, entry.epoch.0);
        put_u64(out, entry.begins.0);
        out.extend_from_slice(&entry.timeline.0.to_le_bytes());
    }
}

pub(crate) fn get_state(reader: &mut Reader<'_>) -> Result<SegmentState, Malformed> {
    let sealed = Epoch(reader.u64()?);
    let membership = MembershipEpoch(reader.u64()?);
    let vdl = Span { start: reader.lsn()?, end: reader.lsn()? };
    let low_water = reader.lsn()?;
    let watermark = reader.u64()?;
    let full = reader.byte()? != 0;
    let mut entries = Vec::new();
    for _ in 0..reader.varint()? {
        let epoch = Epoch(reader.u64()?);
        let begins = reader.lsn()?;
        entries.push(EpochStart { epoch, begins, timeline: Timeline(reader.u32()?) });
    }
    let history = History::new(entries).ok_or(Malformed("history out of order"))?;
    Ok(SegmentState { sealed, history, membership, vdl, low_water, watermark, full })
}

pub(crate) fn put_spec(out: &mut Vec<u8>, spec: &SegmentSpec) {
    put_segment(out, spec.segment);
    put_u64(out, spec.membership.0);
    out.push(u8::from(spec.fresh));
    for peers in [&spec.members, &spec.joining] {
        put_varint(out, peers.len() as u64);
        for peer in peers {
            put_bytes(out, peer.holder.node.as_str().as_bytes());
            put_u64(out, peer.holder.since.0);
            put_bytes(out, peer.address.as_bytes());
        }
    }
}

fn get_peers(reader: &mut Reader<'_>) -> Result<Vec<Peer>, Malformed> {
    let mut peers = Vec::new();
    for _ in 0..reader.varint()? {
        let node: NodeId = reader.text()?.parse().map_err(|_| Malformed("node name"))?;
        let since = MembershipEpoch(reader.u64()?);
        peers.push(Peer { holder: Holder { node, since }, address: reader.text()?.to_owned() });
    }
    Ok(peers)
}

pub(crate) fn get_spec(reader: &mut Reader<'_>) -> Result<SegmentSpec, Malformed> {
    let segment = get_segment(reader)?;
    let membership = MembershipEpoch(reader.u64()?);
    let fresh = reader.byte()? != 0;
    let (members, joining) = (get_peers(reader)?, get_peers(reader)?);
    Ok(SegmentSpec { segment, membership, members, joining, fresh })
}

/// Checksum seed that binds bytes to a segment, a file and a place in it.
pub(crate) fn seed(segment: SegmentId, birth: u64, offset: u64) -> u32 {
    let mut identity = [0; 36];
    identity[..16].copy_from_slice(&segment.volume.0.to_le_bytes());
    identity[16..20].copy_from_slice(&segment.group.0.to_le_bytes());
    identity[20..28].copy_from_slice(&birth.to_le_bytes());
    identity[28..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c(&identity)
}
