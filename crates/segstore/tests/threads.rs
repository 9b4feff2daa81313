//! Appends, reads and background work at the same time: every read is of one moment.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::*;
use env::MemDisk;
use segstore::Chain;
use types::Lsn;
use wire::PageAnswer;

const KEYS: u64 = 16;

#[test]
fn reads_beside_appends_flushes_and_merges_are_exact() {
    let store = create(&MemDisk::new(), small());
    // Made beforehand, so that readers know every page at every end.
    let mut model = Model::new();
    let mut random = Random(11);
    let mut batches = Vec::new();
    for number in 0..600 {
        let parts =
            (0..4).map(|i| (vec![apply(random.below(KEYS))], body(number * 4 + i, 50))).collect();
        batches.push((model.batch(parts), model.parts.len()));
    }
    let appended = AtomicU64::new(0);
    let settled = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut growing = Model::new();
            for (batch, count) in &batches {
                store.append(&[batch_entry(batch.clone())]).expect("appends");
                appended.store(batch.header.last.0, Ordering::SeqCst);
                growing.parts = model.parts[..*count].to_vec();
                // Readers use read points up to 60 parts back.
                let low = growing.parts[count.saturating_sub(61)].2.meta.span.end;
                growing.settle(low);
                settled.store(low.0, Ordering::SeqCst);
                store.advance(SEGMENT, &growing.report());
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                if !store.background().expect("works") {
                    thread::yield_now();
                }
            }
        });
        for seed in 0..2 {
            let (store, model, appended, done) = (&store, &model, &appended, &done);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !done.load(Ordering::SeqCst) {
                    let read_point = Lsn(appended.load(Ordering::SeqCst));
                    let page_key = key(random.below(KEYS));
                    match store.read_page(SEGMENT, &page_key, read_point) {
                        PageAnswer::Page { version, bytes } => {
                            let page = model.page(&page_key, read_point).expect("exists");
                            assert_eq!((version, bytes.to_vec()), page);
                        }
                        PageAnswer::Absent => assert!(model.page(&page_key, read_point).is_none()),
                        // The reader was slower than sixty parts.
                        PageAnswer::Failed(wire::Refusal::Forgotten { .. }) => {}
                        PageAnswer::Failed(why) => panic!("{why}"),
                    }
                    let (from, to) = (key(0), types::PageKey::MAX);
                    match store.scan(SEGMENT, &from, &to, read_point, usize::MAX) {
                        Ok((pages, rest)) => {
                            let expected = (0..KEYS).map(key).filter_map(|key| {
                                let (version, page) = model.page(&key, read_point)?;
                                Some((key, version, page.into()))
                            });
                            assert_eq!((pages, rest), (expected.collect(), None));
                        }
                        Err(segstore::StoreError::Forgotten { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    match store.read_chain(SEGMENT, Lsn(read_point.0 / 2), read_point, 3000) {
                        Ok(Chain::Batches(_) | Chain::Forgotten(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    work_off(&store);
    model.low_water = Lsn(settled.load(Ordering::SeqCst));
    model.check(&store, KEYS, &[model.low_water, Lsn::MAX]);
}
