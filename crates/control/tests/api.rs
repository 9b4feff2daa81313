//! The control plane over loopback, asked through its client, with nodes that speak the wire format.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::{Control, ControlConfig, LinkNodes};
use registry::{
    AddGroup, Client, CreateVolume, DeleteVolume, InstanceHeartbeat, InstanceRole, LimitVolume,
    NodeRegistration, OpenVolume, ProblemCode, SegmentUse, VolumeInfo, VolumeUse, WriterReady,
};
use types::{Incarnation, SegmentId};
use wire::{Decoder, Frame, Message, Welcome};

/// A node that creates what it is told to, while it is up.
struct FakeNode {
    name: &'static str,
    address: String,
    incarnation: AtomicU64,
    up: AtomicBool,
    held: Mutex<BTreeSet<(SegmentId, bool)>>,
}

impl FakeNode {
    fn start(name: &'static str) -> Arc<FakeNode> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let node = Arc::new(FakeNode {
            name,
            address,
            incarnation: AtomicU64::new(1),
            up: AtomicBool::new(true),
            held: Mutex::default(),
        });
        let served = Arc::clone(&node);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.up.load(Ordering::SeqCst) {
                    served.serve(stream);
                }
            }
        });
        node
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut decoder = Decoder::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            decoder.feed(&buffer[..count]);
            while let Some(frame) = decoder.next().expect("well-formed") {
                let answer = match frame {
                    Frame::Hello(_) => {
                        decoder.established();
                        wire::frame::encode_welcome(&Welcome {
                            node: self.name.parse().expect("valid"),
                            incarnation: self.life(),
                            az: 0,
                        })
                    }
                    Frame::Message { request, message: Message::CreateSegment(spec) } => {
                        self.held.lock().expect("whole").insert((spec.segment, spec.fresh));
                        wire::frame::encode(request, &Message::Done)
                    }
                    other => panic!("unexpected {other:?}"),
                };
                stream.write_all(&answer).expect("answered");
            }
        }
    }

    fn life(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::SeqCst).into())
    }

    fn registration(&self) -> NodeRegistration {
        NodeRegistration {
            name: self.name.parse().expect("valid"),
            az: self.name[..1].parse().expect("valid"),
            address: self.address.clone(),
            http: None,
            incarnation: self.life(),
            cluster: None,
            pid: 1,
            log_life: None,
            holds: None,
            disk_full: false,
            news: None,
        }
    }

    fn held(&self) -> usize {
        self.held.lock().expect("whole").len()
    }
}

fn start(dir: &Path) -> (Control, Client) {
    let replace_after = control::REPLACE_AFTER_DEFAULT;
    let replace_slow_after = control::REPLACE_SLOW_AFTER_DEFAULT;
    let (dir, listen) = (dir.to_owned(), "127.0.0.1:0".to_owned());
    let config = ControlConfig { dir, listen, replace_after, replace_slow_after };
    let control = Control::start(&config, Arc::new(LinkNodes)).expect("started");
    let client = Client::new(&control.address().to_string());
    (control, client)
}

fn six_nodes(client: &Client) -> Vec<Arc<FakeNode>> {
    let nodes: Vec<_> = ["a1", "a2", "b1", "b2", "c1", "c2"].map(FakeNode::start).into();
    for node in &nodes {
        client.register_node(&node.registration()).expect("registered");
    }
    nodes
}

fn create(client: &Client) -> Result<VolumeInfo, registry::Error> {
    let (name, group_bytes, limit_bytes) = ("main".to_owned(), Some(8 << 20), None);
    client.create_volume(&CreateVolume { name, group_bytes, limit_bytes })
}

fn open(client: &Client, volume: &VolumeInfo) -> VolumeInfo {
    let wish = OpenVolume { instance: "writer".to_owned(), expected_epoch: None };
    client.open_volume(volume.id, &wish).expect("opened")
}

/// What the volume's writer tells.
fn beat(volume: &VolumeInfo, state: &str) -> InstanceHeartbeat {
    InstanceHeartbeat {
        epoch: volume.epoch,
        timeline: 2,
        state: state.to_owned(),
        endpoint: "127.0.0.1:5432".to_owned(),
        pid: Some(7),
        daemon_pid: 6,
        data_dir: "/d".to_owned(),
        vdl: Some("0/16B3748".parse().expect("valid")),
        live_bytes: Some(5 << 20),
        ..InstanceHeartbeat::first("writer".to_owned(), InstanceRole::Writer, volume.id)
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_volume_needs_six_nodes_and_is_then_held_by_all_of_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_control, client) = start(dir.path());
    let error = create(&client).expect_err("no nodes");
    assert_eq!(error.code(), Some(ProblemCode::TooFewNodes));
    assert!(error.is_temporary());
    let nodes = six_nodes(&client);
    let volume = create(&client).expect("created");
    assert_eq!((volume.epoch, volume.geometry_epoch, volume.initialized), (0, 1, false));
    let members: Vec<_> = volume.groups[0].members.iter().map(|m| m.node.to_string()).collect();
    assert_eq!(members, ["a1", "a2", "b1", "b2", "c1", "c2"]);
    assert!(nodes.iter().filter(|node| node.held() == 1).count() >= 4);
    assert_eq!(create(&client).expect("again").id, volume.id, "creating is idempotent by name");
}

