//! A disk in memory that forgets what was not synced, tears what was being written, fills up, and
//! fails when told to.
//!
//! Two views of everything: what programs see, and what the medium holds. Writes reach the medium by
//! `sync` or a durable write, names by `sync_dir`. [`MemDisk::crash`] makes a new disk of what the
//! medium holds, plus as much of the unsynced writes as [`Survive`] says, 512-byte sector by sector.

mod content;
mod faults;
mod names;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::content::Content;
use self::faults::Faults;
use self::names::Directory;
use crate::disk::{Disk, DiskError, ErrorKind, File, Mode, Operation};

/// What is written whole or not at all.
pub const SECTOR: usize = 512;

/// Which unsynced writes a crash leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survive {
    /// None: a medium that had not begun.
    Nothing,
    /// All, names too: a crash of the process, not of the machine.
    Everything,
    /// Of each unsynced write, the first so many bytes.
    Prefix(usize),
    /// Of each unsynced write any subset of sectors, and of each directory's changes of names the
    /// first few, by this seed.
    Random(u64),
    /// The same, but counted: every number below [`MemDisk::outcomes`] is a case, and all cases there
    /// are.
    Outcome(u64),
}

/// What was not synced, decided piece by piece.
#[derive(Clone, Copy)]
struct Fate {
    survive: Survive,
    rest: u64,
}

impl Fate {
    fn new(survive: Survive) -> Fate {
        match survive {
            Survive::Random(rest) | Survive::Outcome(rest) => Fate { survive, rest },
            _ => Fate { survive, rest: 0 },
        }
    }

    /// How many of `count` steps that are taken in order survive.
    fn steps(&mut self, count: usize) -> usize {
        let cases = count as u64 + 1;
        let chosen = match self.survive {
            Survive::Nothing | Survive::Prefix(_) => 0,
            Survive::Everything => count as u64,
            Survive::Random(_) => next_random(&mut self.rest) % cases,
            Survive::Outcome(_) => {
                let chosen = self.rest % cases;
                self.rest /= cases;
                chosen
            }
        };
        usize::try_from(chosen).unwrap_or(count)
    }

    fn survives(&mut self) -> bool {
        self.steps(1) == 1
    }
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    directories: BTreeMap<PathBuf, Directory>,
    capacity: Option<u64>,
    sync_points: u64,
    freeze_at: Option<u64>,
    frozen: bool,
    fail: Option<Operation>,
    faults: Faults,
}

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

struct MemFile {
    state: Arc<Mutex<State>>,
    file: usize,
    path: PathBuf,
    writable: bool,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error(operation: Operation, path: &Path, offset: u64, kind: ErrorKind) -> DiskError {
    let detail = match kind {
        ErrorKind::Missing => "no such file",
        ErrorKind::Exists => "the name is taken",
        ErrorKind::Full => "no space left",
        ErrorKind::Eof => "the file ends here",
        ErrorKind::Failed => "input/output error",
    };
    DiskError { operation, path: path.to_owned(), offset, kind, detail: detail.to_owned() }
}

/// A path's directory and its name there.
fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}

fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl State {
    /// Every change passes here; the moment before a change becomes durable is a sync point.
    fn check(&mut self, operation: Operation, path: &Path, sync: bool) -> Result<(), DiskError> {
        if sync && !self.frozen {
            if self.freeze_at == Some(self.sync_points) {
                self.frozen = true;
            }
            self.sync_points += 1;
        }
        if self.frozen || self.fail == Some(operation) {
            return Err(error(operation, path, 0, ErrorKind::Failed));
        }
        Ok(())
    }

    fn named(&self) -> impl Iterator<Item = usize> {
        self.directories.values().flat_map(|directory| directory.names.values().copied())
    }

    fn used(&self) -> u64 {
        self.named().map(|file| self.files[file].seen.len() as u64).sum()
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let (directory, name) = split(path);
        self.directories.get(directory)?.get(name)
    }

    /// The directory that a path lies in: programs may leave out the top one.
    fn directory(&mut self, path: &Path) -> Option<&mut Directory> {
        let (directory, _) = split(path);
        if directory.as_os_str().is_empty() {
            return Some(self.directories.entry(PathBuf::new()).or_default());
        }
        self.directories.get_mut(directory)
    }
}

