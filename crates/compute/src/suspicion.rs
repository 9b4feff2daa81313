//! Which storage nodes are suspect: connected perhaps, heard by the control plane perhaps, but far slower
//! than the others to acknowledge what this writer sends them. Pure: instants come in.
//!
//! One batch a node is followed at a time, from the moment it is sent until the node has acknowledged its
//! group to there; a node that is not connected is waited for in the same way. What a node's delay is
//! measured by is the median of all: whatever slows this host down slows all of them, and then nobody is
//! suspect (rule D27). A copy that is being rebuilt is not followed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use registry::NodeSeen;
use types::{GroupId, Lsn, NodeId};

/// A node is slow when its delay is above so many times the median of all, and above this.
const TIMES: u32 = 10;
const FLOOR: Duration = Duration::from_millis(50);
/// Fewer nodes than so have no median worth the name.
const NODES_MIN: usize = 4;
/// Slow without a break for so long is suspect; quick without a break for so long is not any more.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);
const TRUST_AFTER: Duration = Duration::from_secs(5);

/// A batch that a node has been sent and not acknowledged.
#[derive(Debug)]
struct Followed {
    group: GroupId,
    end: Lsn,
    since: Instant,
}

/// One node's acknowledgements.
#[derive(Debug, Default)]
struct Pulse {
    followed: Option<Followed>,
    /// Since when it has not been connected, or not said anything after it was again.
    away: Option<Instant>,
    /// Usual time from sending a batch to its acknowledgement.
    usual: Option<Duration>,
    heard: Option<Instant>,
    slow_since: Option<Instant>,
    quick_since: Option<Instant>,
    suspect_since: Option<Instant>,
}

impl Pulse {
    /// What it takes, or has taken already where it takes longer than usual.
    fn delay(&self, now: Instant) -> Option<Duration> {
        let since = self.followed.iter().map(|followed| followed.since).chain(self.away);
        let waiting = since.map(|since| now.saturating_duration_since(since));
        waiting.chain(self.usual).max()
    }

