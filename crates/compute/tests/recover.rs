//! Opening a volume whose nodes die or fall dumb on the way: real connections, real segments.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use compute::open::Volume;
use compute::recover::{Means, recover};
use link::Party;
use protocol::{Input, Output, Segment, Timelines};
use registry::{GroupInfo, Member, VolumeInfo};
use types::{
    ClusterId, GroupId, Holder, Incarnation, MembershipEpoch, NodeId, SegmentId, VolumeId,
};
use wire::{Decoder, Frame, Message, Peer, SegmentSpec, Speaker, Welcome, frame};

const VOLUME: VolumeId = VolumeId(9);

/// What the last of the nodes does when it is asked for its log's tail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answers,
    /// It keeps its connections and never says anything again.
    FallsDumb,
    /// It closes its connections and takes no more.
    Dies,
}

#[derive(Clone)]
struct World {
    fate: Fate,
    /// Whom fate strikes. Of equals the last is measured; so that it is among the first four to
    /// seal, the others wait until it has.
    victim: NodeId,
    sealed: Arc<AtomicBool>,
    struck: Arc<AtomicBool>,
}

impl World {
    fn new(fate: Fate) -> World {
        let victim = "n5".parse().expect("a name");
        World { fate, victim, sealed: Arc::default(), struck: Arc::default() }
    }

    /// Called by every node before it answers.
    fn before(&self, node: NodeId, message: &Message, down: &AtomicBool) {
        if self.fate == Fate::Answers {
            return;
        }
        match message {
            Message::AskTail { .. } if node == self.victim => {
                self.struck.store(true, SeqCst);
                down.store(true, SeqCst);
            }
            Message::Seal { .. } if node != self.victim => {
                while !self.sealed.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            _ => {}
        }
    }

    /// Called by every node after it has answered.
    fn after(&self, node: NodeId) {
        if node == self.victim {
            self.sealed.store(true, SeqCst);
        }
    }
}

struct Node {
    id: NodeId,
    listener: TcpListener,
    address: String,
    segment: Arc<Mutex<Segment>>,
}

fn nodes() -> Vec<Node> {
    let listeners: Vec<_> =
        (0..6).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let addresses: Vec<_> =
        listeners.iter().map(|l| l.local_addr().expect("bound").to_string()).collect();
    let id = |number: usize| -> NodeId { format!("n{number}").parse().expect("a name") };
    let members: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(number, address)| (id(number), address.clone()))
        .collect();
    let peer = |(node, address): &(NodeId, String)| Peer {
        holder: Holder { node: *node, since: MembershipEpoch::FIRST },
        address: address.clone(),
    };
    let spec = SegmentSpec {
        segment: SegmentId { volume: VOLUME, group: GroupId(0) },
        membership: MembershipEpoch(1),
        members: members.iter().map(peer).collect(),
        joining: Vec::new(),
        fresh: true,
    };
    let node = |(listener, (id, address)): (TcpListener, (NodeId, String))| Node {
        id,
        listener,
        address,
        segment: Arc::new(Mutex::new(Segment::fresh(id, spec.clone()))),
    };
    listeners.into_iter().zip(members).map(node).collect()
}

/// Serves one node in threads of its own.
fn serve(node: Node, world: &World) {
    let world = world.clone();
    let down = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for stream in node.listener.incoming() {
            if down.load(SeqCst) && world.fate == Fate::Dies {
                return;
            }
            let (world, down) = (world.clone(), Arc::clone(&down));
            let (id, segment) = (node.id, Arc::clone(&node.segment));
            let stream = stream.expect("a connection");
            std::thread::spawn(move || converse(stream, id, &segment, &world, &down));
        }
    });
}

fn converse(
    mut stream: TcpStream,
    id: NodeId,
    segment: &Mutex<Segment>,
    world: &World,
    down: &AtomicBool,
) {
    let mut decoder = Decoder::new();
    let mut bytes = [0; 4096];
    loop {
        while let Some(frame) = decoder.next().expect("well-formed") {
            match frame {
                Frame::Hello(_) if !down.load(SeqCst) => {
                    let welcome = Welcome { node: id, incarnation: Incarnation(1), az: b'a' };
                    stream.write_all(&frame::encode_welcome(&welcome)).expect("sent");
                    decoder.established();
                }
                Frame::Message { request, message } => {
                    world.before(id, &message, down);
                    if down.load(SeqCst) {
                        if world.fate == Fate::Dies {
                            return;
                        }
                        continue;
                    }
                    for answer in answers(&mut segment.lock().expect("unpoisoned"), message) {
                        if stream.write_all(&frame::encode(request, &answer)).is_err() {
                            return;
                        }
                    }
                    world.after(id);
                }
                _ => {}
            }
        }
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.feed(&bytes[..count]),
        }
    }
}

