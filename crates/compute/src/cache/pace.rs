//! Which member is asked for a page first, and when another is asked as well. Pure: instants come in.
//!
//! Of every node the usual time of an answer and its spread are kept, as TCP keeps those of a round
//! trip. A request is late beyond the usual time and four spreads, which hardly any answer takes; who
//! is late when another answers in its stead goes behind the others, and one request in
//! [`TRY_ANOTHER`] finds out whether it has recovered. Second requests are bounded by a share of all
//! (rule C9): where every node is slow, asking twice would only make it worse.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use types::NodeId;

/// A request is late after what is usual, within these.
const LATE_MIN: Duration = Duration::from_millis(5);
/// The same, and how long any request waits for the first member when there were too many second ones.
const LATE_MAX: Duration = Duration::from_millis(500);
/// The same where no member was ever heard from.
const LATE_UNKNOWN: Duration = Duration::from_millis(50);
/// A node that failed is asked last for so long.
const SHUNNED: Duration = Duration::from_secs(2);
/// One request in so many goes to another than the quickest first: so few that, with the delay that
/// a slow one costs, not even one in a hundred is late for it.
const TRY_ANOTHER: u64 = 256;
/// Of so many requests one may be asked twice; so many may at once.
const SECOND_ONE_IN: u32 = 10;
const SECOND_BURST: u32 = 16;

/// One node's answers.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Usual time and its spread, once it has answered or was late.
    usual: Option<(Duration, Duration)>,
    failed_at: Option<Instant>,
}