    /// Takes note of how it is now; true when it is suspect.
    fn judge(&mut self, slow: bool, now: Instant) -> bool {
        let lasts = |since: Instant, long| now.saturating_duration_since(since) >= long;
        if slow {
            self.quick_since = None;
            let since = *self.slow_since.get_or_insert(now);
            if lasts(since, SUSPECT_AFTER) {
                self.suspect_since.get_or_insert(since);
            }
        } else {
            self.slow_since = None;
            let since = *self.quick_since.get_or_insert(now);
            if lasts(since, TRUST_AFTER) {
                self.suspect_since = None;
            }
        }
        self.suspect_since.is_some()
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Suspicion {
    nodes: BTreeMap<NodeId, Pulse>,
}

impl Suspicion {
    /// A batch of a group, up to `end`, was handed to the node's connection.
    pub fn sent(&mut self, node: NodeId, group: GroupId, end: Lsn, now: Instant) {
        let pulse = self.nodes.entry(node).or_default();
        pulse.followed.get_or_insert(Followed { group, end, since: now });
    }

    /// The node holds the group up to `scl`, by its own word.
    pub fn acknowledged(&mut self, node: NodeId, group: GroupId, scl: Lsn, now: Instant) {
        let pulse = self.nodes.entry(node).or_default();
        (pulse.heard, pulse.away) = (Some(now), None);
        let reached = |followed: &mut Followed| followed.group == group && followed.end <= scl;
        if let Some(followed) = pulse.followed.take_if(reached) {
            let took = now.saturating_duration_since(followed.since);
            pulse.usual = Some(pulse.usual.map_or(took, |usual| (usual * 3 + took) / 4));
        }
    }

    /// The node is not connected.
    pub fn away(&mut self, node: NodeId, now: Instant) {
        self.nodes.entry(node).or_default().away.get_or_insert(now);
    }

    /// Forgets nodes that are in no group, and batches whose acknowledgement says nothing of the node's
    /// health: those of a copy that is being rebuilt.
    pub fn retain(
        &mut self,
        known: impl Fn(NodeId) -> bool,
        is_rebuilt: impl Fn(NodeId, GroupId) -> bool,
    ) {
        self.nodes.retain(|node, _| known(*node));
        for (node, pulse) in &mut self.nodes {
            pulse.followed.take_if(|followed| is_rebuilt(*node, followed.group));
        }
    }

    /// Looks at all of them; those of which the judgement has changed.
    pub fn judge(&mut self, now: Instant) -> Vec<(NodeId, bool)> {
        let limit = self.limit(now);
        let mut changed = Vec::new();
        for (node, pulse) in &mut self.nodes {
            let before = pulse.suspect_since.is_some();
            let slow = pulse.delay(now).zip(limit).is_some_and(|(delay, limit)| delay > limit);
            if pulse.judge(slow, now) != before {
                changed.push((*node, !before));
            }
        }
        changed
    }

    /// Beyond which a node is slow; none while too few are known.
    fn limit(&self, now: Instant) -> Option<Duration> {
        let mut delays: Vec<_> = self.nodes.values().filter_map(|pulse| pulse.delay(now)).collect();
        delays.sort_unstable();
        let median = delays.get(delays.len().saturating_sub(1) / 2).copied();
        median.filter(|_| delays.len() >= NODES_MIN).map(|median| (median * TIMES).max(FLOOR))
    }

    /// Nodes that have said nothing since `then` and of which no answer is awaited.
    pub fn quiet(&self, then: Instant) -> impl Iterator<Item = NodeId> {
        let quiet = move |pulse: &Pulse| {
            pulse.followed.is_none() && pulse.heard.is_none_or(|heard| heard < then)
        };
        self.nodes.iter().filter(move |(_, pulse)| quiet(pulse)).map(|(node, _)| *node)
    }

    /// Those that are suspect.
    pub fn suspects(&self) -> impl Iterator<Item = NodeId> {
        let suspect = self.nodes.iter().filter(|(_, pulse)| pulse.suspect_since.is_some());
        suspect.map(|(node, _)| *node)
    }

    /// How the nodes are found, for the control plane and whoever reads pages.
    #[must_use]
    pub fn seen(&self, now: Instant) -> Vec<NodeSeen> {
        let ms = |since: Instant| {
            let since = now.saturating_duration_since(since);
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        let seen = |(node, pulse): (&NodeId, &Pulse)| NodeSeen {
            node: *node,
            heard_ms_ago: pulse.heard.map(ms),
            suspect_ms: pulse.suspect_since.map(ms),
        };
        self.nodes.iter().map(seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(0);
    const STEP: Duration = Duration::from_millis(10);

    fn names() -> [NodeId; 6] {
        ["a1", "a2", "b1", "b2", "c1", "c2"].map(|name| name.parse().expect("valid"))
    }

    /// A writer that sends every node a batch as soon as the last one is acknowledged, which takes each
    /// node its own delay; judged a hundred times a second.
    struct World {
        suspicion: Suspicion,
        now: Instant,
        end: u64,
        sent: BTreeMap<NodeId, (Lsn, Instant)>,
    }

    impl World {
        fn new() -> World {
            let (suspicion, sent) = (Suspicion::default(), BTreeMap::new());
            World { suspicion, now: Instant::now(), end: 0, sent }
        }

        /// `None`: the node never acknowledges.
        fn run(&mut self, seconds: u64, delays: [Option<u64>; 6]) -> String {
            let until = self.now + Duration::from_secs(seconds);
            while self.now < until {
                self.now += STEP;
                for (node, delay) in names().into_iter().zip(delays) {
                    let (end, since) = *self.sent.entry(node).or_insert_with(|| {
                        self.end += 8;
                        self.suspicion.sent(node, GROUP, Lsn(self.end), self.now);
                        (Lsn(self.end), self.now)
                    });
                    if delay.is_some_and(|ms| self.now - since >= Duration::from_millis(ms)) {
                        self.suspicion.acknowledged(node, GROUP, end, self.now);
                        self.sent.remove(&node);
                    }
                }
                self.suspicion.judge(self.now);
            }
            self.suspects()
        }

        fn suspects(&self) -> String {
            let seen = self.suspicion.seen(self.now);
            let suspect = seen.iter().filter(|seen| seen.suspect_ms.is_some());
            suspect.map(|seen| seen.node.to_string()).collect::<Vec<_>>().join(" ")
        }
    }

    const WELL: [Option<u64>; 6] = [Some(10); 6];

    fn but(changes: &[(usize, Option<u64>)]) -> [Option<u64>; 6] {
        let mut delays = WELL;
        changes.iter().for_each(|(at, delay)| delays[*at] = *delay);
        delays
    }

    #[test]
    fn who_is_suspect_after_ten_seconds() {
        for (what, delays, suspects) in [
            ("all are well", WELL, ""),
            ("one never acknowledges", but(&[(1, None)]), "a2"),
            ("one is a hundred times slower", but(&[(1, Some(1_000))]), "a2"),
            ("one's syncs take two seconds", but(&[(5, Some(2_000))]), "c2"),
            ("one is farther away", but(&[(0, Some(40))]), ""),
            ("a zone is gone", but(&[(2, None), (3, None)]), "b1 b2"),
            ("all are slow: it is this host, or the load", [Some(2_000); 6], ""),
            ("none acknowledges", [None; 6], ""),
        ] {
            assert_eq!(World::new().run(10, delays), suspects, "{what}");
        }
    }

    #[test]
    fn a_short_pause_is_no_reason_and_a_suspicion_is_lifted_only_after_some_good_seconds() {
        let mut world = World::new();
        world.run(5, WELL);
        assert_eq!(world.run(2, but(&[(0, None)])), "");
        assert_eq!(world.run(2, WELL), "");
        assert_eq!(world.run(4, but(&[(0, None)])), "a1");
        assert_eq!(world.run(4, WELL), "a1", "good for four seconds");
        assert_eq!(world.run(1, but(&[(0, None)])), "a1");
        assert_eq!(world.run(4, WELL), "a1", "they count without a break");
        assert_eq!(world.run(5, WELL), "");
    }

    #[test]
    fn a_node_that_is_not_connected_is_suspect_until_it_speaks_again() {
        let mut world = World::new();
        world.run(5, WELL);
        let gone = names()[3];
        world.suspicion.away(gone, world.now);
        world.suspicion.retain(|_| true, |node, _| node == gone);
        world.sent.insert(gone, (Lsn(world.end + 80), world.now));
        assert_eq!(world.run(4, but(&[(3, None)])), "b2");
        assert_eq!(world.run(20, but(&[(3, None)])), "b2");
        assert_eq!(world.run(12, WELL), "");
    }

    #[test]
    fn a_copy_that_is_being_rebuilt_is_not_held_against_its_node_and_who_left_is_forgotten() {
        let mut world = World::new();
        world.run(5, WELL);
        for _ in 0..1_000 {
            world.run(0, WELL);
            world.now += STEP;
            for (at, node) in names().into_iter().enumerate().skip(1) {
                let end = Lsn(world.end + 8 * at as u64);
                world.suspicion.sent(node, GROUP, end, world.now);
                world.suspicion.acknowledged(node, GROUP, end, world.now);
            }
            world.suspicion.sent(names()[0], GROUP, Lsn(1 << 40), world.now);
            world.suspicion.retain(|_| true, |node, _| node == names()[0]);
            world.suspicion.judge(world.now);
        }
        assert_eq!(world.suspects(), "");
        world.suspicion.retain(|node| node != names()[0], |_, _| false);
        assert_eq!(world.suspicion.seen(world.now).len(), 5);
    }

    #[test]
    fn a_node_that_said_nothing_lately_is_asked_unless_its_answer_is_awaited() {
        let mut world = World::new();
        world.run(1, WELL);
        let silent = world.now;
        let quiet = |world: &World| world.suspicion.quiet(silent).count();
        for node in names() {
            let end = Lsn(1 << 40);
            world.suspicion.acknowledged(node, GROUP, end, silent - STEP);
        }
        assert_eq!(quiet(&world), 6);
        world.suspicion.sent(names()[0], GROUP, Lsn(1 << 41), silent);
        assert_eq!(quiet(&world), 5);
        world.suspicion.acknowledged(names()[1], GROUP, Lsn(1 << 40), silent);
        assert_eq!(quiet(&world), 4);
    }
}
