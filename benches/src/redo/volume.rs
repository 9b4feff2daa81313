//! Pages in memory, and a log replayed over them as driver and storage nodes do it between them: decode,
//! find out what each record changes, apply it page by page.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pgwal::keys::{Fork, Key, Rel, Slru};
use pgwal::{ControlFile, Decoder, Waiting, effects};
use redo::mask::{first_difference, manager_of};
use redo::{Postgres, Record, State};
use types::{Lsn, Timeline};

pub const PAGE: usize = 8192;
const SEGMENT: u64 = 16 << 20;
/// Blocks in a relation's file.
const FILE_BLOCKS: u32 = 131_072;
const SLRU_FILE_PAGES: u32 = 32;
/// Bytes of the log read at a time.
const READ: usize = 256 << 10;

/// Multiplies and rotates: keys are a few small numbers, and a table of pages is not what is measured.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

type Pages = HashMap<Key, Vec<u8>, BuildHasherDefault<KeyHasher>>;

/// A volume in memory.
pub struct Volume {
    pages: Pages,
    start: Lsn,
    /// Applications of a record to a page so far.
    pub applied: u64,
}

impl Volume {
    /// All pages of a cluster that was shut down.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn load(data: &Path) -> Result<Volume> {
        let control = fs::read(data.join("global/pg_control"))?;
        let control = ControlFile::decode(&control).context("pg_control")?;
        let state = State::of_control_file(&control);
        let mut pages = relation_pages(data)?;
        for (key, page) in slru_pages(data)? {
            pages.insert(key, page);
        }
        pages.insert(Key::State, state.encode());
        Ok(Volume { pages, start: control.checkpoint, applied: 0 })
    }

    /// The page under this key.
    pub fn page(&self, key: &Key) -> Option<&[u8]> {
        self.pages.get(key).map(Vec::as_slice)
    }

    /// Replays the log in these segment files; the number of records after the base's checkpoint.
    ///
    /// # Errors
    /// When a record is unknown or does not fit its page.
    pub fn replay(&mut self, segments: &[PathBuf]) -> Result<u64> {
        let mut records = 0;
        each_record(self.start, segments, |record| {
            records += 1;
            self.record(record)
        })?;
        Ok(records)
    }

    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        for block in &record.blocks {
            self.apply(Key::Block(block.rel, block.fork, block.block), record)?;
        }
        let effects = effects(record)?;
        if effects.is_plain() {
            return Ok(());
        }
        for (rel, fork, block) in effects.implicit_blocks() {
            let key = Key::Block(rel, fork, block);
            if self.pages.contains_key(&key) {
                self.apply(key, record)?;
            }
        }
        for (area, page) in &effects.slru {
            self.apply(Key::Slru(*area, *page), record)?;
        }
        if effects.state {
            self.apply(Key::State, record)?;
        }
        // pgbench neither drops nor truncates once it is initialised.
        ensure!(effects.catalog.is_empty(), "{}: the catalog changes", record.span);
        Ok(())
    }

    fn apply(&mut self, key: Key, record: &Record<'_>) -> Result<()> {
        self.applied += 1;
        let page = self.pages.entry(key).or_default();
        Ok(Postgres.apply_record(key, page, record)?)
    }

    /// Compares every page with the files of a cluster that recovered the same log; how many.
    ///
    /// # Errors
    /// At the first page that differs.
    pub fn compare(&self, data: &Path) -> Result<u64> {
        let theirs = relation_pages(data)?;
        let mut compared = 0;
        for (key, page) in &self.pages {
            let (Key::Block(_, Fork::Main, block), Some(theirs)) = (key, theirs.get(key)) else {
                continue;
            };
            let (Ok(ours), Ok(theirs)) = (page.as_slice().try_into(), theirs.as_slice().try_into())
            else {
                bail!("{key:?} has {} bytes", page.len());
            };
            // Pages with no mark of a manager (relation maps have no pages) do not occur here.
            let Some(rmid) = manager_of(ours) else { continue };
            if let Some(at) = first_difference(rmid, ours, theirs, *block)? {
                bail!("{key:?} differs from what stock recovered, first at byte {at}");
            }
            compared += 1;
        }
        for (key, page) in slru_pages(data)? {
            if matches!(key, Key::Slru(Slru::Xact, _)) {
                ensure!(self.page(&key) == Some(&page), "{key:?} differs from stock's");
                compared += 1;
            }
        }
        Ok(compared)
    }
}

