//! The decoder's answers where a log ends, breaks or is not the one expected.

use bytes::Bytes;
use pgwal::build::{Draft, SegmentBuilder};
use pgwal::error::{PageProblem, RecordProblem};
use pgwal::layout::{WAL_PAGE_SIZE, op, page};
use pgwal::page::PageHeader;
use pgwal::{Decoder, Waiting, WalError};
use types::{Lsn, Timeline};

const SEGMENT: u32 = 1 << 20;
const START: Lsn = Lsn(0x30_0000);
const PAGE: u64 = WAL_PAGE_SIZE as u64;

fn message(length: usize) -> Draft {
    let main = Bytes::from(vec![0x11; length]);
    Draft { rmid: op::rm::LOGICALMSG, main, ..Draft::default() }
}

/// A log of messages of these lengths from `START` on; its bytes and the records' spans.
fn log(lengths: &[usize]) -> (Vec<u8>, Vec<types::Span>) {
    let mut builder = SegmentBuilder::new(Timeline(2), 42, SEGMENT, START);
    let (mut prev, mut spans) = (Lsn(8), Vec::new());
    for length in lengths {
        let span = builder.push(&message(*length).encode(prev).expect("possible"));
        prev = span.start;
        spans.push(span);
    }
    (builder.finish().into_iter().flat_map(|segment| segment.bytes).collect(), spans)
}

fn decoder() -> Decoder {
    Decoder::new(START, Some(Lsn(8)), SEGMENT, Some(42), Some(Timeline(2)))
}

fn fed(bytes: &[u8]) -> Decoder {
    let mut decoder = decoder();
    decoder.feed(START, bytes).expect("contiguous");
    decoder
}

#[test]
fn the_end_of_the_log_says_what_is_missing() {
    let (bytes, spans) = log(&[100, 9000]);
    let mut decoder = fed(&bytes[..0x100]);
    assert!(decoder.next().expect("valid").is_some());
    assert!(decoder.next().expect("valid").is_none());
    let Waiting::Record { start, length, held } = decoder.waiting() else {
        panic!("{:?}", decoder.waiting())
    };
    assert_eq!((start, length), (spans[1].start, 9000 + 24 + 5));
    assert_eq!(u64::from(held), 0x100 - spans[1].start.bytes_since(START));
    decoder.feed(decoder.wants(), &bytes[0x100..0x4000]).expect("contiguous");
    assert_eq!(decoder.next().expect("valid").map(|record| record.span), Some(spans[1]));
    assert!(decoder.next().expect("valid").is_none());
    assert_eq!(decoder.waiting(), Waiting::Zeros);
    let mut nothing = fed(&[]);
    assert!(nothing.next().expect("valid").is_none());
    assert_eq!(nothing.waiting(), Waiting::Empty);
}

#[test]
fn a_page_that_is_not_written_yet_is_waited_for() {
    let (mut bytes, spans) = log(&[9000, 9000]);
    let second = bytes[WAL_PAGE_SIZE..].to_vec();
    bytes[WAL_PAGE_SIZE..].fill(0);
    let mut decoder = fed(&bytes);
    assert!(decoder.next().expect("valid").is_none());
    assert_eq!(decoder.waiting(), Waiting::Zeros);
    bytes[WAL_PAGE_SIZE..].copy_from_slice(&second);
    assert_eq!(decoder.rewind(), START);
    decoder.feed(START, &bytes).expect("contiguous");
    for span in spans {
        assert_eq!(decoder.next().expect("valid").map(|record| record.span), Some(span));
    }
}

#[test]
fn a_record_not_wholly_copied_is_an_error_that_heals() {
    let (mut bytes, spans) = log(&[100, 200]);
    let late = spans[1].start.bytes_since(START) as usize + 100;
    let good = bytes[late];
    bytes[late] = 0;
    let mut decoder = fed(&bytes);
    assert!(decoder.next().expect("valid").is_some());
    let error = decoder.next().expect_err("damaged");
    let WalError::Record { start, length, problem: RecordProblem::Checksum { .. } } = error else {
        panic!("{error}")
    };
    assert_eq!((start, length), (spans[1].start, 226));
    assert_eq!(decoder.next().expect_err("still"), error);
    bytes[late] = good;
    let from = decoder.rewind();
    assert_eq!(from, spans[1].start);
    decoder.feed(from, &bytes[from.bytes_since(START) as usize..]).expect("contiguous");
    assert_eq!(decoder.next().expect("valid").map(|record| record.span), Some(spans[1]));
}

