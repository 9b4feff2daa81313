//! Places that were given to others, as far as this life of the process has heard: a hold order that was
//! overtaken by the order to forget must not leave a copy that nobody counts and nobody frees.

use std::collections::BTreeMap;

use types::{MembershipEpoch, SegmentId};

/// By segment, the newest member set without the hold that this node had.
#[derive(Default)]
pub(crate) struct GivenAway(BTreeMap<SegmentId, MembershipEpoch>);

impl GivenAway {
    /// This member set gave the node's place to another.
    pub(crate) fn note(&mut self, segment: SegmentId, by: MembershipEpoch) {
        let known = self.0.entry(segment).or_insert(by);
        *known = by.max(*known);
    }

    /// Whether a hold that a member set gave, `since`, is over.
    pub(crate) fn is_over(&self, segment: SegmentId, since: MembershipEpoch) -> bool {
        self.0.get(&segment).is_some_and(|by| since < *by)
    }

    /// Lets go of segments that nobody orders any more.
    pub(crate) fn forget(&mut self, of: impl Fn(SegmentId) -> bool) {
        self.0.retain(|segment, _| !of(*segment));
    }
}

#[cfg(test)]
mod tests {
    use types::{GroupId, VolumeId};

    use super::*;

    #[test]
    fn a_hold_order_that_its_forget_order_has_overtaken_is_known_and_a_newer_one_is_not() {
        let segment = |group| SegmentId { volume: VolumeId(1), group: GroupId(group) };
        let over =
            |given: &GivenAway, group, since| given.is_over(segment(group), MembershipEpoch(since));
        let mut given = GivenAway::default();
        assert!(!over(&given, 1, 4), "nothing was given away");
        given.note(segment(1), MembershipEpoch(5));
        given.note(segment(1), MembershipEpoch(3)); // a late one itself
        assert!(over(&given, 1, 4));
        assert!(!over(&given, 1, 5) && !over(&given, 1, 6), "the place was given back");
        assert!(!over(&given, 2, 4), "of another group");
        given.forget(|id| id.volume == VolumeId(1));
        assert!(!over(&given, 1, 4));
    }
}