impl MemDisk {
    /// An empty disk without limit.
    #[must_use]
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// Limits the bytes of all files together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.state).capacity = bytes;
    }

    /// Makes every operation of this kind fail from now on, until told otherwise.
    pub fn set_failing(&self, operation: Option<Operation>) {
        lock(&self.state).fail = operation;
    }

    /// Sync points passed so far.
    #[must_use]
    pub fn sync_points(&self) -> u64 {
        lock(&self.state).sync_points
    }

    /// Stops the disk just before the sync point of this number takes effect: the operation there
    /// and every one after it fails, and what it was writing counts as unsynced.
    pub fn freeze_at(&self, point: u64) {
        lock(&self.state).freeze_at = Some(point);
    }

    /// Ends what [`MemDisk::freeze_at`] began: the process that wrote is gone, and what it had written
    /// is still seen, durable or not.
    pub fn thaw(&self) {
        let mut state = lock(&self.state);
        (state.freeze_at, state.frozen) = (None, false);
    }

    /// Whether it was stopped by [`MemDisk::freeze_at`].
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        lock(&self.state).frozen
    }

    /// Bytes of all files, as programs see them.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        lock(&self.state).used()
    }

    /// The disk that a machine finds after losing power now. This one is unchanged.
    #[must_use]
    pub fn crash(&self, survive: Survive) -> MemDisk {
        let state = lock(&self.state);
        let mut fate = Fate::new(survive);
        let mut fresh = State::default();
        for (path, directory) in &state.directories {
            let mut directory = directory.after(&mut fate);
            // Files without a name are gone.
            directory.renumber(|file| {
                fresh.files.push(state.files[file].after(&mut fate));
                fresh.files.len() - 1
            });
            fresh.directories.insert(path.clone(), directory);
        }
        MemDisk { state: Arc::new(Mutex::new(fresh)) }
    }

    /// How many different disks a loss of power can leave now, at most.
    #[must_use]
    pub fn outcomes(&self) -> u64 {
        let state = lock(&self.state);
        let names = state.directories.values().map(Directory::outcomes);
        let files = state.directories.values().flat_map(Directory::reachable);
        names.chain(files.map(|file| state.files[file].outcomes())).fold(1, u64::saturating_mul)
    }
}

