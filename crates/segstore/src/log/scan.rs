//! The scan of one life as it was read back: its units in order, where they end, what is missing.

use bytes::Bytes;
use types::Incarnation;

use super::replay::Damage;
use super::unit::{self, Entry, FILE_HEADER, Location, Position, SECTOR, UNIT_HEADER, UnitHeader};

/// The scan of one life.
pub(super) struct Scan<'a> {
    pub(super) incarnation: Incarnation,
    pub(super) life: u64,
    pub(super) name: &'a str,
    pub(super) content: Vec<u8>,
    pub(super) damage: &'a mut Vec<Damage>,
    /// Number of the last write met.
    pub(super) write: u64,
    /// Offset and length of the last unit met.
    pub(super) last: Option<(u64, u64)>,
}

impl Scan<'_> {
    /// Visits the life's entries; returns where its units end.
    pub(super) fn run(
        &mut self,
        expected: Option<u64>,
        visit: &mut dyn FnMut(Entry, Location),
    ) -> u64 {
        let mut offset = FILE_HEADER;
        let mut end = FILE_HEADER;
        loop {
            if expected.is_some_and(|expected| offset >= expected) {
                return offset;
            }
            if let Some((header, entries)) = self.unit(offset) {
                self.write = header.write;
                let bytes = unit::unit_bytes(u64::from(header.length));
                self.last = Some((offset, bytes));
                offset += bytes;
                end = offset;
                for (entry, location) in entries {
                    visit(entry, location);
                }
                continue;
            }
            match (self.next_unit(offset + SECTOR), expected) {
                (Some(next), _) => {
                    self.report(offset, next);
                    offset = next;
                }
                (None, Some(expected)) => {
                    self.report(offset, expected);
                    return expected;
                }
                (None, None) => return end,
            }
        }
    }

    pub(super) fn report(&mut self, from: u64, to: u64) {
        let what = format!("log file {} at offsets {from} to {to}", self.name);
        let (life, end) = (self.life, Position { life: self.life, offset: to });
        self.damage.push(Damage { life, end, what });
    }

    pub(super) fn bytes(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.content.get(start..start.checked_add(length)?)
    }

    fn header(&self, offset: u64) -> Option<UnitHeader> {
        let found = unit::header(self.incarnation, offset, self.bytes(offset, UNIT_HEADER)?);
        found.filter(|header| header.at.life == self.life)
    }

    fn unit(&self, offset: u64) -> Option<(UnitHeader, Vec<(Entry, Location)>)> {
        let header = self.header(offset)?;
        let body = self.bytes(offset + UNIT_HEADER as u64, header.length as usize)?;
        // A copy, so that what stays in memory does not keep the whole file there.
        let entries = header.entries(self.incarnation, &Bytes::copy_from_slice(body)).ok()?;
        Some((header, entries))
    }

    /// First offset at or after `from` that holds a later unit's header of this life.
    fn next_unit(&self, from: u64) -> Option<u64> {
        let later = |offset: &u64| self.header(*offset).is_some_and(|h| h.write > self.write);
        (from..self.content.len() as u64).step_by(SECTOR as usize).find(later)
    }
}
