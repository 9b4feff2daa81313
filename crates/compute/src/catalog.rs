//! The driver's mirror of the volume's catalog: what exists, how long it is, and where it lies.
//!
//! Invariant: the mirror equals what a scan of group 0 would give at the last record routed. Every
//! method that changes it also writes the same change into the record's [`Draft`]; there is no
//! other way to change it, except [`Catalog::load`], which builds it from such a scan. It runs
//! ahead of the durable point, and dies with the writer's epoch.
//!
//! Pure: no I/O. The catalog's pages that redo keeps (SLRU pages, counters) are not mirrored.

mod copying;

use std::collections::BTreeMap;

use bytes::Bytes;
use pgwal::keys::{Fork, Key, Kind, Rel, database_range, fork_range, relation_range};
use types::{GroupId, PageKey};

use crate::draft::{CATALOG, Draft};
use crate::room::Room;

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 8192;
/// Largest extent, bytes.
const EXTENT_BYTES_MAX: u64 = 64 << 20;
/// Smallest extent, bytes.
const EXTENT_BYTES_MIN: u64 = 1 << 20;

/// Numbers of the small files kept as [`Key::File`].
pub mod file {
    /// The data directory's `PG_VERSION`.
    pub const PG_VERSION: u32 = 1;
    /// `pg_control` as initdb left it: identity and build parameters; counters are in `Key::State`.
    pub const CONTROL_TEMPLATE: u32 = 2;
    /// `postgresql.auto.conf`.
    pub const AUTO_CONF: u32 = 3;
    /// The volume's own constants: extent length in blocks, u32 little-endian.
    pub const GEOMETRY: u32 = 4;
}

/// An entry that does not decode: the volume was written by something else, or is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("catalog entry {key}: {what}")]
pub struct CatalogError {
    key: PageKey,
    what: &'static str,
}

/// One fork of a relation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForkInfo {
    /// Length in blocks; `None` while only extents have been seen (during a load).
    blocks: Option<u32>,
    /// Group of each extent that was ever written.
    extents: Vec<Option<GroupId>>,
}

/// See the module's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    extent_blocks: u32,
    group_pages: u64,
    forks: BTreeMap<(Rel, Fork), ForkInfo>,
    databases: BTreeMap<(u32, u32), Bytes>,
    tablespaces: BTreeMap<u32, Bytes>,
    maps: BTreeMap<(u32, u32), Bytes>,
    prepared: BTreeMap<u32, Bytes>,
    /// Directories being filled by copying, and whether all pages are there.
    copies: BTreeMap<(u32, u32), bool>,
    files: BTreeMap<u32, Bytes>,
    /// Pages assigned to each group, by length of the forks that lie there.
    filled: BTreeMap<GroupId, u64>,
}

/// Blocks of an extent in a volume whose groups take `group_bytes`.
#[must_use]
pub fn extent_blocks(group_bytes: u64) -> u32 {
    let bytes = (group_bytes / 8).clamp(EXTENT_BYTES_MIN, EXTENT_BYTES_MAX);
    u32::try_from(bytes / BLOCK_BYTES).expect("at most 8192 blocks")
}

impl Catalog {
    /// An empty catalog of a volume whose groups take `group_bytes` each.
    #[must_use]
    pub fn new(group_bytes: u64, groups: impl IntoIterator<Item = GroupId>) -> Catalog {
        Catalog {
            extent_blocks: extent_blocks(group_bytes),
            group_pages: (group_bytes / BLOCK_BYTES).max(1),
            forks: BTreeMap::new(),
            databases: BTreeMap::new(),
            tablespaces: BTreeMap::new(),
            maps: BTreeMap::new(),
            prepared: BTreeMap::new(),
            copies: BTreeMap::new(),
            files: BTreeMap::new(),
            filled: groups.into_iter().map(|group| (group, 0)).collect(),
        }
    }

