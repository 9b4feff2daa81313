//! Line pointers and items: reading, adding, replacing.

use super::{HEADER_SIZE, PAGE_SIZE, Page, aligned};
use crate::fault::{Res, ensure, fault};

/// Line pointer without an item, reusable.
pub const LP_UNUSED: u8 = 0;
/// Line pointer of a stored item.
pub const LP_NORMAL: u8 = 1;
/// Line pointer that redirects to another (HOT).
pub const LP_REDIRECT: u8 = 2;
/// Line pointer of a dead item, with or without storage.
pub const LP_DEAD: u8 = 3;

/// A line pointer (`ItemIdData`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemId {
    /// Where the item lies; a redirect's target.
    pub offset: usize,
    /// One of `LP_*`.
    pub flags: u8,
    /// Length of the item; zero without storage.
    pub length: usize,
}

impl ItemId {
    /// An unused line pointer.
    pub const UNUSED: ItemId = ItemId { offset: 0, flags: LP_UNUSED, length: 0 };
    /// A dead line pointer without storage.
    pub const DEAD: ItemId = ItemId { offset: 0, flags: LP_DEAD, length: 0 };

    /// A redirection to another line pointer.
    #[must_use]
    pub fn redirect(to: u16) -> ItemId {
        ItemId { offset: usize::from(to), flags: LP_REDIRECT, length: 0 }
    }

    /// Whether an item is stored.
    #[must_use]
    pub fn has_storage(self) -> bool {
        self.length != 0
    }

    /// Whether it is anything but unused.
    #[must_use]
    pub fn is_used(self) -> bool {
        self.flags != LP_UNUSED
    }

    pub(super) fn unpack(word: u32) -> ItemId {
        ItemId {
            offset: (word & 0x7fff) as usize,
            flags: (word >> 15 & 3) as u8,
            length: (word >> 17) as usize,
        }
    }

    fn pack(self) -> Res<u32> {
        ensure!(
            self.offset <= 0x7fff && self.length <= 0x7fff,
            "line pointer out of range: offset {}, length {}",
            self.offset,
            self.length
        );
        Ok(self.offset as u32 | u32::from(self.flags & 3) << 15 | (self.length as u32) << 17)
    }
}

