//! Names of PostgreSQL's pages and catalog entries as volume page keys.
//!
//! ```text
//! byte   0      1..5        5..9      9..13      13     14..18   18..20
//!        kind   tablespace  database  relation   fork   block    zero     all big-endian
//! ```
//!
//! Kinds sort so that the catalog (everything below [`Kind::Block`]) is one range, held by group 0,
//! and so that a database, a relation and a fork are each one contiguous range within a kind.

use std::fmt;

use types::PageKey;

/// A relation's physical name (PostgreSQL 15: `RelFileNode`, `storage/relfilenode.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Rel {
    /// Tablespace oid (1663 default, 1664 global).
    pub tablespace: u32,
    /// Database oid; zero for shared relations.
    pub database: u32,
    /// Relation file number.
    pub relation: u32,
}

impl fmt::Display for Rel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.relation)
    }
}

/// A relation's fork (`common/relpath.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fork {
    /// The data.
    Main = 0,
    /// Free space map.
    Fsm = 1,
    /// Visibility map.
    Vm = 2,
    /// Initial content of an unlogged relation.
    Init = 3,
}

impl Fork {
    /// The fork with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Fork> {
        [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init].into_iter().find(|fork| *fork as u8 == number)
    }

    /// The suffix of its files: empty, `_fsm`, `_vm`, `_init`.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Fork::Main => "",
            Fork::Fsm => "_fsm",
            Fork::Vm => "_vm",
            Fork::Init => "_init",
        }
    }
}

/// An SLRU area (`access/slru.h`) whose pages are part of the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Slru {
    /// Transaction status, `pg_xact`.
    Xact = 0,
    /// Offsets of multixacts, `pg_multixact/offsets`.
    MultiOffsets = 1,
    /// Members of multixacts, `pg_multixact/members`.
    MultiMembers = 2,
    /// Commit timestamps, `pg_commit_ts`.
    CommitTs = 3,
}

impl Slru {
    /// All areas.
    pub const ALL: [Slru; 4] = [Slru::Xact, Slru::MultiOffsets, Slru::MultiMembers, Slru::CommitTs];

    /// Directory below the data directory.
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Slru::Xact => "pg_xact",
            Slru::MultiOffsets => "pg_multixact/offsets",
            Slru::MultiMembers => "pg_multixact/members",
            Slru::CommitTs => "pg_commit_ts",
        }
    }
}

/// A decoded page key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// The server's counters, as the last checkpoint and the records since left them: PostgreSQL's
    /// `CheckPoint` struct and the parameters of `pg_control`, kept by redo ([`Kind::State`]).
    State,
    /// A small file that must outlive a host, by number; `Put` by the driver.
    File(u32),
    /// A database's directory exists in this tablespace; `Put` by the driver (content: PG_VERSION).
    Database {
        /// Tablespace oid.
        tablespace: u32,
        /// Database oid; zero for `global`.
        database: u32,
    },
    /// A tablespace exists; `Put` by the driver (content: its location).
    Tablespace(u32),
    /// A relation map file (`pg_filenode.map`); `Put` by the driver.
    RelMap {
        /// Tablespace oid.
        tablespace: u32,
        /// Database oid; zero for the shared map.
        database: u32,
    },
    /// A prepared transaction's state; `Put` by the driver at PREPARE, deleted at its end.
    TwoPhase(u32),
    /// A database's directory in this tablespace is being filled by copying another; `Put` by the
    /// driver when that begins and when all pages are there, deleted when it is over.
    Copying {
        /// Tablespace oid.
        tablespace: u32,
        /// Database oid.
        database: u32,
    },
    /// A page of an SLRU; kept by redo.
    Slru(Slru, u32),
    /// Length of a fork in blocks (u32 little-endian); `Put` by the driver.
    RelSize(Rel, Fork),
    /// Which group (u32 little-endian) holds an extent of a fork; `Put` by the driver.
    Extent(Rel, Fork, u32),
    /// A block of a fork, 8 KiB; kept by redo.
    Block(Rel, Fork, u32),
}

