//! One look at everything, or at what differed the time before: what differs now, and what local
//! bytes it was seen with. Whether a difference is one is for [`super`] to say.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pgwal::keys::{Fork, Key, Rel};
use seam::name::GLOBAL_TABLESPACE;
use types::Lsn;

use crate::cache::local::BLOCK;
use crate::cache::page::lsn_of;
use crate::catalog::Catalog;
use crate::settings::accepted_auto_conf;
use crate::verify::held::{Files, Held, Listing};
use crate::verify::judge::{self, Page, Verdict};
use crate::verify::report::{Counts, Pages};
use crate::verify::stored::{Entries, Storage, Stored};

/// Blocks asked for at once.
const ASK_BLOCKS: usize = 128;

/// Something that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub key: Key,
    /// How.
    pub how: String,
    /// End of the last record that changed it in storage; none when storage has no such thing.
    pub version: Option<Lsn>,
    /// Checksum of the local bytes.
    pub local: u32,
    /// The two sides are at different LSNs, one of them newer than the checkpoint: to be expected.
    pub moving: bool,
}

/// How far a look has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Blocks looked at, and altogether.
    pub blocks: u64,
    /// Blocks to look at.
    pub blocks_total: u64,
    /// Differences seen so far, some of which may be pages on the move.
    pub differing: u64,
}

/// What a look needs, and what it finds.
pub struct Look<'a> {
    /// The writer's files.
    pub files: &'a Files,
    /// What storage gives.
    pub storage: &'a mut Storage,
    /// Where the last checkpoint began.
    pub checkpoint: Lsn,
    /// Only these, if not everything.
    pub only: Option<&'a BTreeSet<Key>>,
    /// A newer read point, when the present one is no longer answered.
    pub newer: &'a mut dyn FnMut() -> anyhow::Result<Lsn>,
    /// Told from time to time.
    pub tell: &'a mut dyn FnMut(&Progress),
    /// What was looked at.
    pub counts: Counts,
    /// What differs.
    pub found: Vec<Finding>,
    /// Blocks that should be looked at again and have left the cache meanwhile.
    pub evicted: Vec<Key>,
    /// How far.
    pub progress: Progress,
}

