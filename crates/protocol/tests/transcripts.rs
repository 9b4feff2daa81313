//! Transcripts: sentences, commands to six segments of one group, and what they say to it.
//!
//! Each file in `transcripts/` is prose, commands (`> ...`) and the expected output below each. Run
//! with `REWRITE=1` to write what is said now, and review the difference as prose.
//!
//! ```text
//! append E base B vdl S-E S-E S-E ... : a b    a batch of the parts S-E; without parts, an announcement
//! seal E : a b
//! adopt E after F at V until U from P : a b    E's history is F's and (E, V)
//! tail E under F after A : a                   epoch E asks, with F's history
//! report : a
//! hold : a     syncs of a wait                 sync : a    they happen
//! crash : a    back from its synced log        wipe : a    back with nothing
//! gossip : a   one turn, with all its answers
//! ```
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write;

use protocol::{Asker, HeldPart, Input, LogEntry, Output, Segment, SegmentState};
use types::{
    Epoch, EpochStart, GroupId, History, Holder, Lsn, MembershipEpoch, NodeId, SegmentId, Span,
    Timeline, VolumeId,
};
use wire::{Batch, BatchHeader, Message, Part, PartMeta, Peer, SegmentSpec};

const SEGMENT: SegmentId = SegmentId { volume: VolumeId(1), group: GroupId(0) };

struct Node {
    segment: Segment,
    log: Vec<(u64, LogEntry)>,
    synced: usize,
    holds: bool,
}

struct Bench {
    nodes: BTreeMap<String, Node>,
    history: BTreeMap<Epoch, History>,
    said: String,
}

