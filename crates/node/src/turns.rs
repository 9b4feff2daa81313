//! How much the log loop takes in at once, so that no volume waits long for another's bytes.
//!
//! What is taken in one turn is handled and stored before anything is answered. A volume alone may fill
//! a turn: fewer, longer writes are cheaper. Where several write, a commit of the one waits for the turn
//! under way and for the rest of its own, so turns are short (rule N15). A writer makes its batches no
//! longer than a short turn.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use types::VolumeId;

/// Bytes of a turn while one volume writes.
const ALONE: usize = 1 << 20;
/// Bytes of a turn while several do.
const SHARED: usize = 64 << 10;
/// A volume that has written less than this ago may do so again at any moment.
const LATELY: Duration = Duration::from_secs(10);

/// Who has written lately.
#[derive(Default)]
pub(crate) struct Turns {
    volumes: BTreeMap<VolumeId, Instant>,
}

impl Turns {
    /// The volume has sent a batch.
    pub(crate) fn note(&mut self, volume: VolumeId, now: Instant) {
        self.volumes.insert(volume, now);
    }

    /// Bytes that the turn now beginning may take in.
    pub(crate) fn bytes(&mut self, now: Instant) -> usize {
        self.volumes.retain(|_, at| now < *at + LATELY);
        if self.volumes.len() > 1 { SHARED } else { ALONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_short_as_long_as_more_than_one_volume_writes() {
        let (mut turns, begin) = (Turns::default(), Instant::now());
        assert_eq!(turns.bytes(begin), ALONE);
        turns.note(VolumeId(1), begin);
        turns.note(VolumeId(1), begin + LATELY / 2);
        assert_eq!(turns.bytes(begin + LATELY / 2), ALONE, "one volume, however busy");
        turns.note(VolumeId(2), begin + LATELY / 2);
        assert_eq!(turns.bytes(begin + LATELY), SHARED);
        turns.note(VolumeId(2), begin + LATELY * 2);
        assert_eq!(turns.bytes(begin + LATELY * 2), ALONE, "the other has stopped");
    }
}
