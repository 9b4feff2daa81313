//! What storage gives: the catalog and pages at a read point that a quorum certainly holds.
//!
//! - Q1: the read point is PostgreSQL's own flush position, asked for after its checkpoint: by rule R1
//!   four of six hold everything up to there. It may only move up.
//! - Q2: a member may answer when it follows the current epoch and has everything up to the largest
//!   SCL that at least three such members of its group told *after* the read point was taken: any
//!   three of six meet the four that hold it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use link::{Client as Link, Party};
use pgwal::keys::{Fork, Key, Rel};
use redo::State;
use registry::VolumeInfo;
use types::{
    ClusterId, Epoch, GroupId, Lsn, NodeId, PageKey, READ_QUORUM, SegmentId, WRITE_QUORUM,
};
use wire::{Message, PageAnswer, SegmentReport, Speaker};

use crate::catalog::{Catalog, file};
use crate::pages::{PageReader, ReadAt};

/// A node that does not answer by then is not counted.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long too few members of a group are waited for.
const MEMBERS_LIMIT: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// One page as storage gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// No version: it reads as zeros.
    Absent,
    /// Its content, and the end of the last record that changed it.
    Page(Lsn, Bytes),
    /// Every member that answered says that it cannot be had, and why.
    Refused(String),
}

/// The catalog's entries: the version and content of each.
pub type Entries = BTreeMap<Key, (Lsn, Bytes)>;

/// How to read from a group.
#[derive(Debug, Clone)]
struct Route {
    complete_to: Lsn,
    readers: Vec<NodeId>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Storage {
    info: VolumeInfo,
    party: Party,
    reader: PageReader,
    read_point: Lsn,
    routes: BTreeMap<GroupId, Route>,
    /// Requests made: members take turns, so that all copies are looked at.
    turn: usize,
}

impl Storage {
    /// The volume's storage, before anything is read: [`Storage::move_to`] comes next.
    ///
    /// # Errors
    /// When a group lacks a write quorum of members that follow the volume's epoch: the checkpoint
    /// that comes next would wait for it.
    pub fn new(info: VolumeInfo) -> anyhow::Result<Storage> {
        let party = party(info.cluster);
        let members = info.groups.iter().flat_map(|group| &group.members);
        let addresses = members.map(|member| (member.node, member.address.clone())).collect();
        let reader = PageReader::new(party.clone(), addresses);
        let (routes, read_point) = (BTreeMap::new(), Lsn::ZERO);
        let mut storage = Storage { info, party, reader, read_point, routes, turn: 0 };
        storage.routes = storage.routes(WRITE_QUORUM)?;
        Ok(storage)
    }

    /// The read point.
    #[must_use]
    pub fn read_point(&self) -> Lsn {
        self.read_point
    }

    /// Moves the read point up: the nodes keep no versions below the writer's low-water mark.
    ///
    /// # Errors
    /// When a group lacks a read quorum of members that follow the volume's epoch.
    pub fn move_to(&mut self, read_point: Lsn) -> anyhow::Result<()> {
        self.routes = self.routes(READ_QUORUM)?;
        self.read_point = self.read_point.max(read_point);
        Ok(())
    }

    /// Who may answer. The members of a group just added follow the epoch once its writer has spoken
    /// to them, so too few are asked again for a while.
    fn routes(&self, needed: usize) -> anyhow::Result<BTreeMap<GroupId, Route>> {
        let begun = Instant::now();
        loop {
            match routes_of(&self.info, &self.ask_all(), needed) {
                Err(_) if begun.elapsed() < MEMBERS_LIMIT => std::thread::sleep(ASK_AGAIN),
                decided => return decided,
            }
        }
    }

    /// Asks all nodes at once what they hold.
    fn ask_all(&self) -> BTreeMap<NodeId, Vec<(SegmentId, SegmentReport)>> {
        let members = self.info.groups.iter().flat_map(|group| &group.members);
        let nodes: BTreeSet<_> = members.map(|member| (member.node, &member.address)).collect();
        let ask = |address: &str| {
            let mut node = Link::connect(address, &self.party, NODE_TIMEOUT).ok()?;
            match node.call(&Message::ListSegments).ok()? {
                Message::Segments(segments) => Some(segments),
                _ => None,
            }
        };
        std::thread::scope(|scope| {
            let asked: Vec<_> = nodes
                .into_iter()
                .map(|(node, address)| (node, scope.spawn(move || ask(address))))
                .collect();
            let answers = asked.into_iter();
            answers.filter_map(|(node, asked)| Some((node, asked.join().ok().flatten()?))).collect()
        })
    }

