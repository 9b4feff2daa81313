//! PostgreSQL's `CheckPoint` struct (`catalog/pg_control.h`, version 1300): the body of checkpoint
//! records and a part of `pg_control`.

use types::{Lsn, Timeline};

/// A checkpoint's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckPoint {
    /// Where replay starts; for a shutdown checkpoint the record's own start.
    pub redo: Lsn,
    /// Timeline.
    pub timeline: Timeline,
    /// Timeline before, when the record begins a new one; otherwise the same.
    pub prev_timeline: Timeline,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// Next transaction id, the wraparound count in the upper half.
    pub next_xid: u64,
    /// Next oid.
    pub next_oid: u32,
    /// Next multixact id.
    pub next_multi: u32,
    /// Next offset of a multixact member.
    pub next_multi_offset: u32,
    /// Oldest `datfrozenxid`.
    pub oldest_xid: u32,
    /// Database that has it.
    pub oldest_xid_database: u32,
    /// Oldest `datminmxid`.
    pub oldest_multi: u32,
    /// Database that has it.
    pub oldest_multi_database: u32,
    /// Wall-clock time in seconds since 1970.
    pub time: i64,
    /// Oldest transaction with a commit timestamp, zero for none.
    pub oldest_commit_ts_xid: u32,
    /// Newest transaction with a commit timestamp, zero for none.
    pub newest_commit_ts_xid: u32,
    /// Oldest transaction running; zero for a shutdown checkpoint.
    pub oldest_active_xid: u32,
}

impl CheckPoint {
    /// Size of the struct.
    pub const SIZE: usize = 88;

    /// The struct's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CheckPoint::SIZE] {
        let mut bytes = [0; CheckPoint::SIZE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.redo.0.to_le_bytes());
        put(8, &self.timeline.0.to_le_bytes());
        put(12, &self.prev_timeline.0.to_le_bytes());
        put(16, &[u8::from(self.full_page_writes)]);
        put(24, &self.next_xid.to_le_bytes());
        put(32, &self.next_oid.to_le_bytes());
        put(36, &self.next_multi.to_le_bytes());
        put(40, &self.next_multi_offset.to_le_bytes());
        put(44, &self.oldest_xid.to_le_bytes());
        put(48, &self.oldest_xid_database.to_le_bytes());
        put(52, &self.oldest_multi.to_le_bytes());
        put(56, &self.oldest_multi_database.to_le_bytes());
        put(64, &self.time.to_le_bytes());
        put(72, &self.oldest_commit_ts_xid.to_le_bytes());
        put(76, &self.newest_commit_ts_xid.to_le_bytes());
        put(80, &self.oldest_active_xid.to_le_bytes());
        bytes
    }

    /// The struct in these bytes; `None` when they are too few.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<CheckPoint> {
        let bytes = bytes.get(..CheckPoint::SIZE)?;
        let u32_at = |at: usize| bytes[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        let u64_at = |at: usize| bytes[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        Some(CheckPoint {
            redo: Lsn(u64_at(0)),
            timeline: Timeline(u32_at(8)),
            prev_timeline: Timeline(u32_at(12)),
            full_page_writes: bytes[16] != 0,
            next_xid: u64_at(24),
            next_oid: u32_at(32),
            next_multi: u32_at(36),
            next_multi_offset: u32_at(40),
            oldest_xid: u32_at(44),
            oldest_xid_database: u32_at(48),
            oldest_multi: u32_at(52),
            oldest_multi_database: u32_at(56),
            time: u64_at(64) as i64,
            oldest_commit_ts_xid: u32_at(72),
            newest_commit_ts_xid: u32_at(76),
            oldest_active_xid: u32_at(80),
        })
    }
}