#[test]
fn with_two_nodes_down_a_group_is_added_and_they_are_told_when_they_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_control, client) = start(dir.path());
    let nodes = six_nodes(&client);
    let volume = open(&client, &create(&client).expect("created"));
    let wish = AddGroup { epoch: volume.epoch, expected_geometry: volume.geometry_epoch };
    nodes[4..].iter().for_each(|node| node.up.store(false, Ordering::SeqCst));
    let added = client.add_group(volume.id, &wish).expect("four of six suffice");
    assert_eq!((added.group.id, added.geometry_epoch), (1, 2));
    let error = client.add_group(volume.id, &wish).expect_err("the geometry has moved on");
    assert_eq!(error.code(), Some(ProblemCode::Changed));
    nodes[4..].iter().for_each(|node| node.up.store(true, Ordering::SeqCst));
    wait_until("the retry reaches c1 and c2", || nodes.iter().all(|node| node.held() == 2));
}

#[test]
fn with_three_nodes_down_no_group_is_added_until_one_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_control, client) = start(dir.path());
    let nodes = six_nodes(&client);
    let volume = open(&client, &create(&client).expect("created"));
    let wish = AddGroup { epoch: volume.epoch, expected_geometry: volume.geometry_epoch };
    nodes[3..].iter().for_each(|node| node.up.store(false, Ordering::SeqCst));
    let error = client.add_group(volume.id, &wish).expect_err("three of six are too few");
    assert_eq!(error.code(), Some(ProblemCode::TooFewNodes));
    assert_eq!(client.volume(volume.id).expect("there").groups.len(), 1);
    nodes[3].up.store(true, Ordering::SeqCst);
    assert_eq!(client.add_group(volume.id, &wish).expect("four now").group.id, 1);
}

#[test]
fn every_open_raises_the_epoch_and_fences_the_one_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let (control, client) = start(dir.path());
    let _nodes = six_nodes(&client);
    let volume = create(&client).expect("created");
    let first = open(&client, &volume);
    let ready = WriterReady { epoch: first.epoch, timeline: 2 };
    assert!(client.writer_ready(volume.id, &ready).expect("current").initialized);
    let wish = OpenVolume { instance: "other".to_owned(), expected_epoch: Some(first.epoch) };
    let second = client.open_volume(volume.id, &wish).expect("compare-and-set holds");
    assert_eq!(second.epoch, first.epoch + 1);
    let lost = client.open_volume(volume.id, &wish).expect_err("the epoch has moved on");
    assert_eq!(lost.code(), Some(ProblemCode::Changed));
    assert!(client.writer_ready(volume.id, &ready).expect_err("fenced").is_fenced());
    let add = AddGroup { epoch: first.epoch, expected_geometry: second.geometry_epoch };
    assert!(client.add_group(volume.id, &add).expect_err("fenced").is_fenced());
    // Epochs outlive the process.
    drop(control);
    let (_control, client) = start(dir.path());
    let after = open(&client, &volume);
    assert_eq!((after.epoch, after.timeline, after.groups.len()), (second.epoch + 1, 2, 1));
}

#[test]
fn nodes_and_writers_are_told_only_what_is_new() {
    let dir = tempfile::tempdir().expect("a directory");
    let (control, client) = start(dir.path());
    let nodes = six_nodes(&client);
    let volume = create(&client).expect("created");
    let told = |client: &Client, news| {
        let registration = NodeRegistration { news, ..nodes[0].registration() };
        client.register_node(&registration).expect("registered")
    };
    wait_until("nothing changes any more", || {
        let news = told(&client, None).news;
        told(&client, Some(news)).segments.is_none()
    });
    let first = told(&client, None);
    assert_eq!(first.segments.as_ref().map(Vec::len), Some(1));
    let again = told(&client, Some(first.news));
    assert_eq!((again.news, again.segments), (first.news, None));
    let on = NodeRegistration { log_life: Some(9), ..nodes[1].registration() };
    client.register_node(&on).expect("its log goes on");
    assert_eq!(told(&client, Some(first.news)).segments, None);
    // A full disk is told to who asks, and no news.
    let full =
        || client.topology().expect("told").nodes.iter().filter(|node| node.disk_full).count();
    for (disk_full, nodes_full) in [(true, 1), (false, 0)] {
        let registration = NodeRegistration { disk_full, ..nodes[2].registration() };
        client.register_node(&registration).expect("registered");
        assert_eq!((full(), told(&client, None).news), (nodes_full, first.news));
    }
    // Another node's address is news to all who have to do with it.
    let moved = NodeRegistration { address: "elsewhere:1".to_owned(), ..nodes[1].registration() };
    client.register_node(&moved).expect("registered");
    let after = told(&client, Some(first.news));
    assert_ne!(after.news, first.news);
    let places = after.segments.expect("told again");
    assert!(places[0].members.iter().any(|member| member.address == "elsewhere:1"));
    let opened = open(&client, &volume);
    assert_ne!(told(&client, Some(after.news)).news, after.news, "epoch {}", opened.epoch);
    // Numbers of an earlier life of the control plane say nothing.
    let last = told(&client, None).news;
    drop(control);
    let (_control, client) = start(dir.path());
    assert_eq!(told(&client, Some(last)).segments.as_ref().map(Vec::len), Some(1));
}

