//! A piece of WAL that a PostgreSQL 15.18 server wrote, kept with what it does, so that the crate
//! is held to real WAL where no server is installed.
//!
//! `cargo test -p sixfold-pgwal --test fixture -- --ignored` makes both files anew (review the
//! difference); `UPDATE=1` with the ordinary test rewrites the description only.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use pgwal::build::{Draft, SegmentBuilder};
use pgwal::layout::{self, WAL_PAGE_SIZE, op};
use pgwal::page::PageHeader;
use pgwal::{Decoder, Record, effects};
use types::Lsn;

mod server;

const SEGMENT: u32 = 1 << 20;
const WAL: &str = "tests/fixtures/pg15.wal";
const DESCRIPTION: &str = "tests/fixtures/pg15.txt";

fn decode(wal: &[u8]) -> Vec<Record> {
    let start = PageHeader::decode(&wal[..layout::page::SHORT_SIZE]).address;
    let mut decoder = Decoder::new(start, None, SEGMENT, None, None);
    decoder.feed(start, wal).expect("contiguous");
    let mut records = Vec::new();
    while let Some(record) = decoder.next().expect("valid") {
        records.push(record);
    }
    records
}

/// One line for each record that does more than change the blocks it references, and the number
/// of records of each kind.
fn describe(records: &[Record]) -> String {
    let (mut text, mut counts) = (String::new(), BTreeMap::new());
    for record in records {
        let kind = op::identify(record.rmid, record.info).expect("known");
        let name = format!("{}/{kind:#04x}", op::name(record.rmid));
        *counts.entry(name.clone()).or_insert(0) += 1;
        let e = effects(record).expect("known");
        if e.is_plain() && e.running.is_none() {
            continue;
        }
        write!(text, "{} {name}", record.span.start).expect("memory");
        for clear in &e.vm_clear {
            write!(text, " vm({} {} {})", clear.rel, clear.heap_block, clear.bits).expect("memory");
        }
        for (slru, page) in &e.slru {
            write!(text, " slru({slru:?} {page})").expect("memory");
        }
        if let Some(xact) = &e.xact {
            write!(text, " {:?}({} {:?})", xact.kind, xact.xid, xact.subxacts).expect("memory");
        }
        for change in &e.catalog {
            let change = format!("{change:?}");
            let short: String = change.chars().take(100).collect();
            write!(text, " {short}").expect("memory");
        }
        if e.state {
            write!(text, " state(oid {:?} multi {:?})", e.next_oid, e.next_multi).expect("memory");
        }
        if let Some(running) = &e.running {
            write!(text, " running(next {})", running.next_xid).expect("memory");
        }
        writeln!(text, " latest {:?}", e.latest_xid).expect("memory");
    }
    for (name, count) in counts {
        writeln!(text, "{name}: {count}").expect("memory");
    }
    text
}

#[test]
fn kept_wal_means_what_it_meant() {
    let wal = fs::read(WAL).expect("the fixture");
    let records = decode(&wal);
    let description = describe(&records);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(DESCRIPTION, &description).expect("writable");
    }
    let kept = fs::read_to_string(DESCRIPTION).expect("the fixture");
    for (ours, theirs) in description.lines().zip(kept.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(description.len(), kept.len());
}

#[test]
fn kept_wal_is_rebuilt_byte_for_byte() {
    let wal = fs::read(WAL).expect("the fixture");
    let records = decode(&wal);
    let header = PageHeader::decode(&wal[..layout::page::SHORT_SIZE]);
    let first = records[0].span.start;
    let mut builder = SegmentBuilder::new(header.timeline, 0, SEGMENT, first);
    for record in &records {
        let bytes = Draft::from(record).encode(record.prev).expect("it was a record");
        assert_eq!(builder.push(&bytes), record.span);
    }
    let segment = &builder.finish()[0];
    // From the second page on: the first begins with the end of a record that is not here.
    let from = layout::page_of(first).plus(WAL_PAGE_SIZE as u64);
    let ours = &segment.bytes[from.bytes_since(segment.start) as usize..];
    let theirs = &wal[from.bytes_since(header.address) as usize..];
    assert!(theirs.len() > 4 * WAL_PAGE_SIZE && ours[..theirs.len()] == *theirs);
}

#[test]
#[ignore = "makes the fixture; needs a server"]
fn make() {
    let server = server::Server::init(
        "wal_level=logical\nmax_prepared_transactions=5\nfull_page_writes=off\nautovacuum=off\n\
         allow_in_place_tablespaces=on\nwal_keep_size='1GB'",
    )
    .expect("a server");
    server.start();
    server.sql("select pg_switch_wal()");
    let begin = server.sql("checkpoint; select pg_current_wal_insert_lsn()");
    let begin: Lsn = begin.trim().parse().expect("a position");
    server.sql_file(Path::new("tests/fixtures/fixture.sql"));
    server.stop("fast");
    let name =
        |lsn: Lsn| layout::segment_name(types::Timeline(1), lsn.0 / u64::from(SEGMENT), SEGMENT);
    let file = fs::read(server.wal().join(name(begin))).expect("the segment");
    let start = layout::segment_start(begin, SEGMENT);
    let from = layout::page_of(begin).bytes_since(start) as usize;
    let used = file.iter().rposition(|byte| *byte != 0).expect("something");
    let wal = &file[from..(used + 1).next_multiple_of(WAL_PAGE_SIZE)];
    assert!(wal.len() < 250_000, "{} bytes are too many for a fixture", wal.len());
    fs::write(WAL, wal).expect("writable");
    fs::write(DESCRIPTION, describe(&decode(wal))).expect("writable");
}

#[test]
fn lent_records_are_those_that_are_handed_out() {
    let wal = fs::read(WAL).expect("kept");
    let start = PageHeader::decode(&wal[..layout::page::SHORT_SIZE]).address;
    let mut shared = Decoder::new(start, None, SEGMENT, None, None);
    let mut lending = Decoder::new(start, None, SEGMENT, None, None);
    let mut records = 0;
    for piece in wal.chunks(1000) {
        assert_eq!(shared.wants(), lending.wants());
        shared.feed(shared.wants(), piece).expect("contiguous");
        lending.feed(lending.wants(), piece).expect("contiguous");
        while let Some(record) = shared.next().expect("valid") {
            let lent = lending.next_borrowed().expect("valid").expect("as many");
            assert_eq!((lent.span, lent.bytes), (record.span, &record.bytes[..]));
            assert_eq!((lent.main, lent.blocks.len()), (&record.main[..], record.blocks.len()));
            drop(lent);
            assert_eq!((lending.position(), lending.prev()), (shared.position(), shared.prev()));
            records += 1;
        }
        assert!(lending.next_borrowed().expect("valid").is_none());
        assert_eq!(lending.waiting(), shared.waiting());
        let behind = (shared.position().0 - start.0) as usize;
        let fed = piece.as_ptr() as usize + piece.len() - wal.as_ptr() as usize;
        if behind > fed {
            // Behind the switch there is nothing.
            break;
        }
        if records % 3 == 0 {
            assert_eq!(lending.rewind(), shared.rewind());
            // What was fed of the next record comes again.
            shared.feed(shared.wants(), &wal[behind..fed]).expect("contiguous");
            lending.feed(lending.wants(), &wal[behind..fed]).expect("contiguous");
        }
    }
    assert!(records > 1000);
}
