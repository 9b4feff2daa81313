//! What the segments want persisted and the log has not taken yet: usually nothing for longer than a
//! turn; on a full disk it stays here and is tried again until there is room (N12).
//!
//! A segment's entries stay in their order. Nothing of what waits is acknowledged: the segments are
//! told only what [`Unwritten::write`] has made durable.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::LogEntry;
use segstore::{Store, StoreError};
use types::SegmentId;

/// Bytes that may wait for room; what writers send beyond stays in their sockets.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Between two attempts at first; doubles up to the longest.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_LONGEST: Duration = Duration::from_secs(2);

/// A disk without room.
struct Full {
    since: Instant,
    again: Instant,
    interval: Duration,
}

/// See the module's description.
#[derive(Default)]
pub(crate) struct Unwritten {
    entries: Vec<(SegmentId, LogEntry)>,
    /// Number of each segment's last entry.
    numbers: BTreeMap<SegmentId, u64>,
    bytes: usize,
    full: Option<Full>,
}

impl Unwritten {
    pub(crate) fn push(&mut self, segment: SegmentId, number: u64, entry: LogEntry) {
        self.bytes += bytes(&entry);
        self.entries.push((segment, entry));
        self.numbers.insert(segment, number);
    }

    /// Lets go of a segment that is held no more.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        self.entries.retain(|(id, _)| *id != segment);
        self.numbers.remove(&segment);
        self.bytes = self.entries.iter().map(|(_, entry)| bytes(entry)).sum();
    }

    /// Whether to write now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.again().map_or(!self.entries.is_empty(), |again| again <= now)
    }

    /// Whether the disk was full at the last attempt.
    pub(crate) fn is_waiting(&self) -> bool {
        self.full.is_some()
    }

    /// Whether so much waits for room that no more is to be taken.
    pub(crate) fn is_heavy(&self) -> bool {
        self.is_waiting() && self.bytes > WAITING_BYTES_MAX
    }

    /// When to try again.
    pub(crate) fn again(&self) -> Option<Instant> {
        self.full.as_ref().map(|full| full.again)
    }

    /// Writes everything durably; each segment's last number when that is done, nothing as long as the
    /// disk is full.
    ///
    /// # Errors
    /// When the store is stopped.
    pub(crate) fn write(&mut self, store: &Store) -> Result<BTreeMap<SegmentId, u64>, StoreError> {
        match store.append(&self.entries) {
            Ok(()) => {
                if let Some(full) = self.full.take() {
                    let seconds = full.since.elapsed().as_secs_f64();
                    tracing::info!(seconds, "there is room on the disk again; acknowledging");
                }
                self.entries.clear();
                self.bytes = 0;
                Ok(std::mem::take(&mut self.numbers))
            }
            Err(StoreError::Full(why)) => {
                self.wait(&why);
                Ok(BTreeMap::new())
            }
            Err(error) => Err(error),
        }
    }

    fn wait(&mut self, why: &str) {
        let now = Instant::now();
        let full = self.full.get_or_insert_with(|| {
            tracing::error!(
                why,
                "the disk has no room for the log: nothing is acknowledged until there is some; \
                 reads go on"
            );
            Full { since: now, again: now, interval: AGAIN }
        });
        full.again = now + full.interval;
        full.interval = (full.interval * 2).min(AGAIN_LONGEST);
    }
}

fn bytes(entry: &LogEntry) -> usize {
    match entry {
        LogEntry::Batch(batch) => batch.parts.iter().map(|part| part.bytes_estimate()).sum(),
        LogEntry::State(_) => 0,
    }
}
