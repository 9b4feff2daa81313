//! Any bytes as a batch whose checksums are right: an error, or a batch that encodes to the same bytes
//! (rule F1), in bounded memory (rule F2).

#![no_main]

use bytes::Bytes;
use fuzz::within;
use libfuzzer_sys::fuzz_target;
use wire::{Batch, BatchHeader};

/// Puts magic, length and checksums right.
fn seal(bytes: &mut [u8]) {
    let Some((header, body)) = bytes.split_at_mut_checked(BatchHeader::SIZE) else { return };
    let seed = crc32c::crc32c(&[&header[16..36], &header[40..48]].concat());
    header[..4].copy_from_slice(b"6fB\x01");
    header[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[8..12].copy_from_slice(&crc32c::crc32c_append(seed, body).to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &header[8..]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
}

fuzz_target!(|input: &[u8]| {
    let mut bytes = input.to_vec();
    seal(&mut bytes);
    let bytes = Bytes::from(bytes);
    within((16 << 10) + 128 * input.len(), || {
        BatchHeader::peek(&bytes).ok();
        if let Ok(batch) = Batch::decode(bytes.clone()) {
            assert_eq!(batch.encode(), bytes, "one value has one encoding");
        }
    });
});
