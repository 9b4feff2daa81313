//! PostgreSQL itself as the judge: with `wal_consistency_checking` it writes the page that each
//! record must lead to, and at its end its files are what the whole log must lead to.

mod damage;
mod replay;
mod server;
mod workload;

use pgwal::layout::op;
use replay::Replay;
use server::{Server, is_installed};

const SETTINGS: &str = "
    wal_consistency_checking = 'all'
    full_page_writes = off
    fsync = off
    autovacuum = off
    wal_level = logical
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

#[test]
fn pages_are_those_of_postgres_after_every_record() {
    if !is_installed() {
        eprintln!("PostgreSQL 15 is not installed: nothing to compare with");
        return;
    }
    let mut server = Server::create("oracle", SETTINGS);
    let base = server.copy_to("base");
    server.start();
    workload::run(&server);
    server.stop();

    let mut replay = Replay::new(base);
    replay.run(&server.data());
    let (blocks, maps, slrus) = replay.compare_files(&server.data());
    for ((rmid, operation), records) in &replay.records {
        println!("{:>18} {operation:#04x} {records:>8} records", op::name(*rmid));
        for (key, count) in replay.counts.range((*rmid, *operation, 0)..=(*rmid, *operation, 255)) {
            println!(
                "{:>30} {:>8} applied {:>8} compared {:>4} different",
                format!("block {}", key.2),
                count.applied,
                count.compared,
                count.different
            );
        }
    }
    println!("files compared: {blocks} blocks, {maps} map pages, {slrus} SLRU pages");
    println!("damaged records and pages tried: {}", replay.damaged);
    for problem in replay.problems.iter().take(40) {
        println!("{problem}");
    }
    assert!(replay.problems.is_empty(), "{} problems", replay.problems.len());
    // Speculative insertion undone, and a row that moved to another partition.
    assert_eq!(replay.delete_flags & 0x18, 0x18, "kinds of deletion");
    let missing: Vec<_> = workload::must_appear()
        .iter()
        .filter(|(rmid, operation)| !replay.records.contains_key(&(*rmid, *operation)))
        .map(|(rmid, operation)| format!("{} {operation:#04x}", op::name(*rmid)))
        .collect();
    assert!(missing.is_empty(), "the workload no longer writes {missing:?}");
    assert!(blocks > 1000 && maps > 10 && slrus > 10 && replay.damaged > 10_000);
}
