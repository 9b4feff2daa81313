//! Where new extents go, and when a volume needs another group. Pure.
//!
//! Room that was freed in any group is used again before a group is added (D26).

use std::collections::BTreeMap;

use types::GroupId;

use crate::draft::CATALOG;

/// What groups and extents take, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Pages of a group. The limit is soft: extents grow where they are.
    pub(crate) group: u64,
    /// Pages of an extent.
    pub(crate) extent: u64,
}

impl Room {
    /// Pages left in a group; less than an extent, or than a quarter of a small group, is none.
    fn left(self, filled: u64) -> u64 {
        let left = self.group.saturating_sub(filled);
        if left < self.extent.min(self.group / 4).max(1) { 0 } else { left }
    }

    /// Where the next extent goes: to the newest group with room. When none has, the newest takes it
    /// until another is there.
    pub(crate) fn place(self, filled: &BTreeMap<GroupId, u64>) -> GroupId {
        let with_room = filled.iter().rev().find(|(_, pages)| self.left(**pages) > 0);
        with_room.or(filled.last_key_value()).map_or(CATALOG, |(group, _)| *group)
    }

    /// Whether the groups together have so little room that the next one should be made.
    pub(crate) fn wants_group(self, filled: &BTreeMap<GroupId, u64>) -> bool {
        let left: u64 = filled.values().map(|pages| self.left(*pages)).sum();
        !filled.is_empty() && left < (self.group / 4).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_room_is_used_before_a_group_is_added() {
        // Groups of 1024 pages, extents of 128: filled pages by group, where the next extent goes,
        // whether another group is asked for.
        for (filled, place, wants) in [
            (&[0][..], 0, false),
            (&[768], 0, false),
            (&[769], 0, true),
            (&[1024], 0, true),
            (&[1024, 0], 1, false),
            (&[1024, 900, 800], 2, true),
            (&[1024, 700, 1000], 1, false),
            (&[0, 1024, 1024], 0, false),
            (&[800, 800, 1024], 1, false),
            (&[900, 900, 900], 2, true),
            (&[2000, 1500, 1024], 2, true),
        ] {
            let groups = filled.iter().zip(0..).map(|(pages, id)| (GroupId(id), *pages));
            let groups: BTreeMap<GroupId, u64> = groups.collect();
            let room = Room { group: 1024, extent: 128 };
            assert_eq!(room.place(&groups), GroupId(place), "{filled:?}");
            assert_eq!(room.wants_group(&groups), wants, "{filled:?}");
        }
    }

    #[test]
    fn a_group_no_larger_than_an_extent_takes_many_relations() {
        let room = Room { group: 128, extent: 128 };
        let of = |pages| BTreeMap::from([(GroupId(0), pages)]);
        assert!(!room.wants_group(&of(90)) && room.wants_group(&of(100)));
        assert!(!Room { group: 1, extent: 128 }.wants_group(&of(0)));
        assert!(!room.wants_group(&BTreeMap::new()), "group 0 comes with the volume");
    }
}
