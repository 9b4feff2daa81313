//! Under endless updates a segment's page files stay below twice its live pages, at every moment, with what is
//! just being written (S8); and reads of cold pages apply few parts.

mod common;

use common::*;
use env::{Disk, MemDisk};
use segstore::{Options, Store};
use types::Lsn;
use wire::{Change, PageAnswer};

/// What a live page takes in a file beside its bytes: its key and position, its share of index and filter.
const OVERHEAD: u64 = 48;
/// Parts that one read of a page from files applies at most: each upper may have as many as a chain has
/// before it gets an image, and so may the base.
const COLD_PARTS_MAX: u64 = 13 * 2 * 4;

struct World {
    disk: MemDisk,
    store: Store,
    model: Model,
    random: Random,
    /// Pages that exist.
    live: Vec<bool>,
    /// Most that files have taken beyond the bound's first term, and of what.
    peak: (u64, u64),
}

impl World {
    fn new(seed: u64, pages: usize) -> World {
        let disk = MemDisk::new();
        let options = Options { base_bytes_min: 1 << 10, ..small() };
        let store = create(&disk, options);
        let live = vec![false; pages];
        World { disk, store, model: Model::new(), random: Random(seed), live, peak: (0, 0) }
    }

    /// Bytes of everything in segments' directories, whether or not a manifest names it.
    fn files(&self) -> u64 {
        let seg = dir().join("seg");
        let dirs = self.disk.list(&seg).expect("lists");
        let of = |name: &String| {
            let inside = seg.join(name);
            let files = self.disk.list(&inside).expect("lists");
            let length = |file: &String| {
                let file = self.disk.open(&inside.join(file), env::Mode::Read);
                file.and_then(|file| file.len()).expect("is there")
            };
            files.iter().map(length).sum::<u64>()
        };
        dirs.iter().map(of).sum()
    }

    fn live_bytes(&self) -> u64 {
        self.live.iter().filter(|live| **live).count() as u64 * (PAGE as u64 + OVERHEAD)
    }

    fn append(&mut self, changes: Vec<Vec<Change>>, length: u64) {
        let parts = changes.into_iter().map(|changes| {
            let length = 20 + self.random.below(length) as usize;
            (changes, body(self.random.next(), length))
        });
        let batch = self.model.batch(parts.collect());
        self.store.append(&[batch_entry(batch)]).expect("appends");
        self.model.settle(Lsn::MAX);
        self.model.settle(Lsn::MAX);
        self.store.advance(SEGMENT, &self.model.report());
    }

    /// Background work until there is none, with a look at the disk after every unit.
    fn work_off(&mut self, bounded: bool) {
        // What one flush writes at most, manifests, and blocks that are not full.
        let slack = 3 * small().flush_bytes;
        while self.store.background().expect("works") {
            let (files, live) = (self.files(), self.live_bytes());
            if bounded {
                assert!(files <= 2 * live + slack, "{files} bytes for {live} of live pages");
                self.peak = self.peak.max((files * 100 / live, live));
            }
        }
    }

    fn update(&mut self, pages: u64, parts: u64) {
        let changes = (0..parts).map(|_| {
            let page = self.random.below(pages);
            self.live[page as usize] = true;
            vec![apply(page)]
        });
        let changes = changes.collect();
        self.append(changes, 90);
    }
}

#[test]
fn files_stay_below_twice_the_live_pages_while_merges_are_under_way() {
    for seed in 0..4 {
        let pages = 400;
        let mut world = World::new(seed, pages as usize);
        let puts = (0..pages).map(|page| vec![Change::Put(key(page), vec![3; PAGE].into())]);
        for chunk in puts.collect::<Vec<_>>().chunks(20) {
            world.append(chunk.to_vec(), 1);
        }
        world.live.fill(true);
        world.work_off(false);
        for _ in 0..600 {
            world.update(pages, 12);
            world.work_off(true);
        }
        for page in 0..pages {
            let answer = world.store.read_page(SEGMENT, &key(page), Lsn::MAX);
            assert!(matches!(answer, PageAnswer::Page { .. }), "page {page}: {answer:?}");
        }
        let stats = world.store.stats();
        assert!(stats.flushes > 60 && stats.files < 48, "{stats:?}");
        assert!(stats.cold_parts_max <= COLD_PARTS_MAX, "{stats:?}");
        assert!(world.peak.0 > 110, "the bound was never tried: {:?}", world.peak);
        world.model.check(&world.store, pages, &[Lsn::MAX]);
        world.store.verify(SEGMENT).expect("every block is whole");
    }
}

#[test]
fn what_grows_shrinks_and_grows_again_stays_bounded_and_right() {
    for seed in 10..14 {
        let mut world = World::new(seed, 300);
        for round in 0..6 {
            for pages in [60u64, 150, 300] {
                for _ in 0..25 {
                    world.update(pages, 10);
                    world.work_off(false);
                }
            }
            // A table is dropped; what is left is bounded again without anything more being written.
            let (from, to) = (20 + round * 10, 280);
            world.append(vec![vec![Change::Delete { from: key(from), to: key(to) }]], 1);
            world.live[from as usize..to as usize].fill(false);
            world.work_off(false);
            world.store.flush_segment(SEGMENT).expect("flushes");
            world.work_off(false);
            let (files, live) = (world.files(), world.live_bytes());
            assert!(files <= 2 * live + 3 * small().flush_bytes, "{files} for {live}, seed {seed}");
            world.model.check(&world.store, 300, &[Lsn::MAX]);
        }
        world.store.verify(SEGMENT).expect("every block is whole");
    }
}
