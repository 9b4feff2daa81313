//! Records in, counts and findings out: every record is applied as a storage node would, and each
//! page compared with the image that the record holds of it. Pure; pages come from an [`Images`].
//!
//! - V1: a page is known once it was read from the images, initialised, restored, or adopted from an
//!   image there to be compared. A record for a page that is not known is counted, never skipped in
//!   silence.
//! - V2: after a difference replay goes on from PostgreSQL's page, so that one mistake is told once.
//! - V3: a restored page is compared with its image too, because recovery changes some pages after
//!   restoring them; what it says of redo comes with the next comparison of that page, which is
//!   counted as its confirmation.

mod pages;

use std::collections::{BTreeMap, BTreeSet};

use pgwal::effects::Effects;
use pgwal::keys::{Fork, Key, Slru};
use pgwal::layout::op::{heap2, rm, xlog};
use pgwal::record::{BlockRef, Record};
use pgwal::slru::{circular_precedes, xid_precedes};
use pgwal::{CheckPoint, WalError};
use redo::{Postgres, State};
use types::{Engine as _, Lsn};

use crate::compare::{self, Page};
use crate::error::VerifyError;
use crate::tally::{Finding, Kind, Place, Tallies};
use pages::Pages;
pub use pages::{Before, Images, NoImages};

/// Findings that are kept; more are only counted.
const KEPT: usize = 1000;

