//! PostgreSQL's page: header, line pointers, items, special space (`storage/bufpage.h`).
//!
//! Invariant: no access leaves the 8192 bytes; what a page claims about itself is checked before
//! it is used. Reading order: here (header and raw access), [`items`] (line pointers, adding and
//! replacing), [`compact`] (removal and defragmentation, byte for byte as PostgreSQL places items).

mod compact;
mod items;

pub use items::{ItemId, LP_DEAD, LP_NORMAL, LP_UNUSED};

use crate::fault::{Res, ensure, fault};

/// Bytes in a page (`BLCKSZ`).
pub const PAGE_SIZE: usize = 8192;
/// Bytes in a page's header (`SizeOfPageHeaderData`); line pointers begin here.
pub const HEADER_SIZE: usize = 24;

/// `PD_HAS_FREE_LINES`.
pub const HAS_FREE_LINES: u16 = 0x0001;
/// `PD_PAGE_FULL`.
pub const PAGE_FULL: u16 = 0x0002;
/// `PD_ALL_VISIBLE`.
pub const ALL_VISIBLE: u16 = 0x0004;

const AT_CHECKSUM: usize = 8;
const AT_FLAGS: usize = 10;
const AT_LOWER: usize = 12;
const AT_UPPER: usize = 14;
const AT_SPECIAL: usize = 16;
const AT_SIZE_VERSION: usize = 18;
const AT_PRUNE_XID: usize = 20;
/// Page size and layout version 4 in one number.
const SIZE_VERSION: u16 = PAGE_SIZE as u16 | 4;

/// `MAXALIGN`.
#[must_use]
pub fn aligned(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// A page being read or changed.
#[derive(Debug)]
pub struct Page<'a> {
    bytes: &'a mut [u8; PAGE_SIZE],
}

