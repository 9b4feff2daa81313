//! A disk in memory that forgets what was not synced, tears what was being written, fills up, and
//! fails when told to.
//!
//! Two views of everything: what programs see, and what the medium holds. Writes reach the medium by
//! `sync` or a durable write, names by `sync_dir`. [`MemDisk::crash`] makes a new disk of what the
//! medium holds, plus as much of the unsynced writes as [`Survive`] says, 512-byte sector by sector.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Of each unsynced write any subset of sectors, and any subset of names, by this seed.
    Random(u64),
}

#[derive(Clone, Debug)]
enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct Node {
    seen: Vec<u8>,
    held: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    /// Names as programs see them.
    names: BTreeMap<PathBuf, usize>,
    /// Names as the medium holds them.
    names_held: BTreeMap<PathBuf, usize>,
    directories: BTreeMap<PathBuf, ()>,
    capacity: Option<u64>,
    sync_points: u64,
    freeze_at: Option<u64>,
    frozen: bool,
    fail: Option<Operation>,
}

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

struct MemFile {
    state: Arc<Mutex<State>>,
    node: usize,
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

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Node {
    fn settle(&mut self, survive: Survive, seed: &mut u64) {
        let mut held = std::mem::take(&mut self.held);
        for pending in self.pending.drain(..) {
            match (pending, survive) {
                (_, Survive::Nothing) => {}
                (Pending::Length(length), Survive::Everything) => held.resize(length, 0),
                (Pending::Length(_), Survive::Prefix(_)) => {}
                (Pending::Length(length), Survive::Random(_)) => {
                    if next_random(seed) & 1 == 0 {
                        held.resize(length, 0);
                    }
                }
                (Pending::Write { offset, bytes }, Survive::Everything) => {
                    put(&mut held, offset, &bytes);
                }
                (Pending::Write { offset, bytes }, Survive::Prefix(count)) => {
                    put(&mut held, offset, &bytes[..count.min(bytes.len())]);
                }
                (Pending::Write { offset, bytes }, Survive::Random(_)) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
                        if next_random(seed) & 1 == 0 {
                            put(&mut held, offset + at, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        self.seen.clone_from(&held);
        self.held = held;
    }

    fn sync(&mut self) {
        self.held.clone_from(&self.seen);
        self.pending.clear();
    }
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

    fn used(&self) -> u64 {
        self.names.values().map(|node| self.nodes[*node].seen.len() as u64).sum()
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
        let mut seed = if let Survive::Random(seed) = survive { seed } else { 0 };
        let mut nodes = state.nodes.clone();
        for node in &mut nodes {
            node.settle(survive, &mut seed);
        }
        let names = match survive {
            Survive::Everything => state.names.clone(),
            Survive::Random(_) => {
                // Each directory's names are journaled in order: a directory is all new or all old.
                let renew = next_random(&mut seed) & 1 == 0;
                if renew { state.names.clone() } else { state.names_held.clone() }
            }
            Survive::Nothing | Survive::Prefix(_) => state.names_held.clone(),
        };
        let fresh = State {
            nodes,
            names_held: names.clone(),
            names,
            directories: state.directories.clone(),
            ..State::default()
        };
        MemDisk { state: Arc::new(Mutex::new(fresh)) }
    }

    /// Flips bits of one stored byte, as a failing medium does.
    ///
    /// # Errors
    /// `Missing` or `Eof`.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        let node = *state
            .names
            .get(path)
            .ok_or_else(|| error(Operation::Write, path, offset, ErrorKind::Missing))?;
        let node = &mut state.nodes[node];
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        for content in [&mut node.seen, &mut node.held] {
            match content.get_mut(at) {
                Some(byte) => *byte ^= mask,
                None => return Err(error(Operation::Write, path, offset, ErrorKind::Eof)),
            }
        }
        Ok(())
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>, DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Open, path, false)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let node = match (state.names.get(path).copied(), mode) {
            (Some(_), Mode::Create) => {
                return Err(error(Operation::Open, path, 0, ErrorKind::Exists));
            }
            (Some(node), _) => node,
            (None, Mode::Create)
                if parent.as_os_str().is_empty() || state.directories.contains_key(parent) =>
            {
                state.nodes.push(Node::default());
                let node = state.nodes.len() - 1;
                state.names.insert(path.to_owned(), node);
                node
            }
            (None, _) => return Err(error(Operation::Open, path, 0, ErrorKind::Missing)),
        };
        let (state, path) = (Arc::clone(&self.state), path.to_owned());
        Ok(Arc::new(MemFile { state, node, path, writable: mode != Mode::Read }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>, DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::List, directory, false)?;
        if !state.directories.contains_key(directory) {
            return Err(error(Operation::List, directory, 0, ErrorKind::Missing));
        }
        let inside = state.names.keys().chain(state.directories.keys());
        let mut names: Vec<String> = inside
            .filter(|path| path.parent() == Some(directory))
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Rename, from, false)?;
        let node = state
            .names
            .remove(from)
            .ok_or_else(|| error(Operation::Rename, from, 0, ErrorKind::Missing))?;
        state.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Remove, path, false)?;
        match state.names.remove(path) {
            Some(_) => Ok(()),
            None => Err(error(Operation::Remove, path, 0, ErrorKind::Missing)),
        }
    }

    fn remove_dir(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Remove, path, false)?;
        if state.names.keys().any(|name| name.starts_with(path)) {
            return Err(error(Operation::Remove, path, 0, ErrorKind::Failed));
        }
        match state.directories.remove(path) {
            Some(()) => Ok(()),
            None => Err(error(Operation::Remove, path, 0, ErrorKind::Missing)),
        }
    }

    fn sync_dir(&self, directory: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::SyncDir, directory, true)?;
        state.names_held.retain(|path, _| path.parent() != Some(directory));
        let inside: Vec<_> = state
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(directory))
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        state.names_held.extend(inside);
        Ok(())
    }

    fn create_dir(&self, directory: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::CreateDir, directory, false)?;
        // Directories are durable at once: their loss is never the interesting case.
        for place in directory.ancestors() {
            state.directories.insert(place.to_owned(), ());
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
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        if state.frozen {
            return Err(fail(ErrorKind::Failed));
        }
        let grown = (offset + bytes.len()).saturating_sub(state.nodes[self.node].seen.len());
        let over = |capacity| state.used() + grown as u64 > capacity;
        if state.capacity.is_some_and(over) {
            return Err(fail(ErrorKind::Full));
        }
        // Whatever happens next, the medium may have begun.
        let node = &mut state.nodes[self.node];
        put(&mut node.seen, offset, &bytes);
        node.pending.push(Pending::Write { offset, bytes });
        state.check(Operation::Write, &self.path, durable)?;
        if durable
            && let Some(Pending::Write { offset, bytes }) = state.nodes[self.node].pending.pop()
        {
            put(&mut state.nodes[self.node].held, offset, &bytes);
        }
        Ok(())
    }
}

impl File for MemFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Read, &self.path, false)?;
        let content = &state.nodes[self.node].seen;
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
        state.nodes[self.node].sync();
        Ok(())
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(lock(&self.state).nodes[self.node].seen.len() as u64)
    }

    fn set_len(&self, length: u64) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        state.check(Operation::Length, &self.path, false)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let node = &mut state.nodes[self.node];
        node.seen.resize(length, 0);
        node.pending.push(Pending::Length(length));
        Ok(())
    }
}
