//! What records mean for groups: parts, bodies, and the catalog entries that redo cannot know.

use bytes::Bytes;
use compute::catalog::Catalog;
use compute::riders::Rider;
use compute::router::Router;
use compute::xids::Xids;
use pgwal::build::{self, Draft};
use pgwal::keys::{Fork, Key, Rel};
use pgwal::layout::op::{rm, xlog};
use pgwal::record::{BlockImage, BlockRef, Compression};
use pgwal::{CheckPoint, Record};
use types::{GroupId, Lsn, PageKey, Span};
use wire::Change;

const REL: Rel = Rel { tablespace: 1663, database: 5, relation: 16384 };

fn router(groups: u32) -> Router {
    Router::new(Catalog::new(1 << 20, (0..groups).map(GroupId)), Xids::new(700), false)
}

fn image(id: u8, block: u32) -> BlockRef {
    let image = BlockImage {
        stored: Bytes::from(vec![7; 8192]),
        hole_offset: 0,
        hole_length: 0,
        compression: Compression::None,
        apply: true,
    };
    BlockRef {
        id,
        rel: REL,
        fork: Fork::Main,
        block,
        will_init: false,
        image: Some(image),
        data: Bytes::new(),
    }
}

fn record(rmid: u8, info: u8, blocks: Vec<BlockRef>, main: &[u8]) -> Record {
    let main = Bytes::copy_from_slice(main);
    let draft = Draft { rmid, info, blocks, main, ..Draft::default() };
    let bytes = draft.encode(Lsn(0x100)).expect("a record");
    let start = Lsn(0x10_0028);
    let span = Span { start, end: start.plus(bytes.len() as u64).aligned() };
    Record::parse(span, bytes).expect("parses")
}

fn routed(router: &mut Router, record: &Record) -> protocol::Record {
    router.route(record).expect("known")
}

#[test]
fn a_record_without_changes_goes_to_the_catalogs_group_with_its_bytes() {
    let noop = record(rm::XLOG, xlog::NOOP, vec![], b"");
    let found = routed(&mut router(3), &noop);
    assert_eq!(found.parts, [(GroupId(0), vec![], noop.bytes.clone())]);
    assert_eq!((found.span, found.prev), (noop.span, noop.prev));
}

#[test]
fn a_block_is_applied_in_its_extents_group_and_its_size_is_put_in_the_catalog() {
    let mut router = router(3);
    let images = record(rm::XLOG, xlog::FPI, vec![image(0, 4)], b"");
    let found = routed(&mut router, &images);
    let groups: Vec<_> = found.parts.iter().map(|(group, ..)| *group).collect();
    assert_eq!(groups, [GroupId(0), GroupId(2)], "ascending, the newest group takes the extent");
    let (_, catalog, body) = &found.parts[0];
    assert!(body.is_empty(), "nothing there applies the record");
    let put = |key: Key, number: u32| {
        Change::Put(key.encode(), Bytes::copy_from_slice(&number.to_le_bytes()))
    };
    assert_eq!(
        *catalog,
        [put(Key::Extent(REL, Fork::Main, 0), 2), put(Key::RelSize(REL, Fork::Main), 5)]
    );
    let (_, changes, body) = &found.parts[1];
    assert_eq!(*changes, [Change::Apply(Key::Block(REL, Fork::Main, 4).encode())]);
    assert_eq!(*body, images.bytes);

    // Written again, nothing of the catalog changes: one part.
    let again = routed(&mut router, &images);
    assert_eq!(again.parts.len(), 1);
}

#[test]
fn every_group_that_applies_a_record_has_its_bytes() {
    let mut router = router(1);
    routed(&mut router, &record(rm::XLOG, xlog::FPI, vec![image(0, 0)], b""));
    router.catalog.add_group(GroupId(1));
    // 128 blocks an extent: block 200 lies in the next one, in the new group.
    let both = record(rm::XLOG, xlog::FPI, vec![image(0, 0), image(1, 200)], b"");
    let found = routed(&mut router, &both);
    assert_eq!(found.parts.len(), 2);
    assert!(found.parts.iter().all(|(_, _, body)| *body == both.bytes));
}

