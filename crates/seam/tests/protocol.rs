//! The map protocol under threads and processes: what a read returns is never zeros and never
//! older than what was written before it began, whatever is filled and evicted meanwhile; and
//! claims of killed processes do not stop anybody.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use seam::access::{Extent, read_present, write_claimed};
use seam::sys::Mapping;
use seam::{Board, Claimant, Instance, Map, Mode, SegmentName, slot};

const BLOCKS: u32 = 8;
const BLOCK: usize = 8192;
const NAME: SegmentName =
    SegmentName { tablespace: 1663, database: 5, relation: 16384, fork: 0, segment: 0 };

/// What all processes of a test know: the file, its map, and per block the version that was written
/// (`written`) and the version that "storage" has (`stored`).
struct World {
    instance: &'static Instance,
    board: &'static Board,
    map: Map,
    data: File,
    truth: Mapping,
}

impl World {
    fn make(directory: &Path, absent: bool) -> World {
        std::fs::create_dir_all(directory.join("shm/maps")).expect("scratch");
        std::fs::create_dir_all(directory.join("pgdata/base/5")).expect("scratch");
        let place = instance(directory);
        Board::create(place, Mode::Write, 16 << 20).expect("board");
        Map::create_absent(place, &NAME, if absent { BLOCKS } else { 0 }).expect("map");
        let data = File::create(place.data(&NAME).as_str()).expect("data file");
        data.set_len(u64::from(BLOCKS) * BLOCK as u64).expect("sparse");
        let truth = File::create(directory.join("truth")).expect("truth");
        truth.set_len(4096).expect("truth");
        World::open(directory)
    }

    fn open(directory: &Path) -> World {
        let instance = instance(directory);
        let open =
            |path: &Path| OpenOptions::new().read(true).write(true).open(path).expect("exists");
        let truth = open(&directory.join("truth"));
        World {
            instance,
            board: Board::open(instance).expect("board"),
            map: Map::open(instance, &NAME).expect("map").expect("exists"),
            data: open(Path::new(instance.data(&NAME).as_str())),
            truth: Mapping::shared(truth.as_raw_fd(), 4096).expect("mapped"),
        }
    }

    #[expect(unsafe_code, reason = "test memory shared between processes")]
    fn cell(&self, index: u32) -> &AtomicU64 {
        assert!(index < 512);
        // SAFETY: inside the 4096 mapped bytes, aligned, only used as an atomic.
        unsafe { self.truth.start().cast::<AtomicU64>().add(index as usize).as_ref() }
    }

    /// Highest version whose write has returned.
    fn written(&self, block: u32) -> &AtomicU64 {
        self.cell(block)
    }

    /// Version that storage would answer with.
    fn stored(&self, block: u32) -> &AtomicU64 {
        self.cell(BLOCKS + block)
    }

    fn stop(&self) -> bool {
        self.cell(500).load(SeqCst) != 0
    }

