//! Reading the hot log back: which files are lives of it, where each life ends, and what is damaged.
//!
//! A life ends where the next life's header says; the newest one at the first place without a valid
//! unit. There the last write may be torn, which nobody was told about. But a valid unit further on
//! in the same life, or an earlier end than the next header says, means that acknowledged bytes are
//! gone: that is damage, reported and never cut off silently (rule S5).

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use env::{Disk, DiskError, ErrorKind, Mode};
use types::Incarnation;

use super::ring::{Life, LogFile, Tail};
use super::unit::{
    self, Entry, FILE_HEADER, FileHeader, Location, Position, SECTOR, UNIT_HEADER, UnitHeader,
};

/// Acknowledged bytes that cannot be read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    /// In which life.
    pub(crate) life: u64,
    /// Where the lost part ends.
    pub(crate) end: Position,
    /// For humans.
    pub(crate) what: String,
}

/// A log as read back.
pub(crate) struct Replayed {
    pub(crate) tail: Tail,
    pub(crate) damage: Vec<Damage>,
}

struct Candidate {
    file: LogFile,
    header: Option<FileHeader>,
}

/// Reads the log in `dir`, handing every entry to `visit` in order.
pub(crate) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    incarnation: Incarnation,
    visit: &mut dyn FnMut(Entry, Location),
) -> Result<Replayed, DiskError> {
    let mut damage = Vec::new();
    let (mut lives, mut spare, next_name) = (BTreeMap::new(), Vec::new(), next_name(disk, dir)?);
    for candidate in candidates(disk, dir, incarnation)? {
        let life = match candidate.header {
            Some(header) => Some(header.life),
            None => {
                // A header may be torn while its file is being recycled, before any unit of the
                // new life; units below a torn header are an older life's, retired before.
                first_unit(&candidate.file, incarnation)?.map(|unit| unit.at.life)
            }
        };
        match life {
            Some(life) => {
                lives.insert(life, candidate);
            }
            None => spare.push(candidate.file),
        }
    }
    let newest = lives.iter().rev().find_map(|(_, found)| found.header);
    let oldest = newest.map_or(1, |header| header.oldest);
    let last_life = lives.keys().next_back().copied().unwrap_or(0);
    let retired: Vec<u64> = lives.range(..oldest).map(|(life, _)| *life).collect();
    for life in retired {
        spare.extend(lives.remove(&life).map(|found| found.file));
    }
    let mut end = Position { life: last_life, offset: FILE_HEADER };
    let mut write = 0;
    let mut ends = BTreeMap::new();
    for life in oldest..=last_life {
        let Some(found) = lives.get(&life) else {
            let what = format!("log file of life {life} is missing from {}", dir.display());
            damage.push(Damage { life, end: Position { life: life + 1, offset: 0 }, what });
            continue;
        };
        if found.header.is_none() {
            let what = format!("header of log file {}", found.file.name);
            damage.push(Damage { life, end: Position { life: life + 1, offset: 0 }, what });
        }
        let expected = lives.get(&(life + 1)).and_then(|next| next.header);
        let expected = expected.map(|header| header.previous_end);
        let LogFile { file, name, bytes } = &found.file;
        let mut content = vec![0; usize::try_from(*bytes).unwrap_or(0)];
        file.read_at(0, &mut content)?;
        let mut scan = Scan { incarnation, life, name, content, damage: &mut damage, write };
        let offset = scan.run(expected, visit);
        write = scan.write;
        end = Position { life, offset };
        ends.insert(life, offset);
    }
    let found = |(life, Candidate { file, .. })| {
        let mine = damage.iter().find(|damage| damage.life == life);
        let damage = mine.map(|damage| damage.what.clone());
        (life, Life { file, end: ends.get(&life).copied(), damage })
    };
    let files = lives.into_iter().map(found).collect();
    let tail = Tail { files, spare, end, write: write + 1, oldest, next_name };
    Ok(Replayed { tail, damage })
}

fn log_names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, DiskError> {
    Ok(disk.list(dir)?.into_iter().filter(|name| name.ends_with(".log")).collect())
}

fn next_name(disk: &dyn Disk, dir: &Path) -> Result<u64, DiskError> {
    let names = log_names(disk, dir)?;
    let number = |name: &String| name.trim_end_matches(".log").parse::<u64>().ok();
    Ok(names.iter().filter_map(number).max().map_or(1, |last| last + 1))
}

fn candidates(
    disk: &dyn Disk,
    dir: &Path,
    incarnation: Incarnation,
) -> Result<Vec<Candidate>, DiskError> {
    let mut found = Vec::new();
    for name in log_names(disk, dir)? {
        let file = disk.open(&dir.join(&name), Mode::Write)?;
        let bytes = file.len()?;
        let mut raw = vec![0; FILE_HEADER as usize];
        let header = match file.read_at(0, &mut raw) {
            Ok(()) => FileHeader::decode(&raw, incarnation),
            Err(error) if error.kind == ErrorKind::Eof => None,
            Err(error) => return Err(error),
        };
        found.push(Candidate { file: LogFile { file, name, bytes }, header });
    }
    Ok(found)
}

fn first_unit(file: &LogFile, incarnation: Incarnation) -> Result<Option<UnitHeader>, DiskError> {
    if file.bytes < FILE_HEADER + SECTOR {
        return Ok(None);
    }
    let mut raw = [0; UNIT_HEADER];
    file.file.read_at(FILE_HEADER, &mut raw)?;
    Ok(unit::header(incarnation, FILE_HEADER, &raw))
}

/// The scan of one life.
struct Scan<'a> {
    incarnation: Incarnation,
    life: u64,
    name: &'a str,
    content: Vec<u8>,
    damage: &'a mut Vec<Damage>,
    write: u64,
}

impl Scan<'_> {
    /// Visits the life's entries; returns where its units end.
    fn run(&mut self, expected: Option<u64>, visit: &mut dyn FnMut(Entry, Location)) -> u64 {
        let mut offset = FILE_HEADER;
        let mut end = FILE_HEADER;
        loop {
            if expected.is_some_and(|expected| offset >= expected) {
                return offset;
            }
            if let Some((header, entries)) = self.unit(offset) {
                self.write = header.write;
                offset += unit::unit_bytes(u64::from(header.length));
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

    fn report(&mut self, from: u64, to: u64) {
        let what = format!("log file {} at offsets {from} to {to}", self.name);
        let (life, end) = (self.life, Position { life: self.life, offset: to });
        self.damage.push(Damage { life, end, what });
    }

    fn bytes(&self, offset: u64, length: usize) -> Option<&[u8]> {
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
