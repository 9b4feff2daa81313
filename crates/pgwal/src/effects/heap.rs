//! Effects of heap records: cleared visibility bits. Recovery clears them whether or not the
//! heap page itself needs the record.

use super::{CatalogChange, Effects, LogicalMapping, VmClear};
use crate::cursor::Cursor;
use crate::layout::op::{heap as op, heap_flags as flag, heap2 as op2};
use crate::record::{Record, Source};
use crate::vm;
use types::Lsn;

fn clear(record: &Record<impl Source>, block: u8, bits: u8, effects: &mut Effects) -> Option<()> {
    let block = record.block(block)?;
    effects.vm_clear.push(VmClear { rel: block.rel, heap_block: block.block, bits });
    Some(())
}

/// Reads the byte at `at` of the main data and clears all bits of block 0 if it has `flag`.
fn clear_if(
    record: &Record<impl Source>,
    at: usize,
    flag: u8,
    bits: u8,
    effects: &mut Effects,
) -> Option<()> {
    if record.main.get(at)? & flag != 0 {
        clear(record, 0, bits, effects)?;
    }
    Some(())
}

pub(super) fn heap(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    match op {
        // offset u16, flags u8
        op::INSERT => clear_if(record, 2, flag::INSERT_ALL_VISIBLE_CLEARED, vm::ALL_BITS, effects),
        // xmax u32, offset u16, infobits u8, flags u8
        op::DELETE => clear_if(record, 7, flag::DELETE_ALL_VISIBLE_CLEARED, vm::ALL_BITS, effects),
        op::UPDATE | op::HOT_UPDATE => update(record, effects),
        // xid u32, offset u16, infobits u8, flags u8
        op::LOCK => clear_if(record, 7, flag::LOCK_ALL_FROZEN_CLEARED, vm::ALL_FROZEN, effects),
        // TRUNCATE is for logical decoding; CONFIRM and INPLACE change their block.
        _ => Some(()),
    }
}

/// Old xmax u32, old offset u16, infobits u8, flags u8, new xmax u32, new offset u16. Block 0 is
/// the new page, block 1 the old one when it is another.
fn update(record: &Record<impl Source>, effects: &mut Effects) -> Option<()> {
    let flags = *record.main.get(7)?;
    if flags & flag::UPDATE_OLD_ALL_VISIBLE_CLEARED != 0 {
        let old = if record.block(1).is_some() { 1 } else { 0 };
        clear(record, old, vm::ALL_BITS, effects)?;
    }
    if flags & flag::UPDATE_NEW_ALL_VISIBLE_CLEARED != 0 {
        clear(record, 0, vm::ALL_BITS, effects)?;
    }
    Some(())
}

pub(super) fn heap2(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    match op {
        // flags u8, padding, ntuples u16
        op2::MULTI_INSERT => {
            clear_if(record, 0, flag::INSERT_ALL_VISIBLE_CLEARED, vm::ALL_BITS, effects)
        }
        // xmax u32, offset u16, infobits u8, flags u8
        op2::LOCK_UPDATED => {
            clear_if(record, 7, flag::LOCK_ALL_FROZEN_CLEARED, vm::ALL_FROZEN, effects)
        }
        op2::NEW_CID => {
            effects.saw_xid(Cursor::new(&record.main).u32()?);
            Some(())
        }
        op2::REWRITE => rewrite(record, effects),
        // PRUNE, VACUUM and FREEZE_PAGE change their block; VISIBLE references the map page too.
        _ => Some(()),
    }
}

/// Mapped xid u32, database u32, relation u32, padding, offset i64, mappings u32, padding, start
/// u64, then 36 bytes a mapping.
fn rewrite(record: &Record<impl Source>, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    let (mapped_xid, database, relation) = (main.u32()?, main.u32()?, main.u32()?);
    main.align8()?;
    let offset = u64::try_from(main.i64()?).ok()?;
    let mappings = usize::try_from(main.u32()?).ok()?;
    main.align8()?;
    let start = Lsn(main.u64()?);
    let bytes = main.take(mappings.checked_mul(MAPPING_SIZE)?)?.into_shared();
    effects.catalog.push(CatalogChange::LogicalMapping(LogicalMapping {
        mapped_xid,
        xid: record.xid,
        database,
        relation,
        start,
        offset,
        bytes,
    }));
    Some(())
}

/// `LogicalRewriteMappingData`: two relations (12 bytes each) and two tuple ids (6 bytes each).
const MAPPING_SIZE: usize = 2 * 12 + 2 * 6;
