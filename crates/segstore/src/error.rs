//! What can go wrong, by what the caller does about it.

use env::{DiskError, ErrorKind};
use types::{Lsn, SegmentId};
use wire::Refusal;

/// Why the store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// An earlier write failed: what the disk holds is unknown. Stop acknowledging; this node's
    /// segments are rebuilt from their peers. Never retried.
    #[error("the store is stopped after an I/O error: {0}")]
    Poisoned(String),
    /// The disk has no room for a file that was to be made: nothing has changed, nothing was written
    /// over. The same may be tried again when there is room.
    #[error("{0}")]
    Full(String),
    /// The disk failed on something that can be tried again (reading, opening).
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Stored bytes failed their check. This copy is to be repaired; another one serves.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// The file or place.
        what: String,
        /// Which check failed.
        why: String,
    },
    /// No such segment here.
    #[error("segment {0} is not held here")]
    NoSegment(SegmentId),
    /// The versions or parts asked for are no longer kept.
    #[error("what is below {horizon} is no longer kept")]
    Forgotten {
        /// Lowest position that can be asked for.
        horizon: Lsn,
    },
    /// The directory belongs to another node, cluster or format.
    #[error("{0}")]
    Foreign(String),
    /// The engine could not apply a record.
    #[error(transparent)]
    Engine(#[from] types::EngineError),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl StoreError {
    /// Whether there was no room on the disk, and nothing else is wrong.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            StoreError::Full(_) => true,
            StoreError::Disk(error) => error.kind == ErrorKind::Full,
            _ => false,
        }
    }

    /// The answer to a peer or driver whose request met this error.
    #[must_use]
    pub fn refusal(&self, asked: Lsn) -> Refusal {
        match self {
            StoreError::Poisoned(why) | StoreError::Full(why) => Refusal::Poisoned(why.clone()),
            StoreError::NoSegment(segment) => Refusal::NoSegment(*segment),
            StoreError::Forgotten { horizon } => Refusal::Forgotten { horizon: *horizon, asked },
            StoreError::Invalid(why) => Refusal::Malformed(why.clone()),
            other => Refusal::Damaged(other.to_string()),
        }
    }
}
