//! An instance's directory with one relation file, and a storage in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use compute::cache::{CacheStats, Claimants, Evictor, FetchError, Filler, Limits, Log, PageSource};
use pgwal::keys::{Fork, Rel};
use seam::{Board, Instance, Map, Mode, SegmentName, SharedBoard};
use types::Lsn;

pub const BLOCK: usize = 8192;
pub const NAME: SegmentName =
    SegmentName { tablespace: 1663, database: 5, relation: 16384, fork: 0, segment: 0 };

/// A heap page without rows, its LSN and a mark in its free space's neighbourhood.
pub fn page(lsn: u64) -> Vec<u8> {
    let mut page = vec![0; BLOCK];
    page[0..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
    page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
    page[12..14].copy_from_slice(&24u16.to_le_bytes());
    for at in [14, 16] {
        page[at..at + 2].copy_from_slice(&8192u16.to_le_bytes());
    }
    page[18..20].copy_from_slice(&8196u16.to_le_bytes());
    page
}

/// Pages by block of the one relation, with the version that storage tells.
#[derive(Default)]
pub struct Memory {
    pub pages: Mutex<BTreeMap<u32, (Lsn, Bytes)>>,
    pub asked: AtomicU64,
    pub down: AtomicBool,
    pub slow: AtomicU64,
}

impl Memory {
    pub fn store(&self, block: u32, version: u64, bytes: &[u8]) {
        let entry = (Lsn(version), Bytes::copy_from_slice(bytes));
        self.pages.lock().expect("not poisoned").insert(block, entry);
    }

    fn answer<T>(
        &self,
        blocks: &[u32],
        of: impl Fn(&(Lsn, Bytes)) -> T,
    ) -> Result<Vec<Option<T>>, FetchError> {
        if self.down.load(SeqCst) {
            return Err(FetchError::Unavailable { what: "pages".into(), why: "down".into() });
        }
        let found = {
            let pages = self.pages.lock().expect("not poisoned");
            blocks.iter().map(|block| pages.get(block).map(&of)).collect()
        };
        std::thread::sleep(Duration::from_millis(self.slow.load(SeqCst)));
        Ok(found)
    }
}

impl PageSource for Memory {
    fn pages(&self, _: Rel, _: Fork, blocks: &[u32]) -> Result<Vec<Option<Bytes>>, FetchError> {
        self.asked.fetch_add(blocks.len() as u64, SeqCst);
        self.answer(blocks, |(_, bytes)| bytes.clone())
    }

    fn versions(&self, _: Rel, _: Fork, blocks: &[u32]) -> Result<Vec<Option<Lsn>>, FetchError> {
        self.answer(blocks, |(version, _)| *version)
    }
}

/// A log that says what the test wants.
pub struct Said {
    pub durable: AtomicU64,
    pub inserted: AtomicU64,
    pub routed: AtomicU64,
    pub oldest: AtomicU64,
    /// Nothing becomes durable before the server is hurried.
    pub lazy: AtomicBool,
}

impl Log for Said {
    fn durable(&self) -> Lsn {
        Lsn(self.durable.load(SeqCst))
    }

    fn insert_position(&self) -> anyhow::Result<Lsn> {
        Ok(Lsn(self.inserted.load(SeqCst)))
    }

    fn hurry(&self) -> anyhow::Result<()> {
        if self.lazy.load(SeqCst) {
            self.durable.store(self.inserted.load(SeqCst), SeqCst);
        }
        Ok(())
    }

    fn running(&self) -> (Lsn, Lsn) {
        (Lsn(self.routed.load(SeqCst)), Lsn(self.oldest.load(SeqCst)))
    }
}

pub struct World {
    pub _root: tempfile::TempDir,
    pub instance: Instance,
    pub board: SharedBoard,
    pub memory: Arc<Memory>,
    pub log: Arc<Said>,
    pub stats: Arc<CacheStats>,
    pub claimants: Arc<Claimants>,
}

impl World {
    /// A relation file of so many blocks, none of them present.
    pub fn absent(blocks: u32) -> World {
        let root = tempfile::tempdir().expect("scratch");
        let path = root.path();
        for directory in ["shm/maps", "pgdata/base/5"] {
            fs::create_dir_all(path.join(directory)).expect("scratch");
        }
        let instance =
            Instance::new(path.to_str().expect("utf-8").as_bytes(), None).expect("short");
        let board = Board::create(&instance, Mode::Write, 16 << 20).expect("board");
        Map::create_absent(&instance, &NAME, blocks).expect("map");
        let data = File::create(instance.data(&NAME).as_str()).expect("file");
        data.set_len(u64::from(blocks) * BLOCK as u64).expect("sparse");
        World {
            claimants: Claimants::new(board, instance),
            memory: Arc::default(),
            log: Arc::new(Said {
                lazy: AtomicBool::new(false),
                durable: AtomicU64::new(1000),
                inserted: AtomicU64::new(1000),
                routed: AtomicU64::new(1000),
                oldest: AtomicU64::new(u64::MAX),
            }),
            stats: Arc::default(),
            instance,
            board,
            _root: root,
        }
    }

    /// The same with every block present and in storage, at LSN 100.
    pub fn present(blocks: u32) -> World {
        let world = World::absent(blocks);
        Map::create_absent(&world.instance, &NAME, 0).expect("map");
        for block in 0..blocks {
            world.put(block, &page(100));
            world.memory.store(block, 100, &page(100));
        }
        world
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(self.instance.data(&NAME).as_str())
    }

    pub fn map(&self) -> Map {
        Map::open(&self.instance, &NAME).expect("map").expect("exists")
    }

    /// Puts bytes into the local file behind everybody's back.
    pub fn put(&self, block: u32, bytes: &[u8]) {
        let file = File::options().write(true).open(self.path()).expect("file");
        file.write_all_at(bytes, u64::from(block) * BLOCK as u64).expect("written");
    }

    /// Writes as PostgreSQL does: under a claim, through the map.
    pub fn write(&self, block: u32, bytes: &[u8]) {
        let extent =
            seam::access::Extent { offset: u64::from(block) * BLOCK as u64, bytes: BLOCK as u64 };
        let wrote = self.claimants.with(|claimant| {
            let fetch = |_, _| Err(libc::EIO);
            seam::access::write_claimed(&self.map(), &NAME, claimant, extent, fetch, || {
                self.put(block, bytes);
                BLOCK as i64
            })
        });
        assert_eq!(wrote, Some(Ok(BLOCK as i64)));
    }

    /// What the local file holds.
    pub fn local(&self, block: u32) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        let file = File::open(self.path()).expect("file");
        file.read_exact_at(&mut bytes, u64::from(block) * BLOCK as u64).expect("read");
        bytes
    }

    pub fn filler(&self) -> Arc<Filler> {
        Filler::new(
            Arc::clone(&self.claimants),
            Arc::clone(&self.memory) as Arc<dyn PageSource>,
            Arc::clone(&self.stats),
        )
    }

    pub fn evictor(&self, cache_size: u64, cache_limit: u64) -> Evictor {
        Evictor::new(
            Arc::clone(&self.claimants),
            Arc::clone(&self.memory) as Arc<dyn PageSource>,
            Arc::clone(&self.log) as Arc<dyn Log>,
            Arc::clone(&self.stats),
            Limits { cache_size, cache_limit },
        )
    }

    pub fn absent_blocks(&self, blocks: u32) -> Vec<u32> {
        let map = self.map();
        (0..blocks).filter(|block| map.state(*block).is_absent()).collect()
    }
}
