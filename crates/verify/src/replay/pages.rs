//! The pages of a replay: what records made of them, over images that the replay began with.

use std::collections::{BTreeMap, BTreeSet};

use pgwal::effects::CatalogChange;
use pgwal::keys::{Fork, Key, Rel};
use redo::State;

use crate::error::VerifyError;

/// What is known of a page before a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// Its bytes.
    Known(Vec<u8>),
    /// It does not exist, and counts as zeros where recovery would make it.
    Absent,
    /// Nothing.
    Unknown,
}

/// Pages to begin a replay with.
pub trait Images {
    /// The page as it is there.
    ///
    /// # Errors
    /// When it cannot be read.
    fn page(&mut self, key: Key) -> Result<Before, VerifyError>;

    /// The server's counters at the start of the replay, where they are exact.
    fn state(&self) -> Option<State>;
}

/// None: pages begin where the log initialises or shows them.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoImages;

impl Images for NoImages {
    fn page(&mut self, _key: Key) -> Result<Before, VerifyError> {
        Ok(Before::Unknown)
    }

    fn state(&self) -> Option<State> {
        None
    }
}

/// See the module's description.
pub(super) struct Pages<I> {
    images: I,
    made: BTreeMap<Key, Vec<u8>>,
    /// Pages that nobody knows any more, because a record could not be applied.
    lost: BTreeSet<Key>,
    /// Relations of which the images say nothing any more.
    gone: BTreeSet<Rel>,
    /// Databases (tablespace, database) of which the images say nothing any more.
    gone_databases: BTreeSet<(u32, u32)>,
    /// Relations that the log created.
    created: BTreeSet<Rel>,
    /// First block of a fork that the images are not asked for.
    cuts: BTreeMap<(Rel, Fork), u32>,
    /// Databases copied from others, of which the images may still be asked.
    copies: BTreeMap<(u32, u32), (u32, u32)>,
}

impl<I: Images> Pages<I> {
    pub fn new(images: I) -> Pages<I> {
        Pages {
            images,
            made: BTreeMap::new(),
            lost: BTreeSet::new(),
            gone: BTreeSet::new(),
            gone_databases: BTreeSet::new(),
            created: BTreeSet::new(),
            cuts: BTreeMap::new(),
            copies: BTreeMap::new(),
        }
    }

    pub fn made(&self) -> impl Iterator<Item = (Key, &[u8])> {
        self.made.iter().map(|(key, page)| (*key, page.as_slice()))
    }

    /// The page, which whoever takes it puts back changed.
    pub fn take(&mut self, key: Key) -> Result<Before, VerifyError> {
        if let Some(page) = self.made.remove(&key) {
            return Ok(Before::Known(page));
        }
        if self.lost.contains(&key) {
            return Ok(Before::Unknown);
        }
        let Key::Block(rel, fork, block) = key else { return self.images.page(key) };
        let database = (rel.tablespace, rel.database);
        if self.gone.contains(&rel)
            || self.gone_databases.contains(&database)
            || self.cuts.get(&(rel, fork)).is_some_and(|cut| block >= *cut)
        {
            return Ok(Before::Absent);
        }
        let asked = match self.copies.get(&database) {
            Some(&(tablespace, database)) => Rel { tablespace, database, ..rel },
            None => rel,
        };
        match self.images.page(Key::Block(asked, fork, block))? {
            Before::Unknown if self.created.contains(&rel) => Ok(Before::Absent),
            before => Ok(before),
        }
    }

    pub fn put(&mut self, key: Key, page: Vec<u8>) {
        self.lost.remove(&key);
        self.made.insert(key, page);
    }

    pub fn lose(&mut self, key: Key) {
        self.made.remove(&key);
        self.lost.insert(key);
    }

    /// Does to the set of pages what the catalog's change means for it.
    pub fn change(&mut self, change: &CatalogChange) {
        match change {
            CatalogChange::Created(rel, _) => {
                self.created.insert(*rel);
            }
            CatalogChange::Dropped(rel) => {
                self.gone.insert(*rel);
                self.forget(|of, _, _| of == *rel);
            }
            CatalogChange::Truncated(cut) => {
                for fork in [Fork::Main, Fork::Fsm, Fork::Vm] {
                    let Some(blocks) = cut.blocks_of(fork) else { continue };
                    let limit = self.cuts.entry((cut.rel, fork)).or_insert(u32::MAX);
                    *limit = blocks.min(*limit);
                    self.forget(|rel, of, block| rel == cut.rel && of == fork && block >= blocks);
                }
            }
            CatalogChange::DatabaseCreated { tablespace, database }
            | CatalogChange::DatabaseDropped { tablespace, database } => {
                self.replace_database((*tablespace, *database));
                self.gone_databases.insert((*tablespace, *database));
            }
            CatalogChange::DatabaseCopied {
                tablespace,
                database,
                from_tablespace,
                from_database,
            } => {
                self.copy_database((*tablespace, *database), (*from_tablespace, *from_database));
            }
            _ => {}
        }
    }

