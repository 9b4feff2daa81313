//! What the control plane remembers of a large volume, made in memory, for measurements: the same records,
//! decisions and store as ever.

use std::path::Path;

use registry::{Duty, SegmentPlace, VolumeInfo};
use types::{Incarnation, NodeId, VolumeId};

use crate::decide;
use crate::replace::{self, Found, Health, Nodes};
use crate::state::{Change, GroupRecord, MemberRecord, NodeRecord, State, VolumeRecord};
use crate::store::Store;

/// A volume of many groups, spread over nodes of three zones.
#[derive(Debug)]
pub struct Scale {
    state: State,
}

const VOLUME: VolumeId = VolumeId(1);

impl Scale {
    /// A volume of so many groups; each node holds about so many segments.
    #[must_use]
    pub fn new(groups: u32, segments_per_node: u32) -> Scale {
        let per_zone = (groups * 2).div_ceil(segments_per_node).max(3);
        let mut state = State::default();
        let zones = ["a", "b", "c"];
        for zone in zones {
            for number in 0..per_zone {
                let name: NodeId = format!("{zone}{number}").parse().expect("a short name");
                let node = NodeRecord {
                    name,
                    az: zone.parse().expect("a letter"),
                    address: format!("10.{}.{}.17:7400", number / 250, number % 250),
                    http: Some(format!("10.{}.{}.17:9400", number / 250, number % 250)),
                    incarnation: Incarnation(u128::MAX - u128::from(number)),
                    pid: number,
                    log_life: 0,
                    duty: Duty::Serving,
                };
                state.apply(Change::Node(node));
            }
        }
        let member = |zone: &str, number: u32| {
            let name: NodeId = format!("{zone}{}", number % per_zone).parse().expect("a name");
            let node = &state.nodes[&name];
            MemberRecord { created: Some(node.incarnation), ..MemberRecord::new(node, 1) }
        };
        let group = |id: u32| {
            let places = zones.into_iter().flat_map(|zone| [(zone, id * 2), (zone, id * 2 + 1)]);
            let members = places.map(|(zone, number)| member(zone, number)).collect();
            let (joining, former) = (Vec::new(), Vec::new());
            GroupRecord { id, membership_epoch: 1, members, joining, former }
        };
        let volume = VolumeRecord {
            id: VOLUME,
            name: "main".to_owned(),
            epoch: 1,
            timeline: 1,
            geometry_epoch: u64::from(groups),
            group_bytes: types::GROUP_BYTES_DEFAULT,
            limit_bytes: None,
            initialized: true,
            writer: Some("writer".to_owned()),
            groups: (0..groups).map(group).collect(),
            pending: None,
        };
        state.apply(Change::Volume(volume));
        Scale { state }
    }

    /// Nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.state.nodes.keys().copied()
    }

    /// What is decided every two seconds while these nodes are lost: how many places move.
    #[must_use]
    pub fn plan(&self, lost: &[NodeId]) -> usize {
        let health = |node: NodeId| if lost.contains(&node) { Health::Lost } else { Health::Alive };
        let joint = |change: &Change| match change {
            Change::Volume(volume) => volume.groups.iter().map(|group| group.joining.len()).sum(),
            _ => 0,
        };
        let found = |_, _| Found::Well;
        let nodes = Nodes { health: &health, found: &found };
        replace::plan(&self.state, &nodes).iter().map(joint).sum()
    }

    /// What a node is told when there are news.
    #[must_use]
    pub fn segments(&self, node: NodeId) -> Vec<SegmentPlace> {
        decide::segments(&self.state, node)
    }

    /// What a writer reads when there are news.
    #[must_use]
    pub fn volume(&self) -> Option<VolumeInfo> {
        self.state.volumes.get(&VOLUME).map(|volume| decide::volume_info(&self.state, volume))
    }

    /// Writes everything to a new store.
    ///
    /// # Errors
    /// The store's.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let nodes = self.state.nodes.values().cloned().map(Change::Node);
        let volumes = self.state.volumes.values().cloned().map(Change::Volume);
        Store::open(dir)?.commit(&nodes.chain(volumes).collect::<Vec<_>>())
    }

    /// Opens a store, as a start of the control plane does.
    ///
    /// # Errors
    /// The store's.
    pub fn open(dir: &Path) -> anyhow::Result<Scale> {
        Ok(Scale { state: Store::open(dir)?.load()? })
    }

    /// One change of the volume made durable, as when a group is added.
    ///
    /// # Errors
    /// The store's.
    pub fn change(&self, dir: &Path) -> anyhow::Result<()> {
        let volumes = self.state.volumes.values().cloned().map(Change::Volume);
        Store::open(dir)?.commit(&volumes.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_nodes_segments_are_spread_over_those_of_its_zone_that_may_have_them() {
        let scale = Scale::new(400, 100);
        let lost = scale.nodes().next().expect("some");
        assert_eq!(scale.plan(&[]), 0);
        assert_eq!(scale.plan(&[lost]), scale.segments(lost).len());
        let health = |node: NodeId| if node == lost { Health::Lost } else { Health::Alive };
        let found = |_, _| Found::Well;
        let nodes = Nodes { health: &health, found: &found };
        let Some(Change::Volume(after)) = replace::plan(&scale.state, &nodes).pop() else {
            panic!("a volume changes");
        };
        let mut given = std::collections::BTreeMap::<NodeId, usize>::new();
        for joining in after.groups.iter().flat_map(|group| &group.joining) {
            *given.entry(joining.member.node).or_default() += 1;
        }
        let counts: Vec<usize> = given.values().copied().collect();
        let (least, most) = (counts.iter().min(), counts.iter().max());
        // One of them has the same groups.
        assert!(counts.len() == 6 && most <= least.map(|least| least + 2).as_ref(), "{given:?}");
    }
}