fn name(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn spec() -> SegmentSpec {
    let membership = MembershipEpoch::FIRST;
    let members = ["a", "b", "c", "d", "e", "f"].map(|node| Peer {
        holder: Holder { node: name(node), since: membership },
        address: String::new(),
    });
    let (members, joining) = (members.into(), Vec::new());
    SegmentSpec { segment: SEGMENT, membership, members, joining, fresh: true }
}

fn lsn(text: &str) -> Lsn {
    Lsn(text.parse().unwrap())
}

fn span(text: &str) -> Span {
    let (start, end) = text.split_once('-').unwrap();
    Span { start: lsn(start), end: lsn(end) }
}

impl Node {
    fn new(segment: Segment) -> Node {
        let log = vec![(0, LogEntry::State(segment.state().clone()))];
        Node { segment, synced: log.len(), log, holds: false }
    }

    fn restored(&self, me: &str) -> Segment {
        let mut state = SegmentState::default();
        let mut held = Vec::new();
        for (_, entry) in &self.log {
            match entry {
                LogEntry::State(entry) => {
                    let vdl = state.vdl.max(entry.vdl);
                    state = SegmentState { vdl, ..entry.clone() };
                }
                LogEntry::Batch(batch) => {
                    state.vdl = state.vdl.max(batch.header.vdl);
                    held.extend(HeldPart::of(batch));
                }
            }
        }
        Segment::restore(name(me), spec(), state, Lsn::ZERO, held)
    }
}

impl Bench {
    fn new() -> Bench {
        let node = |me: &str| (me.to_owned(), Node::new(Segment::fresh(name(me), spec())));
        let nodes = ["a", "b", "c", "d", "e", "f"].map(node).into();
        Bench { nodes, history: BTreeMap::new(), said: String::new() }
    }

    fn input(&mut self, me: &str, input: Input) {
        let mut out = Vec::new();
        let node = self.nodes.get_mut(me).unwrap();
        node.segment.handle(input, &mut out);
        node.segment.invariants();
        for output in out {
            self.output(me, output);
        }
        let node = self.nodes.get_mut(me).unwrap();
        if !node.holds && node.synced < node.log.len() {
            node.synced = node.log.len();
            let seq = node.log.last().unwrap().0;
            self.input(me, Input::Persisted { seq });
        }
    }

    fn output(&mut self, me: &str, output: Output) {
        match output {
            Output::Persist { seq, entry } => {
                self.nodes.get_mut(me).unwrap().log.push((seq, entry))
            }
            Output::Reply { to: 0, message } => self.say(me, &message),
            Output::Reply { to, message } => self.peer_answer(to, me, message),
            Output::Ask { peer, message } => {
                let asker = Asker::from(me.as_bytes()[0]);
                let input = match message {
                    Message::Pull { history, after, bytes_max, .. } => {
                        Input::Pull { from: asker, history, after, bytes_max }
                    }
                    _ => Input::AskReport { from: asker },
                };
                self.input(&peer.to_string(), input);
            }
            Output::Read { to, after, upto, report, .. } => {
                let log = &self.nodes[me].log;
                let batches = log.iter().filter_map(|(_, entry)| match entry {
                    LogEntry::Batch(batch) => Some(batch.clone()),
                    LogEntry::State(_) => None,
                });
                let wanted = |batch: &Batch| batch.header.last > after && batch.header.last <= upto;
                let batches = batches.filter(wanted).collect();
                self.peer_answer(to, me, Message::Fill { segment: SEGMENT, report, batches });
            }
            Output::Void { history } => {
                writeln!(self.said, "{me} follows {}", epochs(&history)).unwrap()
            }
            Output::Hydrate { peer, .. } => writeln!(self.said, "{me} copies from {peer}").unwrap(),
        }
    }

    fn peer_answer(&mut self, to: Asker, me: &str, message: Message) {
        let asker = char::from(u8::try_from(to).unwrap()).to_string();
        let input = match message {
            Message::Fill { report, batches, .. } => {
                Input::Filled { from_peer: name(me), report, batches }
            }
            Message::Report { report, .. } => {
                Input::Filled { from_peer: name(me), report, batches: Vec::new() }
            }
            Message::Refused(refusal) => {
                Input::PeerRefused { peer: name(me), refusal: Some(refusal) }
            }
            other => unreachable!("{other:?}"),
        };
        self.input(&asker, input);
    }

    fn say(&mut self, me: &str, message: &Message) {
        let text = match message {
            Message::Ack { epoch, scl, .. } => format!("ack {epoch}, complete to {}", scl.0),
            Message::Report { report, .. } => format!(
                "complete to {}, sealed {}, follows {}, knows {} durable{}",
                report.scl.0,
                report.sealed,
                epochs(&report.history),
                report.vdl.end.0,
                if report.full { "" } else { ", being rebuilt" }
            ),
            Message::Tail { base, parts, .. } => {
                let spans = parts.iter().map(|part| (part.span.start.0, part.span.end.0));
                format!("tail from {}: {:?}", base.0, spans.collect::<Vec<_>>())
            }
            Message::Refused(refusal) => format!("refused: {refusal}"),
            other => format!("{other:?}"),
        };
        writeln!(self.said, "{me}: {text}").unwrap();
    }

    fn command(&mut self, command: &str) {
        let (what, whom) = command.split_once(" : ").unwrap();
        let words: Vec<&str> = what.split(' ').collect();
        for me in whom.split(' ') {
            match words.as_slice() {
                ["append", epoch, "base", base, "vdl", vdl, parts @ ..] => {
                    let batch = batch(epoch, base, vdl, parts);
                    self.input(me, Input::Append { from: 0, batch });
                }
                ["seal", epoch] => {
                    let epoch = Epoch(epoch.parse().unwrap());
                    self.input(me, Input::Seal { from: 0, epoch });
                }
                ["adopt", epoch, "after", before, "at", at, "until", until, "from", peer] => {
                    let history = self.adopted(epoch, before, at);
                    let (until, peer) = (lsn(until), name(peer));
                    self.input(me, Input::Adopt { from: 0, history, vdl: Span::ZERO, until, peer });
                }
                ["tail", epoch, "under", of, "after", after] => {
                    let history = self.history[&Epoch(of.parse().unwrap())].clone();
                    let epoch = Epoch(epoch.parse().unwrap());
                    self.input(me, Input::AskTail { from: 0, epoch, history, after: lsn(after) });
                }
                ["report"] => self.input(me, Input::AskReport { from: 0 }),
                ["gossip"] => self.input(me, Input::Tick),
                ["hold"] => self.nodes.get_mut(me).unwrap().holds = true,
                ["sync"] => {
                    let node = self.nodes.get_mut(me).unwrap();
                    node.holds = false;
                    node.synced = node.log.len();
                    let seq = node.log.last().unwrap().0;
                    self.input(me, Input::Persisted { seq });
                }
                ["crash"] => {
                    let node = self.nodes.get_mut(me).unwrap();
                    node.log.truncate(node.synced);
                    node.segment = node.restored(me);
                    node.holds = false;
                }
                ["wipe"] => {
                    let blank = Node::new(Segment::blank(name(me), spec()));
                    self.nodes.insert(me.to_owned(), blank);
                }
                other => unreachable!("no such command: {other:?}"),
            }
        }
    }

    fn adopted(&mut self, epoch: &str, before: &str, at: &str) -> History {
        let epoch = Epoch(epoch.parse().unwrap());
        let before = Epoch(before.parse().unwrap());
        let entry = EpochStart { epoch, begins: lsn(at), timeline: Timeline(1) };
        let older = self.history.get(&before).cloned().unwrap_or_default();
        self.history.entry(epoch).or_insert_with(|| older.with(entry)).clone()
    }
}

fn batch(epoch: &str, base: &str, vdl: &str, parts: &[&str]) -> Batch {
    let part = |text: &&str| {
        let meta = PartMeta { span: span(text), prev: Lsn::ZERO, shared: Vec::new().into() };
        Part { meta, changes: Vec::new(), body: bytes::Bytes::new() }
    };
    let parts: Vec<Part> = parts.iter().map(part).collect();
    let header = BatchHeader {
        segment: SEGMENT,
        epoch: Epoch(epoch.parse().unwrap()),
        membership: MembershipEpoch(1),
        base: lsn(base),
        last: parts.last().map_or(lsn(base), |part| part.meta.span.end),
        vdl: span(vdl),
        low_water: Lsn::ZERO,
        watermark: 0,
    };
    Batch { header, parts }
}

fn epochs(history: &History) -> String {
    let entry = |entry: &EpochStart| format!("{}@{}", entry.epoch, entry.begins.0);
    history.entries().iter().map(entry).collect::<Vec<_>>().join(" ")
}

/// Plays a transcript; the text as it would be written now.
fn play(text: &str) -> String {
    let mut bench = Bench::new();
    let mut now = String::new();
    let mut answering = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            bench.said.clear();
            bench.command(command);
            write!(now, "{line}\n{}", bench.said).unwrap();
            answering = true;
        } else if line.is_empty() || !answering {
            writeln!(now, "{line}").unwrap();
            answering = false;
        }
    }
    now
}

#[test]
fn segments_say_what_the_transcripts_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let now = play(&text);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, &now).unwrap();
            continue;
        }
        assert_eq!(text, now, "{} (REWRITE=1 writes what is said now)", file.display());
    }
}