    /// Takes in one entry found by a scan of group 0.
    ///
    /// # Errors
    /// When the entry's content does not fit its key.
    pub fn load(&mut self, key: Key, value: &Bytes) -> Result<(), CatalogError> {
        let number = || {
            <[u8; 4]>::try_from(value.as_ref())
                .map(u32::from_le_bytes)
                .map_err(|_| CatalogError { key: key.encode(), what: "is not four bytes long" })
        };
        match key {
            Key::RelSize(rel, fork) => {
                self.forks.entry((rel, fork)).or_default().blocks = Some(number()?);
            }
            Key::Extent(rel, fork, index) => {
                let group = GroupId(number()?);
                if !self.filled.contains_key(&group) {
                    return Err(CatalogError { key: key.encode(), what: "names an unknown group" });
                }
                set_extent(self.forks.entry((rel, fork)).or_default(), index as usize, group);
            }
            Key::Database { tablespace, database } => {
                self.databases.insert((tablespace, database), value.clone());
            }
            Key::Tablespace(oid) => {
                self.tablespaces.insert(oid, value.clone());
            }
            Key::RelMap { tablespace, database } => {
                self.maps.insert((tablespace, database), value.clone());
            }
            Key::TwoPhase(xid) => {
                self.prepared.insert(xid, value.clone());
            }
            Key::Copying { tablespace, database } => {
                let done = match value.as_ref() {
                    [0] => false,
                    [1] => true,
                    _ => return Err(CatalogError { key: key.encode(), what: "is no flag" }),
                };
                self.copies.insert((tablespace, database), done);
            }
            Key::File(self::file::GEOMETRY) => {
                self.extent_blocks = number()?.max(1);
                self.files.insert(file::GEOMETRY, value.clone());
            }
            Key::File(number) => {
                self.files.insert(number, value.clone());
            }
            Key::State | Key::Slru(..) | Key::Block(..) => {}
        }
        Ok(())
    }

    /// Ends a load: forgets forks of which only extents were found, and counts the groups' pages.
    pub fn loaded(&mut self) {
        self.forks.retain(|_, info| info.blocks.is_some());
        self.filled.values_mut().for_each(|pages| *pages = 0);
        for info in self.forks.values() {
            count(&mut self.filled, info, self.extent_blocks, 0, info.blocks.unwrap_or(0), true);
        }
    }

    // ---- what exists ----

    /// Length of a fork in blocks; `None` when there is no such fork.
    #[must_use]
    pub fn blocks(&self, rel: Rel, fork: Fork) -> Option<u32> {
        self.forks.get(&(rel, fork)).and_then(|info| info.blocks)
    }

    /// The group that holds a block; `None` when no record ever wrote near it (it is zero).
    #[must_use]
    pub fn group_of(&self, rel: Rel, fork: Fork, block: u32) -> Option<GroupId> {
        let index = (block / self.extent_blocks) as usize;
        self.forks.get(&(rel, fork))?.extents.get(index).copied().flatten()
    }

    /// Every fork and its length in blocks.
    pub fn forks(&self) -> impl Iterator<Item = (Rel, Fork, u32)> {
        self.forks.iter().map(|((rel, fork), info)| (*rel, *fork, info.blocks.unwrap_or(0)))
    }

    /// The forks of one database in one tablespace.
    pub fn forks_of_database(
        &self,
        tablespace: u32,
        database: u32,
    ) -> impl Iterator<Item = (Rel, Fork, u32)> {
        let rel = |relation| Rel { tablespace, database, relation };
        let range = (rel(0), Fork::Main)..=(rel(u32::MAX), Fork::Init);
        self.forks.range(range).map(|((rel, fork), info)| (*rel, *fork, info.blocks.unwrap_or(0)))
    }

    /// Databases: (tablespace, database) and their `PG_VERSION`.
    #[must_use]
    pub fn databases(&self) -> &BTreeMap<(u32, u32), Bytes> {
        &self.databases
    }

    /// Tablespaces and the location each was created at.
    #[must_use]
    pub fn tablespaces(&self) -> &BTreeMap<u32, Bytes> {
        &self.tablespaces
    }

    /// Relation maps by (tablespace, database).
    #[must_use]
    pub fn maps(&self) -> &BTreeMap<(u32, u32), Bytes> {
        &self.maps
    }