    fn forget(&mut self, is: impl Fn(Rel, Fork, u32) -> bool) {
        let matches =
            |key: &Key| matches!(key, Key::Block(rel, fork, block) if is(*rel, *fork, *block));
        self.made.retain(|key, _| !matches(key));
        self.lost.retain(|key| !matches(key));
    }

    /// Everything known of a database is over.
    fn replace_database(&mut self, (tablespace, database): (u32, u32)) {
        let is = |rel: &Rel| rel.tablespace == tablespace && rel.database == database;
        self.forget(|rel, _, _| is(&rel));
        self.gone.retain(|rel| !is(rel));
        self.created.retain(|rel| !is(rel));
        self.cuts.retain(|(rel, _), _| !is(rel));
        self.copies.remove(&(tablespace, database));
        self.gone_databases.remove(&(tablespace, database));
    }

    /// The files of one database become those of another, as they are now.
    fn copy_database(&mut self, to: (u32, u32), from: (u32, u32)) {
        self.replace_database(to);
        let is_source = |rel: &Rel| (rel.tablespace, rel.database) == from;
        let target = |rel: &Rel| Rel { tablespace: to.0, database: to.1, ..*rel };
        let renamed = |key: &Key| match key {
            Key::Block(rel, fork, block) if is_source(rel) => {
                Some(Key::Block(target(rel), *fork, *block))
            }
            _ => None,
        };
        let pages: Vec<_> = self
            .made
            .iter()
            .filter_map(|(key, page)| Some((renamed(key)?, page.clone())))
            .collect();
        self.made.extend(pages);
        let lost: Vec<_> = self.lost.iter().filter_map(renamed).collect();
        self.lost.extend(lost);
        for set in [&mut self.gone, &mut self.created] {
            let more: Vec<_> = set.iter().filter(|rel| is_source(rel)).map(target).collect();
            set.extend(more);
        }
        let cuts: Vec<_> = self
            .cuts
            .iter()
            .filter(|((rel, _), _)| is_source(rel))
            .map(|((rel, fork), cut)| ((target(rel), *fork), *cut))
            .collect();
        self.cuts.extend(cuts);
        if self.gone_databases.contains(&from) {
            self.gone_databases.insert(to);
        }
        let origin = self.copies.get(&from).copied().unwrap_or(from);
        self.copies.insert(to, origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every block holds the number of its database.
    struct Everywhere;

    impl Images for Everywhere {
        fn page(&mut self, key: Key) -> Result<Before, VerifyError> {
            let Key::Block(rel, ..) = key else { return Ok(Before::Unknown) };
            Ok(Before::Known(vec![rel.database as u8]))
        }

        fn state(&self) -> Option<State> {
            None
        }
    }

    fn block(database: u32, relation: u32, block: u32) -> Key {
        Key::Block(Rel { tablespace: 1663, database, relation }, Fork::Main, block)
    }

    #[test]
    fn a_copied_database_is_its_source_as_of_the_copy() {
        let mut pages = Pages::new(Everywhere);
        pages.put(block(1, 7, 0), vec![77]);
        pages.change(&CatalogChange::Dropped(Rel { tablespace: 1663, database: 1, relation: 8 }));
        pages.change(&CatalogChange::DatabaseCopied {
            tablespace: 1663,
            database: 2,
            from_tablespace: 1663,
            from_database: 1,
        });
        pages.put(block(1, 7, 0), vec![78]);
        let mut take = |key| pages.take(key).expect("no files");
        assert_eq!(take(block(2, 7, 0)), Before::Known(vec![77]));
        assert_eq!(take(block(2, 7, 1)), Before::Known(vec![1]));
        assert_eq!(take(block(2, 8, 0)), Before::Absent);
    }

    #[test]
    fn images_are_not_asked_for_what_the_log_has_removed() {
        let mut pages = Pages::new(Everywhere);
        let rel = Rel { tablespace: 1663, database: 1, relation: 7 };
        pages.change(&CatalogChange::Truncated(pgwal::effects::Truncated {
            rel,
            blocks: 3,
            heap: true,
            vm: false,
            fsm: false,
        }));
        assert_eq!(pages.take(block(1, 7, 2)).expect("no files"), Before::Known(vec![1]));
        assert_eq!(pages.take(block(1, 7, 3)).expect("no files"), Before::Absent);
        pages.change(&CatalogChange::DatabaseDropped { tablespace: 1663, database: 1 });
        assert_eq!(pages.take(block(1, 9, 0)).expect("no files"), Before::Absent);
        assert_eq!(pages.take(block(2, 9, 0)).expect("no files"), Before::Known(vec![2]));
    }

    #[test]
    fn without_images_a_relation_that_the_log_created_begins_empty_and_others_are_unknown() {
        let mut pages = Pages::new(NoImages);
        let rel = Rel { tablespace: 1663, database: 1, relation: 7 };
        pages.change(&CatalogChange::Created(rel, Fork::Main));
        assert_eq!(pages.take(block(1, 7, 0)).expect("no files"), Before::Absent);
        assert_eq!(pages.take(block(1, 8, 0)).expect("no files"), Before::Unknown);
    }
}