/// First byte of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// [`Key::State`].
    State = 0x01,
    /// [`Key::File`].
    File = 0x02,
    /// [`Key::Database`].
    Database = 0x03,
    /// [`Key::Tablespace`].
    Tablespace = 0x04,
    /// [`Key::RelMap`].
    RelMap = 0x05,
    /// [`Key::TwoPhase`].
    TwoPhase = 0x06,
    /// [`Key::Copying`].
    Copying = 0x07,
    /// [`Key::Slru`].
    Slru = 0x08,
    /// [`Key::RelSize`].
    RelSize = 0x10,
    /// [`Key::Extent`].
    Extent = 0x11,
    /// [`Key::Block`]; everything below is the catalog.
    Block = 0x20,
}

fn raw(kind: u8, tablespace: u32, database: u32, relation: u32, fork: u8, block: u32) -> PageKey {
    let mut key = [0; PageKey::SIZE];
    key[0] = kind;
    key[1..5].copy_from_slice(&tablespace.to_be_bytes());
    key[5..9].copy_from_slice(&database.to_be_bytes());
    key[9..13].copy_from_slice(&relation.to_be_bytes());
    key[13] = fork;
    key[14..18].copy_from_slice(&block.to_be_bytes());
    PageKey(key)
}

impl Key {
    /// The key's bytes.
    #[must_use]
    pub fn encode(self) -> PageKey {
        let of = |kind: Kind, rel: Rel, fork: u8, block: u32| {
            raw(kind as u8, rel.tablespace, rel.database, rel.relation, fork, block)
        };
        match self {
            Key::State => raw(Kind::State as u8, 0, 0, 0, 0, 0),
            Key::File(number) => raw(Kind::File as u8, 0, 0, number, 0, 0),
            Key::Database { tablespace, database } => {
                raw(Kind::Database as u8, tablespace, database, 0, 0, 0)
            }
            Key::Tablespace(oid) => raw(Kind::Tablespace as u8, oid, 0, 0, 0, 0),
            Key::RelMap { tablespace, database } => {
                raw(Kind::RelMap as u8, tablespace, database, 0, 0, 0)
            }
            Key::TwoPhase(xid) => raw(Kind::TwoPhase as u8, 0, 0, xid, 0, 0),
            Key::Copying { tablespace, database } => {
                raw(Kind::Copying as u8, tablespace, database, 0, 0, 0)
            }
            Key::Slru(slru, page) => raw(Kind::Slru as u8, slru as u32, 0, 0, 0, page),
            Key::RelSize(rel, fork) => of(Kind::RelSize, rel, fork as u8, 0),
            Key::Extent(rel, fork, number) => of(Kind::Extent, rel, fork as u8, number),
            Key::Block(rel, fork, block) => of(Kind::Block, rel, fork as u8, block),
        }
    }

    /// The key that these bytes name; `None` when no key has them.
    #[must_use]
    pub fn decode(key: &PageKey) -> Option<Key> {
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&key.0[at..at + 4]);
            u32::from_be_bytes(bytes)
        };
        let (tablespace, database, relation, block) = (word(1), word(5), word(9), word(14));
        let rel = Rel { tablespace, database, relation };
        let fork = Fork::from_number(key.0[13])?;
        if key.0[0] == Kind::Block as u8 {
            // Nearly all keys; every byte but the last two is in it.
            return (key.0[18..] == [0, 0]).then_some(Key::Block(rel, fork, block));
        }
        let decoded = match key.0[0] {
            k if k == Kind::State as u8 => Key::State,
            k if k == Kind::File as u8 => Key::File(relation),
            k if k == Kind::Database as u8 => Key::Database { tablespace, database },
            k if k == Kind::Tablespace as u8 => Key::Tablespace(tablespace),
            k if k == Kind::RelMap as u8 => Key::RelMap { tablespace, database },
            k if k == Kind::TwoPhase as u8 => Key::TwoPhase(relation),
            k if k == Kind::Copying as u8 => Key::Copying { tablespace, database },
            k if k == Kind::Slru as u8 => {
                let slru = Slru::ALL.into_iter().find(|slru| *slru as u32 == tablespace)?;
                Key::Slru(slru, block)
            }
            k if k == Kind::RelSize as u8 => Key::RelSize(rel, fork),
            k if k == Kind::Extent as u8 => Key::Extent(rel, fork, block),
            _ => return None,
        };
        (decoded.encode() == *key).then_some(decoded)
    }

    /// Whether the key belongs to the catalog, which group 0 holds.
    #[must_use]
    pub fn is_catalog(self) -> bool {
        !matches!(self, Key::Block(..))
    }
}