    /// The whole catalog: entries with their versions, and the mirror that says where blocks lie.
    ///
    /// # Errors
    /// When no member can serve it, or an entry is damaged.
    pub fn catalog(&mut self) -> anyhow::Result<(Catalog, Entries)> {
        let groups = self.info.groups.iter().map(|group| GroupId(group.id));
        let mut catalog = Catalog::new(self.info.group_bytes, groups);
        let mut entries = BTreeMap::new();
        let (route, segment) = self.route(GroupId(0))?;
        let at = ReadAt {
            segment,
            read_point: self.read_point,
            complete_to: route.complete_to,
            readers: route.readers,
        };
        self.reader.scan_catalog(&at, &mut |key, version, content| {
            catalog.load(key, &content)?;
            // Where blocks lie, the server's counters (see [`Storage::counters`]), and files that
            // nothing changes after the import: no file of the writer's is compared with them.
            let is_own = match key {
                Key::Extent(..) | Key::State => true,
                Key::File(number) => number != file::AUTO_CONF,
                _ => false,
            };
            if !is_own {
                entries.insert(key, (version, content));
            }
            Ok(())
        })?;
        catalog.loaded();
        Ok((catalog, entries))
    }

    /// The server's counters and parameters.
    ///
    /// # Errors
    /// When no member gives them, or they are damaged.
    pub fn counters(&mut self) -> anyhow::Result<State> {
        match self.pages(GroupId(0), vec![Key::State.encode()])?.pop() {
            Some(Stored::Page(_, bytes)) => State::decode(&bytes)
                .map_err(|fault| anyhow::anyhow!("the server's counters in storage: {fault}")),
            Some(Stored::Refused(why)) => {
                bail!("storage does not give the server's counters: {why}")
            }
            Some(Stored::Absent) | None => bail!("storage has none of the server's counters"),
        }
    }

    /// How to read from a group, beginning with another member each time.
    fn route(&mut self, group: GroupId) -> anyhow::Result<(Route, SegmentId)> {
        let mut route = self.routes.get(&group).context("an unknown group")?.clone();
        self.turn += 1;
        let count = route.readers.len();
        route.readers.rotate_left(self.turn % count.max(1));
        Ok((route, SegmentId { volume: self.info.id, group }))
    }

    /// These blocks of a fork, in their order.
    ///
    /// # Errors
    /// When no member answers at all.
    pub fn blocks(
        &mut self,
        catalog: &Catalog,
        rel: Rel,
        fork: Fork,
        blocks: &[u32],
    ) -> anyhow::Result<Vec<Stored>> {
        let mut groups: BTreeMap<GroupId, Vec<(usize, PageKey)>> = BTreeMap::new();
        for (index, block) in blocks.iter().enumerate() {
            if let Some(group) = catalog.group_of(rel, fork, *block) {
                let key = Key::Block(rel, fork, *block).encode();
                groups.entry(group).or_default().push((index, key));
            }
        }
        let mut found = vec![Stored::Absent; blocks.len()];
        for (group, wanted) in groups {
            let answers = self.pages(group, wanted.iter().map(|(_, key)| *key).collect())?;
            for ((index, _), answer) in wanted.into_iter().zip(answers) {
                if let Some(place) = found.get_mut(index) {
                    *place = answer;
                }
            }
        }
        Ok(found)
    }