    /// Prepared transactions' state files by xid.
    #[must_use]
    pub fn prepared(&self) -> &BTreeMap<u32, Bytes> {
        &self.prepared
    }

    /// A small file, by its number in [`mod@file`].
    #[must_use]
    pub fn file(&self, number: u32) -> Option<&Bytes> {
        self.files.get(&number)
    }

    // ---- changes ----

    /// A record writes this block: gives it an extent and lets the fork reach it.
    pub fn touch(&mut self, draft: &mut Draft, rel: Rel, fork: Fork, block: u32) -> GroupId {
        let place = self.room().place(&self.filled);
        let extent_blocks = self.extent_blocks;
        let info = self.forks.entry((rel, fork)).or_default();
        let index = (block / extent_blocks) as usize;
        let group = match info.extents.get(index).copied().flatten() {
            Some(group) => group,
            None => {
                set_extent(info, index, place);
                let key = Key::Extent(rel, fork, block / extent_blocks);
                draft.put(key, place.0.to_le_bytes().to_vec());
                // Blocks of the extent below the fork's end, unwritten until now, lie there too.
                let first = block - block % extent_blocks;
                let end = info.blocks.unwrap_or(0).min(first.saturating_add(extent_blocks));
                if end > first {
                    count(&mut self.filled, info, extent_blocks, first, end, true);
                }
                place
            }
        };
        let old = info.blocks;
        if old.is_none_or(|blocks| block >= blocks) {
            info.blocks = Some(block + 1);
            count(&mut self.filled, info, extent_blocks, old.unwrap_or(0), block + 1, true);
            draft.put(Key::RelSize(rel, fork), (block + 1).to_le_bytes().to_vec());
        }
        group
    }

    /// A fork's file is created, empty, unless it exists.
    pub fn create_fork(&mut self, draft: &mut Draft, rel: Rel, fork: Fork) {
        let info = self.forks.entry((rel, fork)).or_default();
        if info.blocks.is_none() {
            info.blocks = Some(0);
            draft.put(Key::RelSize(rel, fork), 0u32.to_le_bytes().to_vec());
        }
    }

    /// A fork keeps only its first `blocks` blocks.
    pub fn truncate(&mut self, draft: &mut Draft, rel: Rel, fork: Fork, blocks: u32) {
        let extent_blocks = self.extent_blocks;
        let Some(info) = self.forks.get_mut(&(rel, fork)) else { return };
        let old = info.blocks.unwrap_or(0);
        if blocks >= old {
            return;
        }
        count(&mut self.filled, info, extent_blocks, blocks, old, false);
        let gone = fork_range(Kind::Block, rel, fork, blocks);
        for group in groups_of(&info.extents, (blocks / extent_blocks) as usize) {
            draft.delete(group, gone);
        }
        let kept = blocks.div_ceil(extent_blocks);
        info.extents.truncate(kept as usize);
        info.blocks = Some(blocks);
        draft.delete(CATALOG, fork_range(Kind::Extent, rel, fork, kept));
        draft.put(Key::RelSize(rel, fork), blocks.to_le_bytes().to_vec());
    }

    /// A relation ceases to exist, all forks.
    pub fn drop_relation(&mut self, draft: &mut Draft, rel: Rel) {
        let gone = self.remove_forks((rel, Fork::Main), (rel, Fork::Init));
        if gone.is_empty() {
            return;
        }
        for group in gone {
            draft.delete(group, relation_range(Kind::Block, rel));
        }
        draft.delete(CATALOG, relation_range(Kind::RelSize, rel));
        draft.delete(CATALOG, relation_range(Kind::Extent, rel));
    }

    /// A database's directory is created in a tablespace.
    pub fn create_database(&mut self, draft: &mut Draft, tablespace: u32, database: u32) {
        let version = self.files.get(&file::PG_VERSION).cloned().unwrap_or_default();
        draft.put(Key::Database { tablespace, database }, version.clone());
        self.databases.insert((tablespace, database), version);
    }

