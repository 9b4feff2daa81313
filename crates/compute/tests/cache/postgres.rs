//! The cache under stock PostgreSQL, with storage that has what the last checkpoint had.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use compute::cache::{
    CacheStats, Claimants, Evictor, FetchError, Filler, Limits, Log, PageSource, Server, page,
};
use pgwal::keys::{Fork, Rel};
use seam::{BLOCKS_PER_SEGMENT, SegmentName};
use types::Lsn;

use crate::common::{World, run};

/// Pages from a directory laid out like the data directory.
struct Directory(PathBuf);

impl PageSource for Directory {
    fn pages(
        &self,
        rel: Rel,
        fork: Fork,
        blocks: &[u32],
    ) -> Result<Vec<Option<Bytes>>, FetchError> {
        let page = |block: &u32| {
            let name = SegmentName {
                tablespace: rel.tablespace,
                database: rel.database,
                relation: rel.relation,
                fork: fork as u32,
                segment: block / BLOCKS_PER_SEGMENT,
            };
            let mut bytes = vec![0; 8192];
            let at = u64::from(block % BLOCKS_PER_SEGMENT) * 8192;
            let file = File::open(self.0.join(name.data_path().as_str())).ok()?;
            file.read_exact_at(&mut bytes, at).ok()?;
            Some(Bytes::from(bytes))
        };
        Ok(blocks.iter().map(page).collect())
    }

    fn versions(
        &self,
        rel: Rel,
        fork: Fork,
        blocks: &[u32],
    ) -> Result<Vec<Option<Lsn>>, FetchError> {
        let pages = self.pages(rel, fork, blocks)?;
        Ok(pages.iter().map(|found| found.as_ref().map(|bytes| page::lsn_of(bytes))).collect())
    }
}

/// Everything is durable at once, and what storage has is older than whatever runs.
struct Durable;

impl Log for Durable {
    fn durable(&self) -> Lsn {
        Lsn::MAX
    }

    fn insert_position(&self) -> anyhow::Result<Lsn> {
        Ok(Lsn::ZERO)
    }

    fn hurry(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn running(&self) -> (Lsn, Lsn) {
        (Lsn::MAX, Lsn::MAX)
    }
}

fn check_books(world: &World) {
    let sums = world.psql(
        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history) \
         and (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers) \
         and (select count(*) from pgbench_accounts) = 100000",
    );
    assert_eq!(sums, "t", "the books do not balance");
    world.psql("select bt_index_check('pgbench_accounts_pkey', true)");
    let corrupt = "select count(*) from pg_class, verify_heapam(oid) where relname like 'pgbench%' and relkind = 'r'";
    assert_eq!(world.psql(corrupt), "0");
}

#[test]
fn postgresql_does_not_notice_that_its_pages_come_and_go() {
    let mut world = World::make(54_911);
    world.start_flusher();
    let stats = Arc::new(CacheStats::default());
    let claimants = Claimants::new(world.board, *world.instance);
    let source: Arc<dyn PageSource> = Arc::new(Directory(world.store()));
    let filler = Filler::new(Arc::clone(&claimants), Arc::clone(&source), Arc::clone(&stats));
    let limits = Limits { cache_size: 4 << 20, cache_limit: 1 << 40 };
    let serving =
        Server::start(*world.instance, world.board, filler, Box::new(|_| 0)).expect("started");
    let server = world.start_server();
    // A mark set by vacuum without an LSN would not be in a storage that stands still.
    world.psql("alter system set autovacuum = off");
    world.psql("select pg_reload_conf()");
    world.psql("create extension amcheck");
    run(world.client("pgbench").args(["-i", "-s", "1", "-q", "postgres"]));
    run(world.client("pgbench").args(["-n", "-c", "2", "-t", "100", "postgres"]));
    world.psql("checkpoint");
    world.store_everything();

    let mut evictor =
        Evictor::new(claimants, source, Arc::new(Durable), Arc::clone(&stats), limits);
    let done = evictor.evict_everything().expect("evicted");
    assert!(done.blocks > 1500, "{done:?}");
    assert_eq!(done.different, 0, "{done:?}");
    check_books(&world);

    // Under load: pages newer than storage's stay, all others come and go all the time.
    let stop = AtomicBool::new(false);
    let evicted = std::thread::scope(|scope| {
        let evicting = scope.spawn(|| {
            let mut blocks = 0;
            while !stop.load(SeqCst) {
                blocks += evictor.evict_everything().expect("evicted").blocks;
                std::thread::sleep(Duration::from_millis(20));
            }
            blocks
        });
        run(world.client("pgbench").args(["-n", "-c", "4", "-T", "4", "postgres"]));
        for _ in 0..3 {
            world.psql("select count(*) from pgbench_accounts where abalance > 0");
        }
        stop.store(true, SeqCst);
        evicting.join().expect("no panic")
    });
    assert!(evicted > 1000, "only {evicted} blocks were evicted under load");
    check_books(&world);

    // By size, storage knowing everything again.
    world.psql("checkpoint");
    world.store_everything();
    for _ in 0..20 {
        evictor.turn().expect("evicted");
    }
    let resident = CacheStats::get(&stats.resident_bytes);
    check_books(&world);
    println!("{evicted} evicted under load, then {resident} bytes resident, {stats:?}");
    world.stop_server(server);
    drop(serving);
    assert!(!world.log().contains("PANIC"), "{}", world.log());
}