#[test]
fn impossible_lengths_and_links_are_refused_at_once() {
    let (bytes, _) = log(&[100]);
    for length in [1u32, 23, 0x4000_0000, u32::MAX] {
        let mut bytes = bytes[..page::LONG_SIZE + 4].to_vec();
        bytes[page::LONG_SIZE..].copy_from_slice(&length.to_le_bytes());
        let error = fed(&bytes).next().expect_err("impossible");
        assert!(
            matches!(error, WalError::Record { problem: RecordProblem::Length, .. }),
            "{error}"
        );
    }
    // The link is wrong: known before the record is complete.
    let mut decoder = Decoder::new(START, Some(Lsn(16)), SEGMENT, None, None);
    decoder.feed(START, &bytes[..page::LONG_SIZE + 16]).expect("contiguous");
    let error = decoder.next().expect_err("wrong link");
    let expected = RecordProblem::Prev { found: Lsn(8), expected: Lsn(16) };
    assert!(matches!(error, WalError::Record { problem, .. } if problem == expected), "{error}");
}

#[test]
fn pages_of_another_log_are_refused() {
    let (bytes, spans) = log(&[9000]);
    let problem = |bytes: &[u8]| match fed(bytes).next().expect_err("another log") {
        WalError::Page { at, record, problem } => {
            assert_eq!(record, START, "where to rewind to");
            (at, problem)
        }
        other => panic!("{other}"),
    };
    let patched = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        problem(&bytes)
    };
    let second = START.plus(PAGE);
    assert_eq!(patched(0, 0x09), (START, PageProblem::Magic(0xd109)));
    assert_eq!(patched(2, 0x80), (START, PageProblem::Flags(0x80)));
    let timeline = PageProblem::Timeline { found: 3, expected: 2 };
    assert_eq!(patched(4, 3), (START, timeline));
    assert_eq!(
        patched(page::SYSTEM_ID, 43),
        (START, PageProblem::SystemId { found: 43, expected: 42 })
    );
    assert_eq!(patched(page::SEGMENT_SIZE + 2, 0x20), (START, PageProblem::SegmentSize(2 << 20)));
    assert_eq!(patched(page::PAGE_SIZE + 1, 0x40), (START, PageProblem::PageSize(16384)));
    // A recycled segment: an older page where the record goes on.
    assert_eq!(
        patched(WAL_PAGE_SIZE + 8 + 2, 0x20),
        (second, PageProblem::Address(Lsn(0x20_2000)))
    );
    let left = (9029 - (WAL_PAGE_SIZE - page::LONG_SIZE)) as u32;
    let remaining = PageProblem::Remaining { found: left ^ 1, expected: left };
    assert_eq!(patched(WAL_PAGE_SIZE + page::REMAINING, (left ^ 1) as u8), (second, remaining));
    assert!(spans[0].end > second);
}

#[test]
fn a_log_is_entered_in_the_middle_of_a_record() {
    let (bytes, spans) = log(&[30_000, 50, 60]);
    // Pages 1 to 3 begin inside the first record.
    for first in 1..=3u64 {
        let at = START.plus(first * PAGE);
        let mut decoder = Decoder::new(at, None, SEGMENT, Some(42), None);
        for piece in bytes[(first * PAGE) as usize..0x9000].chunks(100) {
            decoder.feed(decoder.wants(), piece).expect("contiguous");
            if let Some(record) = decoder.next().expect("valid") {
                assert_eq!(record.span, spans[1]);
                break;
            }
        }
        assert_eq!(decoder.position(), spans[1].end);
    }
    // With a known predecessor that is a contradiction.
    let mut decoder = Decoder::new(START.plus(PAGE), Some(START), SEGMENT, None, None);
    decoder.feed(START.plus(PAGE), &bytes[WAL_PAGE_SIZE..]).expect("contiguous");
    assert!(decoder.next().is_err());
}

#[test]
fn a_switch_ends_its_segment_whether_or_not_the_rest_is_fed() {
    let switch = Draft { rmid: op::rm::XLOG, info: op::xlog::SWITCH, ..Draft::default() };
    let mut builder = SegmentBuilder::new(Timeline(2), 42, SEGMENT, START);
    let one = builder.push(&switch.encode(Lsn(8)).expect("possible"));
    assert_eq!(one.end, START.plus(u64::from(SEGMENT)));
    let two = builder.push(&message(10).encode(one.start).expect("possible"));
    let segments = builder.finish();
    assert_eq!(segments.len(), 2);
    assert!(segments[0].bytes[page::LONG_SIZE + 24..].iter().all(|byte| *byte == 0));

    let mut whole = fed(&[segments[0].bytes.clone(), segments[1].bytes.clone()].concat());
    let mut short = fed(&segments[0].bytes[..page::LONG_SIZE + 24]);
    for decoder in [&mut whole, &mut short] {
        let record = decoder.next().expect("valid").expect("complete");
        assert_eq!(record.span, one);
        assert!(decoder.wants() >= one.end);
    }
    short.feed(one.end, &segments[1].bytes).expect("the rest may be left out");
    for decoder in [&mut whole, &mut short] {
        assert_eq!(decoder.next().expect("valid").map(|record| record.span), Some(two));
    }
}

