//! The same on the machine's own file system.

mod common;

use std::sync::Arc;

use common::*;
use env::RealDisk;
use segstore::{Options, Store};
use types::Lsn;

#[test]
fn a_store_on_a_real_disk_comes_back_as_it_was() {
    let root = tempfile::tempdir().expect("temporary directory");
    let dir = root.path().join("store");
    let parts = || (Arc::new(RealDisk), Arc::new(Toy), identity());
    let options = Options { log_file_bytes: 64 << 10, log_retain_bytes: 192 << 10, ..small() };
    let mut model = Model::new();
    let (disk, engine, who) = parts();
    let mut store = Store::create(disk, engine, &dir, who, options.clone()).expect("creates");
    store.add_segment(&spec(SEGMENT), &first_state()).expect("adds");
    for round in 0..6u64 {
        for number in 0..40 {
            let mut random = Random(round * 100 + number);
            let parts =
                (0..5).map(|i| (vec![apply(random.below(30))], body(number * 5 + i, 80))).collect();
            let batch = model.batch(parts);
            store.append(&[batch_entry(batch)]).expect("appends");
            if number % 2 == 0 {
                model.settle(Lsn::MAX);
                store.advance(SEGMENT, &model.report());
                store.background().expect("works");
            }
        }
        model.check(&store, 30, &[Lsn::MAX]);
        drop(store);
        let (disk, engine, who) = parts();
        let (again, restored) =
            Store::open(disk, engine, &dir, who, options.clone()).expect("opens");
        let end = restored[0].held.last().map_or(restored[0].flushed, |p| p.meta.span.end);
        assert_eq!((end, &restored[0].damage), (model.tail(), &None));
        store = again;
        model.check(&store, 30, &[model.low_water, Lsn::MAX]);
    }
    work_off(&store);
    store.verify(SEGMENT).expect("whole");
    assert!(store.stats().files > 0);
}