impl Pace {
    fn late_after(&self) -> Option<Duration> {
        self.usual.map(|(usual, spread)| (usual + spread * 4).clamp(LATE_MIN, LATE_MAX))
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Paces {
    nodes: BTreeMap<NodeId, Pace>,
    requests: u64,
    /// Second requests that may be made, in parts of [`SECOND_ONE_IN`].
    spare: u32,
}

impl Paces {
    pub(crate) fn new() -> Paces {
        Paces { nodes: BTreeMap::new(), requests: 0, spare: SECOND_BURST * SECOND_ONE_IN }
    }

    /// The members in the order to ask for one more request: those that are suspect or have just failed
    /// last, the quickest first. One never asked goes first once, so that its speed becomes known.
    pub(crate) fn order(&mut self, members: &mut [(NodeId, bool)], now: Instant) {
        self.requests += 1;
        self.spare = (self.spare + 1).min(SECOND_BURST * SECOND_ONE_IN);
        let shunned = |pace: Option<&Pace>| {
            let failed = pace.and_then(|pace| pace.failed_at);
            failed.is_some_and(|at| now.saturating_duration_since(at) < SHUNNED)
        };
        members.sort_by_key(|(node, suspect)| {
            let pace = self.nodes.get(node);
            let usual = pace.and_then(|pace| pace.usual).map_or(Duration::ZERO, |(usual, _)| usual);
            (*suspect, shunned(pace), usual)
        });
        if self.requests.is_multiple_of(TRY_ANOTHER) && members.len() > 1 {
            let turn = (self.requests / TRY_ANOTHER) as usize % (members.len() - 1);
            members[..=turn + 1].rotate_right(1);
        }
    }

    /// How long the first of these is waited for before the next is asked: what is usual for the
    /// quickest of them, whoever is first.
    pub(crate) fn patience(&self, members: &[(NodeId, bool)]) -> Duration {
        let known = members.iter().filter_map(|(node, _)| self.nodes.get(node)?.late_after());
        known.min().unwrap_or(LATE_UNKNOWN)
    }

    /// Whether a second request may be made for one that was made `waited` ago and is late.
    pub(crate) fn may_repeat(&mut self, waited: Duration) -> bool {
        let within = self.spare >= SECOND_ONE_IN;
        if within {
            self.spare -= SECOND_ONE_IN;
        }
        within || waited >= LATE_MAX
    }

    /// A node has answered.
    pub(crate) fn answered(&mut self, node: NodeId, took: Duration) {
        let pace = self.nodes.entry(node).or_default();
        pace.failed_at = None;
        pace.usual = Some(match pace.usual {
            None => (took, took / 2),
            Some((usual, spread)) => {
                ((usual * 7 + took) / 8, (spread * 3 + usual.abs_diff(took)) / 4)
            }
        });
    }

    /// A node has not answered for so long, and another has.
    pub(crate) fn late(&mut self, node: NodeId, waited: Duration) {
        let pace = self.nodes.entry(node).or_default();
        let (usual, spread) = pace.usual.unwrap_or_default();
        pace.usual = Some((usual.max(waited), spread));
    }

    /// A node refused, or its connection failed.
    pub(crate) fn failed(&mut self, node: NodeId, waited: Duration, now: Instant) {
        self.late(node, waited);
        self.nodes.entry(node).or_default().failed_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeId {
        text.parse().expect("valid")
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn order(paces: &mut Paces, suspect: &str, now: Instant) -> String {
        let mut members = ["a", "b", "c"].map(|node| (name(node), node == suspect));
        paces.order(&mut members, now);
        members.map(|(node, _)| node.to_string()).join(" ")
    }

    /// Three nodes that usually take 1, 2 and 3 ms.
    fn usual() -> Paces {
        let mut paces = Paces::new();
        for (node, took) in [("a", 1), ("b", 2), ("c", 3)].repeat(20) {
            paces.answered(name(node), ms(took));
        }
        paces
    }

    #[test]
    fn the_quickest_is_asked_first_and_suspects_and_failures_last() {
        let (mut paces, now) = (usual(), Instant::now());
        assert_eq!(order(&mut paces, "", now), "a b c");
        assert_eq!(order(&mut paces, "a", now), "b c a");
        paces.failed(name("b"), ms(1), now);
        assert_eq!(order(&mut paces, "", now), "a c b");
        assert_eq!(order(&mut paces, "a", now), "c b a");
        assert_eq!(order(&mut paces, "", now + SHUNNED), "a b c", "for a while");
    }

    #[test]
    fn one_that_was_late_goes_behind_the_others_until_its_own_answers_say_otherwise() {
        let (mut paces, now) = (usual(), Instant::now());
        paces.late(name("a"), ms(5));
        assert_eq!(order(&mut paces, "", now), "b c a");
        (0..20).for_each(|_| paces.answered(name("a"), ms(1)));
        assert_eq!(order(&mut paces, "", now), "a b c");
    }

    #[test]
    fn a_slow_one_is_tried_now_and_then_and_waited_for_no_longer_than_the_quickest() {
        let (mut paces, now) = (usual(), Instant::now());
        paces.late(name("a"), ms(400));
        let mut first = BTreeMap::<String, u64>::new();
        for _ in 0..TRY_ANOTHER * 100 {
            let order = order(&mut paces, "", now);
            *first.entry(order[..1].to_owned()).or_default() += 1;
        }
        assert_eq!(first["a"], 50, "{first:?}");
        assert_eq!(first["b"], TRY_ANOTHER * 100 - 100);
        let members = ["a", "b", "c"].map(|node| (name(node), false));
        assert_eq!(paces.patience(&members), LATE_MIN);
        assert_eq!(paces.patience(&[(name("d"), false)]), LATE_UNKNOWN);
    }

    #[test]
    fn what_is_usual_is_not_late_and_no_more_than_a_share_is_asked_twice() {
        let mut paces = Paces::new();
        let noisy = [10, 30, 12, 25, 18, 28];
        (0..60).for_each(|index| paces.answered(name("a"), ms(noisy[index % noisy.len()])));
        assert!(paces.patience(&[(name("a"), false)]) > ms(30));
        let now = Instant::now();
        let twice = (0..10_000).filter(|_| {
            order(&mut paces, "", now);
            paces.may_repeat(ms(40))
        });
        let twice = twice.count() as u32;
        assert!(twice <= 10_000 / SECOND_ONE_IN + SECOND_BURST, "{twice}");
        assert!(paces.may_repeat(LATE_MAX), "but nobody waits for ever");
    }
}
