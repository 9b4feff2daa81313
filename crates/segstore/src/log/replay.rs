//! Reading the hot log back: which files are lives of it, where each life ends, and what is damaged.
//!
//! A life ends where the next life's header says; the newest one at the first place without a valid
//! unit. There the last write may be torn, which nobody was told about. But a valid unit further on
//! in the same life, or an earlier end than the next header says, means that acknowledged bytes are
//! gone: that is damage, reported and never cut off silently (rule S5).

use std::collections::BTreeMap;
use std::path::Path;

use env::{Disk, DiskError, File, Mode};
use types::Incarnation;

use super::ring::{Life, LogFile, Tail};
use super::scan::Scan;
use super::unit::{
    self, Entry, FILE_HEADER, FileHeader, Location, Position, UNIT_HEADER, UnitHeader,
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
    /// Names of files that the medium does not give back: to be removed once what they held is known
    /// as lost, durably.
    pub(crate) unreadable: Vec<String>,
}

/// A file that may be a life.
struct Candidate {
    file: LogFile,
    header: Option<FileHeader>,
    /// Its first unit, when that is of the life that the header names, or of any without a header.
    first: Option<UnitHeader>,
}

/// Files by what they are.
#[derive(Default)]
struct Sorted {
    lives: BTreeMap<u64, Candidate>,
    spare: Vec<LogFile>,
    /// Lives that two files claim to be: one of them was written in the wrong place.
    doubled: Vec<u64>,
    /// Files that the medium does not give back.
    unreadable: Vec<String>,
}

/// Reads the log in `dir`, handing every entry to `visit` in order.
pub(crate) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    incarnation: Incarnation,
    visit: &mut dyn FnMut(Entry, Location),
) -> Result<Replayed, DiskError> {
    let mut damage = Vec::new();
    let next_name = next_name(disk, dir)?;
    let Sorted { mut lives, mut spare, doubled, unreadable } = sort(disk, dir, incarnation)?;
    let newest = lives.iter().rev().find_map(|(_, found)| found.header);
    let oldest = newest.map_or(1, |header| header.oldest);
    let last_life = lives.keys().next_back().copied().unwrap_or(0);
    let retired: Vec<u64> = lives.range(..oldest).map(|(life, _)| *life).collect();
    for life in retired {
        spare.extend(lives.remove(&life).map(|found| found.file));
    }
    let whole = |life: u64, what: String| {
        let end = Position { life: life + 1, offset: 0 };
        Damage { life, end, what }
    };
    for life in doubled.into_iter().filter(|life| *life >= oldest) {
        damage.push(whole(life, format!("two log files claim to be life {life}")));
    }
    // Any of them may have been the newest.
    for name in &unreadable {
        damage.push(whole(last_life, format!("log file {name} cannot be read")));
    }
    let mut tail = Tail {
        files: BTreeMap::new(),
        spare,
        end: Position { life: last_life, offset: FILE_HEADER },
        write: 0,
        oldest,
        next_name,
        last: Vec::new(),
        ledger: BTreeMap::new(),
    };
    for life in oldest..=last_life {
        let Some(found) = lives.remove(&life) else {
            let what = format!("log file of life {life} is missing from {}", dir.display());
            damage.push(whole(life, what));
            continue;
        };
        let LogFile { file, name, bytes } = &found.file;
        if found.header.is_none() {
            damage.push(whole(life, format!("header of log file {name}")));
        }
        let next = lives.get(&(life + 1)).and_then(|next| next.header);
        let expected = next.map(|header| header.previous_end);
        let ((content, unreadable), write) = (read(&**file, *bytes), tail.write);
        let mut scan =
            Scan { incarnation, life, name, content, damage: &mut damage, write, last: None };
        let end = scan.run(expected, visit);
        // Where the newest life ends is told by itself alone: not when some of it is not to be had.
        let cut = found.header.map(|header| header.bytes).filter(|length| *length > *bytes);
        if let Some(to) = cut.or(unreadable).filter(|_| next.is_none()) {
            scan.report(end, to);
        }
        tail.write = scan.write;
        tail.end = Position { life, offset: end };
        tail.last = last_written(life, &scan, tail.last);
        let mine = damage.iter().rev().find(|damage| damage.life == life);
        let damage = mine.map(|damage| damage.what.clone());
        tail.files.insert(life, Life { file: found.file, end: Some(end), damage });
    }
    tail.write += 1;
    Ok(Replayed { tail, damage, unreadable })
}

