//! Values to bytes and back: little-endian numbers, LEB128 counts, length-prefixed bytes.
//!
//! Invariant: [`Reader`] never allocates more than a constant multiple of the bytes it was given;
//! every count is checked against the bytes that are left and against a limit of its own before
//! room is made. Byte strings are slices of the incoming buffer.

use bytes::Bytes;
use smallvec::SmallVec;
use types::{
    ClusterId, Epoch, EpochStart, GroupId, History, Incarnation, Lsn, MembershipEpoch, NodeId,
    PageKey, SegmentId, Span, Timeline, VolumeId,
};

use crate::error::WireError;

/// Longest text on the wire, bytes; longer ones (refusals' explanations) are cut when sent.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Most parts in the batches of one frame. A writer closes a batch before it.
pub const PARTS_MAX: u64 = 1 << 20;
/// Most changes in the batches of one frame. A writer closes a batch before it.
pub const CHANGES_MAX: u64 = 1 << 21;

/// A cursor over received bytes.
pub(crate) struct Reader {
    bytes: Bytes,
    at: usize,
    parts_left: u64,
    changes_left: u64,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Reader {
        Reader { bytes, at: 0, parts_left: PARTS_MAX, changes_left: CHANGES_MAX }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `length` bytes, sharing the buffer.
    pub(crate) fn take(&mut self, length: usize, what: &'static str) -> Result<Bytes, WireError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(WireError::Short { what })?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn fixed<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], WireError> {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let found = *found.ok_or(WireError::Short { what })?;
        self.at += N;
        Ok(found)
    }

    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.fixed::<1>(what).map(|[byte]| byte)
    }

    /// A LEB128 number: at most ten bytes, and only the shortest form, so that equal values have
    /// equal bytes.
    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::Invalid { what: "a number beyond 64 bits" });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(WireError::Invalid { what: "a number not in its shortest form" });
                }
                return Ok(value);
            }
        }
        Err(WireError::Invalid { what: "a number beyond 64 bits" })
    }

    /// A count of values that take at least `bytes_min` bytes each.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        bytes_min: usize,
        limit: u64,
    ) -> Result<usize, WireError> {
        let count = self.varint(what)?;
        if count > limit {
            return Err(WireError::Limit { what, found: count, limit });
        }
        let fits = (self.remaining() / bytes_min.max(1)) as u64;
        if count > fits {
            return Err(WireError::Short { what });
        }
        Ok(count as usize)
    }

    /// Takes `count` off the frame's allowance of parts.
    pub(crate) fn charge_parts(&mut self, count: u64) -> Result<(), WireError> {
        charge(&mut self.parts_left, count, "number of parts", PARTS_MAX)
    }

    /// Takes `count` off the frame's allowance of changes.
    pub(crate) fn charge_changes(&mut self, count: u64) -> Result<(), WireError> {
        charge(&mut self.changes_left, count, "number of changes", CHANGES_MAX)
    }

    /// Hands this frame's allowances to a reader of bytes nested in it, and takes them back.
    pub(crate) fn nested<T>(
        &mut self,
        bytes: Bytes,
        read: impl FnOnce(&mut Reader) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        let (parts_left, changes_left) = (self.parts_left, self.changes_left);
        let mut inner = Reader { bytes, at: 0, parts_left, changes_left };
        let value = read(&mut inner)?;
        (self.parts_left, self.changes_left) = (inner.parts_left, inner.changes_left);
        Ok(value)
    }

    pub(crate) fn finish(&self, what: &'static str) -> Result<(), WireError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(WireError::Trailing { what, left }),
        }
    }
}

fn charge(left: &mut u64, count: u64, what: &'static str, limit: u64) -> Result<(), WireError> {
    let found = limit.saturating_sub(*left).saturating_add(count);
    *left = left.checked_sub(count).ok_or(WireError::Limit { what, found, limit })?;
    Ok(())
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A value with one encoding.
pub(crate) trait Wire: Sized {
    /// Fewest bytes it takes: bounds how many can follow a count.
    const BYTES_MIN: usize;
    /// Most of them in one list.
    const COUNT_MAX: u64 = 1 << 22;

    fn put(&self, out: &mut Vec<u8>);
    fn get(from: &mut Reader) -> Result<Self, WireError>;
}

macro_rules! wire_numbers {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            const BYTES_MIN: usize = size_of::<$type>();
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(from: &mut Reader) -> Result<Self, WireError> {
                from.fixed(stringify!($type)).map(<$type>::from_le_bytes)
            }
        }
    )*};
}
wire_numbers!(u8, u16, u32, u64, u128);

macro_rules! wire_newtypes {
    ($($type:ident($inner:ty)),* $(,)?) => {$(
        impl Wire for $type {
            const BYTES_MIN: usize = <$inner as Wire>::BYTES_MIN;
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
            fn get(from: &mut Reader) -> Result<Self, WireError> {
                <$inner>::get(from).map($type)
            }
        }
    )*};
}
wire_newtypes! {
    Lsn(u64), Epoch(u64), MembershipEpoch(u64), Timeline(u32), GroupId(u32),
    ClusterId(u128), VolumeId(u128), Incarnation(u128),
}

