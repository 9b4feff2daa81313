//! Pages from storage nodes: real connections, nodes that answer, refuse, dawdle or are dead.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use compute::cache::{CacheStats, FetchError, PageSource as _, Route, StorageReader, VolumeView};
use link::Party;
use pgwal::keys::{Fork, Key, Rel};
use types::{ClusterId, GroupId, Incarnation, Lsn, NodeId, PageKey, VolumeId};
use wire::{Decoder, Frame, Message, PageAnswer, Refusal, Speaker, Welcome, frame};

const REL: Rel = Rel { tablespace: 1663, database: 5, relation: 16384 };

#[derive(Clone, Copy)]
enum Manner {
    Prompt,
    Refuses,
    Dawdles(u64),
    Hangs,
    /// Takes connections, and does not even greet.
    Stands,
    /// Has this block damaged.
    Rotten(u32),
}

/// A node that answers every page with its own number, in its manner.
struct Node {
    id: NodeId,
    address: String,
    asked: Arc<AtomicU64>,
}

fn node(number: u8, manner: Manner) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let address = listener.local_addr().expect("bound").to_string();
    let id: NodeId = format!("n{number}").parse().expect("name");
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            let counter = Arc::clone(&counter);
            std::thread::spawn(move || {
                let mut decoder = Decoder::new();
                let mut bytes = [0; 4096];
                loop {
                    while let Some(frame) = decoder.next().expect("well-formed") {
                        match frame {
                            Frame::Hello(_) if matches!(manner, Manner::Stands) => {}
                            Frame::Hello(_) => {
                                let incarnation = Incarnation(1);
                                let welcome = Welcome { node: id, incarnation, az: b'a' };
                                stream.write_all(&frame::encode_welcome(&welcome)).expect("sent");
                                decoder.established();
                            }
                            Frame::Message { request, message } => {
                                counter.fetch_add(1, SeqCst);
                                let Some(answer) = answer(number, manner, &message) else {
                                    continue;
                                };
                                if stream.write_all(&frame::encode(request, &answer)).is_err() {
                                    return;
                                }
                            }
                            _ => return,
                        }
                    }
                    match stream.read(&mut bytes) {
                        Ok(0) | Err(_) => return,
                        Ok(count) => decoder.feed(&bytes[..count]),
                    }
                }
            });
        }
    });
    Node { id, address, asked }
}

