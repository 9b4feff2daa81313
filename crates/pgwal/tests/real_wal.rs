//! The crate against real WAL: every record of a varied workload as `pg_waldump` sees it, every
//! record and every segment rebuilt byte for byte, images equal to the pages in the files, and a
//! server that starts from what the builder made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pgwal::build::{Draft, SegmentBuilder, opening_segments};
use pgwal::control_file::{ControlFile, DbState};
use pgwal::effects::{CatalogChange, Effects, XactKind, effects};
use pgwal::keys::{Fork, Slru};
use pgwal::layout::{self, BLOCK_SIZE, WAL_PAGE_SIZE, op, op::rm, page};
use pgwal::{Decoder, Record, Waiting};
use types::{Lsn, Timeline};

mod oracle;
mod server;
use server::Server;

const SEGMENT: u32 = 1 << 20;
const SETTINGS: &str = "wal_level=logical
max_prepared_transactions=10
track_commit_timestamp=on
wal_keep_size='2GB'
max_wal_size='200MB'
autovacuum=off
allow_in_place_tablespaces=on";

/// The bytes of all segments, one after the other, from the first one's address on.
fn read_wal(server: &Server, names: &[String]) -> (Lsn, Vec<u8>) {
    let (_, first) = layout::parse_segment_name(&names[0], SEGMENT).expect("a segment's name");
    let wal = names.iter().flat_map(|name| fs::read(server.wal().join(name)).expect("readable"));
    (Lsn(first * u64::from(SEGMENT)), wal.collect())
}

fn decode(start: Lsn, wal: &[u8], system_id: u64) -> (Vec<Record>, Waiting) {
    let mut decoder = Decoder::new(start, None, SEGMENT, Some(system_id), Some(Timeline(1)));
    let mut records = Vec::new();
    // Pieces of an awkward size, so that everything is cut somewhere.
    for piece in wal.chunks(7001) {
        let at = start.plus((piece.as_ptr() as usize - wal.as_ptr() as usize) as u64);
        let skipped = decoder.wants().bytes_since(at).min(piece.len() as u64) as usize;
        if skipped < piece.len() {
            decoder.feed(at.plus(skipped as u64), &piece[skipped..]).expect("contiguous");
        }
        while let Some(record) = decoder.next().expect("real WAL is valid") {
            records.push(record);
        }
        if decoder.waiting() == Waiting::Zeros {
            break;
        }
    }
    (records, decoder.waiting())
}

/// One line of `pg_waldump`.
struct Dumped<'a> {
    manager: &'a str,
    kind: &'a str,
    total: u32,
    xid: u32,
    start: Lsn,
    prev: Lsn,
    blocks: usize,
}

fn dumped(line: &str) -> Option<Dumped<'_>> {
    let (head, desc) = line.split_once(", desc: ")?;
    let field = |name: &str| {
        let rest = &head[head.find(name)? + name.len()..];
        rest.trim_start().split([',', ' ', '/']).next()
    };
    let lsn = |name: &str| {
        let rest = &head[head.find(name)? + name.len()..];
        rest.split(',').next()?.trim().parse().ok()
    };
    let total = head.split_once('/')?.1.split_once('/')?.1.split(',').next()?.trim();
    Some(Dumped {
        manager: field("rmgr: ")?,
        kind: desc.split(' ').next()?,
        total: total.parse().ok()?,
        xid: field("tx: ")?.parse().ok()?,
        start: lsn("lsn: ")?,
        prev: lsn("prev ")?,
        blocks: desc.matches(", blkref #").count(),
    })
}

