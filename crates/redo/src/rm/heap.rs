//! Heap and Heap2 (`access/heapam_xlog.h`): tuples on table pages.

use pgwal::layout::op::heap::*;
use pgwal::layout::op::heap_flags::{
    DELETE_ALL_VISIBLE_CLEARED, INSERT_ALL_FROZEN_SET, INSERT_ALL_VISIBLE_CLEARED, OP_MASK,
    UPDATE_NEW_ALL_VISIBLE_CLEARED, UPDATE_OLD_ALL_VISIBLE_CLEARED,
};
use pgwal::layout::op::heap2;

use super::heap_tuples::{infobits, insert_tuple, multi_insert, put_tuple, updated_tuple};
use crate::fault::{Res, ensure, fault};
use crate::page::{ALL_VISIBLE, HAS_FREE_LINES, ItemId, LP_DEAD, LP_NORMAL, Page};
use crate::read::Reader;
use crate::step::Step;
use crate::tuple::{HEAP_HEADER, HeapTuple, Tid, bits, xid_precedes};

const DELETE_IS_SUPER: u8 = 0x08;
const DELETE_IS_PARTITION_MOVE: u8 = 0x10;

/// `ItemPointerSetMovedPartitions`.
const MOVED_PARTITIONS: Tid = Tid { block: u32::MAX, item: 0xfffd };

/// Applies a Heap record to one of its table pages.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    if step.block.will_init {
        page.init(0);
    }
    match (step.op() & OP_MASK, step.block.id) {
        (INSERT, 0) => insert(step, page),
        (DELETE, 0) => delete(step, page),
        (UPDATE | HOT_UPDATE, 0 | 1) => update(step, page),
        (CONFIRM, 0) => confirm(step, page),
        (LOCK, 0) => lock(step, page, true),
        (INPLACE, 0) => inplace(step, page),
        (op, _) if ALL.contains(&op) => step.no_such_block(),
        _ => step.unknown_op(),
    }
}

/// Applies a Heap2 record to one of its table pages.
pub(crate) fn redo2(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    if step.block.will_init {
        page.init(0);
    }
    match (step.op() & OP_MASK, step.block.id) {
        (heap2::PRUNE, 0) => prune(step, page),
        (heap2::VACUUM, 0) => vacuum(step, page),
        (heap2::FREEZE_PAGE, 0) => freeze(step, page),
        // The page's LSN stays: hint bits are not logged in this volume.
        (heap2::VISIBLE, 1) => {
            page.set_flag(ALL_VISIBLE, true);
            Ok(())
        }
        (heap2::MULTI_INSERT, 0) => {
            let flags = multi_insert(step, page)?;
            if flags & INSERT_ALL_VISIBLE_CLEARED != 0 {
                page.set_flag(ALL_VISIBLE, false);
            }
            if flags & INSERT_ALL_FROZEN_SET != 0 {
                page.set_flag(ALL_VISIBLE, true);
            }
            step.stamp(page)
        }
        (heap2::LOCK_UPDATED, 0) => lock(step, page, false),
        (op, _) if heap2::ALL.contains(&op) => step.no_such_block(),
        _ => step.unknown_op(),
    }
}

/// The tuple at a line pointer that must be in normal use.
fn tuple<'p>(page: &'p mut Page<'_>, number: u16) -> Res<HeapTuple<'p>> {
    let line = page.line(number)?;
    ensure!(line.flags == LP_NORMAL, "tuple {number} is not in use (flags {})", line.flags);
    HeapTuple::of(page.item_mut(number)?)
}

fn insert(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (number, flags) = (main.u16()?, main.u8()?);
    insert_tuple(step, page, number)?;
    if flags & INSERT_ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    step.stamp(page)
}

/// Clears what earlier lockers and deleters left in a tuple and sets the record's bits.
fn replace_xmax_bits(tuple: &mut HeapTuple<'_>, set: u8) -> Res<()> {
    let (mask, mask2) = infobits(set);
    tuple.set_infomask(tuple.infomask()? & !(bits::XMAX_BITS | bits::MOVED) | mask)?;
    tuple.set_infomask2(tuple.infomask2()? & !bits::KEYS_UPDATED | mask2)
}

