//! How writers find the nodes, by the answers to what they send there, and which nodes find their disks full.
//! In memory only, instants come in: what was not said in this life of the process is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use registry::{InstanceHeartbeat, NodeRegistration};
use types::{NodeId, VolumeId};

use crate::replace::Found;

/// What a writer said longer ago counts for nothing; its heartbeats come every second.
const STALE_AFTER: Duration = Duration::from_secs(5);
/// A node that acknowledged something so lately lives, whether or not it is heard here: writers ask
/// quiet ones every three seconds.
const VOUCHED_FOR: Duration = Duration::from_secs(10);

/// What a writer said of a node.
#[derive(Clone, Copy, Debug)]
struct Said {
    at: Instant,
    heard: Option<Duration>,
    suspect: Option<Duration>,
}

impl Said {
    /// As long as its writer goes on saying it.
    fn fresh(self, now: Instant) -> Option<Said> {
        (now.saturating_duration_since(self.at) < STALE_AFTER).then_some(self)
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Findings {
    began: Instant,
    /// A node suspect for so long is slow; one that was slow within so long is given nothing new.
    patience: Duration,
    said: BTreeMap<(VolumeId, NodeId), Said>,
    last_slow: BTreeMap<NodeId, Instant>,
    /// Those that said last that their disks are full.
    full: BTreeSet<NodeId>,
}

impl Findings {
    pub(crate) fn new(patience: Duration, now: Instant) -> Findings {
        let (said, last_slow, full) = Default::default();
        Findings { began: now, patience, said, last_slow, full }
    }

    /// Takes what a node says of its own disk.
    pub(crate) fn note_room(&mut self, node: &NodeRegistration) {
        if !node.disk_full {
            self.full.remove(&node.name);
        } else if self.full.insert(node.name) {
            tracing::warn!(node = %node.name, "its disk is full: it acknowledges nothing");
        }
    }

    /// Whether a node's disk is full.
    pub(crate) fn is_full(&self, node: NodeId) -> bool {
        self.full.contains(&node)
    }

    /// Takes what a volume's current writer says; what the last one said is forgotten.
    pub(crate) fn note(&mut self, beat: &InstanceHeartbeat, now: Instant) {
        self.said.retain(|(volume, _), _| *volume != beat.volume);
        for seen in &beat.seen {
            let said = [seen.heard_ms_ago, seen.suspect_ms];
            let [heard, suspect] = said.map(|ms| ms.map(Duration::from_millis));
            if suspect.is_some_and(|long| long >= self.patience) {
                self.last_slow.insert(seen.node, now);
            }
            self.said.insert((beat.volume, seen.node), Said { at: now, heard, suspect });
        }
    }

    /// How the volume's writer finds the node.
    pub(crate) fn of(&self, volume: VolumeId, node: NodeId, now: Instant) -> Found {
        let said = self.said.get(&(volume, node)).and_then(|said| said.fresh(now));
        match said {
            Some(Said { suspect: Some(long), .. }) if long >= self.patience => Found::Slow,
            Some(Said { suspect: Some(_), .. }) => Found::Suspect,
            None if now.saturating_duration_since(self.began) < STALE_AFTER => Found::Unknown,
            Some(_) | None => Found::Well,
        }
    }

    fn of_node(&self, node: NodeId, now: Instant) -> impl Iterator<Item = Said> {
        let said = self.said.iter().filter(move |((_, of), _)| *of == node);
        said.filter_map(move |(_, said)| said.fresh(now))
    }

    /// For how long some writer has found the node suspect.
    pub(crate) fn suspect(&self, node: NodeId, now: Instant) -> Option<Duration> {
        self.of_node(node, now).filter_map(|said| said.suspect).max()
    }

    /// Whether some writer finds it suspect, or found it slow lately: one that was only away is of use as
    /// soon as it is back.
    pub(crate) fn is_doubtful(&self, node: NodeId, now: Instant) -> bool {
        let last = self.last_slow.get(&node);
        last.is_some_and(|at| now.saturating_duration_since(*at) < self.patience)
            || self.suspect(node, now).is_some()
    }

    /// Whether some writer has had an answer from it lately.
    pub(crate) fn is_vouched_for(&self, node: NodeId, now: Instant) -> bool {
        let lately = |said: Said| {
            said.heard
                .is_some_and(|heard| heard + now.saturating_duration_since(said.at) < VOUCHED_FOR)
        };
        self.of_node(node, now).any(lately)
    }
}

#[cfg(test)]
mod tests {
    use registry::{InstanceRole, NodeSeen};

    use super::*;

    const VOLUME: VolumeId = VolumeId(7);

    fn name() -> NodeId {
        "a1".parse().expect("valid")
    }

    fn beat(heard_ms_ago: u64, suspect_ms: Option<u64>) -> InstanceHeartbeat {
        let seen = NodeSeen { node: name(), heard_ms_ago: Some(heard_ms_ago), suspect_ms };
        let first = InstanceHeartbeat::first("writer".to_owned(), InstanceRole::Writer, VOLUME);
        InstanceHeartbeat { epoch: 1, seen: vec![seen], ..first }
    }

    fn after(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    #[test]
    fn a_node_is_found_as_its_volumes_writer_said_last_while_it_goes_on_saying_it() {
        let began = Instant::now();
        let mut findings = Findings::new(Duration::from_secs(60), began);
        let of = |findings: &Findings, at| findings.of(VOLUME, name(), after(began, at));
        assert_eq!((of(&findings, 1), of(&findings, 6)), (Found::Unknown, Found::Well));
        for (at, suspect, found) in [
            (10, None, Found::Well),
            (11, Some(59_999), Found::Suspect),
            (12, Some(60_000), Found::Slow),
        ] {
            findings.note(&beat(0, suspect), after(began, at));
            assert_eq!(of(&findings, at), found);
        }
        assert_eq!(findings.of(VolumeId(8), name(), after(began, 12)), Found::Well, "another's");
        assert_eq!((of(&findings, 16), of(&findings, 17)), (Found::Slow, Found::Well));
        assert!(findings.is_doubtful(name(), after(began, 71)));
        assert!(!findings.is_doubtful(name(), after(began, 72)));
        findings.note(&beat(0, Some(30_000)), after(began, 100));
        assert!(findings.is_doubtful(name(), after(began, 104)));
        assert!(!findings.is_doubtful(name(), after(began, 105)), "never slow for long");
    }

    #[test]
    fn an_answer_vouches_for_a_node_for_a_while() {
        let began = Instant::now();
        let mut findings = Findings::new(Duration::from_secs(60), began);
        let vouched = |findings: &Findings, at| findings.is_vouched_for(name(), after(began, at));
        assert!(!vouched(&findings, 1));
        findings.note(&beat(4_000, None), after(began, 1));
        assert!(vouched(&findings, 5) && !vouched(&findings, 6), "its writer is silent as well");
        findings.note(&beat(9_000, None), after(began, 10));
        assert!(vouched(&findings, 10) && !vouched(&findings, 11));
    }
}