/// What the last write to the log may have been: this life's header, and the last unit up to here. A
/// sync that failed may have left it in the system's cache and not on the medium.
fn last_written(
    life: u64,
    scan: &Scan<'_>,
    before: Vec<(u64, u64, Vec<u8>)>,
) -> Vec<(u64, u64, Vec<u8>)> {
    let part = |(offset, bytes): (u64, u64)| {
        let bytes = scan.bytes(offset, usize::try_from(bytes).ok()?)?;
        Some((life, offset, bytes.to_vec()))
    };
    let unit = scan.last.and_then(part);
    let before = before.into_iter().filter(|(_, offset, _)| *offset > 0 && unit.is_none());
    let mut last: Vec<_> = before.collect();
    last.extend(unit);
    last.extend(part((0, FILE_HEADER)));
    last
}

/// A file's content, and up to where something of it cannot be read: that is zeros, and not a unit.
fn read(file: &dyn File, bytes: u64) -> (Vec<u8>, Option<u64>) {
    const PIECE: usize = 4096;
    let mut content = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let mut unreadable = None;
    if file.read_at(0, &mut content).is_err() {
        for (number, piece) in content.chunks_mut(PIECE).enumerate() {
            let offset = (number * PIECE) as u64;
            if file.read_at(offset, piece).is_err() {
                piece.fill(0);
                unreadable = Some(offset + piece.len() as u64);
            }
        }
    }
    (content, unreadable)
}

/// The newest life whose header or units are in `dir`; none when a file cannot be read, which may be it.
pub(crate) fn newest_life(
    disk: &dyn Disk,
    dir: &Path,
    incarnation: Incarnation,
) -> Result<Option<u64>, DiskError> {
    let Sorted { lives, unreadable, .. } = sort(disk, dir, incarnation)?;
    let newest = lives.keys().next_back().copied().unwrap_or(0);
    Ok(unreadable.is_empty().then_some(newest))
}

fn log_names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, DiskError> {
    Ok(disk.list(dir)?.into_iter().filter(|name| name.ends_with(".log")).collect())
}

fn next_name(disk: &dyn Disk, dir: &Path) -> Result<u64, DiskError> {
    let names = log_names(disk, dir)?;
    let number = |name: &String| name.trim_end_matches(".log").parse::<u64>().ok();
    Ok(names.iter().filter_map(number).max().map_or(1, |last| last + 1))
}

fn sort(disk: &dyn Disk, dir: &Path, incarnation: Incarnation) -> Result<Sorted, DiskError> {
    let mut sorted = Sorted::default();
    for name in log_names(disk, dir)? {
        let file = disk.open(&dir.join(&name), Mode::Write)?;
        let bytes = file.len()?;
        let Ok(found) = candidate(LogFile { file, name: name.clone(), bytes }, incarnation) else {
            sorted.unreadable.push(name);
            continue;
        };
        // A header may be torn while its file is being recycled, before any unit of the new life;
        // units below a torn header are an older life's, retired before.
        let life = found.header.map(|header| header.life);
        let Some(life) = life.or(found.first.map(|unit| unit.at.life)) else {
            sorted.spare.push(found.file);
            continue;
        };
        if let Some(other) = sorted.lives.remove(&life) {
            sorted.doubled.push(life);
            let (kept, left) = if found.first.is_some() { (found, other) } else { (other, found) };
            sorted.lives.insert(life, kept);
            sorted.spare.push(left.file);
        } else {
            sorted.lives.insert(life, found);
        }
    }
    Ok(sorted)
}

fn candidate(file: LogFile, incarnation: Incarnation) -> Result<Candidate, DiskError> {
    let mut raw = vec![0; FILE_HEADER as usize + UNIT_HEADER];
    if file.bytes < raw.len() as u64 {
        return Ok(Candidate { file, header: None, first: None });
    }
    file.file.read_at(0, &mut raw)?;
    let (header, first) = raw.split_at(FILE_HEADER as usize);
    let first = unit::header(incarnation, FILE_HEADER, first);
    // What a file held before is of an earlier life: under a later one's unit the header is not its own.
    let own = |header: &FileHeader| first.is_none_or(|unit| unit.at.life <= header.life);
    let header = FileHeader::decode(header, incarnation).filter(own);
    let first = first.filter(|unit| header.is_none_or(|header| header.life == unit.at.life));
    Ok(Candidate { file, header, first })
}
