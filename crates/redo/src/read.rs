//! A bounds-checked reader of the little-endian structs inside records and tuples.

use crate::fault::{Res, ensure, fault};

/// Reads forward through a slice; every step past its end is a [`crate::Fault`].
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`; `what` names them in messages.
    #[must_use]
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { what, bytes, at: 0 }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Res<&'a [u8]> {
        let end = self.at.checked_add(count);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(slice) => {
                self.at += count;
                Ok(slice)
            }
            None => fault!(
                "{} ends after {} bytes, {count} more expected at {}",
                self.what,
                self.bytes.len(),
                self.at
            ),
        }
    }

    fn array<const N: usize>(&mut self) -> Res<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Res<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Res<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Res<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Res<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next byte as a C `bool`.
    pub fn bool(&mut self) -> Res<bool> {
        Ok(self.u8()? != 0)
    }

    /// The next `count` 16-bit numbers.
    pub fn u16s(&mut self, count: usize) -> Res<Vec<u16>> {
        ensure!(
            count.saturating_mul(2) <= self.remaining(),
            "{} is too short for {count} offsets at {}",
            self.what,
            self.at
        );
        (0..count).map(|_| self.u16()).collect()
    }

    /// Moves to the next multiple of `to` from the start of the slice.
    pub fn align(&mut self, to: usize) -> Res<()> {
        let ahead = self.at.next_multiple_of(to) - self.at;
        self.take(ahead).map(|_| ())
    }

    /// Skips `count` bytes.
    pub fn skip(&mut self, count: usize) -> Res<()> {
        self.take(count).map(|_| ())
    }

    /// Everything not read yet, without reading it.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or(&[])
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest().len()
    }

    /// Fails when bytes are left over.
    pub fn finish(&self) -> Res<()> {
        ensure!(self.remaining() == 0, "{} has {} bytes too many", self.what, self.remaining());
        Ok(())
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Res<[u8; N]> {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(array) => Ok(*array),
        None => fault!("{N} bytes at {at} are not within {}", bytes.len()),
    }
}

/// The 16-bit number at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> Res<u16> {
    Ok(u16::from_le_bytes(array_at(bytes, at)?))
}

/// The 32-bit number at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Res<u32> {
    Ok(u32::from_le_bytes(array_at(bytes, at)?))
}

/// Overwrites the bytes at `at` with `new`.
pub fn put(bytes: &mut [u8], at: usize, new: &[u8]) -> Res<()> {
    let length = bytes.len();
    match at.checked_add(new.len()).and_then(|end| bytes.get_mut(at..end)) {
        Some(place) => {
            place.copy_from_slice(new);
            Ok(())
        }
        None => fault!("{} bytes at {at} do not fit into {length}", new.len()),
    }
}
