//! A batch: a run of one group's chain, as sent by a writer and as stored in a hot log.
//!
//! ```text
//! record  one record of the engine's log, bytes [start, end)
//! part    what that record means for one group: changes to the group's pages, and the record's
//!         bytes where a change needs them
//! batch   consecutive parts of one group written in one epoch; `base` is the end of the group's
//!         part before the first, so that batches link into the group's chain
//! ```

use bytes::Bytes;
use smallvec::SmallVec;
use types::{Epoch, GroupId, Lsn, MembershipEpoch, PageKey, SegmentId, Span};

/// What one record does to one page, or to a range of pages. Opaque to everything but the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The engine applies the part's body to this page.
    Apply(PageKey),
    /// The page's whole content from here on.
    Put(PageKey, Bytes),
    /// Every page in `from..to` (end exclusive) ceases to exist.
    Delete {
        /// First key of the range.
        from: PageKey,
        /// First key past the range.
        to: PageKey,
    },
}

/// One record's meaning for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position, links and sharers.
    pub meta: PartMeta,
    /// The pages concerned, in the order in which the engine changes them.
    pub changes: Vec<Change>,
    /// The record's bytes, without log page headers; empty where no change applies them and another
    /// group's part carries them.
    pub body: Bytes,
}

/// Position, links and sharers of a part: all that recovery needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartMeta {
    /// The record's bytes in the volume's log.
    pub span: Span,
    /// Start of the volume's previous record: the volume chain.
    pub prev: Lsn,
    /// The other groups that hold a part of this record, ascending; empty for most.
    pub shared: SmallVec<[GroupId; 2]>,
}

/// What a batch says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The group it belongs to.
    pub segment: SegmentId,
    /// The epoch whose writer made the parts.
    pub epoch: Epoch,
    /// The member set that the writer believed in.
    pub membership: MembershipEpoch,
    /// End of the group's part before the first one here (`Lsn::ZERO` at the group's beginning).
    pub base: Lsn,
    /// End of the last part; equals `base` in a batch without parts (an announcement).
    pub last: Lsn,
    /// The record that ends at the volume's durable point, as the writer knew it when sending.
    pub vdl: Span,
    /// Lowest read point that any instance may still use.
    pub low_water: Lsn,
    /// The engine's monotonic counter to survive a crash (PostgreSQL: next transaction id, rule R6).
    pub watermark: u64,
}

/// A run of one group's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the batch says about itself.
    pub header: BatchHeader,
    /// Its parts, in log order.
    pub parts: Vec<Part>,
}
