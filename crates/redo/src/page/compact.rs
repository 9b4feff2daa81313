//! Removing items and closing the gaps, leaving each item exactly where PostgreSQL leaves it.
//!
//! Two orders exist: removing one item slides the items below it, so that the physical order stays;
//! removing many re-packs all items downwards from the special space in line pointer order.
//! Recovery must repeat the same choice, because later records build on the places.

use super::{HAS_FREE_LINES, HEADER_SIZE, ItemId, PAGE_SIZE, Page, aligned};
use crate::fault::{Res, ensure};

impl Page<'_> {
    /// Removes an item and its line pointer (`PageIndexTupleDelete`).
    pub fn remove_item(&mut self, number: u16) -> Res<()> {
        let line = self.movable_line(number)?;
        let from = Self::line_at(number) + 4;
        let lower = self.lower();
        ensure!(from <= lower, "pd_lower {lower} cuts line pointer {number}");
        self.shift(from, from - 4, lower - from)?;
        self.set_lower(lower - 4)?;
        self.slide(line.offset, aligned(line.length), 0)
    }

    /// Removes several items given in ascending order (`PageIndexMultiDelete`).
    pub fn remove_items(&mut self, numbers: &[u16]) -> Res<()> {
        if numbers.len() <= 2 {
            return numbers.iter().rev().try_for_each(|number| self.remove_item(*number));
        }
        self.check()?;
        let mut gone = numbers.iter().peekable();
        let mut kept = Vec::with_capacity(usize::from(self.item_count()));
        for number in 1..=self.item_count() {
            let line = self.movable_line(number)?;
            if gone.peek() == Some(&&number) {
                gone.next();
            } else {
                kept.push(line);
            }
        }
        ensure!(gone.next().is_none(), "items to remove are not in order or do not exist");
        self.set_lower(HEADER_SIZE + 4 * kept.len())?;
        for (number, line) in (1..).zip(&kept) {
            self.set_line(number, *line)?;
        }
        let old = *self.bytes();
        self.repack(&old)
    }

    /// Removes an item; its line pointer stays as an unused one, unless it is the last
    /// (`PageIndexTupleDeleteNoCompact`).
    pub fn remove_item_keep_line(&mut self, number: u16) -> Res<()> {
        let line = self.movable_line(number)?;
        if number < self.item_count() {
            self.set_line(number, ItemId::UNUSED)?;
        } else {
            self.set_lower(self.lower() - 4)?;
        }
        self.slide(line.offset, aligned(line.length), 0)
    }

    /// Re-packs a heap page after pruning and drops unused line pointers at the end
    /// (`PageRepairFragmentation`).
    pub fn repair_fragmentation(&mut self) -> Res<()> {
        self.check()?;
        let mut last_used = 0;
        let mut unused = 0;
        let mut old = *self.bytes();
        let mut cleared = false;
        for (number, line) in Page::lines_of(&old, self.item_count()) {
            if line.is_used() {
                last_used = number;
            } else {
                unused += 1;
                if line != ItemId::UNUSED {
                    self.set_line(number, ItemId::UNUSED)?;
                    cleared = true;
                }
            }
        }
        if cleared {
            old = *self.bytes();
        }
        self.repack(&old)?;
        unused -= self.item_count() - last_used;
        self.set_lower(HEADER_SIZE + 4 * usize::from(last_used))?;
        self.set_flag(HAS_FREE_LINES, unused > 0);
        Ok(())
    }

    /// Drops unused line pointers at the end of a heap page, but never the first one
    /// (`PageTruncateLinePointerArray`).
    pub fn truncate_lines(&mut self) -> Res<()> {
        self.check()?;
        let mut count = self.item_count();
        while count > 1 && !self.line(count)?.is_used() {
            count -= 1;
        }
        let mut free = false;
        for number in 1..=count {
            free |= !self.line(number)?.is_used();
        }
        self.set_lower(HEADER_SIZE + 4 * usize::from(count))?;
        self.set_flag(HAS_FREE_LINES, free);
        Ok(())
    }

    /// Packs all stored items against the special space in line pointer order; `old` is the page as
    /// it is.
    fn repack(&mut self, old: &[u8; PAGE_SIZE]) -> Res<()> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        let mut place = special;
        for (number, line) in Page::lines_of(old, self.item_count()) {
            if !line.has_storage() {
                continue;
            }
            let size = aligned(line.length);
            ensure!(
                line.offset >= upper && line.offset + size <= PAGE_SIZE && line.offset < special,
                "corrupt line pointer {number}: {} bytes at {}",
                line.length,
                line.offset
            );
            ensure!(place >= lower + size, "items are longer than the space for them");
            place -= size;
            self.put(place, &old[line.offset..line.offset + size])?;
            self.set_line(number, ItemId { offset: place, ..line })?;
        }
        self.set_upper(place)
    }
}
