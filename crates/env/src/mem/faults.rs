//! What goes wrong with a medium without anybody being told: rot, writes that go elsewhere, writes that
//! never arrive.

use std::path::{Path, PathBuf};

use super::{MemDisk, SECTOR, State, error, lock, next_random};
use crate::disk::{DiskError, ErrorKind, Operation};

/// What the medium does wrongly from now on.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Nothing becomes durable, whatever is said.
    pub(super) lying: bool,
    /// Where the next write goes.
    pub(super) misdirect: Option<u64>,
}

impl State {
    /// Where a write of so many bytes really goes.
    pub(super) fn target(&mut self, file: usize, offset: usize, length: usize) -> (usize, usize) {
        let Some(mut seed) = self.faults.misdirect.take() else { return (file, offset) };
        let others: Vec<usize> =
            self.named().filter(|at| !self.files[*at].seen.is_empty()).collect();
        let Some(other) = others.get(next_random(&mut seed) as usize % others.len().max(1)) else {
            return (file, offset);
        };
        let sectors = self.files[*other].seen.len().saturating_sub(length) / SECTOR + 1;
        (*other, next_random(&mut seed) as usize % sectors * SECTOR)
    }
}

impl MemDisk {
    /// Every file that has a name, and its length.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = lock(&self.state);
        let mut found = Vec::new();
        for (directory, inside) in &state.directories {
            let files = inside.names.iter();
            found.extend(
                files.map(|(name, file)| {
                    (directory.join(name), state.files[*file].seen.len() as u64)
                }),
            );
        }
        found
    }

    /// Flips bits of one stored byte, as a failing medium does.
    ///
    /// # Errors
    /// `Missing` or `Eof`.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        let file = state
            .find(path)
            .ok_or_else(|| error(Operation::Write, path, offset, ErrorKind::Missing))?;
        let file = &mut state.files[file];
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        for content in [&mut file.seen, &mut file.held] {
            match content.get_mut(at) {
                Some(byte) => *byte ^= mask,
                None => return Err(error(Operation::Write, path, offset, ErrorKind::Eof)),
            }
        }
        Ok(())
    }

    /// From now on writes, syncs and changes of names are said to be durable and are not, until told
    /// otherwise: after a loss of power they were never made.
    pub fn set_lying(&self, lying: bool) {
        lock(&self.state).faults.lying = lying;
    }

    /// The next write goes to some other place, chosen by this seed, and not where it should.
    pub fn misdirect_next(&self, seed: Option<u64>) {
        lock(&self.state).faults.misdirect = seed;
    }
}
