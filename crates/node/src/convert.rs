//! The protocol's values as the store's, and back: the two crates do not know each other.

use protocol::HeldPart;
use segstore::RestoredSegment;

pub(crate) fn entry(entry: protocol::LogEntry) -> segstore::LogEntry {
    match entry {
        protocol::LogEntry::Batch(batch) => segstore::LogEntry::Batch(batch),
        protocol::LogEntry::State(given) => segstore::LogEntry::State(state(&given)),
    }
}

pub(crate) fn state(state: &protocol::SegmentState) -> segstore::SegmentState {
    let protocol::SegmentState { sealed, history, membership, vdl, low_water, watermark, full } =
        state.clone();
    segstore::SegmentState { sealed, history, membership, vdl, low_water, watermark, full }
}

/// What a restart found of a segment, as its brain wants it.
pub(crate) fn restored(
    restored: &RestoredSegment,
) -> (protocol::SegmentState, impl Iterator<Item = HeldPart> + '_) {
    let segstore::SegmentState { sealed, history, membership, vdl, low_water, watermark, full } =
        restored.state.clone();
    let state =
        protocol::SegmentState { sealed, history, membership, vdl, low_water, watermark, full };
    let held = restored.held.iter().cloned();
    (state, held.map(|(epoch, base, meta)| HeldPart { epoch, base, meta }))
}
