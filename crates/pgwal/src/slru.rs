//! Which page of an SLRU holds what, and which pages a truncation removes.
//!
//! Transaction ids, multixact ids and member offsets are counters modulo 2^32; so are the pages.

use smallvec::SmallVec;

use crate::keys::Slru;
use crate::layout::BLOCK_SIZE;

/// Pages a segment file has; truncation removes whole segments.
pub const PAGES_PER_SEGMENT: u32 = 32;
/// Transactions on a page of `pg_xact`: two bits each.
pub const XACTS_PER_PAGE: u32 = BLOCK_SIZE as u32 * 4;
/// Transactions on a page of `pg_commit_ts`: ten bytes each.
pub const COMMIT_TS_PER_PAGE: u32 = BLOCK_SIZE as u32 / 10;
/// Multixacts on a page of `pg_multixact/offsets`: four bytes each.
pub const OFFSETS_PER_PAGE: u32 = BLOCK_SIZE as u32 / 4;
/// Members on a page of `pg_multixact/members`: groups of four flag bytes and four ids.
pub const MEMBERS_PER_PAGE: u32 = BLOCK_SIZE as u32 / 20 * 4;
/// First multixact id that is one.
pub const FIRST_MULTIXACT: u32 = 1;
/// First transaction id that is an ordinary one.
pub const FIRST_NORMAL_XID: u32 = 3;

/// Page of `pg_xact` that holds a transaction's status.
#[must_use]
pub fn xact_page(xid: u32) -> u32 {
    xid / XACTS_PER_PAGE
}

/// Page of `pg_commit_ts` that holds a transaction's commit timestamp.
#[must_use]
pub fn commit_ts_page(xid: u32) -> u32 {
    xid / COMMIT_TS_PER_PAGE
}

/// Page of `pg_multixact/offsets` that holds where a multixact's members begin.
#[must_use]
pub fn multi_offset_page(multi: u32) -> u32 {
    multi / OFFSETS_PER_PAGE
}

/// Page of `pg_multixact/members` that holds a member.
#[must_use]
pub fn multi_member_page(offset: u32) -> u32 {
    offset / MEMBERS_PER_PAGE
}

/// The multixact after `multi`.
#[must_use]
pub fn next_multi(multi: u32) -> u32 {
    multi.wrapping_add(1).max(FIRST_MULTIXACT)
}

/// The multixact before `multi`.
#[must_use]
pub fn previous_multi(multi: u32) -> u32 {
    if multi <= FIRST_MULTIXACT { u32::MAX } else { multi - 1 }
}

/// Whether `a` is before `b` on the circle of 2^32.
#[must_use]
pub fn circular_precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether transaction `a` is before `b`: the permanent ones (below 3) are before all others.
#[must_use]
pub fn xid_precedes(a: u32, b: u32) -> bool {
    if a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID { a < b } else { circular_precedes(a, b) }
}

/// The later of two transactions; `None` is before all.
#[must_use]
pub fn xid_latest(a: Option<u32>, b: u32) -> Option<u32> {
    match a {
        _ if b < FIRST_NORMAL_XID => a,
        Some(a) if !xid_precedes(a, b) => Some(a),
        _ => Some(b),
    }
}

/// The pages of these transactions, each once.
pub(crate) fn pages_of(
    xid: u32,
    others: &[u32],
    page_of: impl Fn(u32) -> u32,
) -> SmallVec<[u32; 2]> {
    let mut pages = SmallVec::new();
    pages.push(page_of(xid));
    for page in others.iter().map(|xid| page_of(*xid)) {
        // Neighbours nearly always share a page.
        if pages.last() != Some(&page) {
            pages.push(page);
        }
    }
    if pages.len() > 2 {
        pages.sort_unstable();
        pages.dedup();
    }
    pages
}

/// SLRU pages that go away, whole segments of 32 pages at a time, as PostgreSQL does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlruTruncate {
    /// Segments that lie wholly before this page, in the area's circular order.
    Before {
        /// The area.
        slru: Slru,
        /// The first page that is still needed.
        page: u32,
    },
    /// Segments of multixact members from the one of the first page, inclusive, to that of the
    /// second, exclusive, wrapping round.
    Members {
        /// Page of the first member removed.
        from_page: u32,
        /// Page of the first member kept.
        to_page: u32,
    },
}

impl SlruTruncate {
    /// The area concerned.
    #[must_use]
    pub fn slru(&self) -> Slru {
        match self {
            SlruTruncate::Before { slru, .. } => *slru,
            SlruTruncate::Members { .. } => Slru::MultiMembers,
        }
    }