impl Look<'_> {
    /// Looks.
    ///
    /// # Errors
    /// When files or storage cannot be read.
    pub fn run(&mut self) -> anyhow::Result<()> {
        let (catalog, entries) = match self.storage.catalog() {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "the catalog is read again");
                self.storage.move_to((self.newer)()?)?;
                self.storage.catalog()?
            }
        };
        let listing = self.files.list()?;
        self.entries(&listing, &entries);
        let stored_forks = entries.iter().filter_map(|(key, (version, content))| match key {
            Key::RelSize(rel, fork) => Some(((*rel, *fork), (*version, length(content)))),
            _ => None,
        });
        let stored: BTreeMap<(Rel, Fork), (Lsn, u32)> = stored_forks.collect();
        let unlogged =
            |rel: Rel| listing.unlogged.contains(&rel) || stored.contains_key(&(rel, Fork::Init));
        let mut forks: BTreeSet<(Rel, Fork)> = stored.keys().copied().collect();
        forks.extend(listing.forks.keys());
        self.counts.fsm_forks_not_compared =
            forks.iter().filter(|(_, fork)| *fork == Fork::Fsm).count() as u64;
        forks.retain(|(rel, fork)| *fork == Fork::Init || *fork != Fork::Fsm && !unlogged(*rel));
        self.counts.unlogged_relations =
            forks.iter().filter(|(_, fork)| *fork == Fork::Init).count() as u64;
        self.counts.relations = forks.iter().filter(|(_, fork)| *fork == Fork::Main).count() as u64;
        self.counts.temporary_files = listing.temporary_files;
        let shared = |at: &(Rel, Fork)| {
            let local = listing.forks.get(at).copied().unwrap_or(0);
            u64::from(local.min(stored.get(at).map_or(0, |(_, blocks)| *blocks)))
        };
        self.progress.blocks_total = forks.iter().map(shared).sum();
        for at in forks {
            let sizes = (listing.forks.get(&at).copied(), stored.get(&at).copied());
            self.fork(&catalog, at, sizes)?;
        }
        Ok(())
    }

    fn wants(&self, key: &Key) -> bool {
        self.only.is_none_or(|only| only.contains(key))
    }

    fn find(&mut self, key: Key, how: String, version: Option<Lsn>, local: &[u8], moving: bool) {
        self.progress.differing += 1;
        self.found.push(Finding { key, how, version, local: crc32c::crc32c(local), moving });
    }

    fn pages(&mut self, fork: Fork) -> &mut Pages {
        match fork {
            Fork::Vm => &mut self.counts.vm,
            Fork::Init => &mut self.counts.init,
            Fork::Main | Fork::Fsm => &mut self.counts.main,
        }
    }

    // ---- small things ----

    fn entries(&mut self, listing: &Listing, stored: &Entries) {
        let small = stored.keys().filter(|key| !matches!(key, Key::RelSize(..)));
        let keys: BTreeSet<Key> = small.chain(listing.entries.keys()).copied().collect();
        for key in keys {
            let (local, stored) = (listing.entries.get(&key), stored.get(&key));
            match key {
                Key::Database { .. } => self.counts.databases += 1,
                Key::Tablespace(_) => self.counts.tablespaces += 1,
                Key::RelMap { .. } => self.counts.relation_maps += 1,
                Key::TwoPhase(_) => self.counts.prepared_transactions += 1,
                // A mark of storage's own, which no file shows.
                Key::Copying { .. } => {
                    self.counts.copies_under_way += 1;
                    continue;
                }
                Key::Slru(slru, _) => {
                    *self.counts.slru_pages.entry(slru.directory()).or_default() += 1;
                }
                _ => {}
            }
            if !self.wants(&key) || stored.is_none() && listing.on_demand.contains(&key) {
                continue;
            }
            let content = stored.map(|(_, content)| &content[..]);
            if let Some(how) = entry(key, local.map(Vec::as_slice), content) {
                let version = stored.map(|(version, _)| *version);
                self.find(key, how, version, local.map_or(&[], Vec::as_slice), false);
            }
        }
    }

    // ---- relations ----

    fn fork(
        &mut self,
        catalog: &Catalog,
        (rel, fork): (Rel, Fork),
        (local, stored): (Option<u32>, Option<(Lsn, u32)>),
    ) -> anyhow::Result<()> {
        self.counts.sizes += 1;
        self.pages(fork).forks += 1;
        let key = Key::RelSize(rel, fork);
        let how = match (local, stored) {
            (None, None) => None,
            (None, Some((_, blocks))) => {
                Some(format!("there is no such file locally, storage has {blocks} blocks"))
            }
            // The file of a visibility map is made without a record; what is put into it has one.
            (Some(local), None) if fork == Fork::Vm => self.beyond(rel, fork, 0..local)?,
            (Some(local), None) => {
                Some(format!("{local} blocks locally, storage knows of no such file"))
            }
            (Some(local), Some((_, stored))) if local < stored => {
                Some(format!("{local} blocks locally, {stored} in storage"))
            }
            (Some(local), Some((_, stored))) => self.beyond(rel, fork, stored..local)?,
        };
        if let Some(how) = how.filter(|_| self.wants(&key)) {
            // Of what lies beyond the end that storage knows it has no version (rule Q4).
            let beyond = local.is_some_and(|local| stored.is_none_or(|(_, known)| local > known));
            let version = stored.filter(|_| !beyond).map(|(version, _)| version);
            self.find(key, how, version, &local.unwrap_or(u32::MAX).to_le_bytes(), false);
        }
        let both = local.unwrap_or(0).min(stored.map_or(0, |(_, blocks)| blocks));
        let blocks: Vec<u32> = match self.only {
            None => (0..both).collect(),
            Some(only) => {
                let range = Key::Block(rel, fork, 0)..Key::Block(rel, fork, both);
                let wanted = only.range(range).filter_map(|key| match key {
                    Key::Block(_, _, block) => Some(*block),
                    _ => None,
                });
                wanted.collect()
            }
        };
        for blocks in blocks.chunks(ASK_BLOCKS) {
            self.blocks(catalog, rel, fork, blocks)?;
            self.progress.blocks += blocks.len() as u64;
            (self.tell)(&self.progress);
        }
        Ok(())
    }

    /// Blocks past the end that storage knows: PostgreSQL grows a file before it logs anything in it,
    /// so they may be there, but hold nothing.
    fn beyond(
        &mut self,
        rel: Rel,
        fork: Fork,
        blocks: std::ops::Range<u32>,
    ) -> anyhow::Result<Option<String>> {
        let (from, to) = (blocks.start, blocks.end);
        let mut open = self.files.fork(rel, fork);
        for block in blocks {
            match open.read(block)? {
                Held::Page(page) if judge::is_blank(&page) => self.pages(fork).grown += 1,
                Held::Beyond => {}
                Held::Page(_) | Held::Absent | Held::Busy => {
                    return Ok(Some(format!(
                        "{to} blocks locally, {from} in storage, and block {block} is not blank"
                    )));
                }
            }
        }
        Ok(None)
    }

    fn blocks(
        &mut self,
        catalog: &Catalog,
        rel: Rel,
        fork: Fork,
        blocks: &[u32],
    ) -> anyhow::Result<()> {
        let mut held: Vec<(u32, Box<Page>)> = Vec::new();
        let mut open = self.files.fork(rel, fork);
        for block in blocks {
            let key = Key::Block(rel, fork, *block);
            match open.read(*block)? {
                Held::Page(page) => held.push((*block, page)),
                Held::Absent if self.only.is_some() => self.evicted.push(key),
                Held::Absent => self.pages(fork).not_held += 1,
                Held::Beyond => {} // truncated meanwhile
                Held::Busy => {
                    self.find(key, "is written all the time".into(), Some(Lsn::MAX), &[], true)
                }
            }
        }
        let numbers: Vec<u32> = held.iter().map(|(block, _)| *block).collect();
        let stored = self.stored(catalog, rel, fork, &numbers)?;
        self.pages(fork).compared += held.len() as u64;
        for ((block, local), stored) in held.into_iter().zip(stored) {
            let (verdict, version) = match &stored {
                Stored::Absent => (judge::block(rel.database, fork, block, &local, None), None),
                Stored::Page(version, bytes) => match <&Page>::try_from(&bytes[..]) {
                    Ok(page) => {
                        let verdict = judge::block(rel.database, fork, block, &local, Some(page));
                        (verdict, Some(*version))
                    }
                    Err(_) => {
                        let how = format!("storage gives {} bytes", bytes.len());
                        (Verdict::Different(how), Some(*version))
                    }
                },
                Stored::Refused(why) => {
                    let how = format!("storage cannot give it: {why}");
                    (Verdict::Different(how), Some(Lsn::ZERO))
                }
            };
            match verdict {
                Verdict::Same => {}
                Verdict::FewerVisible => self.counts.fewer_visible += 1,
                Verdict::Different(how) => {
                    let stored = match &stored {
                        Stored::Page(_, bytes) => lsn_of(bytes),
                        Stored::Absent | Stored::Refused(_) => Lsn::ZERO,
                    };
                    let lsn = lsn_of(&*local);
                    let moving = lsn != stored && lsn.max(stored) > self.checkpoint;
                    self.find(Key::Block(rel, fork, block), how, version, &*local, moving);
                }
            }
        }
        Ok(())
    }

    /// Storage's pages, at a newer read point where the present one is no longer answered.
    fn stored(
        &mut self,
        catalog: &Catalog,
        rel: Rel,
        fork: Fork,
        blocks: &[u32],
    ) -> anyhow::Result<Vec<Stored>> {
        let found = self.storage.blocks(catalog, rel, fork, blocks)?;
        if !found.iter().any(|page| matches!(page, Stored::Refused(_))) {
            return Ok(found);
        }
        self.storage.move_to((self.newer)()?)?;
        self.storage.blocks(catalog, rel, fork, blocks)
    }
}