/// Why a record cannot be replayed at all.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Nobody knows what it does.
    #[error(transparent)]
    Record(#[from] WalError),
    /// A page cannot be read.
    #[error(transparent)]
    Images(#[from] VerifyError),
}

/// A replay in progress.
pub struct Replay<I> {
    pages: Pages<I>,
    state: Option<State>,
    /// What changed pages since they were last compared.
    pending: BTreeMap<Key, BTreeMap<(Kind, Place), u64>>,
    /// Pages of visibility maps that the log holds as a hole.
    hollow: BTreeSet<Key>,
    tallies: Tallies,
    /// Shutdown checkpoints whose counters were compared.
    checkpoints: u64,
    findings: Vec<Finding>,
    found: u64,
}

impl<I: Images> Replay<I> {
    /// Over these pages.
    pub fn new(images: I) -> Replay<I> {
        let state = images.state();
        Replay {
            pages: Pages::new(images),
            state,
            pending: BTreeMap::new(),
            hollow: BTreeSet::new(),
            tallies: Tallies::default(),
            checkpoints: 0,
            findings: Vec::new(),
            found: 0,
        }
    }

    /// The counts so far.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// What was found to be wrong: the first of it, and how much it is altogether.
    pub fn findings(&self) -> (&[Finding], u64) {
        (&self.findings, self.found)
    }

    /// How often the server's counters were compared: at every shutdown checkpoint, if the images had
    /// them to begin with.
    pub fn checkpoints_compared(&self) -> u64 {
        self.checkpoints
    }

    /// The server's counters, if the images had them.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// The page as the records so far left it.
    ///
    /// # Errors
    /// When the images cannot be read.
    pub fn page(&mut self, key: Key) -> Result<Before, VerifyError> {
        let before = self.pages.take(key)?;
        if let Before::Known(page) = &before {
            self.pages.put(key, page.clone());
        }
        Ok(before)
    }

    /// All pages that records changed, by key.
    pub fn pages(&self) -> impl Iterator<Item = (Key, &[u8])> {
        self.pages.made()
    }

    /// The page was found to be right by a comparison made elsewhere, as with the server's files.
    pub fn confirm(&mut self, key: Key) {
        for ((kind, place), count) in self.pending.remove(&key).unwrap_or_default() {
            self.tallies.at(kind, place).confirmed += count;
        }
    }

    /// Applies a record to everything it changes.
    ///
    /// # Errors
    /// [`ReplayError`]; then the replay is at its end.
    pub fn record(&mut self, record: &Record) -> Result<(), ReplayError> {
        let kind = (record.rmid, pgwal::effects::kind(record)?);
        let effects = pgwal::effects(record)?;
        *self.tallies.records.entry(kind).or_default() += 1;
        for block in &record.blocks {
            self.block(record, kind, block)?;
        }
        for (rel, fork, block) in effects.implicit_blocks() {
            self.implied(record, (kind, Place::Map), Key::Block(rel, fork, block))?;
        }
        for (area, page) in self.slru_pages(&effects) {
            self.implied(record, (kind, Place::Slru(area)), Key::Slru(area, page))?;
        }
        self.counters(record, kind, &effects);
        for change in &effects.catalog {
            self.pages.change(change);
        }
        Ok(())
    }

    fn slru_pages(&self, effects: &Effects) -> Vec<(Slru, u32)> {
        let mut pages = effects.slru.to_vec();
        let timestamps = self.state.is_some_and(|state| state.parameters.track_commit_timestamp);
        if let Some(xact) = effects.xact.as_ref().filter(|_| timestamps) {
            pages.extend(xact.commit_ts_pages().into_iter().map(|page| (Slru::CommitTs, page)));
        }
        pages
    }

    fn problem(&mut self, record: &Record, kind: Kind, page: String, lines: Vec<String>) {
        self.found += 1;
        if self.findings.len() < KEPT {
            self.findings.push(Finding { span: record.span, kind, page, lines });
        }
    }

    /// A block that the record references.
    fn block(&mut self, record: &Record, kind: Kind, block: &BlockRef) -> Result<(), VerifyError> {
        let key = Key::Block(block.rel, block.fork, block.block);
        let at = (kind, Place::Block(block.id));
        let before = self.pages.take(key)?;
        self.tally(at).pages += 1;
        let Ok(image) = self.image(record, at, block) else { return Ok(()) };
        let restores = block.image.as_ref().is_some_and(|image| image.apply);
        if let (true, Some(image), Before::Known(page)) = (restores, &image, &before) {
            self.hints(record, at, block, page, image);
        }
        let replaces = restores || block.will_init;
        let page = match before {
            _ if replaces => Vec::new(),
            Before::Known(page) => page,
            Before::Absent => Vec::new(),
            Before::Unknown => {
                self.tally(at).unknown += 1;
                self.adopt(key, record.span.end, image);
                return Ok(());
            }
        };
        if replaces {
            self.pending.remove(&key);
            self.hollow.remove(&key);
        }
        let hole = block.image.as_ref().map_or(0, |image| image.hole_length);
        if restores && block.fork == Fork::Vm && hole > 0 {
            self.hollow.insert(key);
        }
        let Some(page) = self.apply(record, at, key, page) else {
            self.adopt(key, record.span.end, image);
            return Ok(());
        };
        self.judge(record, at, block, page, image);
        Ok(())
    }

    fn tally(&mut self, (kind, place): (Kind, Place)) -> &mut crate::tally::Tally {
        self.tallies.at(kind, place)
    }

    /// The record's image of a block, restored; an image that is none is a finding.
    fn image(
        &mut self,
        record: &Record,
        at: (Kind, Place),
        block: &BlockRef,
    ) -> Result<Option<Box<Page>>, ()> {
        let Some(image) = &block.image else { return Ok(None) };
        let mut page = Box::new([0; 8192]);
        if let Err(error) = image.restore(&mut page) {
            self.tally(at).different += 1;
            self.problem(record, at.0, name(block), vec![error.to_string()]);
            self.pages.lose(Key::Block(block.rel, block.fork, block.block));
            return Err(());
        }
        Ok(Some(page))
    }

    /// An image logged because of a hint says what the page was before.
    fn hints(
        &mut self,
        record: &Record,
        at: (Kind, Place),
        block: &BlockRef,
        before: &[u8],
        image: &Page,
    ) {
        let is_hint = at.0 == (rm::XLOG, xlog::FPI_FOR_HINT) && block.fork == Fork::Main;
        let Ok(before) = <&Page>::try_from(before) else { return };
        if !is_hint || lsn(before) > record.span.end {
            return;
        }
        let Some(lines) = compare::hints(before, image, block.block) else { return };
        self.tally(at).compared += 1;
        if lines.is_empty() {
            self.confirm(Key::Block(block.rel, block.fork, block.block));
        } else {
            self.tally(at).different += 1;
            self.problem(record, at.0, name(block), lines);
        }
    }

    /// Applies the record to one page; an error is a finding.
    fn apply(
        &mut self,
        record: &Record,
        at: (Kind, Place),
        key: Key,
        mut page: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let encoded = key.encode();
        match Postgres.apply(&encoded, &mut page, record.span, &record.bytes) {
            Ok(()) => Some(page),
            Err(error) => {
                self.tally(at).different += 1;
                let lines = vec![format!("redo failed: {}", error.what)];
                self.problem(record, at.0, Postgres.describe(&encoded), lines);
                None
            }
        }
    }

    /// Compares a page that was made with the image of it, and keeps it.
    fn judge(
        &mut self,
        record: &Record,
        at: (Kind, Place),
        block: &BlockRef,
        page: Vec<u8>,
        image: Option<Box<Page>>,
    ) {
        let key = Key::Block(block.rel, block.fork, block.block);
        let Some(image) = image else {
            self.tally(at).without_image += 1;
            *self.pending.entry(key).or_default().entry(at).or_default() += 1;
            self.pages.put(key, page);
            return;
        };
        let Ok(ours) = <&Page>::try_from(page.as_slice()) else {
            let tally = self.tally(at);
            tally.compared += 1;
            tally.different += 1;
            let line = format!("redo makes {} bytes instead of a page", page.len());
            self.problem(record, at.0, name(block), vec![line]);
            self.adopt(key, record.span.end, Some(image));
            return;
        };
        let restores = block.image.as_ref().is_some_and(|image| image.apply);
        if lsn(ours) > record.span.end {
            self.tally(at).ahead += 1;
            self.pages.put(key, page);
            return;
        }
        let lines = match block.fork {
            Fork::Vm => {
                let sets = at.0 == (rm::HEAP2, heap2::VISIBLE);
                let heap_block = record.block(1).filter(|_| sets).map(|heap| heap.block);
                compare::maps(ours, &image, heap_block, self.hollow.contains(&key))
            }
            _ => compare::pages(record.rmid, ours, &image, block.block),
        };
        let tally = self.tally(at);
        *(if restores { &mut tally.restored } else { &mut tally.compared }) += 1;
        if !lines.is_empty() {
            tally.different += 1;
            self.problem(record, at.0, name(block), lines);
            self.adopt(key, record.span.end, Some(image));
            return;
        }
        if restores {
            *self.pending.entry(key).or_default().entry(at).or_default() += 1;
        } else {
            self.confirm(key);
        }
        self.pages.put(key, page);
    }

    /// Goes on from PostgreSQL's own page, stamped as recovery would, or from none.
    fn adopt(&mut self, key: Key, end: Lsn, image: Option<Box<Page>>) {
        self.pending.remove(&key);
        match image {
            Some(mut image) => {
                image[0..4].copy_from_slice(&((end.0 >> 32) as u32).to_le_bytes());
                image[4..8].copy_from_slice(&(end.0 as u32).to_le_bytes());
                self.pages.put(key, image.to_vec());
            }
            None => self.pages.lose(key),
        }
    }

    /// A page that the record changes without a reference to it: no image shows what it becomes.
    fn implied(&mut self, record: &Record, at: (Kind, Place), key: Key) -> Result<(), VerifyError> {
        let begins = Postgres.replaces(&key.encode(), &record.bytes);
        let page = match self.pages.take(key)? {
            _ if begins => Vec::new(),
            Before::Known(page) => page,
            // Recovery clears nothing in a map that does not exist; other areas count as zeros.
            Before::Absent if matches!(key, Key::Block(..)) => return Ok(()),
            Before::Absent => Vec::new(),
            Before::Unknown => {
                let tally = self.tally(at);
                tally.pages += 1;
                tally.unknown += 1;
                return Ok(());
            }
        };
        self.tally(at).pages += 1;
        // Recovery clears bits of maps without a look at their LSN, and a later record that set them
        // again is then passed over: harmless to it, but no page to compare with.
        let newer =
            <&Page>::try_from(page.as_slice()).is_ok_and(|page| lsn(page) > record.span.end);
        if newer && matches!(key, Key::Block(..)) {
            self.tally(at).ahead += 1;
            self.pages.put(key, page);
            return Ok(());
        }
        match self.apply(record, at, key, page) {
            Some(page) => {
                self.tally(at).without_image += 1;
                *self.pending.entry(key).or_default().entry(at).or_default() += 1;
                self.pages.put(key, page);
            }
            None => self.pages.lose(key),
        }
        Ok(())
    }

    /// The server's counters; at a shutdown checkpoint those kept from records must be the server's.
    fn counters(&mut self, record: &Record, kind: Kind, effects: &Effects) {
        let Some(state) = self.state else { return };
        if effects.is_shutdown_checkpoint()
            && let Some(theirs) = CheckPoint::decode(&record.main)
        {
            self.checkpoints += 1;
            let ours = state.checkpoint;
            // The log runs ahead of the oid counter. VACUUM moves the oldest ids, and says which
            // database has them, without a record until it removes something. The rest only a
            // checkpoint knows.
            let expected = CheckPoint {
                redo: ours.redo,
                time: ours.time,
                next_oid: ours.next_oid,
                oldest_active_xid: ours.oldest_active_xid,
                oldest_commit_ts_xid: ours.oldest_commit_ts_xid,
                oldest_xid_database: ours.oldest_xid_database,
                oldest_multi_database: ours.oldest_multi_database,
                ..theirs
            };
            let expected = CheckPoint {
                oldest_xid: match xid_precedes(theirs.oldest_xid, ours.oldest_xid) {
                    true => theirs.oldest_xid,
                    false => ours.oldest_xid,
                },
                oldest_multi: match circular_precedes(theirs.oldest_multi, ours.oldest_multi) {
                    true => theirs.oldest_multi,
                    false => ours.oldest_multi,
                },
                ..expected
            };
            if ours != expected || ours.next_oid < theirs.next_oid {
                let line = format!("{ours:?} instead of {theirs:?}");
                self.problem(record, kind, "the server's counters".to_owned(), vec![line]);
            }
        }
        if !effects.state && effects.latest_xid.is_none() {
            return;
        }
        let mut page = state.encode();
        let applied = Postgres.apply(&Key::State.encode(), &mut page, record.span, &record.bytes);
        let made = applied.map_err(|error| error.what);
        match made.and_then(|()| State::decode(&page).map_err(|fault| fault.to_string())) {
            Ok(state) => self.state = Some(state),
            Err(what) => {
                let lines = vec![format!("redo failed: {what}")];
                self.problem(record, kind, "the server's counters".to_owned(), lines);
            }
        }
    }
}

fn lsn(page: &Page) -> Lsn {
    let word = |at: usize| {
        u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]))
    };
    Lsn(word(0) << 32 | word(4))
}

fn name(block: &BlockRef) -> String {
    let (rel, fork) = (block.rel, block.fork.suffix());
    format!("{rel}{fork} block {} (block reference {})", block.block, block.id)
}
