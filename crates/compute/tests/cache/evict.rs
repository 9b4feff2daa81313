//! Present to absent: rule R4, case by case.

use std::sync::atomic::Ordering::SeqCst;

use compute::cache::CacheStats;
use seam::{Map, SegmentName};

use crate::world::{NAME, World, page};

const ALL: u64 = 0;
const ROOM: u64 = 1 << 40;

#[test]
fn what_the_log_can_give_back_goes_and_comes_back() {
    let world = World::present(8);
    let done = world.evictor(ALL, ROOM).evict_everything().expect("evicted");
    assert_eq!((done.blocks, done.pinned, done.different), (8, 0, 0));
    assert_eq!(world.absent_blocks(8).len(), 8);
    assert_eq!(world.local(3), vec![0; 8192], "punched out");
    assert_eq!(world.filler().fetch(&NAME, 0, 8), Ok(()));
    assert_eq!(world.local(3), page(100));
}

#[test]
fn r4a_only_main_forks_of_permanent_relations_go() {
    let world = World::present(2);
    for (fork, unlogged) in [(1, false), (2, false), (3, false), (0, true)] {
        let name = SegmentName { relation: 20_000 + fork, fork, ..NAME };
        Map::create_absent(&world.instance, &name, 0).expect("map");
        std::fs::write(world.instance.data(&name).as_str(), page(100)).expect("written");
        if unlogged {
            let init = SegmentName { fork: 3, ..name };
            std::fs::write(world.instance.data(&init).as_str(), []).expect("written");
        }
    }
    let done = world.evictor(ALL, ROOM).evict_everything().expect("evicted");
    assert_eq!(done.blocks, 2, "the main fork with nothing beside it");
}

#[test]
fn r4b_a_page_that_storage_does_not_have_stays() {
    let world = World::present(6);
    world.put(0, &page(0)); // never logged
    world.put(1, &page(1)); // a build's fake LSN
    world.put(2, &page(101)); // newer than storage's
    world.memory.pages.lock().expect("not poisoned").remove(&3); // being built
    world.memory.store(4, 150, &page(150)); // an old copy: PostgreSQL has a newer page in memory
    let done = world.evictor(ALL, ROOM).evict_everything().expect("evicted");
    assert_eq!(world.absent_blocks(6), [4, 5]);
    assert_eq!((done.blocks, done.pinned), (2, 4));
}

#[test]
fn r4b_a_record_that_moved_no_lsn_does_not_pin_its_page() {
    let world = World::present(1);
    // As storage tells it after XLOG_HEAP2_VISIBLE: the record's end as version, the old page LSN.
    world.memory.store(0, 140, &page(100));
    let mut evictor = world.evictor(ALL, ROOM);
    assert_eq!(
        evictor.turn().expect("sparing").blocks + evictor.turn().expect("evicted").blocks,
        1
    );
}

#[test]
fn r4b_a_page_grown_but_not_written_and_an_imported_one_may_go() {
    let world = World::present(3);
    // Grown by a record that storage has; its content is in PostgreSQL's buffers.
    world.put(0, &[0; 8192]);
    // Imported: storage's version is the import's, the page is the same.
    world.memory.store(1, 16, &page(100));
    // A page that storage has only in an older state.
    world.memory.store(2, 16, &page(90));
    let done = world.evictor(ALL, ROOM).evict_everything().expect("evicted");
    assert_eq!(world.absent_blocks(3), [0, 1]);
    assert_eq!((done.blocks, done.pinned), (2, 1));
}

#[test]
fn r4c_nothing_goes_before_what_was_inserted_is_durable_nor_if_written_meanwhile() {
    let world = World::present(2);
    world.log.inserted.store(1200, SeqCst);
    std::thread::scope(|scope| {
        let evictor = world.evictor(ALL, ROOM);
        let eviction = scope.spawn(move || evictor.evict_everything());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(world.absent_blocks(2).is_empty(), "the log is durable to 1000 only");
        // The same bytes: only the mark tells that something may have been logged since.
        world.write(1, &page(100));
        world.log.durable.store(1200, SeqCst);
        let done = eviction.join().expect("no panic").expect("evicted");
        assert_eq!((done.blocks, done.pinned), (1, 1));
    });
    assert_eq!(world.absent_blocks(2), [0]);
}