/// Calls `work` with every record after the one at `start`, until the log ends.
pub fn each_record(
    start: Lsn,
    segments: &[PathBuf],
    mut work: impl FnMut(&Record<'_>) -> Result<()>,
) -> Result<()> {
    let mut decoder = Decoder::new(start, None, SEGMENT as u32, None, Some(Timeline(1)));
    let (mut at, mut piece) = (start, vec![0; READ]);
    for file in segments {
        let number = at.0 / SEGMENT;
        let name = pgwal::layout::segment_name(Timeline(1), number, SEGMENT as u32);
        if file.file_name().is_none_or(|found| *found != *name) {
            continue;
        }
        let mut file = fs::File::open(file)?;
        file.seek(SeekFrom::Start(at.0 % SEGMENT))?;
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                break;
            }
            decoder.feed(at, &piece[..count])?;
            at = at.plus(count as u64);
            loop {
                // An error is the remains of an older use of the file: the log ends there.
                let Ok(next) = decoder.next_borrowed() else { return Ok(()) };
                let Some(record) = next else { break };
                if record.span.start > start {
                    work(&record)?;
                }
            }
            if decoder.waiting() == Waiting::Zeros {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Start of the log that belongs to a base copy.
pub fn start_of(data: &Path) -> Result<Lsn> {
    let control = fs::read(data.join("global/pg_control"))?;
    Ok(ControlFile::decode(&control).context("pg_control")?.checkpoint)
}

fn relation_pages(data: &Path) -> Result<Pages> {
    let mut pages = Pages::default();
    let mut directories = vec![(data.join("global"), 1664, 0)];
    for entry in fs::read_dir(data.join("base"))? {
        let entry = entry?;
        if let Ok(database) = entry.file_name().to_string_lossy().parse() {
            directories.push((entry.path(), 1663, database));
        }
    }
    for (directory, tablespace, database) in directories {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((relation, fork, file)) = parse_name(&name) else { continue };
            let rel = Rel { tablespace, database, relation };
            for (block, page) in (file * FILE_BLOCKS..).zip(fs::read(&path)?.chunks_exact(PAGE)) {
                pages.insert(Key::Block(rel, fork, block), page.to_vec());
            }
        }
    }
    Ok(pages)
}

/// Relation, fork and file number of `16384`, `16384_vm`, `16384.1` and the like.
fn parse_name(name: &str) -> Option<(u32, Fork, u32)> {
    let (name, file) = match name.split_once('.') {
        Some((name, file)) => (name, file.parse().ok()?),
        None => (name, 0),
    };
    let (relation, suffix) = name.split_at(name.find('_').unwrap_or(name.len()));
    let fork = (0..4).filter_map(Fork::from_number).find(|fork| fork.suffix() == suffix)?;
    Some((relation.parse().ok()?, fork, file))
}

fn slru_pages(data: &Path) -> Result<Vec<(Key, Vec<u8>)>> {
    let mut pages = Vec::new();
    for area in Slru::ALL {
        for entry in fs::read_dir(data.join(area.directory()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(file) = u32::from_str_radix(&name, 16) else { continue };
            let bytes = fs::read(&path)?;
            let numbered = (file * SLRU_FILE_PAGES..).zip(bytes.chunks_exact(PAGE));
            pages.extend(numbered.map(|(number, page)| (Key::Slru(area, number), page.to_vec())));
        }
    }
    Ok(pages)
}
