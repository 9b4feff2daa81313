//! Pages from the storage nodes: from one member that is certainly complete for the read, the
//! quickest first; another is asked when it is late, the next one when it refuses or fails. Never a
//! quorum read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use link::{Client, LinkError, Party};
use pgwal::keys::{Fork, Key, Rel};
use types::{GroupId, Lsn, NodeId, PageKey, SegmentId, VolumeId};
use wire::{Message, PageAnswer};

use crate::cache::{CacheStats, FetchError, PageSource};

/// Longest time for one request, all members together.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest time to make a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A request is late after several times what the node usually takes, within these.
const LATE_MIN: Duration = Duration::from_millis(10);
const LATE_MAX: Duration = Duration::from_millis(500);
/// The same for a node never heard from.
const LATE_UNKNOWN: Duration = Duration::from_millis(50);
/// How long each of several late nodes is listened to in turn.
const TURN: Duration = Duration::from_millis(4);
/// A node that failed is asked last for so long.
const SHUNNED: Duration = Duration::from_secs(2);
/// One request in so many goes to the second quickest node first: one that was slow once would
/// otherwise never be found to have recovered.
const TRY_ANOTHER: u64 = 64;
/// Idle connections kept per node.
const IDLE_MAX: usize = 16;

/// Where and as of when to read from one group.
#[derive(Clone, Debug)]
pub struct Route {
    /// Read point.
    pub read_point: Lsn,
    /// End of the group's last part at or below it.
    pub complete_to: Lsn,
    /// Members known to hold everything up to there, and their addresses.
    pub readers: Vec<(NodeId, String)>,
}

/// What a reader must know of the volume; the driver knows it from acknowledgements.
pub trait VolumeView: Send + Sync {
    /// The volume.
    fn volume(&self) -> VolumeId;

    /// The group that holds a block; `None` when no group does, i.e. it was never written.
    fn group_of(&self, rel: Rel, fork: Fork, block: u32) -> Option<GroupId>;

    /// How to read from a group now.
    fn route(&self, group: GroupId) -> Route;
}

/// What is known of one node.
#[derive(Debug, Default)]
struct Peer {
    idle: Vec<Client>,
    /// Usual time of an answer, smoothed.
    usual: Option<Duration>,
    failed_at: Option<Instant>,
}

/// See the module's description.
pub struct StorageReader {
    party: Party,
    view: Arc<dyn VolumeView>,
    stats: Arc<CacheStats>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Requests made, to try another than the quickest now and then.
    asked: AtomicU64,
}

impl std::fmt::Debug for StorageReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageReader").field("party", &self.party).finish_non_exhaustive()
    }
}

/// A request that has been sent and not been answered.
struct Outstanding {
    node: NodeId,
    client: Client,
    request: u64,
    sent: Instant,
}