    fn claimant(&self) -> Claimant<'static> {
        Claimant::enter(self.board, self.instance).expect("places")
    }

    /// Puts the stored version in place, as late as `delay` says.
    fn fill(&self, block: u32, claimant: Claimant<'_>, delay: bool) {
        let seen = self.map.state(block);
        let version = self.stored(block).load(SeqCst);
        if delay {
            std::thread::sleep(Duration::from_micros(300));
        }
        claimant.publish(&NAME, block, 1);
        if self.map.claim_fill(block, seen, claimant) {
            self.data.write_all_at(&page(version), at(block)).expect("write");
            self.map.release_present(block);
        }
        claimant.retire();
    }

    fn read(&self, block: u32, claimant: Claimant<'_>) -> Vec<u64> {
        let mut bytes = vec![0; BLOCK];
        let extent = Extent { offset: at(block), bytes: BLOCK as u64 };
        let fetch = |first, count| {
            (first..first + count).for_each(|block| self.fill(block, claimant, false));
            Ok(())
        };
        let file = &self.data;
        read_present(&self.map, extent, fetch, || {
            file.read_exact_at(&mut bytes, at(block)).expect("read")
        })
        .expect("fetched");
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8"))).collect()
    }

    fn write(&self, block: u32, version: u64, claimant: Claimant<'_>) {
        let extent = Extent { offset: at(block), bytes: BLOCK as u64 };
        let fetch = |_, _| Err(libc::EIO);
        let wrote = write_claimed(&self.map, &NAME, claimant, extent, fetch, || {
            self.data.write_all_at(&page(version), at(block)).expect("write");
            BLOCK as i64
        });
        assert_eq!(wrote, Ok(BLOCK as i64));
    }

    /// Evicts as rule R4 allows: not written since the mark was cleared, and storage has it.
    fn evict(&self, block: u32, claimant: Claimant<'_>) -> bool {
        self.map.clear_written(block);
        std::thread::yield_now();
        claimant.publish(&NAME, block, 1);
        let mut evicted = false;
        if self.map.claim_evict(block, claimant) {
            let mut head = [0; 8];
            self.data.read_exact_at(&mut head, at(block)).expect("read");
            if u64::from_le_bytes(head) == self.stored(block).load(SeqCst) {
                self.map.make_absent(block);
                self.punch(block);
                evicted = true;
            }
            self.map.release_unchanged(block);
        }
        claimant.retire();
        evicted
    }

    #[expect(unsafe_code, reason = "hole punching has no safe wrapper here")]
    fn punch(&self, block: u32) {
        let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (from, length) = (at(block).cast_signed(), BLOCK as i64);
        // SAFETY: a call on a descriptor of ours, without memory.
        let result = unsafe { libc::fallocate(self.data.as_raw_fd(), how, from, length) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

fn instance(directory: &Path) -> &'static Instance {
    let path = directory.to_str().expect("utf-8").as_bytes();
    Box::leak(Box::new(Instance::new(path, None).expect("short path")))
}

fn at(block: u32) -> u64 {
    u64::from(block) * BLOCK as u64
}

fn page(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(BLOCK / 8)
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("seam-{name}-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&path));
    path
}

fn child(directory: &Path, role: &str) -> Child {
    Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "worker", "--ignored", "--nocapture", "--quiet"])
        .env("WORKER", role)
        .env("WORLD", directory)
        .spawn()
        .expect("worker starts")
}

/// Writes its own blocks (PostgreSQL lets one process at a time write a block) and checks all.
fn play_postgres(world: &World, number: u32) -> u64 {
    let claimant = world.claimant();
    let mut rounds = 0;
    while !world.stop() {
        for block in 0..BLOCKS {
            let least = world.written(block).load(SeqCst);
            let seen = world.read(block, claimant);
            let worst = seen.iter().min().copied().expect("not empty");
            assert!(worst >= least && worst > 0, "block {block}: read {worst}, wrote {least}");
            if block % 2 == number && rounds % 3 == 0 {
                let version = world.written(block).load(SeqCst) + 1;
                world.write(block, version, claimant);
                world.written(block).store(version, SeqCst);
                // Storage hears of it a moment later; until then the block may not be evicted.
                std::thread::yield_now();
                world.stored(block).store(version, SeqCst);
            }
        }
        rounds += 1;
    }
    claimant.leave();
    rounds
}

fn play_driver(world: &World, late: bool) -> u64 {
    let claimant = world.claimant();
    let mut evicted = 0;
    while !world.stop() {
        for block in 0..BLOCKS {
            if late {
                world.fill(block, claimant, true);
            } else {
                evicted += u64::from(world.evict(block, claimant));
            }
        }
    }
    claimant.leave();
    evicted
}

#[test]
#[ignore = "run by the other tests as a process of its own"]
fn worker() {
    let (Ok(role), Some(directory)) = (std::env::var("WORKER"), std::env::var_os("WORLD")) else {
        return;
    };
    let world = World::open(Path::new(&directory));
    match role.as_str() {
        "0" | "1" => drop(play_postgres(&world, role.parse().expect("number"))),
        "hold" => {
            let claimant = world.claimant();
            claimant.publish(&NAME, 0, 3);
            world.map.claim_write(0, claimant);
            world.map.claim_write(1, claimant);
            world.cell(501).store(1, SeqCst);
            std::thread::sleep(Duration::from_secs(60));
        }
        other => panic!("unknown role {other}"),
    }
}

