//! Another volume on a node of the world: a segment with a made-up log that only this node holds. It shares
//! the node's store with the world's own volume: the log, its syncs, background work, the disk's troubles. From
//! time to time it is deleted and another one made.
//!
//! What was durable of it must be there after any end of the node, page by page; what was deleted must stay so.

use bytes::Bytes;
use protocol::LogEntry;
use segstore::{RestoredSegment, Store, StoreError};
use types::{
    Epoch, EpochStart, GroupId, History, Holder, Lsn, MembershipEpoch, NodeId, PageKey, SegmentId,
    Span, Timeline, VolumeId,
};
use wire::{
    Batch, BatchHeader, Change, PageAnswer, Part, PartMeta, Peer, SegmentReport, SegmentSpec,
};

use crate::storage::Entries;
use crate::world::VOLUME;

/// No group of the world's own volume has this number.
const GROUP: GroupId = GroupId(777);
/// Pages of the volume.
const KEYS: u64 = 7;
/// Bytes of a record.
const RECORD: u64 = 16;
/// A volume is deleted when it has some multiple of so many records.
const LIFE: u64 = 40;

/// See the module's description.
#[derive(Default)]
pub struct Neighbour {
    /// How many volumes there were before this one.
    number: u64,
    /// Whether the store was told to hold it.
    lodged: bool,
    /// Records handed to the store, and those known durable.
    made: u64,
    durable: u64,
    /// Deleted on a disk in trouble, which may not have noted it.
    unsure: Vec<SegmentId>,
    /// Volumes deleted for good.
    pub deletions: u64,
}

/// Hands the segments that a restart found, but not the world's own, to the node's neighbour; the rest.
///
/// # Errors
/// The store's.
///
/// # Panics
/// When something is missing there, or is back.
pub fn greet(
    neighbour: &mut Option<Neighbour>,
    store: Option<&Store>,
    restored: Vec<RestoredSegment>,
) -> Result<Vec<RestoredSegment>, StoreError> {
    let Some((neighbour, store)) = neighbour.as_mut().zip(store) else { return Ok(restored) };
    let own = |told: &RestoredSegment| told.spec.segment.volume == VOLUME;
    let (own, others): (Vec<_>, Vec<_>) = restored.into_iter().partition(own);
    let mut found = false;
    for told in &others {
        found |= neighbour.found(told, store)?;
    }
    neighbour.all_found(found);
    neighbour.check(store);
    Ok(own)
}

impl Neighbour {
    fn segment(&self) -> SegmentId {
        SegmentId { volume: VolumeId(VOLUME.0 + 1 + u128::from(self.number)), group: GROUP }
    }

    /// A disk was lost: with it this volume.
    pub fn wiped(&mut self) {
        *self = Neighbour { number: self.number + 1, ..Neighbour::default() };
    }

    /// One more record to be written with what else is; an old volume makes room for a new one first. `trouble`:
    /// the disk is full or fails.
    ///
    /// # Errors
    /// The store's.
    pub fn write(
        &mut self,
        node: NodeId,
        store: &Store,
        entries: &mut Entries,
        trouble: bool,
    ) -> Result<(), StoreError> {
        if self.made >= LIFE * (1 + self.number % 4) {
            self.delete(store, trouble)?;
        }
        if !self.lodged {
            store.add_segment(&self.spec(node), &state())?;
            self.lodged = true;
        }
        entries.push((self.segment(), LogEntry::Batch(self.batch())));
        self.made += 1;
        Ok(())
    }

    fn delete(&mut self, store: &Store, trouble: bool) -> Result<(), StoreError> {
        let segment = self.segment();
        let dropped = store.drop_segment(segment);
        let mut unsure = std::mem::take(&mut self.unsure);
        if dropped.is_err() || trouble {
            unsure.push(segment);
        }
        let (number, deletions) = (self.number + 1, self.deletions + 1);
        *self = Neighbour { number, unsure, deletions, ..Neighbour::default() };
        dropped
    }

    /// These entries are durable.
    pub fn written(&mut self, store: &Store, entries: &Entries) {
        let own = entries.iter().filter(|(id, _)| *id == self.segment()).count() as u64;
        if own > 0 {
            self.durable += own;
            store.advance(self.segment(), &self.report());
        }
    }

