//! Several records one after the other on one page, as a storage node applies a chain: what one leaves
//! is what the next finds. The input is a page and then records, each behind its length.

#![no_main]

use fuzz::case::{Case, PAGE};
use fuzz::within;
use libfuzzer_sys::fuzz_target;
use pgwal::keys::Key;
use redo::Postgres;
use types::{Engine, Lsn, Span};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let mut page: Vec<u8> = Vec::new();
    within((512 << 10) + 32 * input.len(), || {
        let mut at = 1 << 62;
        while let Some((length, tail)) = rest.split_first_chunk::<2>() {
            let (record, tail) = tail.split_at(tail.len().min(u16::from_le_bytes(*length).into()));
            rest = tail;
            let Some(found) = Case::read(&[&length[..], record].concat()).record() else {
                continue;
            };
            let span = Span { start: Lsn(at), end: Lsn(at + 8) };
            at += 8;
            for block in &found.blocks {
                let key = Key::Block(block.rel, block.fork, block.block).encode();
                if Postgres.apply(&key, &mut page, span, &found.bytes).is_ok() {
                    assert_eq!(page.len(), PAGE);
                }
            }
        }
    });
});
