//! Sets of a group's six members, and which of them suffice to write and to decide.
//!
//! Invariant: the sufficient sets are enumerated (rule Q1). [`Rule`] is where full/tail segments will
//! add their variants; the rest of the code asks a rule and never counts for itself. A membership
//! change needs none: its joint places are counted as one place each ([`crate::points::by_place`]).

use types::{COPIES, MemberIndex, READ_QUORUM, WRITE_QUORUM};

/// A subset of a group's six members, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct MemberSet(u8);

impl MemberSet {
    /// No member.
    pub const EMPTY: MemberSet = MemberSet(0);
    /// All six.
    pub const ALL: MemberSet = MemberSet((1 << COPIES) - 1);

    /// This set and one more member.
    #[must_use]
    pub fn with(self, member: MemberIndex) -> MemberSet {
        MemberSet(self.0 | 1 << member.index())
    }

    /// This set without one member.
    #[must_use]
    pub fn without(self, member: MemberIndex) -> MemberSet {
        MemberSet(self.0 & !(1 << member.index()))
    }

    /// Whether the member is in the set.
    #[must_use]
    pub fn contains(self, member: MemberIndex) -> bool {
        self.0 & (1 << member.index()) != 0
    }

    /// Members in both sets.
    #[must_use]
    pub fn intersection(self, other: MemberSet) -> MemberSet {
        MemberSet(self.0 & other.0)
    }

    /// How many members.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, by ascending index.
    pub fn iter(self) -> impl Iterator<Item = MemberIndex> {
        MemberIndex::all().filter(move |member| self.contains(*member))
    }

    /// All 64 subsets.
    pub fn subsets() -> impl Iterator<Item = MemberSet> {
        (0..=MemberSet::ALL.0).map(MemberSet)
    }
}

impl FromIterator<MemberIndex> for MemberSet {
    fn from_iter<I: IntoIterator<Item = MemberIndex>>(members: I) -> MemberSet {
        members.into_iter().fold(MemberSet::EMPTY, MemberSet::with)
    }
}

/// Which member sets suffice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Rule {
    /// Six alike: any four make a record durable, any three know of everything durable.
    #[default]
    FourOfSix,
}

impl Rule {
    /// Whether a record held durably by exactly these members is durable.
    #[must_use]
    pub fn writes(self, holders: MemberSet) -> bool {
        match self {
            Rule::FourOfSix => holders.count() >= WRITE_QUORUM,
        }
    }

    /// Whether these members, told to refuse older epochs, leave an older writer without a write
    /// set, and together know of everything durable.
    #[must_use]
    pub fn decides(self, voters: MemberSet) -> bool {
        match self {
            Rule::FourOfSix => voters.count() >= READ_QUORUM,
        }
    }
}