/// Same records in the same places, of the same kinds, as PostgreSQL's own reader says.
fn agrees_with_waldump(records: &[Record], dump: &str) {
    let mut kinds = BTreeMap::new();
    let mut lines = dump.lines().filter_map(dumped);
    for record in records {
        let line = lines.next().unwrap_or_else(|| panic!("no line for {}", record.span));
        let found = (record.span.start, record.prev, record.bytes.len() as u32, record.xid);
        assert_eq!(found, (line.start, line.prev, line.total, line.xid));
        assert_eq!(op::name(record.rmid), line.manager, "{}", record.span);
        assert_eq!(record.blocks.len(), line.blocks, "{}", record.span);
        let kind = op::identify(record.rmid, record.info).expect("known");
        let name = line.kind.trim_end_matches("+INIT").to_owned();
        let known = kinds.entry((record.rmid, kind)).or_insert_with(|| name.clone());
        assert_eq!(*known, name, "{}", record.span);
    }
    assert!(lines.next().is_none(), "pg_waldump sees more records");
    let names: BTreeSet<_> = kinds.iter().map(|((rmid, _), name)| (rmid, name)).collect();
    assert_eq!(names.len(), kinds.len(), "two kinds have one name: {kinds:?}");
    eprintln!("{} records of {} kinds", records.len(), kinds.len());
    assert!(kinds.len() >= 75, "the workload has become poor: {kinds:?}");
    assert!((0..22).all(|rmid| kinds.range((rmid, 0)..=(rmid, 255)).next().is_some()), "{kinds:?}");
}

/// Laying the records out again gives the segments that the server wrote, but for the bit that
/// tells whether a base backup was running.
fn rebuilds_the_segments(records: &[Record], start: Lsn, wal: &[u8], system_id: u64) {
    let first = &records[0];
    let mut builder = SegmentBuilder::new(Timeline(1), system_id, SEGMENT, first.span.start);
    for record in records {
        let bytes = Draft::from(record).encode(record.prev).expect("it was a record");
        assert_eq!(bytes, record.bytes, "{}", record.span);
        assert_eq!(builder.push(&bytes), record.span);
    }
    // The first segment lacks what precedes the first record.
    let segments = builder.finish();
    for segment in &segments[1..] {
        let at = segment.start.bytes_since(start) as usize;
        let theirs = &wal[at..at + SEGMENT as usize];
        let last = records[records.len() - 1].span.end;
        for (index, (ours, theirs)) in
            segment.bytes.chunks(WAL_PAGE_SIZE).zip(theirs.chunks(WAL_PAGE_SIZE)).enumerate()
        {
            let address = segment.start.plus((index * WAL_PAGE_SIZE) as u64);
            if address >= last {
                break;
            }
            let (mut ours, mut theirs) = (ours.to_vec(), theirs.to_vec());
            for page in [&mut ours, &mut theirs] {
                page[page::INFO] &= !(page::BKP_REMOVABLE as u8);
            }
            assert!(ours == theirs, "page {address} differs");
        }
    }
    eprintln!("{} segments rebuilt", segments.len() - 1);
}

/// Images restore to pages; those of indexes that nobody touched later equal the files.
fn images_are_the_pages(records: &[Record], data: &Path) {
    let mut last_image = BTreeMap::new();
    let (mut restored, mut by_compression) = (0, BTreeMap::<String, usize>::new());
    for record in records {
        for block in &record.blocks {
            let key = (block.rel, block.fork, block.block);
            last_image.remove(&key);
            let Some(image) = &block.image else { continue };
            let mut page = [0; BLOCK_SIZE];
            image.restore(&mut page).unwrap_or_else(|error| panic!("{}: {error}", record.span));
            restored += 1;
            // Page size and layout version; a page may also be all zeros.
            assert!(page[18..20] == [4, 0x20] || page.iter().all(|byte| *byte == 0));
            if record.rmid == rm::XLOG && record.op() == op::xlog::FPI && image.apply {
                last_image.insert(key, (image.compression, page));
            }
        }
    }
    for ((rel, fork, block), (compression, page)) in last_image {
        let path = data.join(format!("base/{}/{}{}", rel.database, rel.relation, fork.suffix()));
        let Ok(file) = fs::read(path) else { continue };
        let at = block as usize * BLOCK_SIZE;
        let Some(theirs) = file.get(at..at + BLOCK_SIZE) else { continue };
        // The position and the checksum are set after the image was taken.
        if fork == Fork::Main && page[10..] == theirs[10..] {
            *by_compression.entry(format!("{compression:?}")).or_default() += 1;
        }
    }
    eprintln!("{restored} images restored, equal to files: {by_compression:?}");
    for compression in ["None", "Pglz", "Lz4", "Zstd"] {
        assert!(by_compression.get(compression).copied().unwrap_or(0) > 20, "{by_compression:?}");
    }
}

