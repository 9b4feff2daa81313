//! Checks one life of the log from the medium, a unit at a time.

use types::Incarnation;

use super::ring::Life;
use super::unit::{self, FILE_HEADER, FileHeader, UNIT_HEADER};

/// A life being checked.
pub(crate) struct LifeCheck {
    pub(crate) number: u64,
    life: Life,
    incarnation: Incarnation,
    at: u64,
    end: u64,
    write: Option<u64>,
}

impl LifeCheck {
    /// A check up to `end`, before which everything is durable.
    pub(crate) fn new(number: u64, life: Life, incarnation: Incarnation, end: u64) -> LifeCheck {
        LifeCheck { number, life, incarnation, at: 0, end, write: None }
    }

    /// Checks the next piece and tells its bytes, or what is wrong; `None` at the end.
    pub(crate) fn step(&mut self) -> Option<Result<u64, String>> {
        let from = self.at;
        if from >= self.end {
            return None;
        }
        let checked = if from == 0 { self.header() } else { self.unit(from) };
        let named = |why| format!("log file {} at offset {from}: {why}", self.life.file.name);
        match checked {
            Ok(bytes) => self.at = from + bytes,
            // Where the next unit begins is not known for sure: the life is emptied as a whole.
            Err(_) => self.at = self.end,
        }
        Some(checked.map_err(named))
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let mut raw = vec![0; length];
        self.life.file.file.uncache(offset, length as u64);
        self.life.file.file.read_at(offset, &mut raw).map_err(|error| error.to_string())?;
        Ok(raw)
    }

    fn header(&self) -> Result<u64, String> {
        let raw = self.read(0, FILE_HEADER as usize)?;
        let header = FileHeader::decode(&raw, self.incarnation);
        match header.filter(|header| header.life == self.number) {
            Some(_) => Ok(FILE_HEADER),
            None => Err("its header".to_owned()),
        }
    }

    fn unit(&mut self, offset: u64) -> Result<u64, String> {
        let raw = self.read(offset, UNIT_HEADER)?;
        let header = unit::header(self.incarnation, offset, &raw);
        let ascends = |write: u64| self.write.is_none_or(|last| write == last + 1);
        let header = header.filter(|h| h.at.life == self.number && ascends(h.write));
        let header = header.ok_or("a unit's header")?;
        self.write = Some(header.write);
        let bytes = unit::unit_bytes(u64::from(header.length));
        if offset + bytes > self.end {
            return Err("a unit reaches too far".to_owned());
        }
        let body = self.read(offset + UNIT_HEADER as u64, header.length as usize)?;
        let entries = header.entries(self.incarnation, &body.into());
        entries.map(|_| bytes).map_err(|why| why.0.to_owned())
    }
}
