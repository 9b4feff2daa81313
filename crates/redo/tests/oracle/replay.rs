//! Replays a cluster's WAL over a copy of its files, as a volume would, and compares.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use pgwal::ControlFile;
use pgwal::effects::CatalogChange;
use pgwal::keys::{Fork, Key, Rel, Slru};
use pgwal::layout::op::{self, rm};
use pgwal::record::{BlockRef, Record};
use pgwal::{CheckPoint, Decoder, effects};
use redo::mask::{first_difference, manager_of};
use redo::{Postgres, State};
use types::{Engine, Lsn, Timeline};

use crate::damage;

type Page = [u8; 8192];

/// How many records of a kind are also tried with damage.
const DAMAGED_EACH: u64 = 12;

/// What was counted for one kind of record and block reference.
#[derive(Default, Clone, Copy)]
pub struct Count {
    /// Applications to a block.
    pub applied: u64,
    /// Comparisons with an image in the record.
    pub compared: u64,
    /// Comparisons that failed.
    pub different: u64,
}

/// A volume in memory over the files of a base copy.
pub struct Replay {
    base: PathBuf,
    pages: HashMap<Key, Vec<u8>>,
    /// Blocks of a fork that the base copy may still be read for.
    base_limit: HashMap<(Rel, Fork), u32>,
    last_rmid: HashMap<Key, u8>,
    /// By manager, operation and block reference.
    pub counts: BTreeMap<(u8, u8, u8), Count>,
    /// Records by manager and operation.
    pub records: BTreeMap<(u8, u8), u64>,
    /// What went wrong, in words.
    pub problems: Vec<String>,
    dropped: HashSet<Rel>,
    /// Flags of all heap DELETE records.
    pub delete_flags: u8,
    /// Damaged records and pages that were applied.
    pub damaged: u64,
    state: State,
    track_commit_timestamp: bool,
}

/// Path of a fork's file below the data directory, without segment number.
fn fork_path(rel: Rel, fork: Fork) -> Option<String> {
    match rel.tablespace {
        1664 => Some(format!("global/{}{}", rel.relation, fork.suffix())),
        1663 => Some(format!("base/{}/{}{}", rel.database, rel.relation, fork.suffix())),
        _ => None,
    }
}

fn read_at(path: &Path, at: u64) -> Option<Vec<u8>> {
    let mut file = fs::File::open(path).ok()?;
    file.seek(SeekFrom::Start(at)).ok()?;
    let mut page = vec![0; 8192];
    file.read_exact(&mut page).ok()?;
    Some(page)
}

fn read_file_page(data: &Path, key: Key) -> Option<Vec<u8>> {
    match key {
        Key::Block(rel, fork, block) => {
            let path = data.join(fork_path(rel, fork)?);
            read_at(&path, u64::from(block) * 8192)
        }
        Key::Slru(area, page) => {
            let name = format!("{}/{:04X}", area.directory(), page / 32);
            read_at(&data.join(name), u64::from(page % 32) * 8192)
        }
        _ => None,
    }
}

impl Replay {
    /// Over a copy of a cleanly shut down cluster.
    pub fn new(base: PathBuf) -> Replay {
        let control = fs::read(base.join("global/pg_control")).expect("pg_control");
        let control = ControlFile::decode(&control).expect("sound pg_control");
        Replay {
            base,
            pages: HashMap::new(),
            base_limit: HashMap::new(),
            last_rmid: HashMap::new(),
            counts: BTreeMap::new(),
            records: BTreeMap::new(),
            problems: Vec::new(),
            dropped: HashSet::new(),
            delete_flags: 0,
            damaged: 0,
            state: State::of_control_file(&control),
            track_commit_timestamp: control.track_commit_timestamp,
        }
    }

    /// Replays everything after the base copy's checkpoint from the WAL in `data`.
    pub fn run(&mut self, data: &Path) {
        let start = self.state.last_checkpoint;
        let mut decoder = Decoder::new(start, None, 16 << 20, None, Some(Timeline(1)));
        let mut at = start;
        loop {
            let segment = at.0 / (16 << 20);
            let name = pgwal::layout::segment_name(Timeline(1), segment, 16 << 20);
            let Ok(bytes) = fs::read(data.join("pg_wal").join(name)) else { break };
            let from = (at.0 % (16 << 20)) as usize;
            decoder.feed(at, &bytes[from..]).expect("contiguous");
            at = Lsn((segment + 1) << 24);
            while let Ok(Some(record)) = decoder.next() {
                if record.span.start > start {
                    self.record(&record);
                }
            }
        }
    }