    /// A segment found at a restart, not one of the world's own: this volume's goes on (true), another
    /// is gone.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Panics
    /// When something durable is missing, or something deleted is back.
    fn found(&mut self, told: &RestoredSegment, store: &Store) -> Result<bool, StoreError> {
        let id = told.spec.segment;
        if id != self.segment() {
            assert!(self.unsure.contains(&id), "{id} was deleted and is back");
            return store.drop_segment(id).map(|()| false);
        }
        assert!(told.damage.is_none(), "{id}: {:?}", told.damage);
        let last = told.held.last().map_or(told.flushed, |part| part.meta.span.end);
        let held = (last.0 / RECORD).saturating_sub(1);
        assert!(held >= self.durable, "{id} has {held} records, {} were durable", self.durable);
        assert!(held <= self.made, "{id} has {held} records, {} were made", self.made);
        (self.made, self.durable, self.lodged) = (held, held, true);
        store.advance(id, &self.report());
        Ok(true)
    }

    /// The restart is over.
    ///
    /// # Panics
    /// When this volume was not found although something of it was durable.
    fn all_found(&mut self, found: bool) {
        assert!(found || self.durable == 0, "{} is not found any more", self.segment());
        if !found {
            (self.lodged, self.made) = (false, 0);
        }
    }

    /// Moves what is durable into files.
    ///
    /// # Errors
    /// The store's.
    pub fn flush(&self, store: &Store) -> Result<(), StoreError> {
        match self.lodged {
            true => store.flush_segment(self.segment()).map(drop),
            false => Ok(()),
        }
    }

    /// Whether every page is as its last durable record left it.
    ///
    /// # Panics
    /// When one is not.
    pub fn check(&self, store: &Store) {
        for key in 0..KEYS.min(self.durable) {
            let newest = self.durable - 1;
            let last = newest - (newest + KEYS - key) % KEYS;
            let answer = store.read_page(self.segment(), &page(key), span(newest).end);
            let wanted = PageAnswer::Page { version: span(last).end, bytes: self.content(last) };
            assert_eq!(answer, wanted, "{}, page {key} at {newest}", self.segment());
        }
    }

    fn content(&self, record: u64) -> Bytes {
        let mut bytes = vec![record as u8; 16 + (record * 37 % 300) as usize];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&record.to_le_bytes());
        bytes.into()
    }

    fn batch(&self) -> Batch {
        let number = self.made;
        let before = |number: u64| number.checked_sub(1).map_or(Span::ZERO, span);
        let meta =
            PartMeta { span: span(number), prev: before(number).start, shared: Default::default() };
        let changes = vec![Change::Put(page(number % KEYS), self.content(number))];
        let header = BatchHeader {
            segment: self.segment(),
            epoch: Epoch(1),
            membership: MembershipEpoch::FIRST,
            base: before(number).end,
            last: span(number).end,
            vdl: before(self.durable),
            low_water: self.low_water(),
            watermark: 3,
        };
        Batch { header, parts: vec![Part { meta, changes, body: Bytes::new() }] }
    }

    fn low_water(&self) -> Lsn {
        self.durable.checked_sub(1).map_or(Lsn::ZERO, |newest| span(newest).end)
    }

    fn report(&self) -> SegmentReport {
        let newest = self.durable.checked_sub(1).map_or(Span::ZERO, span);
        SegmentReport {
            scl: newest.end,
            sealed: Epoch(1),
            history: state().history,
            vdl: newest,
            low_water: self.low_water(),
            watermark: 3,
            membership: MembershipEpoch::FIRST,
            since: MembershipEpoch::FIRST,
            full: true,
        }
    }

    fn spec(&self, node: NodeId) -> SegmentSpec {
        let holder = Holder { node, since: MembershipEpoch::FIRST };
        SegmentSpec {
            segment: self.segment(),
            membership: MembershipEpoch::FIRST,
            members: vec![Peer { holder, address: String::new() }],
            joining: Vec::new(),
            fresh: true,
        }
    }
}

/// Where a record lies, from its number on.
fn span(number: u64) -> Span {
    let start = Lsn((number + 1) * RECORD);
    Span { start, end: start.plus(RECORD) }
}

fn page(number: u64) -> PageKey {
    let mut key = PageKey::MIN;
    key.0[12..].copy_from_slice(&number.to_be_bytes());
    key
}

fn state() -> protocol::SegmentState {
    let first = EpochStart { epoch: Epoch(1), begins: Lsn::ZERO, timeline: Timeline(1) };
    protocol::SegmentState {
        sealed: Epoch(1),
        history: History::new(vec![first]).expect("one epoch ascends"),
        membership: MembershipEpoch::FIRST,
        full: true,
        ..Default::default()
    }
}