    /// Whether this page of the area goes away, if it exists.
    #[must_use]
    pub fn removes(&self, page: u32) -> bool {
        let first = page - page % PAGES_PER_SEGMENT;
        match *self {
            SlruTruncate::Before { slru, page: cutoff } => {
                let last = first + (PAGES_PER_SEGMENT - 1);
                page_precedes(slru, first, cutoff) && page_precedes(slru, last, cutoff)
            }
            SlruTruncate::Members { from_page, to_page } => {
                let segment = page / PAGES_PER_SEGMENT;
                let from = from_page / PAGES_PER_SEGMENT;
                let to = to_page / PAGES_PER_SEGMENT;
                if from <= to {
                    (from..to).contains(&segment)
                } else {
                    segment >= from || segment < to
                }
            }
        }
    }
}

/// Whether everything on `a` is before everything on `b`.
fn page_precedes(slru: Slru, a: u32, b: u32) -> bool {
    let (per_page, first) = match slru {
        Slru::Xact => (XACTS_PER_PAGE, FIRST_NORMAL_XID),
        Slru::CommitTs => (COMMIT_TS_PER_PAGE, FIRST_NORMAL_XID),
        Slru::MultiOffsets => (OFFSETS_PER_PAGE, FIRST_MULTIXACT),
        Slru::MultiMembers => (MEMBERS_PER_PAGE, 0),
    };
    let precedes = |a: u32, b: u32| match slru {
        Slru::Xact | Slru::CommitTs => xid_precedes(a, b),
        Slru::MultiOffsets | Slru::MultiMembers => circular_precedes(a, b),
    };
    let start = |page: u32| page.wrapping_mul(per_page).wrapping_add(first + 1);
    precedes(start(a), start(b)) && precedes(start(a), start(b).wrapping_add(per_page - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_what_they_hold_in_postgres() {
        assert_eq!(XACTS_PER_PAGE, 32768);
        assert_eq!(COMMIT_TS_PER_PAGE, 819);
        assert_eq!(OFFSETS_PER_PAGE, 2048);
        assert_eq!(MEMBERS_PER_PAGE, 1636);
        assert_eq!(next_multi(u32::MAX), 1);
        assert_eq!(previous_multi(1), u32::MAX);
    }

    #[test]
    fn each_page_is_named_once_however_the_transactions_lie() {
        let page = XACTS_PER_PAGE;
        let named = |others: &[u32]| pages_of(5, others, xact_page).to_vec();
        assert_eq!(named(&[]), [0]);
        assert_eq!(named(&[6, page, page + 1]), [0, 1]);
        assert_eq!(named(&[3 * page, 7, page, 3 * page, 8]), [0, 1, 3]);
    }

    #[test]
    fn truncation_removes_whole_segments_before_the_cutoff_only() {
        let cut = SlruTruncate::Before { slru: Slru::Xact, page: 70 };
        assert!(cut.removes(0) && cut.removes(31) && cut.removes(63));
        assert!(!cut.removes(64) && !cut.removes(69) && !cut.removes(70));
        // Half the circle away is the future.
        assert!(!cut.removes(70 + 65536 - 64));
        // A cutoff just past zero removes the end of the circle.
        let cut = SlruTruncate::Before { slru: Slru::Xact, page: 1 };
        assert!(cut.removes(131_071 - 40));
        assert!(!cut.removes(0));
    }

    #[test]
    fn members_are_removed_by_segment_and_round_the_circle() {
        let cut = SlruTruncate::Members { from_page: 40, to_page: 100 };
        assert!(!cut.removes(31) && cut.removes(32) && cut.removes(95) && !cut.removes(96));
        let cut = SlruTruncate::Members { from_page: 2_625_280, to_page: 40 };
        assert!(cut.removes(2_625_285) && cut.removes(0) && !cut.removes(32));
        let none = SlruTruncate::Members { from_page: 40, to_page: 41 };
        assert!(!none.removes(40));
    }

    #[test]
    fn the_latest_transaction_is_found_across_wraparound() {
        assert_eq!(xid_latest(None, 0), None);
        assert_eq!(xid_latest(Some(u32::MAX - 5), 4), Some(4));
        assert_eq!(xid_latest(Some(4), u32::MAX - 5), Some(4));
        assert_eq!(xid_latest(Some(7), 1), Some(7));
    }
}
