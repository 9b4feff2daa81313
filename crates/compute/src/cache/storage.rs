//! Pages from the storage nodes: from one member that is certainly complete for the read, the
//! quickest first; another is asked when it is late, the next one when it refuses or fails. Never a
//! quorum read.
//!
//! Reading order: `pace` (who first, and when the next), `pool` (connections), here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use link::{LinkError, Party};
use pgwal::keys::{Fork, Key, Rel};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use types::{GroupId, Lsn, NodeId, PageKey, SegmentId, VolumeId};
use wire::{Message, PageAnswer};

use super::pace::Paces;
use super::pool::{Had, Pool, Sent};
use crate::cache::{CacheStats, FetchError, PageSource};

/// Longest time for one request, all members together.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long several are waited for at once before those without a connection are looked at again.
const TURN: Duration = Duration::from_millis(4);
/// Reading what has come.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Where and as of when to read from one group.
#[derive(Clone, Debug)]
pub struct Route {
    /// Read point.
    pub read_point: Lsn,
    /// End of the group's last part at or below it.
    pub complete_to: Lsn,
    /// Members known to hold everything up to there, and their addresses.
    pub readers: Vec<(NodeId, String)>,
    /// Those that the writer suspects of being slow.
    pub suspects: Vec<NodeId>,
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

/// See the module's description.
pub struct StorageReader {
    view: Arc<dyn VolumeView>,
    stats: Arc<CacheStats>,
    pool: Arc<Pool>,
    paces: Mutex<Paces>,
}

impl std::fmt::Debug for StorageReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageReader").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// One member that is asked.
struct Attempt {
    node: NodeId,
    address: String,
    since: Instant,
    /// None while its connection is being made.
    sent: Option<Sent>,
}

/// One request and the members that are asked for it.
struct Asking<'a> {
    reader: &'a StorageReader,
    message: Message,
    /// Members not asked yet, the next one last.
    waiting: Vec<(NodeId, String)>,
    attempts: Vec<Attempt>,
    /// Why those that were asked have not answered.
    reasons: Vec<String>,
    began: Instant,
    patience: Duration,
    /// When one more is asked.
    more_at: Instant,
}

impl Asking<'_> {
    /// Asks the next member when nobody is asked or those who are are late.
    fn ask_more(&mut self) {
        while self.attempts.is_empty() || Instant::now() >= self.more_at {
            self.more_at = Instant::now() + self.patience;
            let second = !self.attempts.is_empty();
            if second && self.waiting.is_empty() {
                self.more_at = self.began + DEADLINE;
                return;
            }
            if second && !self.reader.paces().may_repeat(self.began.elapsed()) {
                return;
            }
            let Some((node, address)) = self.waiting.pop() else { return };
            if second {
                CacheStats::add(&self.reader.stats.hedged, 1);
            }
            let had = self.reader.pool.want(node, &address);
            let attempt = Attempt { node, address, since: Instant::now(), sent: None };
            self.proceed(attempt, had);
        }
    }

    /// An attempt goes on with what is had of its node.
    fn proceed(&mut self, mut attempt: Attempt, had: Had) {
        match had {
            Had::Making => self.attempts.push(attempt),
            Had::Failed(why) => self.failed(&attempt, &why),
            Had::Idle(idle) => match idle.send(&self.message) {
                Ok(sent) => {
                    (attempt.sent, attempt.since) = (Some(sent), Instant::now());
                    self.attempts.push(attempt);
                }
                // It had died unnoticed: one is made anew.
                Err(_) => {
                    self.reader.pool.forget(attempt.node);
                    let had = self.reader.pool.want(attempt.node, &attempt.address);
                    match had {
                        Had::Failed(why) => self.failed(&attempt, &why),
                        Had::Making | Had::Idle(_) => self.attempts.push(attempt),
                    }
                }
            },
        }
    }

    fn failed(&mut self, attempt: &Attempt, why: &str) {
        self.reasons.push(format!("{}: {why}", attempt.node));
        let waited = attempt.since.elapsed();
        self.reader.paces().failed(attempt.node, waited, Instant::now());
    }

    /// Listens to those that are asked until one more is to be; the first acceptable answer.
    fn hear(&mut self, accept: &dyn Fn(&Message) -> Result<(), String>) -> Option<Message> {
        for attempt in
            self.attempts.extract_if(.., |attempt| attempt.sent.is_none()).collect::<Vec<_>>()
        {
            let had = self.reader.pool.look(attempt.node, &attempt.address);
            self.proceed(attempt, had);
        }
        let until = self.more_at.min(self.began + DEADLINE);
        let time = until.saturating_duration_since(Instant::now()).max(AT_ONCE);
        let asked = self.attempts.len();
        let ready = match self.attempts.iter().filter(|attempt| attempt.sent.is_some()).count() {
            0 => {
                self.reader.pool.wait(time.min(TURN));
                return None;
            }
            1 if asked == 1 => vec![(0, time)],
            _ => readable(&self.attempts, time.min(TURN)).map(|at| (at, AT_ONCE)).collect(),
        };
        // From the last on: those that are done are taken out.
        for (at, time) in ready.into_iter().rev() {
            let sent = self.attempts.get_mut(at).and_then(|attempt| attempt.sent.as_mut());
            match sent.map(|sent| sent.listen(time)) {
                None | Some(Ok(None)) => {}
                Some(outcome) => {
                    let attempt = self.attempts.swap_remove(at);
                    if let Some(answer) = self.done(attempt, outcome, accept) {
                        return Some(answer);
                    }
                }
            }
        }
        None
    }

    fn done(
        &mut self,
        attempt: Attempt,
        outcome: Result<Option<Message>, LinkError>,
        accept: &dyn Fn(&Message) -> Result<(), String>,
    ) -> Option<Message> {
        let judged = match outcome {
            Ok(Some(Message::Refused(refusal))) => Err(refusal.to_string()),
            Ok(Some(answer)) => accept(&answer).map(|()| answer),
            Ok(None) => return None,
            Err(error) => {
                self.failed(&attempt, &error.to_string());
                self.reader.pool.forget(attempt.node);
                return None;
            }
        };
        match judged {
            Ok(answer) => {
                self.reader.paces().answered(attempt.node, attempt.since.elapsed());
                self.reader.put_back(attempt);
                for late in self.attempts.drain(..) {
                    self.reader.paces().late(late.node, late.since.elapsed());
                    self.reader.put_back(late);
                }
                Some(answer)
            }
            Err(why) => {
                self.failed(&attempt, &why);
                self.reader.put_back(attempt);
                None
            }
        }
    }

    /// Nobody has answered: who said what.
    fn reasons(mut self) -> String {
        for attempt in std::mem::take(&mut self.attempts) {
            let waited = attempt.since.elapsed().as_millis();
            self.failed(&attempt, &format!("no answer in {waited} ms"));
        }
        if self.reasons.is_empty() {
            return "no member is known to be complete".to_owned();
        }
        self.reasons.join("; ")
    }
}

