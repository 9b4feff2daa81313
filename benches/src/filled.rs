//! A storage node's store filled directly, without a cluster around it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use env::RealDisk;
use pgwal::keys::{Fork, Key, Rel};
use segstore::{Identity, LogEntry, Options, SegmentState, Store};
use types::{
    ClusterId, Epoch, EpochStart, GroupId, History, Holder, Incarnation, Lsn, MembershipEpoch,
    PageKey, SegmentId, Span, Timeline, VolumeId,
};
use wire::{Batch, BatchHeader, Change, Part, PartMeta, Peer, SegmentReport, SegmentSpec};

/// The node whose disk it is.
#[must_use]
pub fn identity() -> Identity {
    let node = "a1".parse().expect("a name");
    Identity { cluster: ClusterId(1), node, incarnation: Incarnation(1) }
}

/// The segment of a group.
#[must_use]
pub fn segment(group: u32) -> SegmentId {
    SegmentId { volume: VolumeId(1), group: GroupId(group) }
}

/// A block of one relation.
#[must_use]
pub fn page_key(block: u32) -> PageKey {
    let rel = Rel { tablespace: 1663, database: 5, relation: 16384 };
    Key::Block(rel, Fork::Main, block).encode()
}

/// A new store.
///
/// # Errors
/// The store's.
pub fn create(dir: &Path) -> Result<Store> {
    let (disk, engine) = (Arc::new(RealDisk), Arc::new(redo::Postgres));
    Ok(Store::create(disk, engine, dir, identity(), Options::default())?)
}

/// Opens it again.
///
/// # Errors
/// The store's.
pub fn open(dir: &Path) -> Result<Store> {
    let (disk, engine) = (Arc::new(RealDisk), Arc::new(redo::Postgres));
    Ok(Store::open(disk, engine, dir, identity(), Options::default())?.0)
}

fn state() -> SegmentState {
    let start = EpochStart { epoch: Epoch(1), begins: Lsn(0), timeline: Timeline(1) };
    SegmentState {
        sealed: Epoch(1),
        history: History::new(vec![start]).expect("one"),
        membership: MembershipEpoch::FIRST,
        full: true,
        ..SegmentState::default()
    }
}

/// One segment's log as its writer would send it.
pub struct Source {
    segment: SegmentId,
    /// End of the last part.
    pub end: Lsn,
}

impl Source {
    /// A segment that holds nothing yet, added to the store.
    ///
    /// # Errors
    /// The store's.
    pub fn begin(store: &Store, segment: SegmentId) -> Result<Source> {
        let membership = MembershipEpoch::FIRST;
        let peer = |name: &str| Peer {
            holder: Holder { node: name.parse().expect("a name"), since: membership },
            address: "127.0.0.1:1".to_owned(),
        };
        let members = ["a1", "a2", "b1", "b2", "c1", "c2"].map(peer).into();
        let spec = SegmentSpec { segment, membership, members, joining: Vec::new(), fresh: true };
        store.add_segment(&spec, &state())?;
        Ok(Source { segment, end: Lsn(8) })
    }

    /// Appends one part for each change, durable everywhere once it is here.
    ///
    /// # Errors
    /// The store's.
    pub fn append(&mut self, store: &Store, changes: Vec<Change>) -> Result<()> {
        let base = if self.end == Lsn(8) { Lsn::ZERO } else { self.end };
        let mut parts = Vec::with_capacity(changes.len());
        for change in changes {
            let span = Span { start: self.end, end: Lsn(self.end.0 + 64) };
            let meta = PartMeta { span, prev: Lsn::ZERO, shared: Default::default() };
            parts.push(Part { meta, changes: vec![change], body: Bytes::new() });
            self.end = span.end;
        }
        let vdl = Span { start: base, end: base };
        let header = BatchHeader {
            segment: self.segment,
            epoch: Epoch(1),
            membership: MembershipEpoch::FIRST,
            base,
            last: self.end,
            vdl,
            low_water: base,
            watermark: 0,
        };
        store.append(&[(self.segment, LogEntry::Batch(Batch { header, parts }))])?;
        let (state, vdl) = (state(), Span { start: self.end, end: self.end });
        let report = SegmentReport {
            scl: self.end,
            sealed: state.sealed,
            history: state.history,
            vdl,
            low_water: self.end,
            watermark: 0,
            membership: state.membership,
            since: state.membership,
            full: true,
        };
        store.advance(self.segment, &report);
        Ok(())
    }
}

/// A page that no compression makes small.
#[must_use]
pub fn page(seed: u64) -> Bytes {
    let mut word = seed.wrapping_add(1);
    let mut page = Vec::with_capacity(8192);
    while page.len() < 8192 {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        page.extend_from_slice(&word.to_le_bytes());
    }
    Bytes::from(page)
}
