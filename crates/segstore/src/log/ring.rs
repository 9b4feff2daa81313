//! Appending to the hot log: one durable write per append, into files that were zeroed before.
//!
//! Orders that matter (rule S3):
//! 1. a new life's header is durable before its first unit, and tells where the life before it ended
//!    and which lives are still needed;
//! 2. a file is recycled only after a durable header has said that its life is no longer needed, and
//!    the new life's ledger is durable.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use env::{Disk, DiskError, ErrorKind, File, Operation, recipes};
use types::{Incarnation, SegmentId};

use super::unit::{
    self, ENTRY_HEADER, Entry, FILE_HEADER, FileHeader, Kind, Location, Position, SECTOR,
};

/// A log file in use or spare.
#[derive(Clone)]
pub(crate) struct LogFile {
    pub(crate) file: Arc<dyn File>,
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// One life of a log file.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) file: LogFile,
    /// Where its units end; `None` while it is written to.
    pub(crate) end: Option<u64>,
    /// What was found damaged in it.
    pub(crate) damage: Option<String>,
}

/// The files by life, for readers beside the appender.
#[derive(Clone, Default)]
pub(crate) struct Lives(Arc<RwLock<BTreeMap<u64, Life>>>);

impl Lives {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<u64, Life>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<u64, Life>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, life: u64) -> Option<LogFile> {
        self.read().get(&life).map(|found| found.file.clone())
    }

    /// A life with where it ends, if it is still there.
    pub(crate) fn look(&self, life: u64) -> Option<Life> {
        self.read().get(&life).cloned()
    }

    /// Every life, oldest first.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.read().keys().copied().collect()
    }

    fn insert(&self, life: u64, file: LogFile) {
        self.write().insert(life, Life { file, end: None, damage: None });
    }

    fn end(&self, life: u64, offset: u64) {
        if let Some(found) = self.write().get_mut(&life) {
            found.end = Some(offset);
        }
    }

    fn remove(&self, life: u64) -> Option<LogFile> {
        self.write().remove(&life).map(|found| found.file)
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.read().keys().next().copied()
    }

    /// Bytes of the files of this life and later ones.
    pub(crate) fn bytes_from(&self, life: u64) -> u64 {
        self.read().range(life..).map(|(_, found)| found.file.bytes).sum()
    }

    /// Remembers that a life is damaged, if it is still there: what fails in one that has been
    /// recycled meanwhile is no damage.
    pub(crate) fn note_damage(&self, life: u64, why: String) {
        if let Some(found) = self.write().get_mut(&life) {
            found.damage.get_or_insert(why);
        }
    }

    /// Damaged lives from this one on.
    pub(crate) fn damaged_from(&self, life: u64) -> Vec<(u64, String)> {
        let lives = self.read();
        let damaged = lives
            .range(life..)
            .filter_map(|(life, found)| found.damage.clone().map(|why| (*life, why)));
        damaged.collect()
    }
}

/// Why nothing, or not everything, was appended.
#[derive(Debug)]
pub(crate) enum LogError {
    /// There is no room for the next file; the units of this call that are durable may be written again.
    NoRoom(DiskError),
    /// A write failed: what the medium holds is not known.
    Failed(DiskError),
}

impl From<DiskError> for LogError {
    fn from(error: DiskError) -> LogError {
        LogError::Failed(error)
    }
}

/// The appender.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    incarnation: Incarnation,
    file_bytes: u64,
    lives: Lives,
    spare: Vec<LogFile>,
    next_name: u64,
    active: LogFile,
    at: Position,
    write: u64,
    /// Lives below are no longer needed.
    oldest_needed: u64,
    /// What the newest durable header says of the above.
    oldest_durable: u64,
    /// What the next life begins with: the newest note of each segment, and the drops that the log had
    /// no room for.
    ledger: BTreeMap<SegmentId, Bytes>,
}

/// What replay found, from which the appender goes on.
pub(crate) struct Tail {
    pub(crate) files: BTreeMap<u64, Life>,
    pub(crate) spare: Vec<LogFile>,
    pub(crate) end: Position,
    pub(crate) write: u64,
    pub(crate) oldest: u64,
    pub(crate) next_name: u64,
    /// What may have been written last: life, offset and bytes.
    pub(crate) last: Vec<(u64, u64, Vec<u8>)>,
    pub(crate) ledger: BTreeMap<SegmentId, Bytes>,
}

