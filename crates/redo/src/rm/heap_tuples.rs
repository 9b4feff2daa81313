//! Building heap tuples from what records keep of them.

use crate::fault::{Res, ensure, fault};
use crate::page::{HEADER_SIZE, PAGE_SIZE, Page};
use crate::step::Step;
use crate::tuple::{HEAP_HEADER, HeapTuple, Tid, bits, heap_tuple};

const PREFIX_FROM_OLD: u8 = 0x20;
const SUFFIX_FROM_OLD: u8 = 0x40;

/// The infomask and infomask2 bits that a record's `infobits_set` stands for.
pub(super) fn infobits(set: u8) -> (u16, u16) {
    let pairs = [
        (0x01, bits::XMAX_IS_MULTI),
        (0x02, bits::XMAX_LOCK_ONLY),
        (0x04, bits::XMAX_EXCL_LOCK),
        (0x08, bits::XMAX_KEYSHR_LOCK),
    ];
    let mask = pairs.iter().filter(|(bit, _)| set & bit != 0).fold(0, |mask, (_, to)| mask | to);
    (mask, if set & 0x10 != 0 { bits::KEYS_UPDATED } else { 0 })
}

/// Most line pointers a heap page may have (`MaxHeapTuplesPerPage`).
const HEAP_ITEMS_MAX: u16 = ((PAGE_SIZE - HEADER_SIZE) / (24 + 4)) as u16;

/// Puts a tuple at an unused line pointer of a heap page.
pub(super) fn put_tuple(page: &mut Page<'_>, number: u16, tuple: &[u8]) -> Res<()> {
    ensure!(number <= HEAP_ITEMS_MAX, "a heap page cannot have a tuple {number}");
    page.put_item_at(number, tuple)
}

/// Adds the tuple in the block's data (header, then the rest) at line pointer `number`.
pub(super) fn insert_tuple(step: &Step<'_>, page: &mut Page<'_>, number: u16) -> Res<()> {
    let mut data = step.data();
    let header = (data.u16()?, data.u16()?, data.u8()?);
    let tid = Tid { block: step.block.block, item: number };
    let mut tuple = heap_tuple(header, step.record.xid, tid, data.remaining());
    tuple.extend_from_slice(data.rest());
    put_tuple(page, number, &tuple)
}

/// Adds the record's tuples; returns its flags.
pub(super) fn multi_insert(step: &Step<'_>, page: &mut Page<'_>) -> Res<u8> {
    let mut main = step.main();
    let flags = main.u8()?;
    main.skip(1)?;
    let count = main.u16()?;
    let mut data = step.data();
    for index in 0..count {
        let number = if step.block.will_init { index + 1 } else { main.u16()? };
        data.align(2)?;
        let length = usize::from(data.u16()?);
        let header = (data.u16()?, data.u16()?, data.u8()?);
        let tid = Tid { block: step.block.block, item: number };
        let mut tuple = heap_tuple(header, step.record.xid, tid, length);
        tuple.extend_from_slice(data.take(length)?);
        put_tuple(page, number, &tuple)?;
    }
    data.finish()?;
    Ok(flags)
}

/// The new version of an updated tuple: header from the record, and its data from the record with
/// what it shares with the old version (`old`, when on the same page) at its beginning and end.
pub(super) fn updated_tuple(
    step: &Step<'_>,
    flags: u8,
    xmax: u32,
    tid: Tid,
    old: Option<&[u8]>,
) -> Res<Vec<u8>> {
    let mut data = step.data();
    let mut length_if = |flag| if flags & flag != 0 { data.u16() } else { Ok(0) };
    let prefix = usize::from(length_if(PREFIX_FROM_OLD)?);
    let suffix = usize::from(length_if(SUFFIX_FROM_OLD)?);
    let header = (data.u16()?, data.u16()?, data.u8()?);
    let hoff = usize::from(header.2);
    let mut tuple = heap_tuple(header, step.record.xid, tid, data.remaining() + prefix + suffix);
    HeapTuple::of(&mut tuple)?.set_xmax(xmax)?;
    let shared = |from: usize, length: usize| match old.and_then(|old| {
        let end = from.checked_add(length)?;
        old.get(from..end)
    }) {
        Some(bytes) => Ok(bytes),
        None if length == 0 => Ok(&[][..]),
        None => fault!("{length} bytes at {from} are not in the old tuple"),
    };
    if prefix > 0 {
        ensure!(hoff >= HEAP_HEADER, "data offset {hoff} lies in the tuple's header");
        tuple.extend_from_slice(data.take(hoff - HEAP_HEADER)?);
        let old_hoff = old.and_then(|old| old.get(HEAP_HEADER - 1)).copied().unwrap_or(0);
        tuple.extend_from_slice(shared(usize::from(old_hoff), prefix)?);
    }
    tuple.extend_from_slice(data.rest());
    let old_length = old.map_or(0, <[u8]>::len);
    tuple.extend_from_slice(shared(old_length.saturating_sub(suffix), suffix)?);
    Ok(tuple)
}