#[test]
fn a_shutdown_checkpoint_changes_the_counters_and_ends_all_transactions() {
    let mut router = router(1);
    let mut running = record(rm::XLOG, xlog::NOOP, vec![], b"");
    running.xid = 800;
    routed(&mut router, &running);
    assert_ne!(router.xids.oldest_running(), Lsn::MAX);
    let checkpoint = CheckPoint { next_xid: 900, ..CheckPoint::default() };
    let bytes = build::shutdown_checkpoint(&checkpoint, Lsn(0x100));
    let span = Span { start: Lsn(0x200), end: Lsn(0x278) };
    let found = routed(&mut router, &Record::parse(span, bytes).expect("parses"));
    assert_eq!(found.parts[0].1, [Change::Apply(Key::State.encode())]);
    assert_eq!(router.xids.oldest_running(), Lsn::MAX);
    assert!(router.xids.next() >= 900);
}

#[test]
fn a_record_that_is_not_known_is_an_error_that_names_it() {
    let odd = record(rm::XLOG, 0xf0, vec![], b"");
    let error = router(1).route(&odd).expect_err("unknown").to_string();
    assert!(error.contains("0xf0") && error.contains("XLOG"), "{error}");
    let custom = record(200, 0, vec![], b"");
    assert!(router(1).route(&custom).is_err());
}

/// A carrier: a logical message with the daemon's prefix.
fn carrier(prefix: &str) -> Record {
    let mut main = vec![0; 24];
    main[8] = u8::try_from(prefix.len() + 1).expect("short");
    main.extend_from_slice(prefix.as_bytes());
    main.push(0);
    record(rm::LOGICALMSG, 0, vec![], &main)
}

fn puts(record: &protocol::Record) -> Vec<PageKey> {
    let changes = record.parts.iter().flat_map(|(_, changes, _)| changes);
    let keys = changes.filter_map(|change| match change {
        Change::Put(key, _) => Some(*key),
        _ => None,
    });
    keys.collect()
}

#[test]
fn a_small_file_rides_on_the_next_carrier_and_on_nothing_else() {
    let mut router = router(1);
    let number = router.riders.add([Rider::File(3, Bytes::from_static(b"work_mem = 1MB"))]);
    for other in [record(rm::XLOG, xlog::NOOP, vec![], b""), carrier("sixfolds")] {
        assert!(puts(&routed(&mut router, &other)).is_empty());
    }
    assert!(!router.riders.has_left(number));
    let found = routed(&mut router, &carrier("sixfold"));
    assert!(router.riders.has_left(number));
    assert_eq!(puts(&found), [Key::File(3).encode()]);
    assert!(!found.parts[0].2.is_empty(), "the record's bytes are somewhere");
    assert!(puts(&routed(&mut router, &carrier("sixfold"))).is_empty());
}

#[test]
fn free_space_of_a_relation_that_is_gone_is_not_kept() {
    let mut router = router(2);
    let page = |byte: u8| Bytes::from(vec![byte; 8192]);
    routed(&mut router, &record(rm::XLOG, xlog::FPI, vec![image(0, 4)], b""));
    let gone = Rel { relation: 9, ..REL };
    router.riders.add([Rider::FreeSpace(gone, 2, page(1)), Rider::FreeSpace(REL, 2, page(2))]);
    let keys = puts(&routed(&mut router, &carrier("sixfold")));
    assert!(keys.contains(&Key::Block(REL, Fork::Fsm, 2).encode()));
    assert_eq!(router.catalog.blocks(REL, Fork::Fsm), Some(3));
    assert_eq!(router.catalog.blocks(gone, Fork::Fsm), None, "a map without a relation");
}

#[test]
fn a_carrier_takes_a_bounded_load_and_keeps_the_order() {
    let mut router = router(1);
    let file = |number| Rider::File(number, Bytes::from(vec![0; 600 << 10]));
    let last = router.riders.add((1..=5).map(file));
    for expected in [vec![1, 2], vec![3, 4], vec![5]] {
        assert!(!router.riders.has_left(last));
        let found = puts(&routed(&mut router, &carrier("sixfold")));
        let expected: Vec<_> = expected.into_iter().map(|n| Key::File(n).encode()).collect();
        assert_eq!(found, expected);
    }
    assert!(router.riders.has_left(last));
}
