//! Ranges of the base that are ahead of others, and uppers that hold what those have taken in already.

mod common;

use bytes::Bytes;
use common::*;
use env::MemDisk;
use segstore::{Options, Store};
use types::Lsn;
use wire::Change;

const KEYS: u64 = 40;

fn flush(store: &Store, model: &mut Model, parts: Vec<(Vec<Change>, Bytes)>) {
    let batch = model.batch(parts);
    store.append(&[batch_entry(batch)]).expect("appends");
    model.settle(Lsn::MAX);
    store.advance(SEGMENT, &model.report());
    assert!(store.flush_segment(SEGMENT).expect("flushes"));
    work_off(store);
}

#[test]
fn a_deletion_that_the_base_has_taken_in_hides_nothing_that_came_after_it() {
    let options = Options {
        flush_bytes: 1 << 40,
        flush_total_bytes: 1 << 40,
        base_bytes_min: 1 << 10,
        log_retain_bytes: 1 << 20,
        ..small()
    };
    let disk = MemDisk::new();
    let store = create(&disk, options.clone());
    let mut model = Model::new();
    let put = |number: u64, length| vec![Change::Put(key(number), vec![7; length].into())];
    let pages = (0..KEYS).map(|number| (put(number, 600), body(number, 9))).collect();
    flush(&store, &mut model, pages);
    let base = store.stats();
    assert!(base.files > 8, "{base:?}");

    // Frees a few ranges, which alone are merged for that; two of its pages come back at once.
    let gone = vec![Change::Delete { from: key(3), to: key(10) }];
    let back = [(put(5, 100), body(2, 9)), (put(6, 10), body(3, 9))];
    flush(&store, &mut model, [(gone, body(1, 9))].into_iter().chain(back).collect());
    let ahead = store.stats();
    assert!(ahead.merges > base.merges && ahead.file_bytes < base.file_bytes, "{ahead:?}");

    // Then uppers are merged, the one with the deletion among them; one page's parts get an image.
    let mut files = Vec::new();
    for length in [40, 50, 60] {
        let parts = (0..4).map(|i| (vec![apply(5)], body(i, length)));
        flush(&store, &mut model, parts.collect());
        files.push(store.stats().files);
        model.check(&store, KEYS, &[Lsn::MAX]);
    }
    assert!(files[2] < files[1], "the last flush has led to a merge of uppers: {files:?}");
    let (store, _) = open(&disk, options).expect("opens");
    model.check(&store, KEYS, &[Lsn::MAX]);
}
