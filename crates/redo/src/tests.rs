//! Arbitrary records on arbitrary pages are errors or pages, never a panic.

use bytes::Bytes;
use pgwal::keys::{Fork, Rel, Slru};
use pgwal::record::{BlockRef, Record};
use proptest::prelude::*;
use types::{Engine, Lsn, PageKey, Span};

use crate::engine::{apply_to_block, reference};
use crate::page::{PAGE_SIZE, Page};
use crate::step;
use crate::{Postgres, State, slru};

const REL: Rel = Rel { tablespace: 1663, database: 5, relation: 16384 };

/// Numbers as records have them: mostly small, so that they name items that exist.
fn small_numbers(bytes: usize) -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![4 => 0u16..6, 1 => 0u16..300, 1 => any::<u16>()];
    prop::collection::vec(number, 0..bytes / 2)
        .prop_map(|numbers| numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
}

fn bytes(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..length), small_numbers(length)]
}

prop_compose! {
    fn record()(
        rmid in 0u8..23,
        info: u8,
        xid: u32,
        main in bytes(120),
        blocks in prop::collection::vec((0u8..6, any::<bool>(), bytes(200), 0u32..3), 1..6),
    ) -> Record {
        let mut blocks: Vec<_> = blocks
            .into_iter()
            .map(|(id, will_init, data, block)| BlockRef {
                id,
                rel: REL,
                fork: Fork::Main,
                block,
                will_init,
                image: None,
                data: Bytes::from(data),
            })
            .collect();
        blocks.sort_by_key(|block| block.id);
        blocks.dedup_by_key(|block| block.id);
        let span = Span { start: Lsn(0x1000), end: Lsn(0x1100) };
        let (prev, origin, top_xid, bytes) = (Lsn::ZERO, None, None, Bytes::new());
        let main = Bytes::from(main);
        Record { span, prev, xid, rmid, info, origin, top_xid, blocks, main, bytes }
    }
}

prop_compose! {
    /// A page that is sound in itself, with items of random bytes, then damaged in places.
    fn page()(
        special in prop_oneof![Just(0usize), Just(8), Just(16)],
        special_bytes in prop::collection::vec(any::<u8>(), 16),
        items in prop::collection::vec(bytes(80), 0..12),
        damage in prop::collection::vec((0usize..PAGE_SIZE, any::<u8>()), 0..3),
        header in prop::collection::vec((8usize..60, any::<u8>()), 0..2),
    ) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_SIZE];
        let mut page = Page::of(&mut bytes).expect("a page");
        page.init(special);
        for item in items.iter().filter(|item| !item.is_empty()) {
            page.append_item(item).expect("fits");
        }
        let at = page.special();
        bytes[at..].copy_from_slice(&special_bytes[..PAGE_SIZE - at]);
        for (at, byte) in damage.into_iter().chain(header) {
            bytes[at] = byte;
        }
        bytes
    }
}

/// The record with its bytes borrowed, as the engine has it.
fn borrowed(record: &Record) -> step::Record<'_> {
    let Record { span, prev, xid, rmid, info, origin, top_xid, .. } = *record;
    fn block(block: &BlockRef) -> step::BlockRef<'_> {
        let BlockRef { id, rel, fork, block, will_init, ref data, .. } = *block;
        step::BlockRef { id, rel, fork, block, will_init, image: None, data: &data[..] }
    }
    let blocks = record.blocks.iter().map(block).collect();
    let (main, bytes) = (&record.main[..], &record.bytes[..]);
    step::Record { span, prev, xid, rmid, info, origin, top_xid, blocks, main, bytes }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn arbitrary_records_never_panic(record in record(), page in page()) {
        let record = borrowed(&record);
        for block in &record.blocks {
            let mut page = page.clone();
            let place = (block.rel, block.fork, block.block);
            let outcome = apply_to_block(&record, place, &mut page);
            if reference(&record, block.rel, block.fork, block.block).is_some_and(|b| b.will_init) {
                let mut fresh = Vec::new();
                prop_assert_eq!(&outcome, &apply_to_block(&record, place, &mut fresh));
                prop_assert!(outcome.is_err() || page == fresh, "it depends on the page before");
            }
            if outcome.is_ok() {
                let page: &mut [u8; PAGE_SIZE] =
                    page.as_mut_slice().try_into().expect("still a page");
                crate::mask::mask_page(record.rmid, page, block.block).ok();
            }
        }
        for fork in [Fork::Vm, Fork::Fsm] {
            apply_to_block(&record, (REL, fork, 0), &mut page.clone()).ok();
        }
        for area in Slru::ALL {
            slru::apply(&record, area, 0, &mut page.clone()).ok();
        }
        State::default().apply(&record).ok();
    }

    #[test]
    fn arbitrary_bytes_never_panic(key: [u8; 20], mut page in bytes(9000), body in bytes(300)) {
        let key = PageKey(key);
        Postgres.replaces(&key, &body);
        Postgres.apply(&key, &mut page, Span::ZERO, &body).ok();
        Postgres.describe(&key);
        State::decode(&page).ok();
    }
}

#[test]
fn an_error_names_record_page_and_place() {
    let key = pgwal::keys::Key::Block(REL, Fork::Main, 7).encode();
    let span = Span { start: Lsn(0x2000), end: Lsn(0x2028) };
    let mut page = Vec::new();
    // A heap DELETE of tuple 1 of block 7, which is empty.
    let mut body = vec![0; 24];
    body[16..18].copy_from_slice(&[0x10, 10]);
    body.extend_from_slice(&[0, 0, 0, 0]);
    for number in [1663u32, 5, 16384, 7] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.extend_from_slice(&[255, 8, 9, 0, 0, 0, 1, 0, 0, 0]);
    let length = body.len() as u32;
    body[0..4].copy_from_slice(&length.to_le_bytes());
    let error = Postgres.apply(&key, &mut page, span, &body).expect_err("nothing to delete");
    assert_eq!(
        error.to_string(),
        "record [0/2000, 0/2028) on page 1663/5/16384 block 7: Heap 0x10: block reference 0: \
         the page is empty and the record does not initialise it"
    );
}