/// Effects are known for every record, and the workload's are among them.
fn effects_are_known(log: &[(Record, Effects)]) {
    let (mut kinds, mut slrus, mut changes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut vm_clears, mut latest, mut two_pages) = (0, None, 0);
    for (record, effects) in log {
        vm_clears += effects.vm_clear.len();
        slrus.extend(effects.slru.iter().map(|(slru, _)| *slru));
        two_pages += usize::from(effects.slru.len() > 1);
        if let Some(xact) = &effects.xact {
            kinds.insert(xact.kind as u8);
            assert!(xact.kind != XactKind::Prepare || xact.gid.is_some());
        }
        if let Some(xid) = effects.latest_xid {
            latest = pgwal::slru::xid_latest(latest, xid);
        }
        for change in &effects.catalog {
            let name = format!("{change:?}");
            changes.insert(name.split(['(', ' ']).next().unwrap_or("").to_owned());
            if let CatalogChange::RelMap { file, .. } = change {
                assert_eq!(file.len(), 512);
            }
        }
        if record.rmid == rm::XLOG && record.op() == op::xlog::SWITCH {
            assert!(record.span.end.0.is_multiple_of(u64::from(SEGMENT)));
        }
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    assert_eq!(slrus, Slru::ALL.into_iter().collect());
    assert_eq!(changes.len(), 13, "{changes:?}");
    assert!(vm_clears > 50 && two_pages > 1000, "{vm_clears} {two_pages}");
    let highest = log.iter().map(|(record, _)| record.xid).max();
    assert_eq!(latest, highest);
}

/// The server starts at a made-up position, from nothing but what the builder made.
fn starts_from_a_synthesized_segment(server: &Server, end: Lsn, prev: Lsn) {
    let path = server.data().join("global/pg_control");
    let control = ControlFile::decode(&fs::read(&path).expect("readable")).expect("valid");
    let segment = u64::from(SEGMENT);
    let next = Lsn(end.0.next_multiple_of(segment) + 3 * segment);
    for at in [
        next,
        // The record crosses a page, then a segment; then only its header's start fits.
        next.plus(segment + 8192 - 40),
        next.plus(3 * segment - 64),
        next.plus(5 * segment - 8),
        next.plus(7 * segment + 0x12340),
    ] {
        for name in server.segments() {
            fs::remove_file(server.wal().join(name)).expect("removable");
        }
        let old = &control.checkpoint_copy;
        let (segments, span, checkpoint) =
            opening_segments(Timeline(1), control.system_id, SEGMENT, at, prev, old);
        for made in segments {
            let name = layout::segment_name(Timeline(1), made.start.0 / segment, SEGMENT);
            let file = server.wal().join(name);
            fs::write(&file, made.bytes).expect("writable");
            make_theirs(&file);
        }
        let opened = ControlFile {
            state: DbState::ShutDown,
            checkpoint: span.start,
            checkpoint_copy: checkpoint,
            min_recovery_point: Lsn::ZERO,
            ..control.clone()
        };
        fs::write(&path, opened.encode()).expect("writable");
        server.start();
        let position =
            server.sql("insert into plain (a) values (1); select pg_current_wal_insert_lsn()");
        let position: Lsn = position.trim().parse().expect("a position");
        assert!(position > span.end, "{position} is after {}", span.end);
        server.stop("immediate");
    }
}

fn make_theirs(file: &Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    let owner = fs::metadata(file.parent().expect("in a directory")).expect("exists");
    chown(file, Some(owner.uid()), Some(owner.gid())).expect("root, or the owner already");
}

#[test]
fn every_record_of_a_varied_workload_is_decoded_known_and_rebuilt() {
    let Some(server) = Server::init(SETTINGS) else { return };
    server.start();
    server.sql("select pg_create_logical_replication_slot('slot', 'pgoutput')");
    server.sql_file(Path::new("tests/server/workload.sql"));
    server.sql("select pg_drop_replication_slot('slot')");
    server.stop("fast");

    let names = server.segments();
    let (start, wal) = read_wal(&server, &names);
    let control = fs::read(server.data().join("global/pg_control")).expect("readable");
    let parsed = ControlFile::decode(&control).expect("valid");
    assert!(parsed.encode() == control, "pg_control survives decoding and encoding");

    let (records, waiting) = decode(start, &wal, parsed.system_id);
    assert_eq!(waiting, Waiting::Zeros);
    let last = &records[records.len() - 1];
    assert_eq!(parsed.checkpoint, last.span.start);
    assert_eq!(pgwal::CheckPoint::decode(&last.main), Some(parsed.checkpoint_copy));
    assert_eq!(&parsed.checkpoint_copy.encode()[..], &last.main[..]);

    let dump = server.waldump(&names[0], &names[names.len() - 1]);
    agrees_with_waldump(&records, &dump);
    let known = |record: &Record| effects(record).unwrap_or_else(|error| panic!("{error}"));
    let log: Vec<_> = records.iter().map(|record| (record.clone(), known(record))).collect();
    effects_are_known(&log);
    oracle::visibility_maps(&log, &server.data());
    oracle::slru_pages(&log, &server.data());
    oracle::files(&log, &server.data());
    images_are_the_pages(&records, &server.data());
    rebuilds_the_segments(&records, start, &wal, parsed.system_id);
    starts_from_a_synthesized_segment(&server, last.span.end, last.span.start);
}

#[test]
fn a_record_that_a_crash_cut_off_is_passed_over_as_the_server_does() {
    let Some(server) = Server::init("wal_keep_size='1GB'") else { return };
    server.start();
    server.sql("create table kept (a int)");
    let before = server.sql("select pg_switch_wal(); select pg_current_wal_insert_lsn()");
    let before: Lsn = before.lines().last().expect("a line").parse().expect("a position");
    server.sql("select pg_logical_emit_message(true, 'cut', repeat('x', 300000))");
    server.stop("immediate");

    // The message survives in part: its pages from the fourth on were never written.
    let name = layout::segment_name(Timeline(1), before.0 / u64::from(SEGMENT), SEGMENT);
    let file = server.wal().join(&name);
    let mut bytes = fs::read(&file).expect("the segment");
    let cut = layout::page_of(before).plus(4 * WAL_PAGE_SIZE as u64);
    bytes[cut.bytes_since(layout::segment_start(before, SEGMENT)) as usize..].fill(0);
    fs::write(&file, bytes).expect("writable");
    server.start();
    server.sql("insert into kept values (1)");
    server.stop("fast");

    let names: Vec<String> = server.segments().into_iter().filter(|other| *other >= name).collect();
    let (start, wal) = read_wal(&server, &names);
    let control = fs::read(server.data().join("global/pg_control")).expect("readable");
    let control = ControlFile::decode(&control).expect("valid");
    let (records, _) = decode(start, &wal, control.system_id);
    let overwrites =
        |record: &&Record| (record.rmid, record.op()) == (rm::XLOG, op::xlog::OVERWRITE_CONTRECORD);
    let overwrite = records.iter().find(overwrites).expect("the server says so");
    assert_eq!(layout::page_of(overwrite.span.start), cut);
    assert_eq!(records[records.len() - 1].span.start, control.checkpoint);
    assert!(records.iter().all(|record| record.rmid != rm::LOGICALMSG));
}