impl MemDisk {
    /// Makes a stretch of a file unreadable for good, as sectors of a failing medium are.
    ///
    /// # Errors
    /// `Missing`.
    pub fn make_unreadable(&self, path: &Path, bytes: Range<u64>) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        let missing = || error(Operation::Read, path, bytes.start, ErrorKind::Missing);
        let file = state.find(path).ok_or_else(missing)?;
        state.files[file].unreadable.push(bytes.clone());
        Ok(())
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>, DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Open, path, false)?;
        let file = match (state.find(path), mode) {
            (Some(_), Mode::Create) => {
                return Err(error(Operation::Open, path, 0, ErrorKind::Exists));
            }
            (Some(file), _) => file,
            (None, Mode::Create) => {
                let file = state.files.len();
                let Some(directory) = state.directory(path) else {
                    return Err(error(Operation::Open, path, 0, ErrorKind::Missing));
                };
                directory.change(vec![(split(path).1.to_owned(), Some(file))]);
                state.files.push(Content::default());
                file
            }
            (None, _) => return Err(error(Operation::Open, path, 0, ErrorKind::Missing)),
        };
        let (state, path) = (Arc::clone(&self.state), path.to_owned());
        Ok(Arc::new(MemFile { state, file, path, writable: mode != Mode::Read }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>, DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::List, directory, false)?;
        let Some(inside) = state.directories.get(directory) else {
            return Err(error(Operation::List, directory, 0, ErrorKind::Missing));
        };
        let below = state.directories.keys().filter(|path| path.parent() == Some(directory));
        let mut names: Vec<String> = below
            .filter_map(|path| path.file_name())
            .chain(inside.names.keys().map(|name| name.as_os_str()))
            .filter_map(|name| name.to_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Rename, from, false)?;
        let missing = || error(Operation::Rename, from, 0, ErrorKind::Missing);
        let file = state.find(from).ok_or_else(missing)?;
        let ((source, old), (target, new)) = (split(from), split(to));
        let (gone, come) = ((old.to_owned(), None), (new.to_owned(), Some(file)));
        if source == target {
            state.directory(from).ok_or_else(missing)?.change(vec![gone, come]);
        } else {
            state.directory(to).ok_or_else(missing)?.change(vec![come]);
            state.directory(from).ok_or_else(missing)?.change(vec![gone]);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Remove, path, false)?;
        let known = state.find(path).is_some();
        match state.directory(path).filter(|_| known) {
            Some(directory) => directory.change(vec![(split(path).1.to_owned(), None)]),
            None => return Err(error(Operation::Remove, path, 0, ErrorKind::Missing)),
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Remove, path, false)?;
        let mut below = state.directories.iter().filter(|(place, _)| place.starts_with(path));
        if below.any(|(_, directory)| !directory.names.is_empty()) {
            return Err(error(Operation::Remove, path, 0, ErrorKind::Failed));
        }
        match state.directories.remove(path) {
            Some(_) => Ok(()),
            None => Err(error(Operation::Remove, path, 0, ErrorKind::Missing)),
        }
    }

    fn sync_dir(&self, directory: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::SyncDir, directory, true)?;
        let lying = state.faults.lying;
        if let Some(directory) = state.directories.get_mut(directory).filter(|_| !lying) {
            directory.sync();
        }
        Ok(())
    }

    fn create_dir(&self, directory: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::CreateDir, directory, false)?;
        // Directories are durable at once: their loss is never the interesting case.
        for place in directory.ancestors() {
            state.directories.entry(place.to_owned()).or_default();
        }
        Ok(())
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::FreeBytes, path, false)?;
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }
}

impl MemFile {
    fn write(&self, offset: u64, slices: &[IoSlice<'_>], durable: bool) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        let fail = |kind| error(Operation::Write, &self.path, offset, kind);
        if !self.writable {
            return Err(fail(ErrorKind::Failed));
        }
        let offset = usize::try_from(offset).map_err(|_| fail(ErrorKind::Failed))?;
        let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        if state.frozen {
            return Err(fail(ErrorKind::Failed));
        }
        let grown = (offset + bytes.len()).saturating_sub(state.files[self.file].seen.len());
        let over = |capacity| state.used() + grown as u64 > capacity;
        if state.capacity.is_some_and(over) {
            return Err(fail(ErrorKind::Full));
        }
        // Whatever happens next, the medium may have begun.
        let (file, offset) = state.target(self.file, offset, bytes.len());
        state.files[file].write(offset, bytes);
        state.check(Operation::Write, &self.path, durable)?;
        if durable && !state.faults.lying {
            state.files[file].last_is_durable();
        }
        Ok(())
    }
}

impl File for MemFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Read, &self.path, false)?;
        let wanted = offset..offset.saturating_add(buffer.len() as u64);
        let spoilt = |bytes: &Range<u64>| bytes.start < wanted.end && wanted.start < bytes.end;
        if state.files[self.file].unreadable.iter().any(spoilt) {
            return Err(error(Operation::Read, &self.path, offset, ErrorKind::Failed));
        }
        let content = &state.files[self.file].seen;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        match content.get(start..end) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(error(Operation::Read, &self.path, offset, ErrorKind::Eof)),
        }
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        self.write(offset, slices, false)
    }

    fn write_at_durable(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        self.write(offset, slices, true)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Sync, &self.path, true)?;
        if !state.faults.lying {
            state.files[self.file].sync();
        }
        Ok(())
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(lock(&self.state).files[self.file].seen.len() as u64)
    }

    fn set_len(&self, length: u64) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Length, &self.path, false)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        state.files[self.file].set_len(length);
        Ok(())
    }
}
