//! Any bytes as frames of a connection, some with right checksums and some as they come: an error, or
//! frames that encode to the same bytes (rule F1), in bounded memory (rule F2).

#![no_main]

use bytes::Bytes;
use fuzz::within;
use libfuzzer_sys::fuzz_target;
use wire::frame::{self, Decoder, Frame};

/// A frame of this kind with this payload and right checksums.
fn sealed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; frame::HEADER_SIZE];
    header[..4].copy_from_slice(b"6fF\n");
    header[4..6].copy_from_slice(&wire::PROTOCOL_VERSION.to_le_bytes());
    header[6] = kind;
    header[8] = 1;
    header[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let seed = crc32c::crc32c(&header[..20]);
    const APPEND: u8 = 16;
    let crc = if kind == APPEND { 0 } else { crc32c::crc32c_append(seed, payload) };
    header[20..24].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    [&header[..], payload].concat()
}

fn encode(frame: &Frame) -> Bytes {
    match frame {
        Frame::Hello(hello) => frame::encode_hello(hello),
        Frame::Welcome(welcome) => frame::encode_welcome(welcome),
        Frame::Refusal(refusal) => frame::encode_refusal(refusal),
        Frame::Message { request, message } => frame::encode(*request, message),
    }
}

fn drain(decoder: &mut Decoder, sent: &[u8]) {
    while let Ok(Some(found)) = decoder.next() {
        assert_eq!(encode(&found), sent, "one value has one encoding");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((head, payload)) = input.split_first_chunk::<2>() else { return };
    within((64 << 10) + 192 * input.len(), || {
        let sent = sealed(head[0], payload);
        let mut decoder = Decoder::new();
        if head[1] & 1 != 0 {
            decoder.established();
        }
        if head[1] & 2 != 0 {
            // Not sealed: the header is what comes.
            decoder.feed(payload);
            decoder.next().ok();
            assert!(decoder.wanted() <= types::FRAME_BYTES_MAX + frame::HEADER_SIZE);
            return;
        }
        for piece in sent.chunks(usize::from(head[1] >> 2) * 64 + 7) {
            drain(&mut decoder, &sent);
            decoder.feed(piece);
        }
        drain(&mut decoder, &sent);
    });
});
