//! Where a new group's six segments go: two in each of three zones, spread by load. Pure.

use std::collections::BTreeMap;

use types::{Az, COPIES, NodeId, ZONES};

/// Segments of one group in one zone.
const COPIES_PER_ZONE: usize = COPIES / ZONES;

/// What placement looks at in a node.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub node: NodeId,
    pub az: Az,
    /// Heard from lately.
    pub alive: bool,
    /// Segments it holds already.
    pub segments: usize,
}

/// Chooses six nodes, ordered by zone and name: living before silent, idle before loaded.
///
/// A silent node is still chosen where its zone has no other: a group works with four of its six.
///
/// # Errors
/// A sentence that says what is registered and what is missing.
pub(crate) fn place(candidates: &[Candidate]) -> Result<Vec<NodeId>, String> {
    let mut zones: BTreeMap<Az, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        zones.entry(candidate.az).or_default().push(candidate);
    }
    for nodes in zones.values_mut() {
        nodes.sort_by_key(|node| (!node.alive, node.segments, node.node));
        nodes.truncate(COPIES_PER_ZONE);
    }
    let mut chosen: Vec<(usize, usize, Az)> = zones
        .iter()
        .filter(|(_, nodes)| nodes.len() == COPIES_PER_ZONE)
        .map(|(az, nodes)| {
            let silent = nodes.iter().filter(|node| !node.alive).count();
            (silent, nodes.iter().map(|node| node.segments).sum(), *az)
        })
        .collect();
    if chosen.len() < ZONES {
        return Err(too_few(candidates));
    }
    chosen.sort_unstable();
    chosen.truncate(ZONES);
    let mut places: Vec<(Az, NodeId)> = chosen
        .iter()
        .flat_map(|(_, _, az)| zones.get(az).into_iter().flatten())
        .map(|node| (node.az, node.node))
        .collect();
    places.sort_unstable();
    Ok(places.into_iter().map(|(_, node)| node).collect())
}

fn too_few(candidates: &[Candidate]) -> String {
    let mut zones: BTreeMap<Az, Vec<NodeId>> = BTreeMap::new();
    for candidate in candidates {
        zones.entry(candidate.az).or_default().push(candidate.node);
    }
    let listed = zones.iter().map(|(az, nodes)| {
        let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
        format!("{az}: {}", names.join(" "))
    });
    let listed = listed.collect::<Vec<_>>().join("; ");
    let listed = if listed.is_empty() { "none".to_owned() } else { listed };
    format!(
        "too few nodes: a volume needs two in each of three zones, registered are {listed}; \
         start the missing ones with `sixfold node`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: &str, segments: usize) -> Candidate {
        Candidate {
            node: node.parse().expect("valid"),
            az: node[..1].parse().expect("valid"),
            alive: true,
            segments,
        }
    }

    fn names(nodes: &[NodeId]) -> String {
        nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn six_nodes_in_three_zones_are_all_taken() {
        let six = ["c2", "a1", "b1", "a2", "c1", "b2"].map(|node| candidate(node, 0));
        assert_eq!(names(&place(&six).expect("enough")), "a1 a2 b1 b2 c1 c2");
    }

    #[test]
    fn the_idle_are_taken_before_the_loaded_and_the_living_before_the_silent() {
        let mut nodes: Vec<Candidate> = ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2"]
            .iter()
            .map(|node| candidate(node, usize::from(*node == "a1")))
            .collect();
        nodes.iter_mut().filter(|n| n.node.as_str() == "b1").for_each(|n| n.alive = false);
        assert_eq!(names(&place(&nodes).expect("enough")), "a2 a3 b2 b3 c1 c2");
    }

    #[test]
    fn a_silent_node_is_taken_when_its_zone_has_no_other() {
        let mut six = ["a1", "a2", "b1", "b2", "c1", "c2"].map(|node| candidate(node, 0));
        six.iter_mut().for_each(|node| node.alive = node.node.as_str() != "c2");
        assert_eq!(place(&six).expect("enough").len(), 6);
    }

    #[test]
    fn six_nodes_in_two_zones_are_too_few_and_the_sentence_lists_them() {
        let nodes = ["a1", "a2", "a3", "b1", "b2", "b3"].map(|node| candidate(node, 0));
        let sentence = place(&nodes).expect_err("two zones only");
        assert!(sentence.contains("a: a1 a2 a3; b: b1 b2 b3"), "{sentence}");
        assert!(place(&[]).expect_err("nothing").contains("registered are none"));
    }
}
