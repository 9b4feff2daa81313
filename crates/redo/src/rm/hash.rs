//! Hash indexes (`access/hash_xlog.h`): buckets and their overflow pages. The metapage and the
//! bitmaps of overflow pages are in [`super::hash_meta`].

use pgwal::layout::op::hash::*;

use super::hash_meta as meta;
use crate::fault::{Res, ensure, fault};
use crate::page::{Page, aligned};
use crate::read::Reader;
use crate::step::Step;
use crate::tuple::index_tuple_size;

const OPAQUE: usize = 16;
const AT_PREV: usize = 0;
const AT_NEXT: usize = 4;
const AT_BUCKET: usize = 8;
const AT_FLAGS: usize = 12;
const AT_PAGE_ID: usize = 14;
const PAGE_ID: u16 = 0xff80;

const UNUSED: u16 = 0;
const OVERFLOW: u16 = 1 << 0;
const BUCKET: u16 = 1 << 1;
pub(super) const BITMAP: u16 = 1 << 2;
pub(super) const META: u16 = 1 << 3;
const NEEDS_SPLIT_CLEANUP: u16 = 1 << 6;
const HAS_DEAD_TUPLES: u16 = 1 << 7;
const PAGE_TYPE: u16 = OVERFLOW | BUCKET | BITMAP | META;

/// No block, no bucket.
pub(super) const NONE: u32 = u32::MAX;

/// Applies a Hash record to one of its blocks.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op(), step.block.id) {
        (INIT_META_PAGE, 0) => meta::create(step, page)?,
        (INIT_BITMAP_PAGE, 0) | (ADD_OVFL_PAGE, 3) => meta::create_bitmap(step, page)?,
        (INIT_BITMAP_PAGE, 1) => meta::add_first_bitmap(page)?,
        (INSERT, 0) => page.insert_item(step.main().u16()?, step.data().rest())?,
        (INSERT, 1) => meta::add_tuples(page, 1.0)?,
        (ADD_OVFL_PAGE, 0) => {
            init(page, step.block_number(1)?, NONE, step.data().u32()?, OVERFLOW)?;
        }
        (ADD_OVFL_PAGE, 1) => set(page, AT_NEXT, step.block_number(0)?)?,
        (ADD_OVFL_PAGE, 2) => meta::set_bitmap_bit(step, page, true)?,
        (ADD_OVFL_PAGE, 4) => meta::add_overflow_page(step, page)?,
        (SPLIT_ALLOCATE_PAGE, 0) | (SPLIT_COMPLETE, 0 | 1) => split_flags(step, page)?,
        (SPLIT_ALLOCATE_PAGE, 1) => {
            let mut main = step.main();
            let bucket = main.u32()?;
            main.skip(2)?;
            init(page, bucket, NONE, bucket, main.u16()?)?;
        }
        (SPLIT_ALLOCATE_PAGE, 2) => meta::split(step, page)?,
        (SPLIT_PAGE, 0) => return fault!("the record has no image of the page"),
        // The bucket's first page is only locked.
        (MOVE_PAGE_CONTENTS | SQUEEZE_PAGE | DELETE, 0) => return Ok(()),
        (MOVE_PAGE_CONTENTS | SQUEEZE_PAGE, 1) => receive_tuples(step, page)?,
        (MOVE_PAGE_CONTENTS, 2) | (DELETE, 1) => delete(step, page)?,
        (SQUEEZE_PAGE, 2) => init(page, NONE, NONE, NONE, UNUSED)?,
        (SQUEEZE_PAGE, 3) => set(page, AT_NEXT, squeeze_links(step)?.1)?,
        (SQUEEZE_PAGE, 4) => set(page, AT_PREV, squeeze_links(step)?.0)?,
        (SQUEEZE_PAGE, 5) => meta::set_bitmap_bit(step, page, false)?,
        (SQUEEZE_PAGE, 6) => meta::set_first_free(page, step.data().u32()?)?,
        (SPLIT_CLEANUP, 0) => clear_flag(page, NEEDS_SPLIT_CLEANUP)?,
        (UPDATE_META_PAGE, 0) => meta::set_tuples(page, step.main().take(8)?)?,
        (VACUUM_ONE_PAGE, 0) => vacuum(step, page)?,
        (VACUUM_ONE_PAGE, 1) => {
            let mut main = step.main();
            main.skip(4)?;
            meta::add_tuples(page, -f64::from(main.u32()? as i32))?;
        }
        (op, _) if ALL.contains(&op) => return step.no_such_block(),
        _ => return step.unknown_op(),
    }
    step.stamp(page)
}

