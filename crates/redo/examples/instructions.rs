//! Fixed work for `cargo xtask instructions`, which counts its instructions: `instructions WHAT TIMES`.
//!
//! `decode` takes a kept log apart, `effects` finds out what its records change besides their blocks,
//! `redo` makes its pages from nothing. Prints how many records (`redo`: changes of pages) one time is.

use std::collections::BTreeMap;

use bytes::Bytes;
use pgwal::keys::Key;
use pgwal::page::PageHeader;
use pgwal::{Decoder, Record, effects};
use redo::Postgres;
use types::{Engine, PageKey, Span};

const LOG: &[u8] = include_bytes!("../tests/fixtures/pgbench.wal");
const SEGMENT: u32 = 1 << 20;

fn decode() -> Vec<Record> {
    let start = PageHeader::decode(&LOG[..40]).address;
    let mut decoder = Decoder::new(start, None, SEGMENT, None, None);
    decoder.feed(start, LOG).expect("contiguous");
    let mut records = Vec::new();
    while let Some(record) = decoder.next().expect("a sound log") {
        records.push(record);
    }
    records
}

fn all_effects(records: &[Record]) -> usize {
    let slots = records.iter().map(|record| effects(record).expect("known").slru.len());
    std::hint::black_box(slots.sum::<usize>());
    records.len()
}

/// The changes of pages in the log, as parts carry them.
fn changes(records: &[Record]) -> Vec<(usize, PageKey, Span, Bytes)> {
    let mut numbers = BTreeMap::new();
    let mut changes = Vec::new();
    for record in records {
        let effects = effects(record).expect("known");
        let blocks = record.blocks.iter().map(|block| (block.rel, block.fork, block.block));
        let blocks = blocks.chain(effects.implicit_blocks());
        let keys = blocks.map(|(rel, fork, block)| Key::Block(rel, fork, block));
        for key in keys.chain(effects.slru.iter().map(|(area, page)| Key::Slru(*area, *page))) {
            let next = numbers.len();
            let page = *numbers.entry(key).or_insert(next);
            changes.push((page, key.encode(), record.span, record.bytes.clone()));
        }
    }
    changes
}

fn redo(changes: &[(usize, PageKey, Span, Bytes)]) -> usize {
    let mut pages = vec![Vec::new(); changes.len()];
    for (page, key, span, body) in changes {
        Postgres.apply(key, &mut pages[*page], *span, body).expect("the log makes its pages");
    }
    std::hint::black_box(&pages);
    changes.len()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, times] = arguments.as_slice() else { panic!("usage: instructions WHAT TIMES") };
    let times: usize = times.parse().expect("TIMES is a number");
    let records = decode();
    let changes = changes(&records);
    let mut count = 0;
    for _ in 0..times {
        count = match what.as_str() {
            "decode" => std::hint::black_box(decode()).len(),
            "effects" => all_effects(&records),
            "redo" => redo(&changes),
            _ => panic!("WHAT is decode, effects or redo"),
        };
    }
    println!("{count}");
}