#[test]
fn bytes_that_do_not_continue_the_stream_are_refused() {
    let (bytes, _) = log(&[100]);
    let mut decoder = fed(&bytes[..100]);
    for at in [START, START.plus(99), START.plus(101)] {
        let gap = WalError::Gap { at, expected: START.plus(100) };
        assert_eq!(decoder.feed(at, &bytes[100..]), Err(gap));
    }
    decoder.feed(START.plus(100), &bytes[100..]).expect("contiguous");
}

#[test]
fn a_record_lost_in_a_crash_is_passed_over_when_the_log_says_so() {
    // After a crash PostgreSQL marks the page on which the lost record would have gone on, and
    // begins it with a record that names the lost one.
    let (mut bytes, spans) = log(&[100, 9000]);
    let lost = spans[1].start;
    let page_at = START.plus(PAGE);
    let overwrite = |names: Lsn, info: u8| {
        let main = [names.0.to_le_bytes(), 0u64.to_le_bytes()].concat().into();
        let draft = Draft { rmid: op::rm::XLOG, info, main, ..Draft::default() };
        draft.encode(spans[0].start).expect("possible")
    };
    let mut page_bytes = Vec::new();
    PageHeader {
        magic: pgwal::layout::PAGE_MAGIC,
        info: page::FIRST_IS_OVERWRITE_CONTRECORD,
        timeline: Timeline(2),
        address: page_at,
        remaining: 0,
        long: None,
    }
    .encode(&mut page_bytes);
    let mut attempt = |record: Bytes| {
        bytes[WAL_PAGE_SIZE..].fill(0);
        bytes[WAL_PAGE_SIZE..WAL_PAGE_SIZE + 24].copy_from_slice(&page_bytes);
        let from = WAL_PAGE_SIZE + 24;
        bytes[from..from + record.len()].copy_from_slice(&record);
        let mut decoder = fed(&bytes);
        assert_eq!(decoder.next().expect("valid").map(|record| record.span), Some(spans[0]));
        decoder.next()
    };
    let record = attempt(overwrite(lost, op::xlog::OVERWRITE_CONTRECORD));
    let record = record.expect("valid").expect("complete");
    assert_eq!(record.span.start, page_at.plus(24));
    assert_eq!(record.prev, spans[0].start);
    assert!(attempt(overwrite(lost, op::xlog::NOOP)).is_err());
    assert!(attempt(overwrite(START, op::xlog::OVERWRITE_CONTRECORD)).is_err());
}

/// `cargo test --release -p sixfold-pgwal --test decoder -- --ignored --nocapture` prints the cost
/// of a small record on the commit path: fed, decoded, its effects found.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_small_record() {
    let block = pgwal::record::BlockRef {
        id: 0,
        rel: pgwal::keys::Rel { tablespace: 1663, database: 5, relation: 16384 },
        fork: pgwal::keys::Fork::Main,
        block: 7,
        will_init: false,
        image: None,
        data: Bytes::from_static(&[7; 60]),
    };
    let insert = Draft {
        xid: 800,
        rmid: op::rm::HEAP,
        info: op::heap::INSERT,
        blocks: vec![block],
        main: Bytes::from_static(&[1, 0, 0]),
        ..Draft::default()
    };
    let mut builder = SegmentBuilder::new(Timeline(2), 42, SEGMENT, START);
    let (mut prev, mut count) = (Lsn(8), 0u32);
    while builder.position() < START.plus(4 * u64::from(SEGMENT)) {
        prev = builder.push(&insert.encode(prev).expect("possible")).start;
        count += 1;
    }
    let bytes: Vec<u8> = builder.finish().into_iter().flat_map(|segment| segment.bytes).collect();
    let (mut decoding, mut finding) = (u128::MAX, u128::MAX);
    for _ in 0..20 {
        let mut decoder = decoder();
        let mut records = Vec::with_capacity(count as usize);
        let begun = std::time::Instant::now();
        for piece in bytes.chunks(4 * WAL_PAGE_SIZE) {
            decoder.feed(decoder.wants(), piece).expect("contiguous");
            while let Some(record) = decoder.next().expect("valid") {
                records.push(record);
            }
        }
        decoding = decoding.min(begun.elapsed().as_nanos());
        let begun = std::time::Instant::now();
        assert!(records.iter().all(|record| pgwal::effects(record).expect("known").is_plain()));
        finding = finding.min(begun.elapsed().as_nanos());
        assert_eq!(records.len(), count as usize);
    }
    let count = u128::from(count);
    eprintln!("decode {} ns, effects {} ns a record", decoding / count, finding / count);
}