impl<'a> Page<'a> {
    /// The page in these bytes.
    #[must_use]
    pub fn new(bytes: &'a mut [u8; PAGE_SIZE]) -> Page<'a> {
        Page { bytes }
    }

    /// The page in this slice, which must have a page's size.
    pub fn of(bytes: &'a mut [u8]) -> Res<Page<'a>> {
        let length = bytes.len();
        match bytes.try_into() {
            Ok(bytes) => Ok(Page { bytes }),
            Err(_) => fault!("a page has {PAGE_SIZE} bytes, this one has {length}"),
        }
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; PAGE_SIZE] {
        self.bytes
    }

    /// All bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        self.bytes
    }

    /// `length` bytes at `at`.
    pub fn get(&self, at: usize, length: usize) -> Res<&[u8]> {
        match at.checked_add(length).and_then(|end| self.bytes.get(at..end)) {
            Some(slice) => Ok(slice),
            None => fault!("{length} bytes at {at} leave the page"),
        }
    }

    /// `length` bytes at `at`, to change.
    pub fn get_mut(&mut self, at: usize, length: usize) -> Res<&mut [u8]> {
        match at.checked_add(length).and_then(|end| self.bytes.get_mut(at..end)) {
            Some(slice) => Ok(slice),
            None => fault!("{length} bytes at {at} leave the page"),
        }
    }

    /// Overwrites the bytes at `at`.
    pub fn put(&mut self, at: usize, new: &[u8]) -> Res<()> {
        self.get_mut(at, new.len())?.copy_from_slice(new);
        Ok(())
    }

    /// Moves `length` bytes from one place to another; the places may overlap.
    pub fn shift(&mut self, from: usize, to: usize, length: usize) -> Res<()> {
        self.get(from, length)?;
        self.get(to, length)?;
        self.bytes.copy_within(from..from + length, to);
        Ok(())
    }

    /// The 16-bit number at `at`.
    pub fn u16_at(&self, at: usize) -> Res<u16> {
        crate::read::u16_at(self.bytes, at)
    }

    /// The 32-bit number at `at`.
    pub fn u32_at(&self, at: usize) -> Res<u32> {
        crate::read::u32_at(self.bytes, at)
    }

    /// Sets the 16-bit number at `at`.
    pub fn put_u16(&mut self, at: usize, value: u16) -> Res<()> {
        self.put(at, &value.to_le_bytes())
    }

    /// Sets the 32-bit number at `at`.
    pub fn put_u32(&mut self, at: usize, value: u32) -> Res<()> {
        self.put(at, &value.to_le_bytes())
    }

    fn header(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn set_header(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// Whether the page was never initialised (`PageIsNew`).
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.header(AT_UPPER) == 0
    }

    /// End of the line pointers (`pd_lower`).
    #[must_use]
    pub fn lower(&self) -> usize {
        usize::from(self.header(AT_LOWER))
    }

    /// Start of the items (`pd_upper`).
    #[must_use]
    pub fn upper(&self) -> usize {
        usize::from(self.header(AT_UPPER))
    }

    /// Start of the special space (`pd_special`).
    #[must_use]
    pub fn special(&self) -> usize {
        usize::from(self.header(AT_SPECIAL))
    }

    /// Sets `pd_lower`.
    pub fn set_lower(&mut self, lower: usize) -> Res<()> {
        ensure!(lower <= PAGE_SIZE, "pd_lower {lower} would leave the page");
        self.set_header(AT_LOWER, lower as u16);
        Ok(())
    }

    /// Sets `pd_upper`.
    pub fn set_upper(&mut self, upper: usize) -> Res<()> {
        ensure!(upper <= PAGE_SIZE, "pd_upper {upper} would leave the page");
        self.set_header(AT_UPPER, upper as u16);
        Ok(())
    }

    /// `pd_flags`.
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.header(AT_FLAGS)
    }

    /// Sets or clears bits of `pd_flags`.
    pub fn set_flag(&mut self, flag: u16, on: bool) {
        let flags = if on { self.flags() | flag } else { self.flags() & !flag };
        self.set_header(AT_FLAGS, flags);
    }

    /// `pd_lsn`.
    #[must_use]
    pub fn lsn(&self) -> u64 {
        let half = |at: usize| u64::from(self.header(at)) | u64::from(self.header(at + 2)) << 16;
        half(0) << 32 | half(4)
    }

    /// Sets `pd_lsn`.
    pub fn set_lsn(&mut self, lsn: u64) {
        self.bytes[0..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        self.bytes[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
    }

    /// Sets `pd_checksum`.
    pub fn set_checksum(&mut self, checksum: u16) {
        self.set_header(AT_CHECKSUM, checksum);
    }

    /// `pd_prune_xid`.
    #[must_use]
    pub fn prune_xid(&self) -> u32 {
        u32::from(self.header(AT_PRUNE_XID)) | u32::from(self.header(AT_PRUNE_XID + 2)) << 16
    }

    /// Sets `pd_prune_xid`.
    pub fn set_prune_xid(&mut self, xid: u32) {
        self.bytes[AT_PRUNE_XID..AT_PRUNE_XID + 4].copy_from_slice(&xid.to_le_bytes());
    }

    /// Makes it an empty page with this much special space (`PageInit`).
    pub fn init(&mut self, special_size: usize) {
        let special = PAGE_SIZE - aligned(special_size).min(PAGE_SIZE - HEADER_SIZE);
        self.bytes.fill(0);
        self.set_header(AT_LOWER, HEADER_SIZE as u16);
        self.set_header(AT_UPPER, special as u16);
        self.set_header(AT_SPECIAL, special as u16);
        self.set_header(AT_SIZE_VERSION, SIZE_VERSION);
    }

    /// Fails unless the header's pointers are in order, as PostgreSQL checks before moving items.
    pub fn check(&self) -> Res<()> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        ensure!(
            HEADER_SIZE <= lower
                && lower <= upper
                && upper <= special
                && special <= PAGE_SIZE
                && special % 8 == 0,
            "corrupt page header: lower {lower}, upper {upper}, special {special}"
        );
        Ok(())
    }

    /// Position of a special space of `size` bytes that this page must have.
    pub fn special_of(&self, size: usize) -> Res<usize> {
        let special = self.special();
        ensure!(
            special >= HEADER_SIZE && special + aligned(size) <= PAGE_SIZE,
            "no room for {size} bytes of special space at {special}"
        );
        Ok(special)
    }

    /// A fresh page with a copy of this page's special space (`PageGetTempPageCopySpecial`).
    pub fn fresh_like(&self) -> Res<Box<[u8; PAGE_SIZE]>> {
        self.check()?;
        let special = self.special();
        let mut copy = Box::new([0; PAGE_SIZE]);
        Page::new(&mut copy).init(PAGE_SIZE - special);
        copy[special..].copy_from_slice(&self.bytes[special..]);
        Ok(copy)
    }
}

#[cfg(test)]
mod tests;
