//! Any bytes as one record: taking it apart, its images, its effects, and building it again.

#![no_main]

use bytes::Bytes;
use fuzz::within;
use libfuzzer_sys::fuzz_target;
use pgwal::build::Draft;
use pgwal::{Record, effects};
use types::Span;

fuzz_target!(|input: &[u8]| {
    let mut bytes = input.to_vec();
    let Some(length) = bytes.first_chunk_mut::<4>() else { return };
    *length = (input.len() as u32).to_le_bytes();
    let bytes = Bytes::from(bytes);
    within((16 << 10) + 32 * input.len(), || {
        let Ok(record) = Record::parse(Span::ZERO, bytes) else { return };
        let mut page = [0; pgwal::layout::BLOCK_SIZE];
        for image in record.blocks.iter().filter_map(|block| block.image.as_ref()) {
            if image.restore(&mut page).is_err() {
                continue;
            }
        }
        if let Ok(effects) = effects(&record) {
            assert!(effects.slru.len() + effects.catalog.len() <= record.bytes.len());
            assert!(effects.implicit_blocks().len() <= record.bytes.len());
        }
        if let Ok(again) = Draft::from(&record).encode(record.prev) {
            let again = Record::parse(Span::ZERO, again).expect("what was built is well-formed");
            assert_eq!(again.main, record.main);
            assert_eq!(again.blocks.len(), record.blocks.len());
        }
    });
});