/// A struct's fields one after the other. `$min` is the sum of the fields' least sizes.
macro_rules! wire_struct {
    ($type:ty, $min:expr, { $($field:ident),* $(,)? }) => {
        impl crate::codec::Wire for $type {
            const BYTES_MIN: usize = $min;
            fn put(&self, out: &mut Vec<u8>) {
                $(crate::codec::Wire::put(&self.$field, out);)*
            }
            fn get(from: &mut crate::codec::Reader) -> Result<Self, crate::error::WireError> {
                Ok(Self { $($field: crate::codec::Wire::get(from)?),* })
            }
        }
    };
}
pub(crate) use wire_struct;

wire_struct!(Span, 16, { start, end });
wire_struct!(SegmentId, 20, { volume, group });
wire_struct!(EpochStart, 20, { epoch, begins, timeline });

impl Wire for bool {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        match from.byte("flag")? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::Unknown { what: "flag", value: value.into() }),
        }
    }
}

impl Wire for PageKey {
    const BYTES_MIN: usize = PageKey::SIZE;
    const COUNT_MAX: u64 = 1 << 16;
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        from.fixed("page key").map(PageKey)
    }
}

impl Wire for Bytes {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        out.extend_from_slice(self);
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        let length = from.count("length of bytes", 1, u64::MAX)?;
        from.take(length, "bytes")
    }
}

impl Wire for String {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        let mut length = self.len().min(TEXT_BYTES_MAX);
        while !self.is_char_boundary(length) {
            length -= 1;
        }
        put_varint(out, length as u64);
        out.extend_from_slice(&self.as_bytes()[..length]);
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        let length = from.count("length of text", 1, TEXT_BYTES_MAX as u64)?;
        let text = from.take(length, "text")?;
        let text = std::str::from_utf8(&text);
        text.map(str::to_owned).map_err(|_| WireError::Invalid { what: "text that is not UTF-8" })
    }
}

impl Wire for NodeId {
    const BYTES_MIN: usize = 2;
    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().to_owned().put(out);
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        let length = from.count("length of name", 1, 15)?;
        let name = from.take(length, "name")?;
        let name = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
        name.ok_or(WireError::Invalid { what: "a name outside the rule for names" })
    }
}

impl Wire for History {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.entries().len() as u64);
        self.entries().iter().for_each(|entry| entry.put(out));
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        History::new(Vec::get(from)?)
            .ok_or(WireError::Invalid { what: "a history whose epochs do not ascend" })
    }
}

impl<T: Wire> Wire for Option<T> {
    const BYTES_MIN: usize = 1;
    const COUNT_MAX: u64 = 1 << 16;
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        bool::get(from)?.then(|| T::get(from)).transpose()
    }
}

impl<T: Wire> Wire for Vec<T> {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        self.iter().for_each(|value| value.put(out));
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        let count = from.count("length of list", T::BYTES_MIN, T::COUNT_MAX)?;
        (0..count).map(|_| T::get(from)).collect()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    const BYTES_MIN: usize = A::BYTES_MIN + B::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        Ok((A::get(from)?, B::get(from)?))
    }
}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    const BYTES_MIN: usize = A::BYTES_MIN + B::BYTES_MIN + C::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
        self.2.put(out);
    }
    fn get(from: &mut Reader) -> Result<Self, WireError> {
        Ok((A::get(from)?, B::get(from)?, C::get(from)?))
    }
}

/// Groups that share a record, strictly ascending: the first number, then the gaps less one.
pub(crate) fn put_shared(out: &mut Vec<u8>, shared: &[GroupId]) {
    let mut next = 0u32;
    for group in shared {
        put_varint(out, u64::from(group.0.wrapping_sub(next)));
        next = group.0.wrapping_add(1);
    }
}

pub(crate) fn get_shared(
    from: &mut Reader,
    count: usize,
) -> Result<SmallVec<[GroupId; 2]>, WireError> {
    let mut shared = SmallVec::new();
    let mut next = Some(0u32);
    for _ in 0..count {
        let gap = u32::try_from(from.varint("sharing group")?).ok();
        let group = next.zip(gap).and_then(|(next, gap)| next.checked_add(gap));
        let group = group.ok_or(WireError::Invalid { what: "a group number beyond 32 bits" })?;
        shared.push(GroupId(group));
        next = group.checked_add(1);
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_encoding() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(out.into());
            assert_eq!(reader.varint("number"), Ok(value));
            assert_eq!(reader.remaining(), 0);
        }
        for bad in [&[0x80, 0x00][..], &[0xff; 10], &[0x80], &[]] {
            assert!(Reader::new(Bytes::copy_from_slice(bad)).varint("number").is_err());
        }
    }

    #[test]
    fn a_count_larger_than_the_bytes_left_makes_no_room() {
        let mut out = Vec::new();
        put_varint(&mut out, 1 << 20);
        let found = Vec::<Lsn>::get(&mut Reader::new(out.into()));
        assert_eq!(found, Err(WireError::Short { what: "length of list" }));
    }
}
