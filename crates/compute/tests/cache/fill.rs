//! Absent to present.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use compute::cache::{CacheStats, Server};
use seam::{Reply, Request};

use crate::world::{NAME, World, page};

#[test]
fn a_block_is_fetched_once_however_many_ask() {
    let world = World::absent(4);
    world.memory.store(1, 100, &page(100));
    world.memory.slow.store(100, SeqCst);
    let filler = world.filler();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(filler.fetch(&NAME, 0, 2), Ok(())));
        }
    });
    assert_eq!(world.memory.asked.load(SeqCst), 2);
    assert_eq!(world.absent_blocks(4), [2, 3]);
    assert_eq!(world.local(1), page(100));
    assert_eq!(world.local(0), vec![0; 8192], "no version in storage reads as zeros");
}

#[test]
fn a_page_that_comes_late_does_not_overwrite_a_write() {
    let world = World::absent(2);
    world.memory.store(0, 100, &page(100));
    world.memory.slow.store(200, SeqCst);
    let filler = world.filler();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| filler.fetch(&NAME, 0, 1));
        std::thread::sleep(Duration::from_millis(60));
        let began = Instant::now();
        world.write(0, &page(200));
        assert!(began.elapsed() < Duration::from_millis(80), "a write never waits for storage");
        assert_eq!(reader.join().expect("no panic"), Ok(()));
    });
    assert_eq!(world.local(0), page(200));
    assert_eq!(CacheStats::get(&world.stats.too_late), 1);
}

#[test]
fn a_reader_waits_for_storage_and_gets_its_page() {
    let world = World::absent(1);
    world.memory.store(0, 100, &page(100));
    world.memory.down.store(true, SeqCst);
    let filler = world.filler();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| filler.fetch(&NAME, 0, 1));
        std::thread::sleep(Duration::from_millis(350));
        assert!(!reader.is_finished(), "waits, no error");
        filler.prefetch(&NAME, 0, 1);
        world.memory.down.store(false, SeqCst);
        assert_eq!(reader.join().expect("no panic"), Ok(()));
    });
    assert_eq!(world.local(0), page(100));
}

#[test]
fn stopping_ends_waits_with_an_error() {
    let world = World::absent(1);
    world.memory.down.store(true, SeqCst);
    let filler = world.filler();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| filler.fetch(&NAME, 0, 1));
        std::thread::sleep(Duration::from_millis(50));
        filler.stop();
        assert_eq!(reader.join().expect("no panic"), Err(libc::EIO));
    });
    assert_eq!(world.absent_blocks(1), [0]);
}

#[test]
fn a_file_that_is_gone_or_has_no_map_is_wholly_present() {
    let world = World::absent(1);
    let other = seam::SegmentName { relation: 4711, ..NAME };
    assert_eq!(world.filler().fetch(&other, 0, 9), Ok(()));
    std::fs::remove_file(world.path()).expect("removed");
    assert_eq!(world.filler().fetch(&NAME, 0, 1), Ok(()));
}

#[test]
fn the_server_answers_fetches_and_reads_ahead_of_a_scan() {
    let world = World::absent(100);
    for block in 0..100 {
        world.memory.store(block, 100, &page(100));
    }
    let refused = Box::new(|request: Request| match request {
        Request::Hello { postmaster: true, .. } => 0,
        _ => libc::EPERM,
    });
    let server =
        Server::start(world.instance, world.board, world.filler(), refused).expect("started");
    let mut stream = UnixStream::connect(world.instance.socket().as_str()).expect("connected");
    let mut ask = |request: Request| {
        stream.write_all(&request.encode()).expect("sent");
        let mut bytes = [0; Reply::SIZE];
        stream.read_exact(&mut bytes).expect("answered");
        Reply::decode(&bytes).expect("a reply").errno
    };
    assert_eq!(ask(Request::Hello { pid: 1, postmaster: true }), 0);
    assert_eq!(ask(Request::Hello { pid: 1, postmaster: false }), libc::EPERM);
    for first in [0, 1] {
        assert_eq!(ask(Request::Fetch { name: NAME, first, count: 1, hint: 0 }), 0);
    }
    let end = Instant::now() + Duration::from_secs(5);
    while world.absent_blocks(100).len() > 90 {
        assert!(Instant::now() < end, "nothing was read ahead: {:?}", world.absent_blocks(100));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(world.absent_blocks(100), (10..100).collect::<Vec<u32>>());
    stream
        .write_all(&Request::Prefetch { name: NAME, first: 50, count: 3 }.encode())
        .expect("sent");
    while world.map().state(52).is_absent() {
        assert!(Instant::now() < end, "not prefetched");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(server);
    assert!(UnixStream::connect(world.instance.socket().as_str()).is_err(), "nobody listens");
}
