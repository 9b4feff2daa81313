//! What must hold for any records and any bytes: decoding gives back what was built, however the
//! bytes are cut; damage is never a record and never a panic.

use bytes::Bytes;
use pgwal::build::{Draft, SegmentBuilder};
use pgwal::keys::{Fork, Rel};
use pgwal::layout::{self, BLOCK_SIZE, op, page};
use pgwal::record::{BlockImage, BlockRef, Compression};
use pgwal::{Decoder, Record, WalError, effects};
use proptest::prelude::*;
use types::{Lsn, Span, Timeline};

const SEGMENT: u32 = 1 << 20;
const SYSTEM: u64 = 0x1234_5678_9abc_def0;
const TIMELINE: Timeline = Timeline(7);

fn any_rel() -> impl Strategy<Value = Rel> {
    (1u32..3, 1u32..3, 1u32..4).prop_map(|(tablespace, database, relation)| Rel {
        tablespace,
        database,
        relation,
    })
}

fn any_image() -> impl Strategy<Value = BlockImage> {
    let plain = (1u16..8000).prop_map(|hole_length| BlockImage {
        stored: vec![0xab; BLOCK_SIZE - usize::from(hole_length)].into(),
        hole_offset: 100,
        hole_length,
        compression: Compression::None,
        apply: true,
    });
    let packed =
        (0usize..300, prop::bool::ANY, 1usize..4).prop_map(|(length, hole, which)| BlockImage {
            stored: vec![0xcd; length].into(),
            hole_offset: if hole { 40 } else { 0 },
            hole_length: if hole { 512 } else { 0 },
            compression: [Compression::Pglz, Compression::Lz4, Compression::Zstd][which - 1],
            apply: false,
        });
    prop_oneof![plain, packed]
}

fn any_block() -> impl Strategy<Value = BlockRef> {
    let data = prop::collection::vec(any::<u8>(), 0..200);
    (any_rel(), 0u8..4, 0u32..5000, any::<bool>(), prop::option::weighted(0.3, any_image()), data)
        .prop_map(|(rel, fork, block, will_init, image, data)| BlockRef {
            id: 0,
            rel,
            fork: Fork::from_number(fork).expect("in range"),
            block,
            will_init,
            image,
            data: data.into(),
        })
}

fn any_main() -> impl Strategy<Value = Bytes> {
    let short = prop::collection::vec(any::<u8>(), 0..600);
    let long = (0usize..30_000, any::<u8>()).prop_map(|(length, fill)| vec![fill; length]);
    prop_oneof![4 => short, 1 => long].prop_map(Bytes::from)
}

fn any_draft() -> impl Strategy<Value = Draft> {
    let blocks = prop::collection::vec(any_block(), 0..4);
    let origin = prop::option::of(any::<u16>());
    let top_xid = prop::option::of(any::<u32>());
    (any::<u32>(), 0u8..22, any::<u8>(), origin, top_xid, blocks, any_main()).prop_map(
        |(xid, rmid, info, origin, top_xid, mut blocks, main)| {
            for (id, block) in (0..).step_by(3).zip(&mut blocks) {
                block.id = id;
            }
            Draft { xid, rmid, info, origin, top_xid, blocks, main }
        },
    )
}

/// A start position that a record can follow, often near the end of a page or a segment.
fn any_start() -> impl Strategy<Value = Lsn> {
    prop_oneof![
        Just(Lsn(0x30_0000)),
        Just(Lsn(0x30_2000)),
        (5u64..1020).prop_map(|word| Lsn(0x30_0000 + word * 8)),
        (3u64..1020).prop_map(|word| Lsn(0x3f_e000 + word * 8)),
    ]
}

struct Log {
    start: Lsn,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    records: Vec<Bytes>,
}

fn lay(start: Lsn, drafts: &[Draft]) -> Log {
    let mut builder = SegmentBuilder::new(TIMELINE, SYSTEM, SEGMENT, start);
    let (mut prev, mut spans, mut records) = (Lsn(8), Vec::new(), Vec::new());
    for draft in drafts {
        let record = draft.encode(prev).expect("possible");
        let span = builder.push(&record);
        prev = span.start;
        spans.push(span);
        records.push(record);
    }
    let segments = builder.finish();
    let first = segments.first().map_or(start, |segment| segment.start);
    let bytes: Vec<u8> = segments.into_iter().flat_map(|segment| segment.bytes).collect();
    let skipped = start.bytes_since(first) as usize;
    Log { start, bytes: bytes.get(skipped..).unwrap_or_default().to_vec(), spans, records }
}