    fn page(&mut self, key: Key) -> Vec<u8> {
        if let Some(page) = self.pages.remove(&key) {
            return page;
        }
        if let Key::Block(rel, fork, block) = key
            && (self.dropped.contains(&rel)
                || self.base_limit.get(&(rel, fork)).is_some_and(|limit| block >= *limit))
        {
            return Vec::new();
        }
        read_file_page(&self.base, key).unwrap_or_default()
    }

    fn apply(&mut self, key: Key, record: &Record) -> Option<Vec<u8>> {
        let mut page = self.page(key);
        let encoded = key.encode();
        let replaces = Postgres.replaces(&encoded, &record.bytes);
        if replaces {
            page.clear();
        }
        let result = Postgres.apply(&encoded, &mut page, record.span, &record.bytes);
        self.pages.insert(key, page.clone());
        match result {
            Ok(()) => Some(page),
            Err(error) => {
                self.problem(error.to_string());
                None
            }
        }
    }

    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn record(&mut self, record: &Record) {
        let operation = pgwal::effects::kind(record).expect("a known record");
        *self.records.entry((record.rmid, operation)).or_default() += 1;
        if (record.rmid, operation) == (rm::HEAP, op::heap::DELETE) {
            self.delete_flags |= record.main[7];
        }
        for block in &record.blocks {
            let key = Key::Block(block.rel, block.fork, block.block);
            let count = self.counts.entry((record.rmid, operation, block.id)).or_default();
            count.applied += 1;
            let nth = count.applied;
            if record.rmid != rm::XLOG {
                self.last_rmid.insert(key, record.rmid);
            }
            if nth <= DAMAGED_EACH {
                let page = self.page(key);
                self.damaged += damage::try_all(key, &page, record, nth);
                self.pages.insert(key, page);
            }
            if let Some(page) = self.apply(key, record) {
                self.compare(record, operation, block, &page);
            }
        }
        let effects = effects(record).expect("known effects");
        for (rel, fork, block) in effects.implicit_blocks() {
            let key = Key::Block(rel, fork, block);
            self.last_rmid.insert(key, record.rmid);
            let page = self.page(key);
            if !page.is_empty() {
                self.pages.insert(key, page);
                self.apply(key, record);
            }
        }
        for (area, page) in &effects.slru {
            self.apply(Key::Slru(*area, *page), record);
        }
        if let Some(xact) = &effects.xact
            && self.track_commit_timestamp
        {
            for page in xact.commit_ts_pages() {
                self.apply(Key::Slru(Slru::CommitTs, page), record);
            }
        }
        self.pages.insert(Key::State, self.state.encode());
        if effects.is_shutdown_checkpoint() {
            self.compare_counters(record);
        }
        if effects.state || effects.latest_xid.is_some() {
            self.apply(Key::State, record);
            self.state = State::decode(&self.pages[&Key::State]).expect("our own encoding");
            self.track_commit_timestamp = self.state.parameters.track_commit_timestamp;
        }
        for change in &effects.catalog {
            self.change(change);
        }
    }

    fn compare(&mut self, record: &Record, operation: u8, block: &BlockRef, page: &[u8]) {
        let Some(image) = block.image.as_ref().filter(|image| !image.apply) else { return };
        let mut theirs: Page = [0; 8192];
        image.restore(&mut theirs).expect("a sound image");
        let ours: &Page = page.try_into().expect("a page");
        let difference = first_difference(record.rmid, ours, &theirs, block.block);
        let count = self.counts.entry((record.rmid, operation, block.id)).or_default();
        count.compared += 1;
        if difference != Ok(None) {
            count.different += 1;
            let span = record.span;
            let (manager, id) = (op::name(record.rmid), block.id);
            self.problem(format!(
                "{span} {manager} {operation:#04x} block {id} ({}{} {}): {difference:?}",
                block.rel,
                block.fork.suffix(),
                block.block
            ));
            // Go on from the truth, so that one mistake is reported once.
            let key = Key::Block(block.rel, block.fork, block.block);
            self.pages.insert(key, theirs.to_vec());
        }
    }

