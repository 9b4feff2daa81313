//! What the volume keeps although no record of PostgreSQL's says it: settings, free space maps, the
//! pages of a copied database. It rides on records that the daemon makes the server write for the
//! purpose, its *carriers*: logical messages with the prefix `sixfold`.
//!
//! A carrier changes nothing of its own but the counters, so what rides never meets a change of the
//! record's on the same page. Riders keep their order, and a carrier takes a bounded load.
//!
//! Pure.

use std::collections::VecDeque;

use bytes::Bytes;
use pgwal::keys::{Fork, Key, Rel};
use pgwal::layout::op::rm;
use wire::Change;

use crate::catalog::Catalog;
use crate::draft::Draft;

/// Prefix of the carriers' messages.
pub const PREFIX: &str = "sixfold";
/// Bytes that one carrier takes; a single rider may be larger.
pub const LOAD_BYTES: usize = 1 << 20;

/// Where `xl_logical_message` has its text: after a database, a flag and two lengths.
const PREFIX_AT: usize = 24;

/// One thing to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rider {
    /// A small file's new content, by its number in [`mod@crate::catalog::file`].
    File(u32, Bytes),
    /// A page of a relation's free space map, as PostgreSQL wrote it to its file.
    FreeSpace(Rel, u32, Bytes),
    /// A database's directory in a tablespace begins to be filled by copying (D19).
    CopyBegins(u32, u32),
    /// A fork of so many blocks was copied there; its pages follow.
    CopiedFork(Rel, Fork, u32),
    /// One of its pages.
    CopiedPage(Rel, Fork, u32, Bytes),
    /// All pages are there.
    CopyEnds(u32, u32),
    /// The copy is given up.
    CopyFails(u32, u32),
}

/// Riders waiting for a carrier.
#[derive(Debug, Clone, Default)]
pub struct Riders {
    waiting: VecDeque<Rider>,
    /// How many ever came.
    came: u64,
}

impl Riders {
    /// Adds riders; the number of the last of them, for [`Riders::has_left`].
    pub fn add(&mut self, riders: impl IntoIterator<Item = Rider>) -> u64 {
        for rider in riders {
            self.waiting.push_back(rider);
            self.came += 1;
        }
        self.came
    }

    /// Whether the rider with this number, and so every earlier one, has left with a carrier.
    #[must_use]
    pub fn has_left(&self, number: u64) -> bool {
        number + self.waiting.len() as u64 <= self.came
    }

    /// Those that have not left will not be carried.
    pub fn withdraw(&mut self) {
        self.waiting.clear();
    }

    /// A carrier takes its load.
    pub(crate) fn board(&mut self, catalog: &mut Catalog, draft: &mut Draft) {
        let mut load = 0;
        while load < LOAD_BYTES
            && let Some(rider) = self.waiting.pop_front()
        {
            load += rider.bytes();
            rider.write(catalog, draft);
        }
    }
}

impl Rider {
    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Rider::File(_, content)
            | Rider::FreeSpace(_, _, content)
            | Rider::CopiedPage(_, _, _, content) => content.len(),
            // Entries of the catalog.
            _ => 64,
        }
    }

    fn write(self, catalog: &mut Catalog, draft: &mut Draft) {
        match self {
            Rider::File(number, content) => catalog.put_file(draft, number, content),
            Rider::FreeSpace(rel, block, page) => {
                // Dropped since it was read, or not the volume's at all (unlogged): not kept. One
                // that was truncated since may get slots for blocks past its end; PostgreSQL asks
                // whether a block exists before it believes the map.
                if catalog.blocks(rel, Fork::Main).is_some() {
                    let group = catalog.touch(draft, rel, Fork::Fsm, block);
                    draft
                        .push(group, Change::Put(Key::Block(rel, Fork::Fsm, block).encode(), page));
                }
            }
            Rider::CopyBegins(tablespace, database) => {
                catalog.begin_copy(draft, tablespace, database);
            }
            Rider::CopiedFork(rel, fork, blocks) if is_copying(catalog, rel) => {
                catalog.create_fork(draft, rel, fork);
                if blocks > 0 {
                    catalog.touch(draft, rel, fork, blocks - 1);
                }
            }
            Rider::CopiedPage(rel, fork, block, page) if is_copying(catalog, rel) => {
                let group = catalog.touch(draft, rel, fork, block);
                draft.push(group, Change::Put(Key::Block(rel, fork, block).encode(), page));
            }
            // The server has crashed meanwhile, which ended the copy.
            Rider::CopiedFork(..) | Rider::CopiedPage(..) => {}
            Rider::CopyEnds(tablespace, database) => {
                catalog.end_copy(draft, tablespace, database);
            }
            Rider::CopyFails(tablespace, database) => {
                if catalog.copy(tablespace, database).is_some() {
                    catalog.drop_database(draft, tablespace, database);
                }
            }
        }
    }
}

fn is_copying(catalog: &Catalog, rel: Rel) -> bool {
    catalog.copy(rel.tablespace, rel.database) == Some(false)
}

/// Whether a record is a carrier.
#[must_use]
pub fn is_carrier(record: &pgwal::Record) -> bool {
    record.rmid == rm::LOGICALMSG
        && record.main.get(PREFIX_AT..).is_some_and(|text| {
            text.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        })
}