fn decoder(start: Lsn) -> Decoder {
    Decoder::new(start, Some(Lsn(8)), SEGMENT, Some(SYSTEM), Some(TIMELINE))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn decoding_gives_back_what_was_built_however_it_is_cut(
        start in any_start(),
        drafts in prop::collection::vec(any_draft(), 1..12),
        cuts in prop::collection::vec(1usize..9000, 1..40),
    ) {
        let log = lay(start, &drafts);
        let mut decoder = decoder(log.start);
        let mut decoded = Vec::new();
        let (mut fed, mut cuts) = (0, cuts.into_iter().cycle());
        while fed < log.bytes.len() && decoded.len() < drafts.len() {
            let to = log.bytes.len().min(fed + cuts.next().unwrap_or(1));
            let at = log.start.plus(fed as u64);
            let skip = decoder.wants().bytes_since(at).min((to - fed) as u64) as usize;
            decoder.feed(at.plus(skip as u64), &log.bytes[fed + skip..to]).expect("contiguous");
            fed = to;
            while let Some(record) = decoder.next().expect("valid") {
                decoded.push(record);
            }
        }
        prop_assert_eq!(decoded.len(), drafts.len());
        for (index, (record, draft)) in decoded.iter().zip(&drafts).enumerate() {
            prop_assert_eq!(record.span, log.spans[index]);
            prop_assert_eq!(&record.bytes, &log.records[index]);
            prop_assert_eq!(&record.main, &draft.main);
            prop_assert_eq!(record.origin, draft.origin);
            prop_assert_eq!(record.top_xid, draft.top_xid);
            prop_assert_eq!(record.blocks.len(), draft.blocks.len());
            prop_assert_eq!(Draft::from(record).encode(record.prev).expect("possible"), &record.bytes);
        }
    }

    #[test]
    fn a_tail_that_is_still_being_filled_is_taken_up_again(
        start in any_start(),
        drafts in prop::collection::vec(any_draft(), 1..8),
        written in prop::collection::vec(0.0f64..1.0, 1..10),
    ) {
        // The driver's way: each time feed from the end of the last record, to an end that is in
        // the middle of something, with rubbish behind it; take what is there; rewind.
        let log = lay(start, &drafts);
        let mut decoder = decoder(log.start);
        let mut count = 0;
        let mut ends: Vec<usize> =
            written.iter().map(|part| (*part * log.bytes.len() as f64) as usize).collect();
        ends.sort_unstable();
        ends.push(log.bytes.len());
        for end in ends {
            let mut bytes = log.bytes[..end].to_vec();
            bytes.extend_from_slice(&[0x5a; 64]);
            let from = decoder.rewind();
            let offset = from.bytes_since(log.start) as usize;
            if offset > bytes.len() {
                continue;
            }
            decoder.feed(from, &bytes[offset..]).expect("contiguous");
            while let Ok(Some(record)) = decoder.next() {
                prop_assert_eq!(record.span, log.spans[count]);
                count += 1;
            }
        }
        prop_assert_eq!(count, drafts.len());
    }

    #[test]
    fn a_damaged_record_is_never_returned(
        start in any_start(),
        drafts in prop::collection::vec(any_draft(), 1..6),
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let mut log = lay(start, &drafts);
        let end = log.spans[log.spans.len() - 1].end.bytes_since(log.start) as usize;
        let at = at.index(end.min(log.bytes.len()).max(1));
        log.bytes[at] ^= 1 << bit;
        let mut decoder = decoder(log.start);
        decoder.feed(log.start, &log.bytes).expect("contiguous");
        let mut index = 0;
        while let Ok(Some(record)) = decoder.next() {
            // Bits that no checksum covers (padding, a page's flag) may change; records may not.
            prop_assert_eq!(&record.bytes, &log.records[index]);
            prop_assert_eq!(record.span, log.spans[index]);
            index += 1;
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        start: u64,
        prev in prop::option::of(any::<u64>()),
        bytes in prop::collection::vec(any::<u8>(), 0..20_000),
        valid_header: bool,
    ) {
        let start = if valid_header { Lsn(0x30_0000) } else { Lsn(start) };
        let mut decoder = Decoder::new(start, prev.map(Lsn), SEGMENT, None, None);
        let mut all = lay(Lsn(0x30_0000), &[Draft::default()]).bytes[..page::LONG_SIZE].to_vec();
        if !valid_header {
            all.clear();
        }
        all.extend_from_slice(&bytes);
        for piece in all.chunks(777) {
            if decoder.feed(decoder.wants(), piece).is_err() {
                break;
            }
            while let Ok(Some(record)) = decoder.next() {
                prop_assert!(record.bytes.len() >= layout::record::SIZE);
            }
        }
        if let Ok(record) = Record::parse(Span::ZERO, Bytes::from(bytes)) {
            prop_assert!(effects(&record).is_ok() || effects(&record).is_err());
        }
    }

    #[test]
    fn effects_of_arbitrary_data_are_an_answer_or_an_error(draft in any_draft(), rmid: u8) {
        for rmid in [draft.rmid, rmid] {
            let bytes = Draft { rmid, ..draft.clone() }.encode(Lsn(8)).expect("possible");
            let record = Record::parse(Span::ZERO, bytes).expect("well-formed");
            let known = op::identify(rmid, record.info).is_some();
            match effects(&record) {
                Ok(effects) => {
                    prop_assert!(known);
                    let bound = record.bytes.len();
                    prop_assert!(effects.slru.len() <= bound && effects.catalog.len() <= bound);
                }
                Err(WalError::Unknown { .. }) => prop_assert!(!known && rmid < 128),
                Err(WalError::CustomManager { .. }) => prop_assert!(!known && rmid >= 128),
                Err(WalError::Malformed { .. }) => prop_assert!(known),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}

#[test]
fn a_type_is_identified_exactly_when_its_manager_lists_it() {
    let kinds: Vec<(u8, u8)> = op::kinds().collect();
    for (rmid, kind) in &kinds {
        assert_eq!(op::identify(*rmid, kind | 0x0f), Some(*kind), "{rmid} {kind:#04x}");
    }
    for rmid in 0..=u8::MAX {
        for info in 0..=u8::MAX {
            match op::identify(rmid, info) {
                Some(kind) => assert!(kinds.contains(&(rmid, kind)) && info & kind == kind),
                None => assert!(!kinds.contains(&(rmid, info & 0xf0)), "{rmid} {info:#04x}"),
            }
        }
    }
}
