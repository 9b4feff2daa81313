//! Directories of databases that are being filled by copying (rule D19): marked from their first page
//! on, until a record makes them a database's or they are given up.

use pgwal::keys::{Fork, Key, Rel};

use super::Catalog;
use crate::draft::Draft;

impl Catalog {
    /// A directory begins to be filled by copying: whatever was there is gone.
    pub fn begin_copy(&mut self, draft: &mut Draft, tablespace: u32, database: u32) {
        self.drop_database(draft, tablespace, database);
        self.set_copy(draft, tablespace, database, false);
    }

    /// Whether a directory is being filled, and whether all its pages are there.
    #[must_use]
    pub fn copy(&self, tablespace: u32, database: u32) -> Option<bool> {
        self.copies.get(&(tablespace, database)).copied()
    }

    /// All pages of a directory being filled are there; nothing happens if it is not.
    pub fn end_copy(&mut self, draft: &mut Draft, tablespace: u32, database: u32) {
        if self.copies.contains_key(&(tablespace, database)) {
            self.set_copy(draft, tablespace, database, true);
        }
    }

    fn set_copy(&mut self, draft: &mut Draft, tablespace: u32, database: u32, done: bool) {
        draft.put(Key::Copying { tablespace, database }, vec![u8::from(done)]);
        self.copies.insert((tablespace, database), done);
    }

    /// Whoever was copying is gone: nothing is left of it.
    pub fn void_copies(&mut self, draft: &mut Draft) {
        while let Some(((tablespace, database), _)) = self.copies.first_key_value() {
            let (tablespace, database) = (*tablespace, *database);
            self.drop_database(draft, tablespace, database);
        }
    }

    /// A copied directory becomes a database's (rule D19). False when its pages are not all there.
    #[must_use]
    pub fn adopt_copy(
        &mut self,
        draft: &mut Draft,
        (from_tablespace, from_database): (u32, u32),
        (tablespace, database): (u32, u32),
    ) -> bool {
        let copied = |(from, fork, blocks): (Rel, Fork, u32)| {
            let to = Rel { tablespace, database, relation: from.relation };
            // The copy of a file may be longer than what the log knows of it, never shorter; free
            // space maps are hints.
            fork == Fork::Fsm || self.blocks(to, fork).is_some_and(|found| found >= blocks)
        };
        let source = || self.forks_of_database(from_tablespace, from_database);
        let (is_empty, is_whole) = (source().next().is_none(), source().all(copied));
        if is_empty {
            self.drop_database(draft, tablespace, database); // what replay does first
        } else if is_whole && self.copy(tablespace, database) == Some(true) {
            self.copies.remove(&(tablespace, database));
            draft.delete_entry(Key::Copying { tablespace, database });
        } else {
            return false;
        }
        self.create_database(draft, tablespace, database);
        if let Some(map) = self.maps.get(&(from_tablespace, from_database)).cloned() {
            self.put_map(draft, tablespace, database, map);
        }
        true
    }
}
