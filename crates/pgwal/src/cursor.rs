//! Bounds-checked little-endian reads. Crate-private.

use crate::record::Source;

/// Reads fields one after the other; `None` when the bytes end before.
pub(crate) struct Cursor<'a, B> {
    bytes: &'a B,
    at: usize,
}

impl<'a, B: Source> Cursor<'a, B> {
    pub(crate) fn new(bytes: &'a B) -> Cursor<'a, B> {
        Cursor { bytes, at: 0 }
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*field)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `count` bytes, as a view.
    pub(crate) fn take(&mut self, count: usize) -> Option<B> {
        if count > self.left() {
            return None;
        }
        let taken = self.bytes.part(self.at..self.at + count);
        self.at += count;
        Some(taken)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Option<()> {
        if count > self.left() {
            return None;
        }
        self.at += count;
        Some(())
    }

    /// Skips to the next multiple of eight.
    pub(crate) fn align8(&mut self) -> Option<()> {
        self.skip(self.at.next_multiple_of(8) - self.at)
    }

    /// Bytes up to the next zero byte, which is taken too.
    pub(crate) fn c_string(&mut self) -> Option<B> {
        let rest = self.bytes.get(self.at..)?;
        let length = rest.iter().position(|byte| *byte == 0)?;
        let text = self.take(length)?;
        self.skip(1)?;
        Some(text)
    }

    /// A counted array of `u32`: `count` as PostgreSQL stores it (`int`), bounded by what is left.
    pub(crate) fn words(&mut self, count: u32) -> Option<Vec<u32>> {
        let count = usize::try_from(count).ok()?;
        if count > self.left() / 4 {
            return None;
        }
        (0..count).map(|_| self.u32()).collect()
    }
}
