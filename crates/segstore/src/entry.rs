//! What goes into the hot log: the protocol's entries, as bytes.

use types::SegmentId;

pub use protocol::{HeldPart, LogEntry, SegmentState};

use crate::codec::put_state;
use crate::log::{Entry, Kind};

/// The entry as the log holds it: a batch's own bytes, or a state's.
pub(crate) fn encode(segment: SegmentId, entry: &LogEntry) -> Entry {
    match entry {
        LogEntry::Batch(batch) => Entry { segment, kind: Kind::Batch, payload: batch.encode() },
        LogEntry::State(state) => {
            let mut payload = Vec::new();
            put_state(&mut payload, state);
            Entry { segment, kind: Kind::State, payload: payload.into() }
        }
    }
}
