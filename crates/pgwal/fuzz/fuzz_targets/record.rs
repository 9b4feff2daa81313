//! Any bytes as one record whose length and checksum are right: parsing, images, effects, and
//! building it again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwal::build::Draft;
use pgwal::{Record, effects};
use types::Span;

fuzz_target!(|input: &[u8]| {
    let mut bytes = input.to_vec();
    let Ok(length) = u32::try_from(bytes.len()) else { return };
    if length < 24 {
        return;
    }
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let Ok(record) = Record::parse(Span::ZERO, bytes.into()) else { return };
    let mut page = [0; pgwal::layout::BLOCK_SIZE];
    for image in record.blocks.iter().filter_map(|block| block.image.as_ref()) {
        if image.restore(&mut page).is_err() {
            continue;
        }
    }
    if let Ok(effects) = effects(&record) {
        assert!(effects.slru.len() + effects.catalog.len() <= record.bytes.len());
    }
    if let Ok(again) = Draft::from(&record).encode(record.prev) {
        let again = Record::parse(Span::ZERO, again).expect("what was built is well-formed");
        assert_eq!(again.main, record.main);
    }
});
