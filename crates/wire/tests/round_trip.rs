//! What is encoded is decoded to the same value, and nothing else is decoded at all.

mod strategies;

use bytes::Bytes;
use proptest::prelude::*;
use strategies::{batch, hello, message, refusal};
use wire::{Batch, BatchHeader, Decoder, Frame, Message, Welcome, WireError, frame};

fn decode_all(bytes: &[u8], step: usize) -> Result<Vec<Frame>, WireError> {
    let mut decoder = Decoder::new();
    decoder.established();
    let mut frames = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        decoder.feed(piece);
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn a_batch_comes_back_as_it_was(batch in batch()) {
        let bytes = batch.encode();
        let (header, length) = BatchHeader::peek(&bytes).expect("own encoding");
        prop_assert_eq!(&header, &batch.header);
        prop_assert_eq!(length, bytes.len());
        let decoded = Batch::decode(bytes.clone()).expect("own encoding");
        prop_assert_eq!(&decoded, &batch);
        for part in decoded.parts.iter().filter(|part| !part.body.is_empty()) {
            prop_assert!(bytes.as_ptr_range().contains(&part.body.as_ptr()), "body was copied");
        }
        let estimate: usize = batch.parts.iter().map(wire::Part::bytes_estimate).sum();
        prop_assert!(length <= BatchHeader::SIZE + estimate);
    }

    #[test]
    fn frames_come_back_however_the_stream_is_cut(
        messages in proptest::collection::vec((any::<u64>(), message()), 1..5),
        step in 1..5000usize,
    ) {
        let stream: Vec<u8> =
            messages.iter().flat_map(|(request, message)| frame::encode(*request, message)).collect();
        let expected: Vec<Frame> = messages
            .into_iter()
            .map(|(request, message)| Frame::Message { request, message })
            .collect();
        prop_assert_eq!(decode_all(&stream, step), Ok(expected));
    }

    #[test]
    fn handshakes_come_back(hello in hello(), refusal in refusal()) {
        let mut decoder = Decoder::new();
        decoder.feed(&frame::encode_hello(&hello));
        prop_assert_eq!(decoder.next(), Ok(Some(Frame::Hello(hello.clone()))));
        if let wire::Speaker::Node { node, incarnation } = hello.from {
            let welcome = Welcome { node, incarnation, az: hello.az };
            decoder.feed(&frame::encode_welcome(&welcome));
            prop_assert_eq!(decoder.next(), Ok(Some(Frame::Welcome(welcome))));
        }
        decoder.feed(&frame::encode_refusal(&refusal));
        prop_assert_eq!(decoder.next(), Ok(Some(Frame::Refusal(refusal))));
    }

    #[test]
    fn a_batch_sent_as_header_and_bytes_is_the_same_frame(request: u64, batch in batch()) {
        let bytes = batch.encode();
        let two = [frame::append_header(request, &bytes), bytes].concat();
        prop_assert_eq!(two, frame::encode(request, &Message::Append(batch)).to_vec());
    }

    #[test]
    fn one_damaged_bit_is_noticed(
        message in message(),
        at: proptest::sample::Index,
        bit in 0..8u8,
    ) {
        let mut bytes = frame::encode(9, &message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A longer length may only make the decoder wait; anything it does yield would be wrong.
        prop_assert!(!matches!(decode_all(&bytes, 4096), Ok(frames) if !frames.is_empty()));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_waited_for(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        prop_assert!(Batch::decode(Bytes::from(bytes.clone())).is_err());
        prop_assert!(BatchHeader::peek(&bytes).is_err());
        let frames = decode_all(&bytes, 100);
        prop_assert!(!matches!(frames, Ok(frames) if !frames.is_empty()));
    }

    /// Checksums made right again, so that the bytes reach the inner rules.
    #[test]
    fn damage_under_valid_checksums_never_panics_and_is_canonical(
        message in message(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = frame::encode(1, &message).to_vec();
        for (at, value) in edits {
            let payload = frame::HEADER_SIZE..bytes.len();
            if !payload.is_empty() {
                let at = payload.start + at.index(payload.len());
                bytes[at] = value;
            }
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..20]), &bytes[frame::HEADER_SIZE..]);
        if message.kind() != Message::Append(sample()).kind() {
            bytes[20..24].copy_from_slice(&crc.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..24]);
            bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        }
        if let Ok(frames) = decode_all(&bytes, 1 << 20) {
            for one in frames {
                let Frame::Message { request, message } = one else { panic!("kind changed") };
                prop_assert_eq!(frame::encode(request, &message).to_vec(), bytes.clone());
            }
        }
    }
}

fn sample() -> Batch {
    let header = BatchHeader {
        segment: types::SegmentId { volume: types::VolumeId(1), group: types::GroupId(2) },
        epoch: types::Epoch(3),
        membership: types::MembershipEpoch(1),
        base: types::Lsn(64),
        last: types::Lsn(64),
        vdl: types::Span::ZERO,
        low_water: types::Lsn::ZERO,
        watermark: 0,
    };
    Batch { header, parts: Vec::new() }
}

/// Bodies whose checksum is right but whose inside is random: the inner rules see them.
#[test]
fn a_batch_with_random_parts_under_valid_checksums_is_refused_or_canonical() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (proptest::collection::vec(any::<u8>(), 0..80), 0..4u32);
    runner
        .run(&strategy, |(body, count)| {
            let mut bytes = sample().encode().to_vec();
            bytes.extend_from_slice(&body);
            let mut identity = Vec::new();
            identity.extend_from_slice(&bytes[16..36]);
            identity.extend_from_slice(&bytes[40..48]);
            let seed = crc32c::crc32c(&identity);
            bytes[8..12].copy_from_slice(&crc32c::crc32c_append(seed, &body).to_le_bytes());
            bytes[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
            bytes[36..40].copy_from_slice(&count.to_le_bytes());
            let crc = crc32c::crc32c_append(seed, &bytes[8..104]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            assert!(BatchHeader::peek(&bytes).is_ok(), "the test makes valid headers");
            if let Ok(batch) = Batch::decode(Bytes::from(bytes.clone())) {
                assert_eq!(batch.encode().to_vec(), bytes);
            }
            Ok(())
        })
        .expect("no case fails");
}