#[test]
fn a_disk_older_than_it_was_is_refused_by_name_until_it_is_wiped() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = FakeNode::start("a1");
    let told = |life| NodeRegistration { log_life: Some(life), ..node.registration() };
    {
        let (_control, client) = start(dir.path());
        client.register_node(&told(3)).expect("new");
        client.register_node(&told(5)).expect("its log goes on");
        client.register_node(&told(5)).expect("the same");
    }
    let (_control, client) = start(dir.path());
    let error = client.register_node(&told(4)).expect_err("an earlier copy");
    assert_eq!(error.code(), Some(ProblemCode::OlderDisk));
    let said = error.to_string();
    assert!(said.contains("node a1") && said.contains("wipe"), "{said}");
    let unknown = NodeRegistration { log_life: None, ..told(0) };
    client.register_node(&unknown).expect("nothing is told");
    assert!(client.register_node(&told(4)).is_err(), "it is not forgotten");
    client.register_node(&told(5)).expect("the very disk");
    node.incarnation.store(2, Ordering::SeqCst);
    client.register_node(&told(1)).expect("wiped");
}

#[test]
fn a_node_back_with_an_empty_disk_is_told_to_rebuild_and_another_zone_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_control, client) = start(dir.path());
    let nodes = six_nodes(&client);
    create(&client).expect("created");
    let same = client.register_node(&nodes[0].registration()).expect("same life");
    assert!(matches!(same.segments.as_deref(), Some([place]) if place.fresh));
    nodes[0].incarnation.store(2, Ordering::SeqCst);
    let wiped = client.register_node(&nodes[0].registration()).expect("another life");
    assert!(matches!(wiped.segments.as_deref(), Some([place]) if !place.fresh));
    wait_until("the retry orders the rebuild", || {
        nodes[0].held.lock().expect("whole").iter().any(|(_, fresh)| !fresh)
    });
    let moved = NodeRegistration { az: "z".parse().expect("valid"), ..nodes[1].registration() };
    let error = client.register_node(&moved).expect_err("a name keeps its zone");
    assert_eq!(error.code(), Some(ProblemCode::Mismatch));
    let foreign =
        NodeRegistration { cluster: Some(types::ClusterId(9)), ..nodes[1].registration() };
    let error = client.register_node(&foreign).expect_err("a disk keeps its cluster");
    assert_eq!(error.code(), Some(ProblemCode::Mismatch));
}

#[test]
fn heartbeats_are_seen_in_the_status_and_tell_the_current_epoch() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_control, client) = start(dir.path());
    let _nodes = six_nodes(&client);
    let volume = open(&client, &create(&client).expect("created"));
    let beat = beat(&volume, "ready");
    assert_eq!(client.heartbeat(&beat).expect("known volume").epoch, volume.epoch);
    let status = client.status().expect("answered");
    assert_eq!(status.instances[0].heartbeat, beat);
    assert!(status.nodes.iter().all(|node| node.seen_ms_ago.is_some()));
    let stranger = InstanceHeartbeat { volume: types::VolumeId(1), ..beat };
    let error = client.heartbeat(&stranger).expect_err("no such volume");
    assert_eq!(error.code(), Some(ProblemCode::NotFound));
}

fn delete(client: &Client, volume: &VolumeInfo, force: bool) -> Result<VolumeUse, registry::Error> {
    client.delete_volume(volume.id, &DeleteVolume { force })
}