#[test]
fn r4c_a_log_that_no_commit_flushes_is_hurried() {
    let world = World::present(2);
    world.log.inserted.store(1200, SeqCst);
    world.log.lazy.store(true, SeqCst);
    let done = world.evictor(ALL, ROOM).evict_everything().expect("evicted");
    assert_eq!(done.blocks, 2);
}

#[test]
fn r4d_a_page_that_a_running_transaction_may_have_written_stays() {
    let world = World::present(3);
    world.put(1, &page(200));
    world.memory.store(1, 200, &page(200));
    world.put(2, &page(600));
    world.memory.store(2, 600, &page(600));
    world.log.oldest.store(150, SeqCst);
    let done = world.evictor(ALL, ROOM).evict_everything().expect("evicted");
    assert_eq!((world.absent_blocks(3), done.pinned), (vec![0], 2));
    // It has ended, but the log was looked through to 500 only: who runs above is not known.
    world.log.oldest.store(u64::MAX, SeqCst);
    world.log.routed.store(500, SeqCst);
    let done = world.evictor(ALL, ROOM).evict_everything().expect("evicted");
    assert_eq!((world.absent_blocks(3), done.pinned), (vec![0, 1], 1));
    world.log.oldest.store(0, SeqCst); // unknown
    world.log.routed.store(1000, SeqCst);
    assert_eq!(world.evictor(ALL, ROOM).evict_everything().expect("evicted").blocks, 0);
}

#[test]
fn a_page_that_differs_from_storage_is_reported_and_stays() {
    let world = World::present(2);
    let mut marked = page(100);
    marked[10] = 4; // PD_ALL_VISIBLE, which storage's copy does not have
    world.put(1, &marked);
    let done = world.evictor(ALL, ROOM).evict_everything().expect("evicted");
    assert_eq!((done.blocks, done.different), (1, 1));
    assert_eq!(CacheStats::get(&world.stats.different), 1);
    assert_eq!(world.local(1), marked);
}

#[test]
fn a_sequence_is_never_evicted() {
    let world = World::present(1);
    let mut sequence = page(100);
    sequence[14..16].copy_from_slice(&8184u16.to_le_bytes());
    sequence[16..18].copy_from_slice(&8184u16.to_le_bytes());
    sequence[8184..8186].copy_from_slice(&0x1717u16.to_le_bytes());
    world.put(0, &sequence);
    world.memory.store(0, 100, &sequence);
    assert_eq!(world.evictor(ALL, ROOM).evict_everything().expect("evicted").blocks, 0);
}

#[test]
fn the_size_is_kept_by_sparing_what_is_used() {
    let world = World::present(100);
    let map = world.map();
    for block in 0..100 {
        world.write(block, &page(100)); // everything has just been used
    }
    let mut evictor = world.evictor(50 * 8192, ROOM);
    // The hand clears marks on its first way round; then these are used again.
    for block in 0..40 {
        assert!(!map.look(block).is_absent());
    }
    for _ in 0..5 {
        evictor.turn().expect("evicted");
        for block in 0..40 {
            if !map.state(block).is_absent() {
                assert!(!map.look(block).is_absent());
            }
        }
    }
    let gone = world.absent_blocks(100).len();
    assert!((50..60).contains(&gone), "{gone} blocks went, 50 were too many");
    assert!(CacheStats::get(&world.stats.resident_bytes) <= 50 * 8192);
}

#[test]
fn growth_is_refused_past_the_limit_and_allowed_again_below_it() {
    let world = World::present(100);
    world.log.oldest.store(0, SeqCst); // everything is pinned
    let mut evictor = world.evictor(50 * 8192, 90 * 8192);
    evictor.turn().expect("nothing to do");
    evictor.turn().expect("nothing to do");
    assert!(world.board.no_room());
    world.log.oldest.store(u64::MAX, SeqCst);
    evictor.turn().expect("evicted");
    evictor.turn().expect("evicted");
    assert!(!world.board.no_room());
}