    fn change(&mut self, change: &CatalogChange) {
        match change {
            CatalogChange::Dropped(dropped) => {
                self.dropped.insert(*dropped);
                self.pages.retain(|key, _| !matches!(key, Key::Block(rel, ..) if rel == dropped));
            }
            CatalogChange::Created(rel, _) => {
                self.dropped.remove(rel);
            }
            CatalogChange::Truncated(cut) => {
                for fork in [Fork::Main, Fork::Fsm, Fork::Vm] {
                    let Some(blocks) = cut.blocks_of(fork) else { continue };
                    let limit = self.base_limit.entry((cut.rel, fork)).or_insert(u32::MAX);
                    *limit = blocks.min(*limit);
                    self.pages.retain(|key, _| {
                        !matches!(key, Key::Block(rel, f, block)
                            if *rel == cut.rel && *f == fork && *block >= blocks)
                    });
                }
            }
            CatalogChange::DatabaseDropped { tablespace, database } => {
                self.pages.retain(|key, _| {
                    !matches!(key, Key::Block(rel, ..)
                        if rel.tablespace == *tablespace && rel.database == *database)
                });
            }
            _ => {}
        }
    }

    /// Compares the replayed pages with the files of the cluster, shut down cleanly. Returns how
    /// many block, map and SLRU pages were compared.
    pub fn compare_files(&mut self, data: &Path) -> (u64, u64, u64) {
        let (mut blocks, mut maps, mut slrus) = (0, 0, 0);
        let pages: Vec<_> = self.pages.iter().map(|(key, page)| (*key, page.clone())).collect();
        for (key, page) in pages {
            let Some(theirs) = read_file_page(data, key) else { continue };
            let equal = match key {
                Key::Slru(..) => {
                    slrus += 1;
                    page == theirs
                }
                Key::Block(_, Fork::Vm, _) => {
                    maps += 1;
                    // CREATE DATABASE logs copied map pages without what lies in their "hole":
                    // then fewer bits are set after recovery than on the server, never more.
                    let copied = !self.last_rmid.contains_key(&key);
                    let pairs = || page.iter().zip(&theirs).skip(24);
                    page[8..] == theirs[8..] || copied && pairs().all(|(a, b)| a & !b == 0)
                }
                Key::Block(_, Fork::Main, block) => {
                    let page: &Page = page.as_slice().try_into().expect("a page");
                    let theirs: &Page = theirs.as_slice().try_into().expect("a page");
                    let Some(rmid) = manager_of(page) else {
                        self.problem(format!("{key:?} is a page of no manager"));
                        continue;
                    };
                    let last = self.last_rmid.get(&key).copied().unwrap_or(rmid);
                    let last = if last == rm::HEAP2 { rm::HEAP } else { last };
                    if last != rmid {
                        self.problem(format!("{key:?} of manager {last} looks like {rmid}"));
                    }
                    // Not logged: a sequence's current value, the page cache of SP-GiST's root.
                    if rmid == rm::SEQ || rmid == rm::SPGIST && block == 0 {
                        continue;
                    }
                    blocks += 1;
                    first_difference(rmid, page, theirs, block) == Ok(None)
                }
                _ => continue,
            };
            if !equal {
                let rmid = self.last_rmid.get(&key).copied();
                self.problem(format!("{key:?} (last {rmid:?}) differs from the server's file"));
            }
        }
        self.compare_state(data);
        (blocks, maps, slrus)
    }

    /// At a shutdown checkpoint the counters kept from records must already be the server's.
    fn compare_counters(&mut self, record: &Record) {
        let theirs = CheckPoint::decode(&record.main).expect("a checkpoint");
        let ours = self.state.checkpoint;
        // The log runs ahead of the oid counter; the rest only a checkpoint knows.
        let expected = CheckPoint {
            redo: ours.redo,
            time: ours.time,
            next_oid: ours.next_oid,
            oldest_active_xid: ours.oldest_active_xid,
            oldest_commit_ts_xid: ours.oldest_commit_ts_xid,
            ..theirs
        };
        if ours != expected || ours.next_oid < theirs.next_oid {
            self.problem(format!("counters {ours:?} at a shutdown with {theirs:?}"));
        }
    }

    fn compare_state(&mut self, data: &Path) {
        let control = fs::read(data.join("global/pg_control")).expect("pg_control");
        let control = ControlFile::decode(&control).expect("sound pg_control");
        let theirs = State::of_control_file(&control);
        if self.state != theirs {
            self.problem(format!("state {:?} instead of {theirs:?}", self.state));
        }
    }
}