impl StorageReader {
    /// A reader that introduces itself as `party`.
    #[must_use]
    pub fn new(party: Party, view: Arc<dyn VolumeView>, stats: Arc<CacheStats>) -> StorageReader {
        StorageReader { party, view, stats, peers: Mutex::default(), asked: AtomicU64::new(0) }
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to the members of a group until one answers it acceptably.
    fn ask(
        &self,
        group: GroupId,
        message: impl Fn(SegmentId, &Route) -> Message,
        accept: impl Fn(&Message) -> Result<(), String>,
    ) -> Result<Message, String> {
        let route = self.view.route(group);
        let segment = SegmentId { volume: self.view.volume(), group };
        let message = message(segment, &route);
        let mut waiting = self.ranked(route.readers).into_iter();
        let mut outstanding: Vec<Outstanding> = Vec::new();
        let mut reasons = Vec::new();
        let began = Instant::now();
        let mut more_at = began;
        while began.elapsed() < DEADLINE {
            if outstanding.is_empty() || Instant::now() >= more_at {
                match waiting.next() {
                    Some((node, address)) => {
                        if !outstanding.is_empty() {
                            CacheStats::add(&self.stats.hedged, 1);
                        }
                        match self.send(node, &address, &message) {
                            Ok(sent) => outstanding.push(sent),
                            Err(error) => {
                                self.failed(node);
                                reasons.push(format!("{node}: {error}"));
                                continue;
                            }
                        }
                        more_at = Instant::now() + self.patience(node);
                    }
                    None if outstanding.is_empty() => break,
                    None => more_at = began + DEADLINE,
                }
            }
            let turn = if outstanding.len() > 1 {
                TURN
            } else {
                more_at.saturating_duration_since(Instant::now()).max(TURN)
            };
            for mut late in std::mem::take(&mut outstanding) {
                match listen(&mut late, turn) {
                    Ok(None) => outstanding.push(late),
                    Ok(Some(Message::Refused(refusal))) => {
                        reasons.push(format!("{}: {refusal}", late.node));
                        self.failed(late.node);
                        self.put_back(late);
                    }
                    Ok(Some(answer)) => match accept(&answer) {
                        Ok(()) => {
                            self.answered(late.node, late.sent.elapsed());
                            self.put_back(late);
                            // The others' answers are skipped when their connections are used next.
                            outstanding.into_iter().for_each(|other| self.put_back(other));
                            return Ok(answer);
                        }
                        Err(why) => {
                            reasons.push(format!("{}: {why}", late.node));
                            self.failed(late.node);
                            self.put_back(late);
                        }
                    },
                    Err(error) => {
                        reasons.push(format!("{}: {error}", late.node));
                        self.failed(late.node);
                    }
                }
            }
        }
        reasons.extend(outstanding.iter().map(|late| {
            self.failed(late.node);
            format!("{}: no answer in {} ms", late.node, late.sent.elapsed().as_millis())
        }));
        if reasons.is_empty() {
            reasons.push("no member is known to be complete".to_owned());
        }
        Err(reasons.join("; "))
    }

    /// Members in the order to ask: those that have not just failed, quickest first.
    fn ranked(&self, mut readers: Vec<(NodeId, String)>) -> Vec<(NodeId, String)> {
        let peers = self.peers();
        readers.sort_by_key(|(node, _)| {
            let peer = peers.get(node);
            let shunned =
                peer.and_then(|peer| peer.failed_at).is_some_and(|at| at.elapsed() < SHUNNED);
            // One never asked goes first once, so that its speed becomes known.
            (shunned, peer.and_then(|peer| peer.usual).unwrap_or(Duration::ZERO))
        });
        let shunned = |node| peers.get(node).and_then(|peer| peer.failed_at).is_some();
        let turn = self.asked.fetch_add(1, Ordering::Relaxed) % TRY_ANOTHER == TRY_ANOTHER - 1;
        if turn && readers.get(1).is_some_and(|(node, _)| !shunned(node)) {
            readers.swap(0, 1);
        }
        readers
    }

    fn send(
        &self,
        node: NodeId,
        address: &str,
        message: &Message,
    ) -> Result<Outstanding, LinkError> {
        let idle = self.peers().entry(node).or_default().idle.pop();
        // An idle connection may have died unnoticed: then one is made anew.
        if let Some(mut client) = idle
            && let Ok(request) = client.send(message)
        {
            return Ok(Outstanding { node, client, request, sent: Instant::now() });
        }
        let mut client = Client::connect(address, &self.party, CONNECT_LIMIT)?;
        let sent = Instant::now();
        let request = client.send(message)?;
        Ok(Outstanding { node, client, request, sent })
    }

    fn patience(&self, node: NodeId) -> Duration {
        let usual = self.peers().get(&node).and_then(|peer| peer.usual);
        usual.map_or(LATE_UNKNOWN, |usual| (usual * 4).clamp(LATE_MIN, LATE_MAX))
    }

    fn answered(&self, node: NodeId, took: Duration) {
        let mut peers = self.peers();
        let peer = peers.entry(node).or_default();
        peer.failed_at = None;
        peer.usual = Some(peer.usual.map_or(took, |usual| (usual * 7 + took) / 8));
    }

    fn failed(&self, node: NodeId) {
        let mut peers = self.peers();
        let peer = peers.entry(node).or_default();
        // The others of its connections are probably dead, too.
        peer.idle.clear();
        peer.failed_at = Some(Instant::now());
    }

    fn put_back(&self, done: Outstanding) {
        let mut peers = self.peers();
        let idle = &mut peers.entry(done.node).or_default().idle;
        if idle.len() < IDLE_MAX {
            idle.push(done.client);
        }
    }

    /// Asks each group for its blocks; `place` puts an answer where it belongs.
    fn by_group<T>(
        &self,
        (rel, fork, blocks): (Rel, Fork, &[u32]),
        message: impl Fn(SegmentId, &Route, Vec<PageKey>) -> Message,
        take: impl Fn(&Message) -> Result<Vec<Option<T>>, String>,
    ) -> Result<Vec<Option<T>>, FetchError> {
        let mut groups: BTreeMap<GroupId, Vec<(usize, u32)>> = BTreeMap::new();
        for (index, block) in blocks.iter().enumerate() {
            if let Some(group) = self.view.group_of(rel, fork, *block) {
                groups.entry(group).or_default().push((index, *block));
            }
        }
        let mut found: Vec<Option<T>> =
            std::iter::repeat_with(|| None).take(blocks.len()).collect();
        for (group, wanted) in groups {
            let values = self.of_group(group, (rel, fork, &wanted), &message, &take)?;
            for ((index, _), value) in wanted.iter().zip(values) {
                if let Some(place) = found.get_mut(*index) {
                    *place = value;
                }
            }
        }
        Ok(found)
    }

    /// Asks one group for its blocks. Members may each have another of them damaged: when none answers
    /// for all, each block is asked for by itself.
    fn of_group<T>(
        &self,
        group: GroupId,
        (rel, fork, wanted): (Rel, Fork, &[(usize, u32)]),
        message: &impl Fn(SegmentId, &Route, Vec<PageKey>) -> Message,
        take: &impl Fn(&Message) -> Result<Vec<Option<T>>, String>,
    ) -> Result<Vec<Option<T>>, FetchError> {
        let keys: Vec<PageKey> =
            wanted.iter().map(|(_, block)| Key::Block(rel, fork, *block).encode()).collect();
        let check = |answer: &Message| match take(answer)?.len() {
            count if count == wanted.len() => Ok(()),
            count => Err(format!("{count} answers to {} questions", wanted.len())),
        };
        let answer = self.ask(group, |segment, route| message(segment, route, keys.clone()), check);
        match answer.and_then(|answer| take(&answer)) {
            Ok(values) => Ok(values),
            Err(_) if wanted.len() > 1 => {
                let mut values = Vec::with_capacity(wanted.len());
                for one in wanted.chunks(1) {
                    values.extend(self.of_group(group, (rel, fork, one), message, take)?);
                }
                Ok(values)
            }
            Err(why) => {
                let block = wanted.first().map_or(0, |(_, block)| *block);
                let what = format!("block {block} of {rel}{}", fork.suffix());
                Err(FetchError::Unavailable { what, why: format!("group {group}: {why}") })
            }
        }
    }
}

/// Listens for the answer to a request; `None` when it has not come in time.
fn listen(late: &mut Outstanding, time: Duration) -> Result<Option<Message>, LinkError> {
    late.client.set_timeout(time)?;
    let end = Instant::now() + time;
    loop {
        match late.client.receive() {
            Ok((number, answer)) if number == late.request => return Ok(Some(answer)),
            // The answer to an earlier question that somebody else had answered first.
            Ok(_) if Instant::now() < end => {}
            Ok(_) => return Ok(None),
            Err(LinkError::Io { source, .. })
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
}

impl PageSource for StorageReader {
    fn pages(
        &self,
        rel: Rel,
        fork: Fork,
        blocks: &[u32],
    ) -> Result<Vec<Option<Bytes>>, FetchError> {
        let message = |segment, route: &Route, keys| Message::ReadPages {
            segment,
            read_point: route.read_point,
            complete_to: route.complete_to,
            keys,
        };
        self.by_group((rel, fork, blocks), message, |answer| {
            let Message::Pages(answers) = answer else {
                return Err("the answer is not pages".to_owned());
            };
            let page = |answer: &PageAnswer| match answer {
                PageAnswer::Absent => Ok(None),
                PageAnswer::Page { bytes, .. } => Ok(Some(bytes.clone())),
                PageAnswer::Failed(refusal) => Err(refusal.to_string()),
            };
            answers.iter().map(page).collect()
        })
    }

    fn versions(
        &self,
        rel: Rel,
        fork: Fork,
        blocks: &[u32],
    ) -> Result<Vec<Option<Lsn>>, FetchError> {
        let message = |segment, route: &Route, keys| Message::ReadVersions {
            segment,
            read_point: route.read_point,
            complete_to: route.complete_to,
            keys,
        };
        self.by_group((rel, fork, blocks), message, |answer| match answer {
            Message::Versions(versions) => Ok(versions.clone()),
            _ => Err("the answer is not versions".to_owned()),
        })
    }
}
