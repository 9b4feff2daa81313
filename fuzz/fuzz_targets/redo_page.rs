//! Any record on any page, under every key that the record has to do with: an error or some page of
//! the same size, in bounded memory, the same twice; and the page's masks.

#![no_main]

use fuzz::case::{Case, SPAN};
use fuzz::within;
use libfuzzer_sys::fuzz_target;
use pgwal::keys::{Fork, Key, Slru};
use pgwal::{Record, effects};
use redo::Postgres;
use redo::mask::{manager_of, mask_page};
use types::Engine;

fn keys(record: &Record) -> Vec<Key> {
    let mut keys = vec![Key::State];
    keys.extend(Slru::ALL.map(|area| Key::Slru(area, 0)));
    for block in &record.blocks {
        keys.push(Key::Block(block.rel, block.fork, block.block));
        keys.push(Key::Block(block.rel, Fork::Vm, 0));
        keys.push(Key::Block(block.rel, Fork::Fsm, 0));
    }
    if let Ok(effects) = effects(record) {
        let blocks = effects.implicit_blocks();
        keys.extend(blocks.into_iter().map(|(rel, fork, block)| Key::Block(rel, fork, block)));
        keys.extend(effects.slru.iter().map(|(area, page)| Key::Slru(*area, *page)));
        let times = effects.xact.map(|xact| xact.commit_ts_pages()).unwrap_or_default();
        keys.extend(times.into_iter().map(|page| Key::Slru(Slru::CommitTs, page)));
    }
    keys.sort_unstable();
    keys.dedup();
    // A long list of subtransactions names many pages; the first ones stand for all.
    keys.truncate(64);
    keys
}

fn check(case: &Case, record: &Record, key: Key) {
    let key_bytes = key.encode();
    let apply = |mut page: Vec<u8>| {
        let result = Postgres.apply(&key_bytes, &mut page, SPAN, &case.body);
        result.map(|()| page)
    };
    let replaces = Postgres.replaces(&key_bytes, &case.body);
    let outcome = apply(case.page.clone());
    assert!(outcome == apply(case.page.clone()), "{key:?}: not the same twice");
    if replaces {
        assert!(outcome == apply(Vec::new()), "{key:?}: replaced, but not the same from nothing");
    }
    let (Ok(mut page), Key::Block(_, _, block)) = (outcome, key) else { return };
    let page: &mut [u8; 8192] = page.as_mut_slice().try_into().expect("a page stays a page");
    std::hint::black_box(manager_of(page));
    mask_page(record.rmid, page, block).ok();
}

fuzz_target!(|input: &[u8]| {
    let case = Case::read(input);
    let Some(record) = case.record() else { return };
    let keys = keys(&record);
    // A page of posting lists says an item in a byte, and an item has eight in memory.
    within((512 << 10) + 32 * input.len(), || {
        for key in &keys {
            check(&case, &record, *key);
        }
    });
});