impl Page<'_> {
    /// Number of line pointers (`PageGetMaxOffsetNumber`).
    #[must_use]
    pub fn item_count(&self) -> u16 {
        (self.lower().min(PAGE_SIZE).saturating_sub(HEADER_SIZE) / 4) as u16
    }

    /// All line pointers in order. A copy is walked, so that the page may be changed meanwhile.
    pub(super) fn lines_of(
        bytes: &[u8; PAGE_SIZE],
        count: u16,
    ) -> impl Iterator<Item = (u16, ItemId)> {
        let end = HEADER_SIZE + 4 * usize::from(count);
        let words = bytes[HEADER_SIZE..end].as_chunks::<4>().0.iter();
        (1..).zip(words.map(|word| ItemId::unpack(u32::from_le_bytes(*word))))
    }

    /// Where the line pointer with this number (from 1) lies.
    pub(super) fn line_at(number: u16) -> usize {
        HEADER_SIZE + 4 * (usize::from(number).saturating_sub(1))
    }

    /// The line pointer with this number, from 1.
    pub fn line(&self, number: u16) -> Res<ItemId> {
        ensure!(
            (1..=self.item_count()).contains(&number),
            "no line pointer {number}, the page has {}",
            self.item_count()
        );
        Ok(ItemId::unpack(self.u32_at(Self::line_at(number))?))
    }

    /// Overwrites the line pointer with this number.
    pub fn set_line(&mut self, number: u16, line: ItemId) -> Res<()> {
        ensure!(
            (1..=self.item_count()).contains(&number),
            "no line pointer {number}, the page has {}",
            self.item_count()
        );
        self.put_u32(Self::line_at(number), line.pack()?)
    }

    /// The line pointer with this number, which must have an item within the page.
    pub fn stored_line(&self, number: u16) -> Res<ItemId> {
        let line = self.line(number)?;
        ensure!(line.has_storage(), "item {number} is not stored (flags {})", line.flags);
        ensure!(
            line.offset >= HEADER_SIZE && line.offset + line.length <= PAGE_SIZE,
            "item {number} leaves the page: {} bytes at {}",
            line.length,
            line.offset
        );
        Ok(line)
    }

    /// The item with this number.
    pub fn item(&self, number: u16) -> Res<&[u8]> {
        let line = self.stored_line(number)?;
        self.get(line.offset, line.length)
    }

    /// The item with this number, to change.
    pub fn item_mut(&mut self, number: u16) -> Res<&mut [u8]> {
        let line = self.stored_line(number)?;
        self.get_mut(line.offset, line.length)
    }

    /// Adds an item at line pointer `number`: existing ones from there on move up one place.
    /// `number` may be at most one past the last (`PageAddItem` without overwriting).
    pub fn insert_item(&mut self, number: u16, item: &[u8]) -> Res<()> {
        self.check()?;
        let count = self.item_count();
        ensure!(
            number >= 1 && number <= count + 1,
            "item {number} cannot be inserted after {count} items"
        );
        let from = Self::line_at(number);
        self.place(number, item, true)?;
        self.shift(from, from + 4, usize::from(count + 1 - number) * 4)?;
        self.point(number, item.len())
    }

    /// Adds an item at the end of the line pointers.
    pub fn append_item(&mut self, item: &[u8]) -> Res<()> {
        self.insert_item(self.item_count() + 1, item)
    }

    /// Puts an item at line pointer `number`, which must be unused or one past the last
    /// (`PageAddItem` with overwriting).
    pub fn put_item_at(&mut self, number: u16, item: &[u8]) -> Res<()> {
        self.check()?;
        let count = self.item_count();
        ensure!(
            number >= 1 && number <= count + 1,
            "item {number} cannot be added after {count} items"
        );
        if number <= count {
            let line = self.line(number)?;
            ensure!(!line.is_used() && !line.has_storage(), "item {number} is in use");
        }
        self.place(number, item, number > count)?;
        self.point(number, item.len())
    }

    /// Copies an item below the others and adjusts the header.
    fn place(&mut self, number: u16, item: &[u8], new_line: bool) -> Res<()> {
        let lower = self.lower() + if new_line { 4 } else { 0 };
        let size = aligned(item.len());
        let upper = self.upper();
        if lower + size > upper {
            return fault!(
                "item {number} of {} bytes does not fit: lower {lower}, upper {upper}",
                item.len()
            );
        }
        self.put(upper - size, item)?;
        self.set_lower(lower)?;
        self.set_upper(upper - size)
    }

    /// Points line pointer `number` to the item just placed.
    fn point(&mut self, number: u16, length: usize) -> Res<()> {
        let line = ItemId { offset: self.upper(), flags: LP_NORMAL, length };
        self.put_u32(Self::line_at(number), line.pack()?)
    }

    /// Replaces an item where it lies, moving the items below it by the difference in size; the
    /// line pointer's flags stay (`PageIndexTupleOverwrite`).
    pub fn replace_item(&mut self, number: u16, item: &[u8]) -> Res<()> {
        let line = self.movable_line(number)?;
        let (old, new) = (aligned(line.length), aligned(item.len()));
        let (lower, upper) = (self.lower(), self.upper());
        ensure!(
            new <= old + (upper - lower) && !item.is_empty(),
            "item {number} cannot grow from {old} to {new} bytes: {} are free",
            upper - lower
        );
        if old != new {
            self.slide(line.offset, old, new)?;
        }
        let offset = line.offset + old - new;
        self.set_line(number, ItemId { offset, length: item.len(), ..line })?;
        self.put(offset, item)
    }

    /// The line pointer of a stored item that lies where items may be moved.
    pub(super) fn movable_line(&self, number: u16) -> Res<ItemId> {
        self.check()?;
        let line = self.line(number)?;
        ensure!(
            line.has_storage()
                && line.offset >= self.upper()
                && line.offset + line.length <= self.special()
                && line.offset % 8 == 0,
            "corrupt line pointer {number}: {} bytes at {}",
            line.length,
            line.offset
        );
        Ok(line)
    }

    /// Moves everything from `pd_upper` up to `offset` so that the `old` bytes there become `new`.
    pub(super) fn slide(&mut self, offset: usize, old: usize, new: usize) -> Res<()> {
        let upper = self.upper();
        ensure!(
            upper + old >= new && offset >= upper && offset + old <= PAGE_SIZE,
            "items between {upper} and {offset} cannot move by {new} - {old}"
        );
        self.shift(upper, upper + old - new, offset - upper)?;
        self.set_upper(upper + old - new)?;
        for number in 1..=self.item_count() {
            let line = self.line(number)?;
            if line.has_storage() && line.offset <= offset {
                ensure!(line.offset + old >= new, "corrupt line pointer {number}");
                self.set_line(number, ItemId { offset: line.offset + old - new, ..line })?;
            }
        }
        Ok(())
    }
}