    /// A database's directory in one tablespace ceases to exist, with everything in it.
    pub fn drop_database(&mut self, draft: &mut Draft, tablespace: u32, database: u32) {
        let rel = |relation| Rel { tablespace, database, relation };
        for group in self.remove_forks((rel(0), Fork::Main), (rel(u32::MAX), Fork::Init)) {
            draft.delete(group, database_range(Kind::Block, tablespace, database));
        }
        draft.delete(CATALOG, database_range(Kind::RelSize, tablespace, database));
        draft.delete(CATALOG, database_range(Kind::Extent, tablespace, database));
        if self.maps.remove(&(tablespace, database)).is_some() {
            draft.delete_entry(Key::RelMap { tablespace, database });
        }
        if self.databases.remove(&(tablespace, database)).is_some() {
            draft.delete_entry(Key::Database { tablespace, database });
        }
        if self.copies.remove(&(tablespace, database)).is_some() {
            draft.delete_entry(Key::Copying { tablespace, database });
        }
    }

    /// A tablespace is created at a location.
    pub fn create_tablespace(&mut self, draft: &mut Draft, oid: u32, location: &[u8]) {
        let location = Bytes::copy_from_slice(location);
        draft.put(Key::Tablespace(oid), location.clone());
        self.tablespaces.insert(oid, location);
    }

    /// A tablespace ceases to exist.
    pub fn drop_tablespace(&mut self, draft: &mut Draft, oid: u32) {
        if self.tablespaces.remove(&oid).is_some() {
            draft.delete_entry(Key::Tablespace(oid));
        }
    }

    /// A relation map's new content.
    pub fn put_map(&mut self, draft: &mut Draft, tablespace: u32, database: u32, map: Bytes) {
        draft.put(Key::RelMap { tablespace, database }, map.clone());
        self.maps.insert((tablespace, database), map);
    }

    /// A transaction is prepared.
    pub fn put_prepared(&mut self, draft: &mut Draft, xid: u32, state: Bytes) {
        draft.put(Key::TwoPhase(xid), state.clone());
        self.prepared.insert(xid, state);
    }

    /// A prepared transaction has ended.
    pub fn end_prepared(&mut self, draft: &mut Draft, xid: u32) {
        if self.prepared.remove(&xid).is_some() {
            draft.delete_entry(Key::TwoPhase(xid));
        }
    }

    /// A small file's new content.
    pub fn put_file(&mut self, draft: &mut Draft, number: u32, content: Bytes) {
        draft.put(Key::File(number), content.clone());
        self.files.insert(number, content);
    }

    // ---- groups ----

    /// The volume has one more group.
    pub fn add_group(&mut self, group: GroupId) {
        self.filled.entry(group).or_insert(0);
    }

    /// Whether the groups have so little room that the next one should be made.
    #[must_use]
    pub fn wants_group(&self) -> bool {
        self.room().wants_group(&self.filled)
    }

    fn room(&self) -> Room {
        Room { group: self.group_pages, extent: self.extent_blocks.into() }
    }

    /// Groups and the pages assigned to each.
    #[must_use]
    pub fn filled(&self) -> &BTreeMap<GroupId, u64> {
        &self.filled
    }

    /// Blocks of an extent.
    #[must_use]
    pub fn extent_blocks(&self) -> u32 {
        self.extent_blocks
    }

    /// Forgets a run of forks; returns the groups that held blocks of theirs.
    fn remove_forks(&mut self, from: (Rel, Fork), to: (Rel, Fork)) -> Vec<GroupId> {
        let names: Vec<_> = self.forks.range(from..=to).map(|(name, _)| *name).collect();
        let mut groups = Vec::new();
        let mut found = false;
        for name in names {
            let Some(info) = self.forks.remove(&name) else { continue };
            found = true;
            let blocks = info.blocks.unwrap_or(0);
            count(&mut self.filled, &info, self.extent_blocks, 0, blocks, false);
            groups.extend(groups_of(&info.extents, 0));
        }
        groups.sort_unstable();
        groups.dedup();
        if found && groups.is_empty() {
            groups.push(CATALOG); // an empty relation: its size entry still has to go
        }
        groups
    }
}