/// Takes a message to the segment; everything it persists is durable at once.
fn answers(segment: &mut Segment, message: Message) -> Vec<Message> {
    let input = match message {
        Message::Seal { epoch, .. } => Input::Seal { from: 0, epoch },
        Message::AskTail { epoch, history, after, .. } => {
            Input::AskTail { from: 0, epoch, history, after }
        }
        Message::Adopt { history, vdl, until, peer, .. } => {
            Input::Adopt { from: 0, history, vdl, until, peer }
        }
        other => panic!("recovery asked {other:?}"),
    };
    let (mut replies, mut inputs) = (Vec::new(), vec![input]);
    while let Some(input) = inputs.pop() {
        let mut out = Vec::new();
        segment.handle(input, &mut out);
        for output in out {
            match output {
                Output::Persist { seq, .. } => inputs.push(Input::Persisted { seq }),
                Output::Reply { message, .. } => replies.push(message),
                _ => {}
            }
        }
    }
    replies
}

fn info(nodes: &[Node], epoch: u64) -> VolumeInfo {
    let member = |node: &Node| Member {
        node: node.id,
        az: "a".parse().expect("a zone"),
        address: node.address.clone(),
        incarnation: Incarnation(1),
        since: registry::first_members(),
    };
    let members = nodes.iter().map(member).collect();
    VolumeInfo {
        cluster: ClusterId(1),
        id: VOLUME,
        name: "main".to_owned(),
        epoch,
        timeline: 0,
        geometry_epoch: 1,
        group_bytes: 1 << 30,
        limit_bytes: None,
        initialized: false,
        writer: None,
        groups: vec![GroupInfo { id: 0, membership_epoch: 1, members, joining: Vec::new() }],
    }
}

/// Opens the volume; the answer comes with the epochs that were raised, and from which.
fn open(info: &VolumeInfo) -> (Volume, BTreeMap<u64, Option<u64>>) {
    let party = Party {
        cluster: ClusterId(1),
        from: Speaker::Instance { name: "writer".parse().expect("a name"), volume: VOLUME },
        az: None,
        az_latency: Duration::ZERO,
    };
    let epoch = AtomicU64::new(0);
    let mut raised = BTreeMap::new();
    let begun = Instant::now();
    let mut raise = |expected| {
        let epoch = epoch.fetch_add(1, SeqCst) + 1;
        raised.insert(epoch, expected);
        Ok(VolumeInfo { epoch, ..info.clone() })
    };
    let means = Means {
        raise: &mut raise,
        rescue: &mut |_, _| 0,
        stop: &|| begun.elapsed() > Duration::from_secs(60),
    };
    let timelines = Timelines::NextAfterOr(types::Timeline(1));
    let volume = recover(means, None, timelines, &party).expect("opened");
    (volume, raised)
}

fn opened_with(fate: Fate) -> (Volume, BTreeMap<u64, Option<u64>>) {
    let nodes = nodes();
    let info = info(&nodes, 0);
    let world = World::new(fate);
    nodes.into_iter().for_each(|node| serve(node, &world));
    let opened = open(&info);
    assert_eq!(world.struck.load(SeqCst), fate != Fate::Answers);
    opened
}

#[test]
fn with_all_nodes_well_one_epoch_is_enough() {
    let (volume, raised) = opened_with(Fate::Answers);
    assert_eq!(raised, BTreeMap::from([(1, None)]));
    assert_eq!(volume.opened.epoch().0, 1);
}

#[test]
fn a_measured_node_that_dies_is_replaced_in_the_same_epoch() {
    let (volume, raised) = opened_with(Fate::Dies);
    assert_eq!(raised, BTreeMap::from([(1, None)]));
    assert!(volume.opened.reports.len() >= 4);
}

#[test]
fn a_measured_node_that_falls_dumb_is_left_behind_by_a_newer_epoch() {
    let (volume, raised) = opened_with(Fate::FallsDumb);
    // Raised from the own epoch: an opening by somebody else would have been respected.
    assert_eq!(raised, BTreeMap::from([(1, None), (2, Some(1))]));
    assert_eq!(volume.opened.epoch().0, 2);
    assert!(volume.opened.reports.len() >= 4);
}

#[test]
fn three_nodes_are_waited_for_until_a_fourth_comes() {
    let mut nodes = nodes();
    let info = info(&nodes, 0);
    let world = World::new(Fate::Answers);
    let mut late = nodes.split_off(3);
    nodes.into_iter().for_each(|node| serve(node, &world));
    // The others hold their ports and say nothing, as a machine that hangs does.
    let fourth = late.pop().expect("three are left");
    let begun = Instant::now();
    let pause = Duration::from_secs(4);
    std::thread::spawn(move || {
        std::thread::sleep(pause);
        serve(fourth, &world);
    });
    let (volume, raised) = open(&info);
    assert!(begun.elapsed() >= pause, "three of six are not enough");
    assert_eq!(raised, BTreeMap::from([(1, None)]), "a newer epoch would not have helped");
    assert_eq!(volume.opened.reports.len(), 4);
}
