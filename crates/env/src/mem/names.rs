//! One directory of a disk in memory: its names as programs see them, and as the medium holds them.
//!
//! Changes of names are journaled: those that survive a loss of power without a sync are the first
//! ones, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::Fate;

/// Which file a name means.
type Names = BTreeMap<OsString, usize>;

/// One step in the journal: names that changed together, and what they mean since.
type Change = Vec<(OsString, Option<usize>)>;

/// A directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    pub(super) names: Names,
    held: Names,
    pending: Vec<Change>,
}

fn apply(names: &mut Names, change: Change) {
    for (name, file) in change {
        match file {
            Some(file) => names.insert(name, file),
            None => names.remove(&name),
        };
    }
}

impl Directory {
    pub(super) fn get(&self, name: &OsStr) -> Option<usize> {
        self.names.get(name).copied()
    }

    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.names, change.clone());
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        self.pending.drain(..).for_each(|change| apply(&mut self.held, change));
    }

    /// Gives the files other numbers.
    pub(super) fn renumber(&mut self, mut number: impl FnMut(usize) -> usize) {
        self.names.values_mut().for_each(|file| *file = number(*file));
        self.held.clone_from(&self.names);
    }

    /// Files that a loss of power can leave under some name.
    pub(super) fn reachable(&self) -> BTreeSet<usize> {
        let changed = self.pending.iter().flatten().filter_map(|(_, file)| *file);
        self.names.values().chain(self.held.values()).copied().chain(changed).collect()
    }

    /// How many directories a loss of power can leave.
    pub(super) fn outcomes(&self) -> u64 {
        self.pending.len() as u64 + 1
    }

    /// The directory after a loss of power.
    pub(super) fn after(&self, fate: &mut Fate) -> Directory {
        let count = fate.steps(self.pending.len());
        let mut names = self.held.clone();
        self.pending.iter().take(count).for_each(|change| apply(&mut names, change.clone()));
        Directory { held: names.clone(), names, pending: Vec::new() }
    }
}