fn set_extent(info: &mut ForkInfo, index: usize, group: GroupId) {
    if info.extents.len() <= index {
        info.extents.resize(index + 1, None);
    }
    if let Some(place) = info.extents.get_mut(index) {
        *place = Some(group);
    }
}

fn groups_of(extents: &[Option<GroupId>], first: usize) -> Vec<GroupId> {
    let mut groups: Vec<_> = extents.iter().skip(first).copied().flatten().collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Adds (or takes away) blocks `from..to` of a fork to its groups' page counts.
fn count(
    filled: &mut BTreeMap<GroupId, u64>,
    info: &ForkInfo,
    extent_blocks: u32,
    from: u32,
    to: u32,
    add: bool,
) {
    let mut at = from;
    while at < to {
        let index = at / extent_blocks;
        let end = to.min(index.saturating_add(1).saturating_mul(extent_blocks));
        let group = info.extents.get(index as usize).copied().flatten();
        if let Some(pages) = group.and_then(|group| filled.get_mut(&group)) {
            let blocks = u64::from(end - at);
            *pages = if add { *pages + blocks } else { pages.saturating_sub(blocks) };
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Change;

    const REL: Rel = Rel { tablespace: 1663, database: 5, relation: 16384 };

    /// Applies a draft's catalog changes to a map, as group 0 would.
    fn store(pages: &mut BTreeMap<PageKey, Bytes>, draft: Draft) {
        for (_, changes) in draft.into_parts() {
            for change in changes {
                match change {
                    Change::Put(key, value) => {
                        pages.insert(key, value);
                    }
                    Change::Delete { from, to } => pages.retain(|key, _| *key < from || *key >= to),
                    Change::Apply(_) => {}
                }
            }
        }
    }

    fn reload(pages: &BTreeMap<PageKey, Bytes>, bytes: u64, groups: u32) -> Catalog {
        let mut catalog = Catalog::new(bytes, (0..groups).map(GroupId));
        for (key, value) in pages {
            catalog.load(Key::decode(key).expect("a key"), value).expect("loads");
        }
        catalog.loaded();
        catalog
    }

    #[test]
    fn a_scan_of_what_was_drafted_gives_the_same_catalog() {
        let mut pages = BTreeMap::new();
        let mut catalog = Catalog::new(8 << 20, [GroupId(0), GroupId(1)]);
        let mut each = |catalog: &mut Catalog, step: &dyn Fn(&mut Catalog, &mut Draft)| {
            let mut draft = Draft::new();
            step(catalog, &mut draft);
            store(&mut pages, draft);
            assert_eq!(&reload(&pages, 8 << 20, 2), catalog);
        };
        each(&mut catalog, &|c, d| c.put_file(d, file::PG_VERSION, Bytes::from_static(b"15\n")));
        each(&mut catalog, &|c, d| c.create_database(d, 1663, 5));
        each(&mut catalog, &|c, d| c.create_fork(d, REL, Fork::Main));
        each(&mut catalog, &|c, d| {
            c.touch(d, REL, Fork::Main, 0);
        });
        each(&mut catalog, &|c, d| {
            c.touch(d, REL, Fork::Main, 300);
        });
        each(&mut catalog, &|c, d| {
            c.touch(d, REL, Fork::Main, 129);
        });
        each(&mut catalog, &|c, d| c.put_map(d, 1663, 5, Bytes::from_static(b"map")));
        each(&mut catalog, &|c, d| c.put_prepared(d, 77, Bytes::from_static(b"state")));
        each(&mut catalog, &|c, d| c.create_tablespace(d, 16400, b"/srv/fast"));
        each(&mut catalog, &|c, d| c.truncate(d, REL, Fork::Main, 130));
        each(&mut catalog, &|c, d| c.end_prepared(d, 77));
        each(&mut catalog, &|c, d| c.drop_tablespace(d, 16400));
        each(&mut catalog, &|c, d| c.create_fork(d, Rel { relation: 9, ..REL }, Fork::Init));
        each(&mut catalog, &|c, d| c.drop_relation(d, Rel { relation: 9, ..REL }));
        each(&mut catalog, &|c, d| c.begin_copy(d, 1663, 6));
        each(&mut catalog, &|c, d| {
            c.touch(d, Rel { database: 6, ..REL }, Fork::Main, 129);
        });
        each(&mut catalog, &|c, d| assert!(!c.adopt_copy(d, (1663, 5), (1663, 6)), "not whole"));
        each(&mut catalog, &|c, d| c.end_copy(d, 1663, 6));
        each(&mut catalog, &|c, d| assert!(c.adopt_copy(d, (1663, 5), (1663, 6))));
        each(&mut catalog, &|c, d| c.begin_copy(d, 1663, 7));
        each(&mut catalog, &|c, d| {
            c.touch(d, Rel { database: 7, ..REL }, Fork::Main, 128);
        });
        each(&mut catalog, &|c, d| c.end_copy(d, 1663, 7));
        each(&mut catalog, &|c, d| assert!(!c.adopt_copy(d, (1663, 5), (1663, 7)), "too short"));
        each(&mut catalog, &|c, d| c.void_copies(d));
        assert_eq!(catalog.databases().len(), 2, "a copy that became a database stays");
        each(&mut catalog, &|c, d| c.drop_database(d, 1663, 6));
        each(&mut catalog, &|c, d| c.drop_database(d, 1663, 5));
        assert_eq!(catalog.forks().count(), 0);
        assert_eq!(catalog.filled().values().sum::<u64>(), 0);
    }

    #[test]
    fn extents_go_to_the_newest_group_and_overflow_into_a_new_one() {
        let mut catalog = Catalog::new(2 << 20, [GroupId(0)]); // 256 pages a group, 128 an extent
        let mut draft = Draft::new();
        for block in 0..200 {
            catalog.touch(&mut draft, REL, Fork::Main, block);
        }
        assert!(catalog.wants_group());
        catalog.add_group(GroupId(1));
        assert!(!catalog.wants_group());
        for block in 200..400 {
            catalog.touch(&mut draft, REL, Fork::Main, block);
        }
        assert_eq!(catalog.group_of(REL, Fork::Main, 255), Some(GroupId(0)));
        assert_eq!(catalog.group_of(REL, Fork::Main, 256), Some(GroupId(1)));
        assert_eq!(catalog.filled().get(&GroupId(1)), Some(&144));
    }

    #[test]
    fn a_truncation_deletes_blocks_in_every_group_that_held_some() {
        let mut catalog = Catalog::new(1 << 20, [GroupId(0), GroupId(1)]);
        let mut draft = Draft::new();
        catalog.touch(&mut draft, REL, Fork::Main, 0); // group 1, the newest
        for block in 1..130 {
            catalog.touch(&mut draft, REL, Fork::Main, block);
        }
        let mut draft = Draft::new();
        catalog.truncate(&mut draft, REL, Fork::Main, 0);
        let groups: Vec<_> = draft
            .into_parts()
            .into_iter()
            .filter(|(_, changes)| {
                changes.iter().any(|change| {
                    matches!(change, Change::Delete { from, .. }
                        if *from == Key::Block(REL, Fork::Main, 0).encode())
                })
            })
            .map(|(group, _)| group)
            .collect();
        assert_eq!(groups, [GroupId(0), GroupId(1)]);
        assert_eq!(catalog.blocks(REL, Fork::Main), Some(0));
        assert_eq!(catalog.group_of(REL, Fork::Main, 0), None);
    }

    #[test]
    fn an_extent_in_a_group_that_does_not_exist_is_refused() {
        let mut catalog = Catalog::new(1 << 20, [GroupId(0)]);
        let value = Bytes::copy_from_slice(&7u32.to_le_bytes());
        assert!(catalog.load(Key::Extent(REL, Fork::Main, 0), &value).is_err());
        assert!(catalog.load(Key::RelSize(REL, Fork::Main), &Bytes::from_static(b"x")).is_err());
    }
}