    /// Pages of one group. What one member cannot give is asked of the next.
    fn pages(&mut self, group: GroupId, keys: Vec<PageKey>) -> anyhow::Result<Vec<Stored>> {
        let (route, segment) = self.route(group)?;
        let mut found: Vec<Option<Stored>> = vec![None; keys.len()];
        let mut silent = Vec::new();
        for node in route.readers {
            let missing =
                |found: &Option<Stored>| !matches!(found, Some(Stored::Absent | Stored::Page(..)));
            let wanted: Vec<usize> =
                (0..keys.len()).filter(|index| found.get(*index).is_some_and(missing)).collect();
            if wanted.is_empty() {
                break;
            }
            let message = Message::ReadPages {
                segment,
                read_point: self.read_point,
                complete_to: route.complete_to,
                keys: wanted.iter().filter_map(|index| keys.get(*index).copied()).collect(),
            };
            let answers = match self.reader.ask_one(node, &message) {
                Ok(Message::Pages(answers)) if answers.len() == wanted.len() => answers,
                Ok(_) => {
                    silent.push(format!("{node}: the answer is not these pages"));
                    continue;
                }
                Err(error) => {
                    silent.push(format!("{node}: {error:#}"));
                    continue;
                }
            };
            for (index, answer) in wanted.into_iter().zip(answers) {
                let answer = match answer {
                    PageAnswer::Absent => Stored::Absent,
                    PageAnswer::Page { version, bytes } => Stored::Page(version, bytes),
                    PageAnswer::Failed(refusal) => Stored::Refused(format!("{node}: {refusal}")),
                };
                if let Some(place) = found.get_mut(index) {
                    *place = Some(answer);
                }
            }
        }
        let answered = found.into_iter().collect::<Option<Vec<_>>>();
        answered.with_context(|| format!("group {group} cannot be read: {}", silent.join("; ")))
    }
}

/// How an operator's command introduces itself.
fn party(cluster: ClusterId) -> Party {
    Party { cluster, from: Speaker::Control, az: None, az_latency: Duration::ZERO }
}

/// Who may answer for each group (rule Q2).
fn routes_of(
    info: &VolumeInfo,
    answers: &BTreeMap<NodeId, Vec<(SegmentId, SegmentReport)>>,
    needed: usize,
) -> anyhow::Result<BTreeMap<GroupId, Route>> {
    let epoch = Epoch(info.epoch);
    let mut routes = BTreeMap::new();
    for group in &info.groups {
        let segment = SegmentId { volume: info.id, group: GroupId(group.id) };
        let told = |node: &NodeId| {
            let (_, report) = answers.get(node)?.iter().find(|(id, _)| *id == segment)?;
            let current =
                report.full && report.sealed == epoch && report.history.last_epoch() == epoch;
            current.then_some(report.scl)
        };
        let scls: Vec<(NodeId, Lsn)> = group
            .members
            .iter()
            .filter_map(|member| Some((member.node, told(&member.node)?)))
            .collect();
        if scls.len() < needed {
            bail!(
                "only {} of group {}'s six members answer in epoch {epoch}, {needed} are needed; see \
                 `sixfold status`",
                scls.len(),
                group.id
            );
        }
        let complete_to = scls.iter().map(|(_, scl)| *scl).max().unwrap_or(Lsn::ZERO);
        let readers =
            scls.iter().filter(|(_, scl)| *scl >= complete_to).map(|(node, _)| *node).collect();
        routes.insert(GroupId(group.id), Route { complete_to, readers });
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use registry::{GroupInfo, Member};
    use types::{EpochStart, History, MembershipEpoch, Span, Timeline, VolumeId};

    use super::*;

    const NODES: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];

    fn node(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    fn volume() -> VolumeInfo {
        let members = NODES.map(|name| Member {
            node: node(name),
            az: name[..1].parse().expect("a zone"),
            address: String::new(),
            incarnation: types::Incarnation::default(),
            since: registry::first_members(),
        });
        VolumeInfo {
            cluster: ClusterId(1),
            id: VolumeId(2),
            name: "main".to_owned(),
            epoch: 5,
            timeline: 3,
            geometry_epoch: 1,
            group_bytes: 1 << 20,
            limit_bytes: None,
            initialized: true,
            writer: None,
            groups: vec![GroupInfo {
                id: 0,
                membership_epoch: 1,
                members: members.into(),
                joining: Vec::new(),
            }],
        }
    }

    fn report(epoch: u64, scl: u64) -> SegmentReport {
        let entry = EpochStart { epoch: Epoch(epoch), begins: Lsn(8), timeline: Timeline(1) };
        SegmentReport {
            scl: Lsn(scl),
            sealed: Epoch(epoch),
            history: History::default().with(entry),
            vdl: Span::default(),
            low_water: Lsn(0),
            watermark: 0,
            membership: MembershipEpoch(1),
            since: MembershipEpoch(1),
            full: true,
        }
    }

    fn answers(
        told: &[(&str, SegmentReport)],
    ) -> BTreeMap<NodeId, Vec<(SegmentId, SegmentReport)>> {
        let segment = SegmentId { volume: VolumeId(2), group: GroupId(0) };
        told.iter().map(|(name, report)| (node(name), vec![(segment, report.clone())])).collect()
    }

    #[test]
    fn only_members_as_complete_as_the_best_of_three_of_this_epoch_may_answer() {
        // c2 slept through the last opening: what it holds beyond the others may be void.
        let told = [
            ("a1", report(5, 100)),
            ("a2", report(5, 80)),
            ("b1", report(5, 100)),
            ("b2", SegmentReport { full: false, ..report(5, 100) }),
            ("c2", report(4, 900)),
        ];
        let routes = routes_of(&volume(), &answers(&told), 3).expect("three answer");
        let route = routes.get(&GroupId(0)).expect("group 0");
        assert_eq!(route.complete_to, Lsn(100));
        assert_eq!(route.readers, [node("a1"), node("b1")]);
    }

    #[test]
    fn fewer_than_three_members_of_this_epoch_prove_nothing() {
        let told = [("a1", report(5, 100)), ("a2", report(5, 100)), ("c2", report(4, 900))];
        let error = routes_of(&volume(), &answers(&told), 3).expect_err("two answer").to_string();
        assert!(error.contains("only 2"), "{error}");
    }
}