impl Log {
    /// Goes on after what replay found, in a new life: bytes after a torn tail are never followed.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        incarnation: Incarnation,
        file_bytes: u64,
        tail: Tail,
    ) -> Result<Log, DiskError> {
        for (life, offset, bytes) in &tail.last {
            // What it says is believed from now on, so it must be on the medium: see S16.
            if let Some(found) = tail.files.get(life) {
                found.file.file.write_at_durable(*offset, &[IoSlice::new(bytes)])?;
            }
        }
        let lives = Lives(Arc::new(RwLock::new(tail.files)));
        let mut next_name = tail.next_name;
        // Files of another size first: one that a full disk cut short is in the way of the next.
        let (mut spare, misfits): (Vec<_>, Vec<_>) =
            tail.spare.into_iter().partition(|file| file.bytes == file_bytes);
        let names: Vec<String> = misfits.into_iter().map(|file| file.name).collect();
        recipes::remove_all(&*disk, &dir, &names)?;
        // The process before may have ended because their creation could not be made durable: then
        // neither their names nor their lengths are, and what is written into them would not be.
        for file in &spare {
            let last = file_bytes.saturating_sub(SECTOR);
            file.file.write_at_durable(last, &[IoSlice::new(&[0; SECTOR as usize])])?;
        }
        disk.sync_dir(&dir)?;
        let first = match spare.first() {
            Some(file) => file.clone(),
            None => {
                next_name += 1;
                let file = create(&*disk, &dir, next_name - 1, file_bytes)?;
                spare.push(file.clone());
                file
            }
        };
        let mut log = Log {
            disk,
            dir,
            incarnation,
            file_bytes,
            lives,
            spare,
            next_name,
            active: first,
            at: tail.end,
            write: tail.write,
            oldest_needed: tail.oldest.max(1),
            oldest_durable: tail.oldest.max(1),
            ledger: tail.ledger,
        };
        match log.roll(0) {
            Ok(_) => Ok(log),
            Err(LogError::NoRoom(error) | LogError::Failed(error)) => Err(error),
        }
    }

    pub(crate) fn lives(&self) -> Lives {
        self.lives.clone()
    }

    /// Where the next unit goes.
    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// Writes entries durably; returns where each payload lies, and the bytes written.
    /// One system call, unless the entries do not fit into one file together.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(Vec<Location>, u64), LogError> {
        let room = self.file_bytes - FILE_HEADER;
        let mut locations = Vec::with_capacity(entries.len());
        let mut written = 0;
        let mut rest = entries;
        while !rest.is_empty() {
            let mut count = 0;
            let mut length = 0u64;
            for entry in rest {
                let more = length + (ENTRY_HEADER + entry.payload.len()) as u64;
                if count > 0 && unit::unit_bytes(more) > room {
                    break;
                }
                length = more;
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            let needed = unit::unit_bytes(length);
            if self.at.offset + needed > self.active.bytes {
                written += self.roll(needed)?;
            }
            let (bytes, found) = self.write_unit(now)?;
            written += bytes;
            locations.extend(found);
            rest = later;
        }
        self.take_notes(entries);
        Ok((locations, written))
    }

    /// Writes one unit, for which there is room.
    fn write_unit(&mut self, entries: &[Entry]) -> Result<(u64, Vec<Location>), DiskError> {
        let (bytes, found) = unit::encode(self.incarnation, self.at, self.write, entries);
        self.active.file.write_at_durable(self.at.offset, &[IoSlice::new(&bytes)])?;
        self.at.offset += bytes.len() as u64;
        self.write += 1;
        Ok((bytes.len() as u64, found))
    }

    /// Remembers a note that there was no room for: the next life begins with it. A drop, too, has to be
    /// read after the older lives' notes of what was held.
    pub(crate) fn note_later(&mut self, entry: Entry) {
        self.ledger.insert(entry.segment, entry.payload);
    }

    /// Remembers what every later life is to begin with.
    fn take_notes(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.kind == Kind::Ledger) {
            match entry.payload.is_empty() {
                true => self.ledger.remove(&entry.segment),
                false => self.ledger.insert(entry.segment, entry.payload.clone()),
            };
        }
    }

    /// Begins a new life with room for `needed` bytes of units besides the ledger, and writes that.
    /// Returns the bytes of units written.
    pub(crate) fn roll(&mut self, needed: u64) -> Result<u64, LogError> {
        let note = |(segment, payload): (&SegmentId, &Bytes)| Entry {
            segment: *segment,
            kind: Kind::Ledger,
            payload: payload.clone(),
        };
        let ledger: Vec<Entry> = self.ledger.iter().map(note).collect();
        let ledger_bytes = unit::unit_bytes(unit::entries_bytes(&ledger));
        let bytes = (FILE_HEADER + ledger_bytes + needed).max(self.file_bytes);
        let file = match self.spare.iter().position(|file| file.bytes >= bytes) {
            Some(index) => self.spare.remove(index),
            None => {
                self.next_name += 1;
                let made = create(&*self.disk, &self.dir, self.next_name - 1, bytes);
                made.map_err(|error| match error.kind {
                    ErrorKind::Full => LogError::NoRoom(error),
                    _ => LogError::Failed(error),
                })?
            }
        };
        let header = FileHeader {
            life: self.at.life + 1,
            previous_end: self.at.offset,
            oldest: self.oldest_needed,
            bytes: file.bytes,
        };
        let encoded = header.encode(self.incarnation);
        file.file.write_at_durable(0, &[IoSlice::new(&encoded)])?;
        self.lives.end(self.at.life, self.at.offset);
        self.at = Position { life: header.life, offset: FILE_HEADER };
        self.lives.insert(header.life, file.clone());
        self.active = file;
        let written = if ledger.is_empty() { 0 } else { self.write_unit(&ledger)?.0 };
        self.ledger.retain(|_, payload| !payload.is_empty());
        // Only now may an older life go: it has the ledger too.
        self.oldest_durable = header.oldest;
        Ok(written)
    }

    /// Says that lives up to this one are no longer needed; they are recycled after the next roll.
    pub(crate) fn retire(&mut self, life: u64) {
        self.oldest_needed = self.oldest_needed.max(life + 1);
    }

    /// Lowest life not retired.
    pub(crate) fn oldest_needed(&self) -> u64 {
        self.oldest_needed
    }

    /// Lowest life that an opening would read.
    pub(crate) fn oldest_durable(&self) -> u64 {
        self.oldest_durable
    }

    /// Takes one file that is no longer needed out of the ring: kept as a spare, or handed out to
    /// be removed. `None` when there is none.
    pub(crate) fn recycle(&mut self) -> Option<Recycled> {
        let life = self.lives.oldest().filter(|life| *life < self.oldest_durable)?;
        let file = self.lives.remove(life)?;
        if file.bytes == self.file_bytes && self.spare.len() < 2 {
            self.spare.push(file);
            return Some(Recycled::Kept);
        }
        Some(Recycled::Remove(file.name))
    }

    /// Name of a spare file to create, when none is ready. Zeroing takes long, so the caller does
    /// it without holding the log and hands the file to [`Log::add_spare`].
    pub(crate) fn spare_wanted(&mut self) -> Option<u64> {
        self.spare.is_empty().then(|| {
            self.next_name += 1;
            self.next_name - 1
        })
    }

    pub(crate) fn add_spare(&mut self, file: LogFile) {
        self.spare.push(file);
    }
}

/// What became of a file that left the ring.
pub(crate) enum Recycled {
    /// It waits to be used again.
    Kept,
    /// The file of this name is to be removed.
    Remove(String),
}

/// Creates a zeroed log file. Where there is no room for it nothing is left of it.
pub(crate) fn create(
    disk: &dyn Disk,
    dir: &std::path::Path,
    name: u64,
    bytes: u64,
) -> Result<LogFile, DiskError> {
    let name = format!("{name:08}.log");
    let path = dir.join(&name);
    let free = disk.free_bytes(dir)?;
    if free < bytes {
        // Found out beforehand, so that it does not take what little room others may need.
        let detail = format!("{bytes} bytes are wanted, {free} are free");
        let (operation, kind) = (Operation::Allocate, ErrorKind::Full);
        return Err(DiskError { operation, path, offset: 0, kind, detail });
    }
    match recipes::create_zeroed(disk, &path, bytes) {
        Ok(file) => Ok(LogFile { file, name, bytes }),
        Err(error) => {
            if error.kind == ErrorKind::Full {
                recipes::remove_all(disk, dir, &[name])?;
            }
            Err(error)
        }
    }
}
