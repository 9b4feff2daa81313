//! Any bytes as a WAL stream, cut anywhere: no panic, no memory beyond what was fed.
//! `tests/fixtures/pg15.wal` is a good first corpus.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwal::Decoder;
use types::Lsn;

fuzz_target!(|input: (u16, Vec<u8>)| {
    let (cut, bytes) = input;
    let mut decoder = Decoder::new(Lsn(0x30_0000), None, 1 << 20, None, None);
    for piece in bytes.chunks(usize::from(cut).max(1)) {
        if decoder.feed(decoder.wants(), piece).is_err() {
            return;
        }
        while let Ok(Some(record)) = decoder.next() {
            assert!(record.bytes.len() <= bytes.len());
        }
    }
});