fn length(content: &Bytes) -> u32 {
    content[..].try_into().map_or(0, u32::from_le_bytes)
}

/// How a small thing differs, if it does.
fn entry(key: Key, local: Option<&[u8]>, stored: Option<&[u8]>) -> Option<String> {
    if let Key::Slru(..) = key {
        // A page that is not there reads as zeros.
        let zeros = [0; BLOCK];
        let (local, stored) = (local.unwrap_or(&zeros), stored.unwrap_or(&zeros));
        return first_difference(local, stored);
    }
    if let (Key::File(_), Some(local), Some(stored)) = (key, local, stored)
        && accepted_auto_conf(&String::from_utf8_lossy(stored)).0.as_bytes() == local
    {
        return None; // an opening leaves out what it refuses
    }
    match (local, stored) {
        (None, None) => None,
        (None, Some(_)) => Some("storage has it, it is not there locally".to_owned()),
        (Some(_), None) => Some("it is there locally, storage has none".to_owned()),
        // Only that they are there; `global` has no version file, a tablespace's place may change.
        (Some(_), Some(_)) if matches!(key, Key::Tablespace(_)) => None,
        (Some(_), Some(_))
            if matches!(key, Key::Database { tablespace: GLOBAL_TABLESPACE, .. }) =>
        {
            None
        }
        (Some(local), Some(stored)) => first_difference(local, stored),
    }
}

