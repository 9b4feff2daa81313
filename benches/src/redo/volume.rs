//! Pages in memory, and a log replayed over them as a storage node meets it: record by record into chains
//! by page, then page by page.
//!
//! A window of the log is read, decoded and kept; each record goes to the chain of every page that it
//! changes. Then each page takes its chain at once, with the storage nodes' engine and from the record's
//! bytes, as they do. Records of different pages need no order between them. A window of nothing is the
//! log's own order.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pgwal::ControlFile;
use pgwal::effects::Effects;
use pgwal::keys::{Fork, Key, Slru};
use redo::mask::{first_difference, manager_of};
use redo::{Postgres, Record, State};
use rustc_hash::FxHashMap;
use types::{Engine, Lsn, PageKey, Span};

use super::files::{relation_pages, slru_pages};
use super::log::each_record;

/// Bytes of the span in front of each record in the window.
const SPAN: usize = 16;

/// Records looked up before the first of them is applied, so that memory is waited for once.
const AHEAD: usize = 64;

/// A volume in memory.
pub struct Volume {
    pages: Vec<(PageKey, Vec<u8>)>,
    /// Of each page, where in the window the records are that change it.
    chains: Vec<Vec<u32>>,
    numbers: FxHashMap<PageKey, u32>,
    start: Lsn,
    /// Spans and bytes of the records in the chains.
    window: Vec<u8>,
    /// Pages with a chain.
    changed: Vec<u32>,
    /// Applications of a record to a page so far.
    pub applied: u64,
}

impl Volume {
    /// All pages of a cluster that was shut down.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn load(data: &Path) -> Result<Volume> {
        let control = fs::read(data.join("global/pg_control"))?;
        let control = ControlFile::decode(&control).context("pg_control")?;
        let mut pages = relation_pages(data)?;
        pages.extend(slru_pages(data)?);
        pages.push((Key::State, State::of_control_file(&control).encode()));
        let mut volume = Volume {
            pages: Vec::new(),
            chains: Vec::new(),
            numbers: FxHashMap::default(),
            start: control.checkpoint,
            window: Vec::new(),
            changed: Vec::new(),
            applied: 0,
        };
        for (key, content) in pages {
            let number = volume.number(key.encode());
            volume.pages[number as usize].1 = content;
        }
        Ok(volume)
    }

    /// The page under this key.
    pub fn page(&self, key: &Key) -> Option<&[u8]> {
        let number = self.numbers.get(&key.encode())?;
        Some(&self.pages[*number as usize].1)
    }

    /// Replays the log in these segment files, this many bytes at a time; the number of records after
    /// the base's checkpoint.
    ///
    /// # Errors
    /// When a record is unknown or does not fit its page.
    pub fn replay(&mut self, segments: &[PathBuf], window_bytes: usize) -> Result<u64> {
        let mut records = 0;
        self.window.reserve(window_bytes);
        each_record(self.start, segments, |record| {
            records += 1;
            if self.window.len() + SPAN + record.bytes.len() > window_bytes {
                self.apply()?;
            }
            self.index(record)
        })?;
        self.apply()?;
        Ok(records)
    }

    /// Keeps the record in the chains of the pages that it changes.
    fn index(&mut self, record: &Record<'_>) -> Result<()> {
        let at = u32::try_from(self.window.len()).context("the window is too large")?;
        self.window.extend_from_slice(&record.span.start.0.to_le_bytes());
        self.window.extend_from_slice(&record.span.end.0.to_le_bytes());
        self.window.extend_from_slice(record.bytes);
        for block in &record.blocks {
            self.push(Key::Block(block.rel, block.fork, block.block), at);
        }
        let mut effects = Effects::default();
        effects.read(record)?;
        if effects.is_plain() {
            return Ok(());
        }
        for (rel, fork, block) in effects.implicit_blocks() {
            let key = Key::Block(rel, fork, block);
            if self.numbers.contains_key(&key.encode()) {
                self.push(key, at);
            }
        }
        for (area, page) in &effects.slru {
            self.push(Key::Slru(*area, *page), at);
        }
        if effects.state {
            self.push(Key::State, at);
        }
        // pgbench neither drops nor truncates once it is initialised.
        ensure!(effects.catalog.is_empty(), "{}: the catalog changes", record.span);
        Ok(())
    }

    fn number(&mut self, key: PageKey) -> u32 {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = self.pages.len() as u32;
        self.numbers.insert(key, number);
        self.pages.push((key, Vec::new()));
        self.chains.push(Vec::new());
        number
    }

    fn push(&mut self, key: Key, at: u32) {
        let number = self.number(key.encode());
        let chain = &mut self.chains[number as usize];
        if chain.is_empty() {
            self.changed.push(number);
        }
        chain.push(at);
    }

    /// Gives every page its chain, and begins a new window.
    fn apply(&mut self) -> Result<()> {
        // Pages with neighbouring numbers were loaded one after the other.
        self.changed.sort_unstable();
        let chains =
            self.changed.iter().map(|number| (*number as usize, &self.chains[*number as usize]));
        let mut steps =
            chains.flat_map(|(number, chain)| chain.iter().map(move |at| (number, *at)));
        let mut parts = Vec::with_capacity(AHEAD);
        loop {
            let ahead = steps.by_ref().take(AHEAD);
            parts.extend(ahead.map(|(number, at)| (number, part(&self.window[at as usize..]))));
            if parts.is_empty() {
                break;
            }
            self.applied += parts.len() as u64;
            for (number, (span, body)) in parts.drain(..) {
                let (key, content) = &mut self.pages[number];
                Postgres.apply(key, content, span, body)?;
            }
        }
        for number in self.changed.drain(..) {
            self.chains[number as usize].clear();
        }
        self.window.clear();
        Ok(())
    }

    /// Compares every page with the files of a cluster that recovered the same log; how many.
    ///
    /// # Errors
    /// At the first page that differs.
    pub fn compare(&self, data: &Path) -> Result<u64> {
        let mut compared = 0;
        for (key, theirs) in relation_pages(data)? {
            let Key::Block(_, Fork::Main, block) = key else { continue };
            let Some(ours) = self.page(&key) else {
                // The file was extended, and the crash lost whatever the page was for.
                ensure!(theirs.iter().all(|byte| *byte == 0), "{key:?} is missing");
                continue;
            };
            let (Ok(ours), Ok(theirs)) = (ours.try_into(), theirs.as_slice().try_into()) else {
                bail!("{key:?} has {} bytes", ours.len());
            };
            // Pages with no mark of a manager (relation maps have no pages) do not occur here.
            let Some(rmid) = manager_of(ours) else { continue };
            if let Some(at) = first_difference(rmid, ours, theirs, block)? {
                bail!("{key:?} differs from what stock recovered, first at byte {at}");
            }
            compared += 1;
        }
        for (key, page) in slru_pages(data)? {
            if matches!(key, Key::Slru(Slru::Xact, _)) {
                ensure!(self.page(&key) == Some(&page), "{key:?} differs from stock's");
                compared += 1;
            }
        }
        Ok(compared)
    }
}

/// Span and bytes of the record that the window has here.
fn part(window: &[u8]) -> (Span, &[u8]) {
    let position = |at: usize| {
        let bytes = window[at..].first_chunk().expect("a span stands before each record");
        Lsn(u64::from_le_bytes(*bytes))
    };
    let length = window[SPAN..].first_chunk().expect("a record begins with its length");
    let length = u32::from_le_bytes(*length) as usize;
    (Span { start: position(0), end: position(8) }, &window[SPAN..SPAN + length])
}