#[test]
fn reads_are_never_zeros_nor_stale_while_blocks_come_and_go() {
    let directory = scratch("hammer");
    let world = World::make(&directory, true);
    for block in 0..BLOCKS {
        world.written(block).store(1, SeqCst);
        world.stored(block).store(1, SeqCst);
    }
    let mut children = [child(&directory, "0"), child(&directory, "1")];
    let (evicted, rounds) = std::thread::scope(|scope| {
        let late = scope.spawn(|| play_driver(&world, true));
        let evictor = scope.spawn(|| play_driver(&world, false));
        let reader = scope.spawn(|| play_postgres(&world, 99));
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end
            && children.iter_mut().all(|c| c.try_wait().expect("own child").is_none())
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        world.cell(500).store(1, SeqCst);
        late.join().expect("late filler");
        (evictor.join().expect("evictor"), reader.join().expect("reader"))
    });
    for mut child in children {
        assert!(child.wait().expect("own child").success(), "a worker saw a wrong block");
    }
    let writes: u64 = (0..BLOCKS).map(|block| world.written(block).load(SeqCst)).sum();
    println!("{evicted} evictions, {rounds} rounds of reads, {writes} writes");
    assert!(evicted > 100 && rounds > 100 && writes > 100, "nothing was tested");
    for block in 0..BLOCKS {
        assert!(!world.map.state(block).is_claimed(), "block {block} is still claimed");
    }
    std::fs::remove_dir_all(&directory).expect("scratch");
}

#[test]
fn claims_of_a_killed_process_are_undone_and_what_it_wrote_is_absent() {
    let directory = scratch("killed");
    let world = World::make(&directory, false);
    world.map.claim_write(2, world.claimant());
    world.map.release_present(2);
    let mut holder = child(&directory, "hold");
    while world.cell(501).load(SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(world.map.state(0).is_claimed());
    holder.kill().expect("own child");
    // Not reaped on purpose: a zombie is dead to us.
    let started = Instant::now();
    world.stored(1).store(7, SeqCst);
    world.write(0, 5, world.claimant());
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(!world.map.state(0).is_absent(), "written again since");
    assert!(world.map.state(1).is_absent(), "torn: to come back from storage");
    assert!(!world.map.state(2).is_absent(), "published, but never claimed");
    assert!(world.read(1, world.claimant()).iter().all(|word| *word == 7));
    holder.wait().expect("own child");
    slot::sweep(world.board, world.instance);
    std::fs::remove_dir_all(&directory).expect("scratch");
}

#[test]
fn a_fill_that_was_asked_for_before_an_eviction_comes_too_late() {
    let directory = scratch("late");
    let world = World::make(&directory, true);
    let claimant = world.claimant();
    let seen = world.map.state(0);
    world.write(0, 3, claimant);
    world.stored(0).store(3, SeqCst);
    assert!(!world.map.claim_fill(0, seen, claimant), "present: the write has won");
    assert!(world.evict(0, claimant));
    assert!(
        !world.map.claim_fill(0, seen, claimant),
        "absent again, but the page asked for is old"
    );
    let seen = world.map.state(0);
    assert!(world.map.claim_fill(0, seen, claimant));
    world.map.release_present(0);
    std::fs::remove_dir_all(&directory).expect("scratch");
}

#[test]
fn a_block_written_since_its_mark_was_cleared_is_not_evicted() {
    let directory = scratch("written");
    let world = World::make(&directory, false);
    let claimant = world.claimant();
    world.write(0, 1, claimant);
    assert!(!world.map.claim_evict(0, claimant));
    world.map.clear_written(0);
    world.write(0, 2, claimant);
    assert!(!world.map.claim_evict(0, claimant));
    world.map.clear_written(0);
    assert!(world.map.claim_evict(0, claimant));
    world.map.release_unchanged(0);
    std::fs::remove_dir_all(&directory).expect("scratch");
}

#[test]
fn what_a_truncated_file_grows_by_is_present() {
    let directory = scratch("truncate");
    let world = World::make(&directory, true);
    let claimant = world.claimant();
    let seen = world.map.state(5);
    seam::access::discard(&world.map, &NAME, claimant, 4..BLOCKS, || {
        world.data.set_len(4 * 8192).is_ok()
    });
    assert!(world.map.state(3).is_absent());
    assert!(!world.map.state(4).is_absent());
    assert!(!world.map.claim_fill(5, seen, claimant), "a late fill must not make the file grow");
    seam::access::discard(&world.map, &NAME, claimant, 0..4, || false);
    assert!(world.map.state(3).is_absent(), "the truncation failed: nothing has changed");
    std::fs::remove_dir_all(&directory).expect("scratch");
}