fn first_difference(local: &[u8], stored: &[u8]) -> Option<String> {
    if local.len() != stored.len() {
        return Some(format!("{} bytes locally, {} in storage", local.len(), stored.len()));
    }
    let at = local.iter().zip(stored).position(|(ours, theirs)| ours != theirs)?;
    let count = local.iter().zip(stored).filter(|(ours, theirs)| ours != theirs).count();
    let (ours, theirs) = (local.get(at)?, stored.get(at)?);
    Some(format!("byte {at}: {ours:#04x} locally, {theirs:#04x} in storage ({count} bytes differ)"))
}

#[cfg(test)]
mod tests {
    use pgwal::keys::Slru;

    use super::*;

    #[test]
    fn an_slru_page_that_is_not_there_is_all_zeros_and_other_things_must_be_on_both_sides() {
        let key = Key::Slru(Slru::Xact, 0);
        assert_eq!(entry(key, None, Some(&[0; BLOCK])), None);
        let mut page = [0; BLOCK];
        page[77] = 0x40;
        let how = entry(key, Some(&page), None).expect("a committed transaction");
        assert!(how.contains("byte 77: 0x40 locally, 0x00 in storage"), "{how}");
        let map = Key::RelMap { tablespace: 1664, database: 0 };
        assert!(entry(map, Some(&[1]), None).is_some());
        assert!(entry(map, None, Some(&[1])).is_some());
        assert!(entry(map, Some(&[1]), Some(&[1, 2])).is_some());
        assert_eq!(entry(map, Some(&[1]), Some(&[1])), None);
        let database = Key::Database { tablespace: 1663, database: 5 };
        assert!(entry(database, Some(b""), Some(b"15\n")).is_some(), "no PG_VERSION");
        let settings = Key::File(crate::catalog::file::AUTO_CONF);
        let stored = b"work_mem = '1MB'\nfsync = 'off'\n";
        assert_eq!(entry(settings, Some(b"work_mem = '1MB'\n"), Some(stored)), None);
        assert_eq!(entry(settings, Some(stored), Some(stored)), None);
        assert!(entry(settings, Some(b"work_mem = '2MB'\n"), Some(stored)).is_some());
    }
}
