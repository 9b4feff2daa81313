//! From the six SCLs of a group to its GCL.

use types::{COPIES, Lsn, WRITE_QUORUM};

/// What each member is known to hold without a gap (SCL), by member index.
pub type Scls = [Lsn; COPIES];

/// The group complete LSN: the largest position that a write quorum of members have reached, which
/// is the fourth largest of six SCLs (rule Q2).
#[must_use]
pub fn gcl(scls: &Scls) -> Lsn {
    reached_by(WRITE_QUORUM, scls)
}

/// The largest position that `count` members (1 to 6) have reached.
#[must_use]
pub fn reached_by(count: usize, scls: &Scls) -> Lsn {
    let mut sorted = *scls;
    sorted.sort_unstable();
    sorted[COPIES - count.clamp(1, COPIES)]
}
