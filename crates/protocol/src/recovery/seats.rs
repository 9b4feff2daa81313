//! What a recovery knows of each present holder of each group. Joining ones have no say.
//!
//! Invariant: before the decision a report counts only while its node has been reachable ever since.

use quorum::{MemberSet, Rule};
use types::{COPIES, Epoch, History, Holder, Lsn, MemberIndex, Members, MembershipEpoch, NodeId};
use wire::SegmentReport;

use super::measure::{Tail, added_begin};
use crate::rules::Rules;
use crate::writer::Held;

/// The question a member owes an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Asked {
    #[default]
    Nothing,
    Seal,
    Tail(Epoch, Lsn),
    Adopt,
    /// It refused; it is asked again next turn.
    Refused,
}

/// One member.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat {
    pub asked: Asked,
    /// Its account in answer to this epoch's seal.
    pub report: Option<SegmentReport>,
    pub tail: Option<Tail>,
    /// It follows the new history and holds what it must.
    pub adopted: Option<Held>,
}

impl Seat {
    pub(super) fn withdraw(&mut self) {
        self.report = None;
        self.tail = None;
    }

    /// Notes a tail, cut where the report ended: parts that gossip brought since may carry a higher
    /// watermark than was reported (rule R6).
    pub(super) fn take_tail(&mut self, mut tail: Tail) {
        let Some(report) = &self.report else { return };
        tail.parts.retain(|part| part.span.end <= report.scl);
        self.tail = Some(tail);
    }

    fn votes(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.full)
    }
}

pub(super) struct Group {
    pub membership: MembershipEpoch,
    pub members: Members,
    seats: [Seat; COPIES],
}

impl Group {
    pub(super) fn new(membership: MembershipEpoch, members: Members) -> Group {
        Group { membership, members, seats: Default::default() }
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = (NodeId, &Seat)> {
        self.members.present().into_iter().zip(&self.seats)
    }

    pub(super) fn seats_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Seat)> {
        self.members.present().into_iter().zip(&mut self.seats)
    }

    pub(super) fn seat_mut(&mut self, node: NodeId) -> Option<&mut Seat> {
        self.seats_mut().find(|(member, _)| *member == node).map(|(_, seat)| seat)
    }

    pub(super) fn forget_asked(&mut self) {
        self.seats.iter_mut().for_each(|seat| seat.asked = Asked::Nothing);
    }

    fn set(&self, of: impl Fn(&Seat) -> bool) -> MemberSet {
        MemberIndex::all().filter(|member| of(&self.seats[member.index()])).collect()
    }

    /// The seat of the copy that says so; none when it is a present holder's other copy, or nobody's.
    pub(super) fn seat_of<R: Rules>(
        &mut self,
        node: NodeId,
        since: MembershipEpoch,
    ) -> Option<&mut Seat> {
        let says = |holder: Holder| holder.since == since || !R::COPIES_ARE_NAMED;
        let mut places = self.members.places().iter().map(|place| place.present);
        let place = places.position(|holder| holder.node == node && says(holder))?;
        self.seats.get_mut(place)
    }

    /// The present holders that are sealed and full.
    pub(super) fn survivors(&self) -> Vec<NodeId> {
        self.seats().filter(|(_, seat)| seat.votes()).map(|(node, _)| node).collect()
    }

    fn sealed(&self) -> MemberSet {
        self.set(|seat| seat.report.is_some())
    }

    fn voters(&self) -> MemberSet {
        self.set(Seat::votes)
    }

    /// Four sealed can write again; three full ones know of everything durable (rule V7).
    pub(super) fn may_decide(&self) -> bool {
        Rule::FourOfSix.writes(self.sealed()) && Rule::FourOfSix.decides(self.voters())
    }

    pub(super) fn lacks_decide(&self) -> Option<String> {
        (!self.may_decide()).then(|| {
            let (sealed, voters) = (self.sealed().count(), self.voters().count());
            format!("{sealed} of 6 segments sealed, 4 needed; {voters} of them complete, 3 needed")
        })
    }

    fn adopters(&self) -> MemberSet {
        self.set(|seat| seat.adopted.is_some())
    }

    /// Enough members follow the new history and hold everything durable.
    pub(super) fn may_open(&self) -> bool {
        Rule::FourOfSix.writes(self.adopters())
    }

    pub(super) fn lacks_open(&self) -> Option<String> {
        (!self.may_open()).then(|| {
            format!(
                "{} of 6 segments hold the log to its durable point, 4 needed",
                self.adopters().count()
            )
        })
    }

    /// Some member that has adopted and that `up` holds for.
    pub(super) fn adopted(&self, up: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
        self.seats().find(|(node, seat)| seat.adopted.is_some() && up(node)).map(|(node, _)| node)
    }

    /// The voter that holds most of what is live under the newest history (rule V8). A follower of
    /// an older one is complete at most up to where that newer one's epochs begin; on a tie a
    /// follower of the newest is preferred.
    pub(super) fn candidate(&self, newest: &History, by_newest: bool) -> Option<(NodeId, &Seat)> {
        let measure = |(_, seat): &(NodeId, &Seat)| {
            let report = seat.report.as_ref()?;
            let bound = if by_newest { added_begin(&report.history, newest) } else { Lsn::MAX };
            Some((report.scl.min(bound), report.history == *newest))
        };
        self.seats().filter(|(_, seat)| seat.votes()).max_by_key(measure)
    }
}
