//! What goes into the hot log, in order: batches, and changes of a segment's state.

use types::{Epoch, History, Lsn, MembershipEpoch, Span};
use wire::Batch;

/// One entry of a segment in the hot log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// Parts of the group's chain.
    Batch(Batch),
    /// The segment's state from here on.
    State(SegmentState),
}

/// What a segment must remember besides its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// Newest epoch sealed.
    pub sealed: Epoch,
    /// The epoch history followed.
    pub history: History,
    /// Member set in force.
    pub membership: MembershipEpoch,
    /// The highest durable point told.
    pub vdl: Span,
    /// Highest low-water mark told.
    pub low_water: Lsn,
    /// Highest engine watermark told.
    pub watermark: u64,
    /// Whether it votes and serves.
    pub full: bool,
}