fn answer(number: u8, manner: Manner, message: &Message) -> Option<Message> {
    match manner {
        Manner::Prompt | Manner::Rotten(_) => {}
        Manner::Dawdles(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
        Manner::Hangs | Manner::Stands => return None,
        Manner::Refuses => {
            return Some(Message::Refused(Refusal::Behind { scl: Lsn(1), asked: Lsn(2) }));
        }
    }
    Some(match message {
        Message::ReadPages { keys, read_point, .. } => {
            assert_eq!(*read_point, Lsn(77));
            let rotten = |key: &PageKey| matches!(manner, Manner::Rotten(block) if Key::Block(REL, Fork::Main, block).encode() == *key);
            let page = |key: &PageKey| match rotten(key) {
                true => PageAnswer::Failed(Refusal::Damaged("a block".to_owned())),
                false => PageAnswer::Page { version: Lsn(5), bytes: vec![number; 8].into() },
            };
            Message::Pages(keys.iter().map(page).collect())
        }
        Message::ReadVersions { keys, .. } => {
            Message::Versions(keys.iter().map(|_| Some(Lsn(u64::from(number)))).collect())
        }
        _ => Message::Done,
    })
}

/// Blocks below 1000 in group 0, below 2000 in group 1, none above.
struct View(Vec<Vec<(NodeId, String)>>, Vec<NodeId>);

impl VolumeView for View {
    fn volume(&self) -> VolumeId {
        VolumeId(9)
    }

    fn group_of(&self, _: Rel, _: Fork, block: u32) -> Option<GroupId> {
        (block < 2000).then_some(GroupId(block / 1000))
    }

    fn route(&self, group: GroupId) -> Route {
        let readers = self.0.get(group.0 as usize).cloned().unwrap_or_default();
        Route { read_point: Lsn(77), complete_to: Lsn(70), readers, suspects: self.1.clone() }
    }
}

fn reader(groups: &[&[&Node]]) -> (StorageReader, Arc<CacheStats>) {
    reader_suspecting(groups, &[])
}

fn reader_suspecting(groups: &[&[&Node]], suspects: &[&Node]) -> (StorageReader, Arc<CacheStats>) {
    let members = |nodes: &&[&Node]| nodes.iter().map(|n| (n.id, n.address.clone())).collect();
    let party = Party {
        cluster: ClusterId(3),
        from: Speaker::Instance { name: "w".parse().expect("name"), volume: VolumeId(9) },
        az: None,
        az_latency: Duration::ZERO,
    };
    let stats = Arc::new(CacheStats::default());
    let suspects = suspects.iter().map(|node| node.id).collect();
    let view = Arc::new(View(groups.iter().map(members).collect(), suspects));
    (StorageReader::new(party, view, Arc::clone(&stats)), stats)
}

fn read(reader: &StorageReader, blocks: &[u32]) -> Vec<Option<u8>> {
    let pages = reader.pages(REL, Fork::Main, blocks).expect("answered");
    pages.iter().map(|page| page.as_ref().map(|page| page[0])).collect()
}

#[test]
fn each_group_is_asked_for_its_blocks_and_answers_keep_their_order() {
    let (one, two) = (node(1, Manner::Prompt), node(2, Manner::Prompt));
    let (reader, _) = reader(&[&[&one], &[&two]]);
    assert_eq!(
        read(&reader, &[1500, 3, 9999, 1501, 4]),
        [Some(2), Some(1), None, Some(2), Some(1)]
    );
    let versions = reader.versions(REL, Fork::Main, &[3, 1500]).expect("answered");
    assert_eq!(versions, [Some(Lsn(1)), Some(Lsn(2))]);
    assert_eq!((one.asked.load(SeqCst), two.asked.load(SeqCst)), (2, 2));
}

#[test]
fn a_refusal_or_a_dead_node_means_the_next_one_and_is_remembered() {
    let (refuses, prompt) = (node(1, Manner::Refuses), node(2, Manner::Prompt));
    let gone = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("bound");
    let dead =
        Node { id: "n3".parse().expect("name"), address: gone.to_string(), asked: Arc::default() };
    let (reader, _) = reader(&[&[&dead, &refuses, &prompt]]);
    let began = Instant::now();
    assert_eq!(read(&reader, &[1]), [Some(2)]);
    assert_eq!(read(&reader, &[1]), [Some(2)]);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(refuses.asked.load(SeqCst), 1, "shunned for a while");
}

#[test]
fn a_late_node_is_not_waited_for() {
    let (slow, prompt) = (node(1, Manner::Dawdles(700)), node(2, Manner::Prompt));
    let (reader, stats) = reader(&[&[&slow, &prompt]]);
    let began = Instant::now();
    assert_eq!(read(&reader, &[1]), [Some(2)]);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(CacheStats::get(&stats.hedged), 1);
    // The connection to the late one is still good: its old answer is skipped.
    std::thread::sleep(Duration::from_millis(800));
    for _ in 0..10 {
        assert!(read(&reader, &[1])[0].is_some());
    }
}

#[test]
fn a_node_that_does_not_answer_is_waited_for_once_and_asked_last_from_then_on() {
    for manner in [Manner::Hangs, Manner::Stands, Manner::Dawdles(300)] {
        let (bad, prompt, other) =
            (node(1, manner), node(2, Manner::Prompt), node(3, Manner::Prompt));
        let (reader, stats) = reader(&[&[&bad, &prompt, &other]]);
        for _ in 0..50 {
            assert!(matches!(read(&reader, &[1])[..], [Some(2 | 3)]));
        }
        let (hedged, asked) = (CacheStats::get(&stats.hedged), bad.asked.load(SeqCst));
        assert!(hedged <= 5 && asked <= 1, "{hedged} {asked}");
        assert!(hedged >= 1, "it was late, and not waited for until its connection failed");
    }
}

#[test]
fn a_suspect_node_is_asked_only_when_the_others_cannot_answer() {
    let (suspect, prompt, refuses) =
        (node(1, Manner::Prompt), node(2, Manner::Prompt), node(3, Manner::Refuses));
    let (reader, _) =
        reader_suspecting(&[&[&suspect, &prompt], &[&suspect, &refuses]], &[&suspect]);
    for _ in 0..50 {
        assert_eq!(read(&reader, &[1]), [Some(2)]);
    }
    assert_eq!(suspect.asked.load(SeqCst), 0);
    assert_eq!(read(&reader, &[1001]), [Some(1)]);
}

#[test]
fn members_that_each_have_another_block_damaged_answer_together() {
    let (one, two) = (node(1, Manner::Rotten(3)), node(2, Manner::Rotten(5)));
    let (reader, _) = reader(&[&[&one, &two]]);
    let found = read(&reader, &[3, 4, 5]);
    assert!(matches!(found[..], [Some(2), Some(1 | 2), Some(1)]), "{found:?}");
    let both = [node(1, Manner::Rotten(4)), node(2, Manner::Rotten(4))];
    let (reader, _) = self::reader(&[&[&both[0], &both[1]]]);
    let error = reader.pages(REL, Fork::Main, &[3, 4, 5]).expect_err("nobody has it whole");
    assert!(error.to_string().contains("block 4 of"), "{error}");
}

#[test]
fn when_nobody_answers_the_error_says_who_said_what() {
    let (hangs, refuses) = (node(1, Manner::Hangs), node(2, Manner::Refuses));
    let (reader, _) = reader(&[&[&hangs, &refuses], &[]]);
    let began = Instant::now();
    let error = reader.pages(REL, Fork::Main, &[1]).expect_err("nobody can");
    assert!(began.elapsed() < Duration::from_secs(8));
    let FetchError::Unavailable { why, .. } = error else { panic!("{error}") };
    assert!(why.contains("n1: no answer") && why.contains("n2: complete only to"), "{why}");
    let error = reader.pages(REL, Fork::Main, &[1500]).expect_err("nobody is there");
    assert!(error.to_string().contains("no member is known to be complete"), "{error}");
}
