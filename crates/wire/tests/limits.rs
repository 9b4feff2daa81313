//! What a stranger can cost us is bounded, and what is too new is refused by name.

use bytes::Bytes;
use types::{Epoch, GroupId, Lsn, MembershipEpoch, PageKey, SegmentId, Span, VolumeId};
use wire::{Batch, BatchHeader, Change, Decoder, Frame, Message, Part, PartMeta, WireError, frame};

fn reseal(header: &mut [u8]) {
    let crc = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
}

fn decode(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    let mut decoder = Decoder::new();
    decoder.established();
    decoder.feed(bytes);
    decoder.next()
}

#[test]
fn a_frame_above_the_limit_is_refused_from_its_header_alone() {
    let mut bytes = frame::encode(1, &Message::Done).to_vec();
    bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    reseal(&mut bytes);
    assert!(matches!(decode(&bytes), Err(WireError::Limit { what: "frame length", .. })));
}

#[test]
fn before_the_handshake_only_small_frames_are_taken() {
    let large = frame::encode(1, &Message::Chunk(Bytes::from(vec![0; 100_000])));
    let mut decoder = Decoder::new();
    decoder.feed(&large[..frame::HEADER_SIZE]);
    assert!(matches!(decoder.next(), Err(WireError::Limit { .. })));
    assert!(decode(&large).expect("allowed once established").is_some());
}

#[test]
fn an_unknown_kind_is_refused_by_its_number() {
    let mut bytes = frame::encode(1, &Message::Done).to_vec();
    bytes[6] = 200;
    let crc = crc32c::crc32c(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    reseal(&mut bytes);
    let error = decode(&bytes).expect_err("unknown");
    assert_eq!(error, WireError::Unknown { what: "message kind", value: 200 });
    assert!(error.to_string().contains("message kind 200"));
}

/// It would be dropped, and the same handshake would have many encodings (F1).
#[test]
fn a_handshake_has_no_request_number() {
    let mut bytes = frame::encode_refusal(&wire::Refusal::NoSegment(segment())).to_vec();
    assert!(decode(&bytes).expect("well-formed").is_some());
    bytes[8] = 1;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..20]), &bytes[frame::HEADER_SIZE..]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    reseal(&mut bytes);
    assert!(matches!(decode(&bytes), Err(WireError::Invalid { .. })));
}

fn segment() -> SegmentId {
    SegmentId { volume: VolumeId(5), group: GroupId(1) }
}

#[test]
fn another_version_is_refused_by_its_number_even_if_its_header_differs() {
    let mut bytes = frame::encode(1, &Message::Done).to_vec();
    bytes[4] = 9;
    let theirs = 9;
    assert_eq!(decode(&bytes), Err(WireError::Version { ours: wire::PROTOCOL_VERSION, theirs }));
}

#[test]
fn another_batch_format_is_refused_by_its_number() {
    let mut bytes = batch(1).encode().to_vec();
    bytes[3] = 7;
    let found = BatchHeader::peek(&bytes);
    assert_eq!(found.err(), Some(WireError::Unknown { what: "batch format", value: 7 }));
}

#[test]
fn a_batch_does_not_pass_as_another_segments_or_epochs() {
    let bytes = batch(3).encode();
    for at in [16, 32, 40] {
        let mut moved = bytes.to_vec();
        moved[at] ^= 1;
        assert!(matches!(BatchHeader::peek(&moved), Err(WireError::Checksum { .. })));
    }
    // The body's checksum is bound too: taken over from another epoch it does not fit.
    let mut other = batch(3);
    other.header.epoch = Epoch(10);
    assert_ne!(other.encode()[8..12], bytes[8..12]);
}

#[test]
fn changes_beyond_the_frames_allowance_are_refused_whichever_batch_they_are_in() {
    let mut half = batch(1);
    half.parts[0].changes = vec![Change::Apply(PageKey::MIN); (wire::CHANGES_MAX / 2 + 1) as usize];
    assert!(Batch::decode(half.encode()).is_ok());
    let report = wire::SegmentReport {
        scl: Lsn(1),
        sealed: Epoch(1),
        history: types::History::default(),
        vdl: Span::ZERO,
        low_water: Lsn::ZERO,
        watermark: 0,
        membership: MembershipEpoch(1),
        since: MembershipEpoch(1),
        full: true,
    };
    let segment = half.header.segment;
    let fill = Message::Fill { segment, report, batches: vec![half.clone(), half] };
    let error = decode(&frame::encode(1, &fill)).expect_err("too many");
    assert!(matches!(error, WireError::Limit { what: "number of changes", .. }));
}

/// The compactness that the hot log and six network copies are paid in.
#[test]
fn a_one_change_part_costs_few_bytes_beyond_its_body() {
    let (one, many) = (batch(1).encode().len(), batch(101).encode().len());
    let each = (many - one) / 100;
    assert!(each <= 60 + 12, "a part of 60 body bytes takes {each}");
    assert!(one <= 104 + 60 + 30, "a batch of one part takes {one}");
}

fn batch(parts: u64) -> Batch {
    let part = |index: u64| {
        let start = Lsn((1 << 32) | (index * 64));
        let mut key = [0; 20];
        key[..12].copy_from_slice(&[0, 0, 6, 127, 0, 0, 0, 5, 0, 0, 64, 1]);
        key[16..].copy_from_slice(&(index as u32 * 77).to_be_bytes());
        Part {
            meta: PartMeta {
                span: Span { start, end: start.plus(64) },
                prev: Lsn(start.0 - 64),
                shared: Default::default(),
            },
            changes: vec![Change::Apply(PageKey(key))],
            body: Bytes::from(vec![index as u8; 60]),
        }
    };
    let header = BatchHeader {
        segment: segment(),
        epoch: Epoch(2),
        membership: MembershipEpoch(1),
        base: Lsn(1 << 32),
        last: Lsn((1 << 32) | (parts * 64)),
        vdl: Span { start: Lsn((1 << 32) - 64), end: Lsn(1 << 32) },
        low_water: Lsn(8),
        watermark: 760,
    };
    Batch { header, parts: (0..parts).map(part).collect() }
}

/// Bytes of this version, for ever: a change of format is a new version, not another fixture.
#[test]
fn golden_bytes_of_version_two_are_read_and_written() {
    let golden = include_str!("golden/v2.hex");
    let mut lines = golden.lines().filter(|line| !line.starts_with('#'));
    let mut sample = batch(2);
    sample.parts[1].meta.shared = vec![GroupId(3), GroupId(4), GroupId(9)].into();
    sample.parts[1].changes = vec![
        Change::Put(PageKey([7; 20]), Bytes::from_static(b"page")),
        Change::Delete { from: PageKey::MIN, to: PageKey::MAX },
    ];
    let adopt = Message::Adopt {
        segment: sample.header.segment,
        history: types::History::new(vec![types::EpochStart {
            epoch: Epoch(2),
            begins: Lsn(4096),
            timeline: types::Timeline(1),
        }])
        .expect("one entry"),
        vdl: sample.header.vdl,
        until: Lsn(77),
        peer: "b2".parse().expect("valid"),
    };
    let written = [sample.encode(), frame::encode(0x0102_0304, &adopt)];
    for bytes in &written {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(lines.next(), Some(hex.as_str()), "expected line is on the left");
    }
    assert_eq!(Batch::decode(written[0].clone()), Ok(sample));
    assert_eq!(
        decode(&written[1]),
        Ok(Some(Frame::Message { request: 0x0102_0304, message: adopt }))
    );
}