fn set_hot_updated(tuple: &mut HeapTuple<'_>, on: bool) -> Res<()> {
    let mask = tuple.infomask2()? & !bits::HOT_UPDATED;
    tuple.set_infomask2(if on { mask | bits::HOT_UPDATED } else { mask })
}

fn set_prunable(page: &mut Page<'_>, xid: u32) {
    if page.prune_xid() == 0 || xid_precedes(xid, page.prune_xid()) {
        page.set_prune_xid(xid);
    }
}

fn delete(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (xmax, number, set, flags) = (main.u32()?, main.u16()?, main.u8()?, main.u8()?);
    let mut target = tuple(page, number)?;
    replace_xmax_bits(&mut target, set)?;
    set_hot_updated(&mut target, false)?;
    if flags & DELETE_IS_SUPER == 0 {
        target.set_xmax(xmax)?;
    } else {
        target.set_xmin(0)?;
    }
    target.set_first_command()?;
    if flags & DELETE_IS_PARTITION_MOVE == 0 {
        target.set_ctid(Tid { block: step.block.block, item: number })?;
    } else {
        target.set_ctid(MOVED_PARTITIONS)?;
    }
    set_prunable(page, step.record.xid);
    if flags & DELETE_ALL_VISIBLE_CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    step.stamp(page)
}

/// `xl_heap_update`.
struct Update {
    old_xmax: u32,
    old_number: u16,
    old_set: u8,
    flags: u8,
    new_xmax: u32,
    new_number: u16,
}

impl Update {
    fn read(mut main: Reader<'_>) -> Res<Update> {
        Ok(Update {
            old_xmax: main.u32()?,
            old_number: main.u16()?,
            old_set: main.u8()?,
            flags: main.u8()?,
            new_xmax: main.u32()?,
            new_number: main.u16()?,
        })
    }
}

/// Block 0 is the new tuple's page, block 1 the old one's where it is another.
fn update(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let update = Update::read(step.main())?;
    let across = step.record.block(1).is_some();
    let hot = step.op() & OP_MASK == HOT_UPDATE;
    ensure!(!(hot && across), "a HOT update crosses pages");
    let new_tid = Tid { block: step.block_number(0)?, item: update.new_number };
    let has_old = step.block.id == 1 || !across;
    if has_old {
        let mut target = tuple(page, update.old_number)?;
        replace_xmax_bits(&mut target, update.old_set)?;
        set_hot_updated(&mut target, hot)?;
        target.set_xmax(update.old_xmax)?;
        target.set_first_command()?;
        target.set_ctid(new_tid)?;
        set_prunable(page, step.record.xid);
        if update.flags & UPDATE_OLD_ALL_VISIBLE_CLEARED != 0 {
            page.set_flag(ALL_VISIBLE, false);
        }
    }
    if step.block.id == 0 {
        let old = if has_old { Some(page.item(update.old_number)?) } else { None };
        let tuple = updated_tuple(step, update.flags, update.new_xmax, new_tid, old)?;
        put_tuple(page, update.new_number, &tuple)?;
        if update.flags & UPDATE_NEW_ALL_VISIBLE_CLEARED != 0 {
            page.set_flag(ALL_VISIBLE, false);
        }
    }
    step.stamp(page)
}

fn confirm(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let number = step.main().u16()?;
    tuple(page, number)?.set_ctid(Tid { block: step.block.block, item: number })?;
    step.stamp(page)
}

/// `LOCK`, and `LOCK_UPDATED` which leaves the chain link and the command id alone.
fn lock(step: &Step<'_>, page: &mut Page<'_>, newest: bool) -> Res<()> {
    let mut main = step.main();
    let (xmax, number, set) = (main.u32()?, main.u16()?, main.u8()?);
    let mut target = tuple(page, number)?;
    replace_xmax_bits(&mut target, set)?;
    if newest {
        let mask = target.infomask()?;
        let only_locked = mask & bits::XMAX_LOCK_ONLY != 0
            || mask & (bits::XMAX_IS_MULTI | bits::LOCK_MASK) == bits::XMAX_EXCL_LOCK;
        if only_locked {
            set_hot_updated(&mut target, false)?;
            target.set_ctid(Tid { block: step.block.block, item: number })?;
        }
        target.set_first_command()?;
    }
    target.set_xmax(xmax)?;
    step.stamp(page)
}