/// Splits set flags even on pages whose images were restored.
pub(crate) fn after_image(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op(), step.block.id) {
        (SPLIT_ALLOCATE_PAGE, 0) | (SPLIT_COMPLETE, 0 | 1) => {
            split_flags(step, page)?;
            step.stamp(page)
        }
        _ => Ok(()),
    }
}

/// An empty page with this special space.
pub(super) fn init(page: &mut Page<'_>, prev: u32, next: u32, bucket: u32, flags: u16) -> Res<()> {
    page.init(OPAQUE);
    set(page, AT_PREV, prev)?;
    set(page, AT_NEXT, next)?;
    set(page, AT_BUCKET, bucket)?;
    let special = page.special_of(OPAQUE)?;
    page.put_u16(special + AT_FLAGS, flags)?;
    page.put_u16(special + AT_PAGE_ID, PAGE_ID)
}

fn set(page: &mut Page<'_>, which: usize, value: u32) -> Res<()> {
    page.put_u32(page.special_of(OPAQUE)? + which, value)
}

fn clear_flag(page: &mut Page<'_>, flag: u16) -> Res<()> {
    let at = page.special_of(OPAQUE)? + AT_FLAGS;
    page.put_u16(at, page.u16_at(at)? & !flag)
}

/// Flags of the old bucket (and of the new one, block 1 of `SPLIT_COMPLETE`) during a split.
fn split_flags(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    if step.op() == SPLIT_ALLOCATE_PAGE {
        // The old bucket's first page caches the highest bucket's number.
        set(page, AT_PREV, main.u32()?)?;
    }
    if step.block.id == 1 {
        main.skip(2)?;
    }
    page.put_u16(page.special_of(OPAQUE)? + AT_FLAGS, main.u16()?)
}

/// `xl_hash_squeeze_page`: the freed page's neighbours.
fn squeeze_links(step: &Step<'_>) -> Res<(u32, u32)> {
    let mut main = step.main();
    Ok((main.u32()?, main.u32()?))
}

/// Adds tuples moved from a later page of the bucket.
fn receive_tuples(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let squeezes = step.op() == SQUEEZE_PAGE;
    let next = if squeezes { squeeze_links(step)?.1 } else { NONE };
    main.skip(if squeezes { 8 } else { 0 })?;
    let count = usize::from(main.u16()?);
    main.skip(1)?;
    if count > 0 {
        let mut data = step.data();
        let numbers = data.u16s(count)?;
        for number in numbers {
            let size = aligned(index_tuple_size(data.rest())?);
            page.insert_item(number, data.take(size)?)?;
        }
        data.finish()?;
    }
    if squeezes && main.bool()? {
        set(page, AT_NEXT, next)?;
    }
    Ok(())
}

fn all_numbers(mut data: Reader<'_>) -> Res<Vec<u16>> {
    ensure!(data.remaining().is_multiple_of(2), "an odd number of bytes for item numbers");
    data.u16s(data.remaining() / 2)
}

fn delete(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    page.remove_items(&all_numbers(step.data())?)?;
    if step.op() == DELETE && step.main().bool()? {
        clear_flag(page, HAS_DEAD_TUPLES)?;
    }
    Ok(())
}

fn vacuum(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    main.skip(4)?;
    let count = main.u32()? as usize;
    page.remove_items(&main.u16s(count)?)?;
    clear_flag(page, HAS_DEAD_TUPLES)
}

/// What `hash_mask` masks besides the page's hints and unused space.
pub(crate) fn mask(page: &mut Page<'_>) -> Res<()> {
    let flags = page.u16_at(page.special_of(OPAQUE)? + AT_FLAGS)?;
    match flags & PAGE_TYPE {
        UNUSED => super::masks::mask_content(page)?,
        BUCKET | OVERFLOW => {
            super::mask_line_flags(page)?;
            clear_flag(page, HAS_DEAD_TUPLES)?;
        }
        _ => clear_flag(page, HAS_DEAD_TUPLES)?,
    }
    Ok(())
}
