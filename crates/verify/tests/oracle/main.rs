//! PostgreSQL itself as the judge: with `wal_consistency_checking` it writes the page that each
//! record must lead to, and at its end its files are what the whole log must lead to. Every type of
//! record that it can write must be among them.

mod coverage;
mod damage;
mod files;
mod server;
mod workload;

use std::collections::{BTreeMap, HashMap};

use pgwal::Record;
use pgwal::keys::Key;
use pgwal::layout::op::{heap, rm};
use verify::replay::Before;
use verify::{DataDirectory, NoImages, Replay, WalDirectory, table};

use server::{Server, is_installed};

const SETTINGS: &str = "
    wal_consistency_checking = 'all'
    full_page_writes = off
    fsync = off
    autovacuum = off
    wal_level = logical
    wal_compression = lz4
    max_wal_size = '16GB'
    checkpoint_timeout = '1h'
    wal_keep_size = '16GB'
    max_prepared_transactions = 10
    track_commit_timestamp = on
    shared_buffers = '256MB'
    bgwriter_lru_maxpages = 0
    log_min_messages = warning
    client_min_messages = warning
    maintenance_work_mem = '64MB'
";
/// Just below the end of a segment of transaction status, so that the first can be removed.
const FIRST_XID: u32 = 1_048_000;
/// How many records of a kind are also tried with damage, for each block reference.
const DAMAGED_EACH: u64 = 12;

/// What the test notes of records, besides what the replay does.
#[derive(Default)]
struct Notes {
    /// The manager that wrote a block last.
    last: HashMap<Key, u8>,
    damaged_kinds: BTreeMap<(u8, u8, u8), u64>,
    damaged: u64,
    /// Flags of all heap DELETE records.
    delete_flags: u8,
    /// Start of the last record.
    last_start: types::Lsn,
}

impl Notes {
    fn record(&mut self, record: &Record, replay: &mut Replay<DataDirectory>) {
        self.last_start = record.span.start;
        let kind = pgwal::effects::kind(record).expect("a known record");
        if (record.rmid, kind) == (rm::HEAP, heap::DELETE) {
            self.delete_flags |= record.main[7];
        }
        for block in &record.blocks {
            let key = Key::Block(block.rel, block.fork, block.block);
            if record.rmid != rm::XLOG {
                self.last.insert(key, record.rmid);
            }
            let tried = self.damaged_kinds.entry((record.rmid, kind, block.id)).or_default();
            *tried += 1;
            if *tried <= DAMAGED_EACH {
                let page = match replay.page(key).expect("readable") {
                    Before::Known(page) => page,
                    _ => Vec::new(),
                };
                self.damaged += damage::try_all(key, &page, record, *tried);
            }
        }
        let effects = pgwal::effects(record).expect("known effects");
        for (rel, fork, block) in effects.implicit_blocks() {
            self.last.insert(Key::Block(rel, fork, block), record.rmid);
        }
    }
}

#[test]
fn every_type_of_record_makes_the_pages_that_postgres_says_it_makes() {
    if !is_installed() {
        eprintln!("PostgreSQL 15 is not installed: nothing to compare with");
        return;
    }
    let mut server = Server::create("oracle", SETTINGS);
    server.skip_to_xid(FIRST_XID);
    let base = server.copy_to("base");
    server.start();
    workload::run(&mut server);
    server.stop();
    if std::env::var_os("SIXFOLD_KEEP_ORACLE").is_some() {
        server.keep();
    }

    let images = DataDirectory::open(&base).expect("a data directory");
    let directory = WalDirectory::open(&server.data()).expect("WAL");
    let start = verify::start_of(&directory, &images).expect("of the same cluster");
    let mut wal = directory.records(Some(start));
    let (mut replay, mut notes) = (Replay::new(images), Notes::default());
    while let Some(record) = wal.next().expect("sound WAL") {
        notes.record(&record, &mut replay);
        verify::step(&wal, &mut replay, &record).expect("known records");
    }
    let data = DataDirectory::open(&server.data()).expect("a data directory");
    let files = files::compare(&mut replay, &data, &notes.last);

    println!("{}", table::text(replay.tallies()));
    println!("the log ends at {}: {}", wal.position(), wal.end());
    println!(
        "files: {} blocks, {} map pages, {} SLRU pages, of these {} that no record changed; the counters \
         of {} checkpoints",
        files.blocks,
        files.maps,
        files.slrus,
        files.untouched,
        replay.checkpoints_compared()
    );
    println!("damaged records and pages tried: {}", notes.damaged);
    for problem in files.problems.iter().take(20) {
        println!("{problem}");
    }
    let (findings, found) = replay.findings();
    for finding in findings.iter().take(20) {
        println!("{finding:#?}");
    }
    let gaps = coverage::gaps(replay.tallies());
    println!("not covered: {gaps:#?}");
    assert_eq!((found, files.problems.len()), (0, 0), "pages differ");
    assert!(gaps.is_empty(), "{} gaps in what was covered", gaps.len());
    // Speculative insertion undone, and a row that moved to another partition.
    assert_eq!(notes.delete_flags & 0x18, 0x18, "kinds of deletion");
    assert!(files.blocks > 1000 && files.maps > 10 && files.slrus > 10 && notes.damaged > 10_000);
    assert!(files.untouched > 100 && replay.checkpoints_compared() > 3, "nothing was compared");
    assert_eq!(notes.last_start, data.control().checkpoint, "the whole log was read");
    without_images(&directory);
}

/// Without pages to begin with, those first seen in the log are counted and the rest is as equal.
fn without_images(directory: &WalDirectory) {
    let mut replay = Replay::new(NoImages);
    verify::run(&mut directory.records(None), &mut replay).expect("sound WAL");
    let (findings, found) = replay.findings();
    assert_eq!(found, 0, "{findings:#?}");
    let (records, total) = replay.tallies().total();
    println!("without images: {records} records, {total:?}");
    assert!(total.unknown > 0 && total.unknown < total.compared / 10, "{total:?}");
}
