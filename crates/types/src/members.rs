//! The six places of a protection group, and who holds them.
//!
//! ```text
//!   replacing b2 by b3:   a1 a2 b1 b2 c1 c2  →  a1 a2 b1 b2|b3 c1 c2  →  a1 a2 b1 b3 c1 c2
//!                                                    └─ a joint place ─┘
//! ```
//!
//! A place is *joint* while its present holder is being replaced by a joining one. Invariant: no node
//! holds two places of a group.

use crate::{COPIES, MembershipEpoch, NodeId};

/// A node's hold on a place. A node that left and came back holds another copy than before: the pair
/// is what names a copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// Generation of the member set that gave it the place.
    pub since: MembershipEpoch,
}

/// One of the six places.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// Who counts where recovery decides.
    pub present: Holder,
    /// Who is to take over: until then the place counts for writing only with both.
    pub joining: Option<Holder>,
}

impl Place {
    /// The present holder, then the joining one.
    pub fn holders(&self) -> impl Iterator<Item = Holder> + use<> {
        [Some(self.present), self.joining].into_iter().flatten()
    }
}

/// A group's member set in one generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Members([Place; COPIES]);

impl Members {
    /// The member set with these places; `None` when a node holds two of them.
    #[must_use]
    pub fn new(places: [Place; COPIES]) -> Option<Members> {
        let members = Members(places);
        let mut nodes: Vec<NodeId> = members.holders().map(|(_, holder)| holder.node).collect();
        nodes.sort_unstable();
        let count = nodes.len();
        nodes.dedup();
        (nodes.len() == count).then_some(members)
    }

    /// The first member set of a group: these nodes, none of them joining.
    #[must_use]
    pub fn first(nodes: [NodeId; COPIES]) -> Option<Members> {
        let since = MembershipEpoch::FIRST;
        Members::new(nodes.map(|node| Place { present: Holder { node, since }, joining: None }))
    }

    /// The six places.
    #[must_use]
    pub fn places(&self) -> &[Place; COPIES] {
        &self.0
    }

    /// The six present holders, by place.
    #[must_use]
    pub fn present(&self) -> [NodeId; COPIES] {
        self.0.map(|place| place.present.node)
    }

    /// Every holder with the number of its place, present ones before joining ones of a place.
    pub fn holders(&self) -> impl Iterator<Item = (usize, Holder)> {
        let numbered = |(index, place): (usize, Place)| place.holders().map(move |of| (index, of));
        self.0.into_iter().enumerate().flat_map(numbered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(index: usize) -> NodeId {
        format!("n{index}").parse().expect("valid")
    }

    #[test]
    fn a_node_holds_one_place() {
        let six = std::array::from_fn(node);
        let members = Members::first(six).expect("six nodes");
        assert_eq!(members.present(), six);
        let mut places = *members.places();
        places[2].joining = Some(Holder { node: node(4), since: MembershipEpoch(2) });
        assert_eq!(Members::new(places), None);
        places[2].joining = Some(Holder { node: node(6), since: MembershipEpoch(2) });
        let joint = Members::new(places).expect("seven nodes");
        assert_eq!(joint.holders().count(), 7);
        assert_eq!(joint.present(), six);
    }
}