/// Waits until one of several has answered; which have.
fn readable(attempts: &[Attempt], time: Duration) -> impl Iterator<Item = usize> + use<> {
    let sent = |(at, attempt): (usize, &Attempt)| attempt.sent.is_some().then_some(at);
    let asked: Vec<usize> = attempts.iter().enumerate().filter_map(sent).collect();
    let sockets = attempts.iter().filter_map(|attempt| attempt.sent.as_ref());
    let mut sockets: Vec<PollFd<'_>> =
        sockets.map(|sent| PollFd::from_borrowed_fd(sent.socket(), PollFlags::IN)).collect();
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    // Interrupted, or no events to be had: all are looked at.
    let failed = poll(&mut sockets, Some(&time)).is_err();
    let ready: Vec<usize> = asked
        .into_iter()
        .zip(&sockets)
        .filter_map(|(at, socket)| (failed || !socket.revents().is_empty()).then_some(at))
        .collect();
    ready.into_iter()
}

impl StorageReader {
    /// A reader that introduces itself as `party`.
    #[must_use]
    pub fn new(party: Party, view: Arc<dyn VolumeView>, stats: Arc<CacheStats>) -> StorageReader {
        StorageReader { view, stats, pool: Pool::new(party), paces: Mutex::new(Paces::new()) }
    }

    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(&self, attempt: Attempt) {
        if let Some(sent) = attempt.sent {
            self.pool.put_back(attempt.node, sent.into_idle());
        }
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
        let began = Instant::now();
        let (waiting, patience) = self.plan(&route, began);
        let mut asking = Asking {
            reader: self,
            message: message(segment, &route),
            waiting,
            attempts: Vec::new(),
            reasons: Vec::new(),
            began,
            patience,
            more_at: began,
        };
        while began.elapsed() < DEADLINE {
            asking.ask_more();
            if asking.attempts.is_empty() {
                break;
            }
            if let Some(answer) = asking.hear(&accept) {
                return Ok(answer);
            }
        }
        Err(asking.reasons())
    }

    /// Members with their addresses, the first to be asked last, and how long one is waited for.
    fn plan(&self, route: &Route, now: Instant) -> (Vec<(NodeId, String)>, Duration) {
        let suspect = |node: NodeId| (node, route.suspects.contains(&node));
        let mut members: Vec<_> = route.readers.iter().map(|(node, _)| suspect(*node)).collect();
        let mut paces = self.paces();
        paces.order(&mut members, now);
        let address = |(node, _): &(NodeId, bool)| {
            route.readers.iter().find(|(reader, _)| reader == node).cloned()
        };
        (members.iter().rev().filter_map(address).collect(), paces.patience(&members))
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