/// The whole catalog, as a range of keys (end exclusive).
#[must_use]
pub fn catalog_range() -> (PageKey, PageKey) {
    (PageKey::MIN, raw(Kind::Block as u8, 0, 0, 0, 0, 0))
}

/// The keys of one kind for one fork from `first` on (end exclusive): its blocks or its extents.
#[must_use]
pub fn fork_range(kind: Kind, rel: Rel, fork: Fork, first: u32) -> (PageKey, PageKey) {
    let from = raw(kind as u8, rel.tablespace, rel.database, rel.relation, fork as u8, first);
    let to = raw(kind as u8, rel.tablespace, rel.database, rel.relation, fork as u8 + 1, 0);
    (from, to)
}

/// The keys of one kind for a whole relation, every fork (end exclusive).
#[must_use]
pub fn relation_range(kind: Kind, rel: Rel) -> (PageKey, PageKey) {
    let from = raw(kind as u8, rel.tablespace, rel.database, rel.relation, 0, 0);
    let to = raw(kind as u8, rel.tablespace, rel.database, rel.relation, 0xff, 0);
    (from, to)
}

/// The keys of one kind for a whole database in one tablespace (end exclusive).
#[must_use]
pub fn database_range(kind: Kind, tablespace: u32, database: u32) -> (PageKey, PageKey) {
    let from = raw(kind as u8, tablespace, database, 0, 0, 0);
    let mut to = raw(kind as u8, tablespace, database, u32::MAX, 0xff, u32::MAX);
    to.0[18] = 0xff;
    to.0[19] = 0xff;
    (from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_encoding_and_sort_by_kind_relation_fork_block() {
        let rel = Rel { tablespace: 1663, database: 5, relation: 16384 };
        let keys = [
            Key::State,
            Key::File(2),
            Key::Database { tablespace: 1663, database: 5 },
            Key::Tablespace(16400),
            Key::RelMap { tablespace: 1664, database: 0 },
            Key::TwoPhase(77),
            Key::Copying { tablespace: 1663, database: 5 },
            Key::Slru(Slru::Xact, 3),
            Key::Slru(Slru::CommitTs, 3),
            Key::RelSize(rel, Fork::Vm),
            Key::Extent(rel, Fork::Main, 9),
            Key::Block(rel, Fork::Main, 1),
            Key::Block(rel, Fork::Main, 256),
            Key::Block(rel, Fork::Vm, 0),
        ];
        for key in keys {
            assert_eq!(Key::decode(&key.encode()), Some(key));
        }
        assert!(keys.windows(2).all(|pair| pair[0].encode() < pair[1].encode()));
    }

    #[test]
    fn ranges_hold_their_keys_and_no_neighbours() {
        let rel = Rel { tablespace: 1663, database: 5, relation: 16384 };
        let next = Rel { relation: 16385, ..rel };
        let block = |rel, fork, n| Key::Block(rel, fork, n).encode();
        let (from, to) = fork_range(Kind::Block, rel, Fork::Main, 7);
        assert!(block(rel, Fork::Main, 6) < from && from == block(rel, Fork::Main, 7));
        assert!(block(rel, Fork::Main, u32::MAX) < to && to <= block(rel, Fork::Fsm, 0));
        let (from, to) = relation_range(Kind::Block, rel);
        assert!(from <= block(rel, Fork::Main, 0) && block(rel, Fork::Init, u32::MAX) < to);
        assert!(to <= block(next, Fork::Main, 0));
        let (_, to) = database_range(Kind::Block, 1663, 5);
        assert!(block(next, Fork::Main, 0) < to);
        assert!(to < block(Rel { database: 6, ..rel }, Fork::Main, 0));
        let (_, catalog_end) = catalog_range();
        assert!(Key::Extent(rel, Fork::Main, u32::MAX).encode() < catalog_end);
        assert!(catalog_end <= block(Rel::default(), Fork::Main, 0));
    }

    #[test]
    fn bytes_that_name_nothing_are_refused() {
        assert_eq!(Key::decode(&PageKey::MAX), None);
        let mut odd = Key::State.encode();
        odd.0[19] = 1;
        assert_eq!(Key::decode(&odd), None);
        for (at, byte) in [(13, 4), (18, 1), (19, 1)] {
            let mut odd = Key::Block(Rel::default(), Fork::Main, 7).encode();
            odd.0[at] = byte;
            assert_eq!(Key::decode(&odd), None, "byte {at}");
        }
    }
}