fn inplace(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let number = step.main().u16()?;
    tuple(page, number)?;
    let item = page.item_mut(number)?;
    let hoff = usize::from(item[HEAP_HEADER - 1]);
    let data = step.data().rest();
    ensure!(
        item.len().checked_sub(hoff) == Some(data.len()),
        "{} new bytes for tuple {number} with {} bytes from {hoff} on",
        data.len(),
        item.len()
    );
    item[hoff..].copy_from_slice(data);
    step.stamp(page)
}

fn prune(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    main.skip(4)?;
    let (redirected, dead) = (usize::from(main.u16()?), usize::from(main.u16()?));
    let mut data = step.data();
    page.check()?;
    for _ in 0..redirected {
        let (from, to) = (data.u16()?, data.u16()?);
        page.set_line(from, ItemId::redirect(to))?;
    }
    for number in data.u16s(dead)? {
        page.set_line(number, ItemId::DEAD)?;
    }
    for number in data.u16s(data.remaining() / 2)? {
        page.set_line(number, ItemId::UNUSED)?;
    }
    data.finish()?;
    page.repair_fragmentation()?;
    step.stamp(page)
}

fn vacuum(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let count = usize::from(step.main().u16()?);
    for number in step.data().u16s(count)? {
        let line = page.line(number)?;
        ensure!(
            line.flags == LP_DEAD && !line.has_storage(),
            "line pointer {number} to be freed is not dead (flags {})",
            line.flags
        );
        page.set_line(number, ItemId::UNUSED)?;
    }
    page.truncate_lines()?;
    step.stamp(page)
}

fn freeze(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    const FREEZE_XVAC: u8 = 0x02;
    const INVALID_XVAC: u8 = 0x04;
    let mut main = step.main();
    main.skip(4)?;
    let count = main.u16()?;
    let mut data = step.data();
    for _ in 0..count {
        let (xmax, number, mask2, mask) = (data.u32()?, data.u16()?, data.u16()?, data.u16()?);
        let flags = data.u8()?;
        data.skip(1)?;
        let mut target = tuple(page, number)?;
        target.set_xmax(xmax)?;
        if flags & FREEZE_XVAC != 0 {
            target.set_field3(2)?;
        }
        if flags & INVALID_XVAC != 0 {
            target.set_field3(0)?;
        }
        target.set_infomask(mask)?;
        target.set_infomask2(mask2)?;
    }
    step.stamp(page)
}

/// Masks a heap page as `heap_mask` does; `block` is its number.
pub(crate) fn mask(page: &mut Page<'_>, block: u32) -> Res<()> {
    const SPECULATIVE: u16 = 0xfffe;
    page.set_flag(HAS_FREE_LINES, false);
    for number in 1..=page.item_count() {
        let line = page.line(number)?;
        if !line.has_storage() {
            continue;
        }
        if line.flags == LP_NORMAL {
            let mut target = HeapTuple::of(page.item_mut(number)?)?;
            let mask = target.infomask()?;
            if mask & bits::XMIN_FROZEN == bits::XMIN_FROZEN {
                target.set_infomask(mask & !(bits::XMAX_INVALID | bits::XMAX_COMMITTED))?;
            } else {
                target.set_infomask(mask & !bits::XACT_MASK)?;
            }
            target.set_field3(0)?;
            if target.ctid()?.item == SPECULATIVE {
                target.set_ctid(Tid { block, item: number })?;
            }
        }
        let end = line.offset + line.length;
        match end.checked_next_multiple_of(8) {
            Some(padded) => page.get_mut(end, padded - end)?.fill(0),
            None => return fault!("item {number} leaves the page"),
        }
    }
    Ok(())
}