#[test]
fn a_volume_that_is_open_is_deleted_only_by_force_and_its_writer_is_told_to_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_control, client) = start(dir.path());
    let _nodes = six_nodes(&client);
    let volume = open(&client, &create(&client).expect("created"));
    // A control plane that has only just started waits until a writer has had time to speak.
    let beating = std::thread::spawn({
        let (client, beat) = (client.clone(), beat(&volume, "ready"));
        move || {
            (0..70).try_for_each(|_| {
                std::thread::sleep(Duration::from_millis(100));
                client.heartbeat(&beat).map(drop)
            })
        }
    });
    let error = delete(&client, &volume, false).expect_err("in use");
    assert_eq!(error.code(), Some(ProblemCode::InUse), "{error}");
    assert!(error.to_string().contains("writer"), "{error}");
    beating.join().expect("no panic").expect("the volume is still there");

    assert!(delete(&client, &volume, true).expect("forced").deleted);
    let error = client.heartbeat(&beat(&volume, "ready")).expect_err("it is over");
    assert!(error.is_fenced() && !error.is_temporary(), "{error}");
    let ready = WriterReady { epoch: volume.epoch, timeline: 2 };
    assert!(client.writer_ready(volume.id, &ready).expect_err("it is over").is_fenced());
    let add = AddGroup { epoch: volume.epoch, expected_geometry: volume.geometry_epoch };
    assert!(client.add_group(volume.id, &add).expect_err("it is over").is_fenced());
    let wish = OpenVolume { instance: "writer".to_owned(), expected_epoch: None };
    let error = client.open_volume(volume.id, &wish).expect_err("it is over");
    assert_eq!(error.code(), Some(ProblemCode::Deleted));
    assert!(client.volumes().expect("answered").is_empty());
}

#[test]
fn one_that_stopped_in_order_has_nothing_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_control, client) = start(dir.path());
    let _nodes = six_nodes(&client);
    let volume = open(&client, &create(&client).expect("created"));
    client.heartbeat(&beat(&volume, "stopped")).expect("known");
    assert!(delete(&client, &volume, false).expect("nobody writes").deleted);
    assert!(delete(&client, &volume, false).expect("again").deleted, "repeating changes nothing");
    let again = create(&client).expect("the name is free");
    assert_ne!(again.id, volume.id);
}

#[test]
fn a_deletion_outlives_the_control_plane_and_is_told_to_whoever_still_holds_something() {
    let dir = tempfile::tempdir().expect("a directory");
    let (control, client) = start(dir.path());
    let nodes = six_nodes(&client);
    let volume = create(&client).expect("created");
    let kept = client.create_volume(&CreateVolume {
        name: "kept".to_owned(),
        group_bytes: None,
        limit_bytes: None,
    });
    let kept = kept.expect("created").id;
    let left = delete(&client, &volume, true).expect("deleted");
    let holders: Vec<_> = left.holders.iter().map(|holder| holder.node.to_string()).collect();
    assert_eq!(holders, ["a1", "a2", "b1", "b2", "c1", "c2"]);
    drop(control);

    let (_control, client) = start(dir.path());
    let of = |volume| SegmentUse { volume, group: 0, file_bytes: 70, log_bytes: 8 };
    let stranger = types::VolumeId(9);
    let told =
        |holds: Vec<SegmentUse>| NodeRegistration { holds: Some(holds), ..nodes[0].registration() };
    let answer = client.register_node(&told(vec![of(volume.id), of(kept), of(stranger)]));
    let answer = answer.expect("registered");
    // What is not known here is not for that reason to be dropped.
    assert_eq!(answer.deleted, [volume.id]);
    assert!(answer.segments.iter().flatten().all(|place| place.volume == kept));
    let holder = |of: types::VolumeId, node: usize| {
        client.volume_use(of).expect("told").holders[node].clone()
    };
    assert_eq!(holder(volume.id, 0).segments, Some(vec![of(volume.id)]));
    assert_eq!(holder(volume.id, 1).segments, None, "it has not told yet");
    assert_eq!(holder(kept, 0).segments, Some(vec![of(kept)]));
    client.register_node(&told(vec![of(kept)])).expect("registered");
    assert_eq!(holder(volume.id, 0).segments, Some(Vec::new()), "freed");
}

#[test]
fn a_limit_is_kept_and_one_below_any_database_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (control, client) = start(dir.path());
    let _nodes = six_nodes(&client);
    let volume = create(&client).expect("created");
    let limit = |client: &Client, bytes| {
        client.limit_volume(volume.id, &LimitVolume { limit_bytes: bytes })
    };
    let error = limit(&client, Some(1 << 20)).expect_err("too small");
    assert_eq!(error.code(), Some(ProblemCode::Invalid));
    assert_eq!(limit(&client, Some(1 << 30)).expect("set").limit_bytes, Some(1 << 30));
    drop(control);
    let (_control, client) = start(dir.path());
    assert_eq!(client.volume(volume.id).expect("there").limit_bytes, Some(1 << 30));
    assert_eq!(limit(&client, None).expect("lifted").limit_bytes, None);
    client.heartbeat(&beat(&volume, "ready")).expect("known");
    assert_eq!(client.volume_use(volume.id).expect("told").live_bytes, Some(5 << 20));
}
