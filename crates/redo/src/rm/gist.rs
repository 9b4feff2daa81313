//! GiST (`access/gistxlog.h`).

use pgwal::layout::op::gist::*;

use crate::fault::{Res, ensure};
use crate::page::{HEADER_SIZE, Page};
use crate::read::Reader;
use crate::step::Step;
use crate::tuple::index_tuple_size;

const OPAQUE: usize = 16;
const AT_RIGHT: usize = 8;
const AT_FLAGS: usize = 12;
const AT_PAGE_ID: usize = 14;
const PAGE_ID: u16 = 0xff81;

const LEAF: u16 = 1 << 0;
const DELETED: u16 = 1 << 1;
const TUPLES_DELETED: u16 = 1 << 2;
const FOLLOW_RIGHT: u16 = 1 << 3;
const HAS_GARBAGE: u16 = 1 << 4;

const ROOT_BLOCK: u32 = 0;

/// Applies a GiST record to one of its blocks.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op(), step.block.id) {
        (PAGE_UPDATE, 0) => update(step, page)?,
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => finish_split(step, page)?,
        (DELETE, 0) => delete(step, page)?,
        (PAGE_SPLIT, _) => split(step, page)?,
        (PAGE_DELETE, 0) => {
            let delete_xid = step.main().u64()?;
            change_flags(page, 0, DELETED)?;
            page.set_lower(HEADER_SIZE + 8)?;
            page.put(HEADER_SIZE, &delete_xid.to_le_bytes())?;
        }
        (PAGE_DELETE, 1) => {
            let mut main = step.main();
            main.skip(8)?;
            page.remove_item(main.u16()?)?;
        }
        (op, _) if ALL.contains(&op) => return step.no_such_block(),
        _ => return step.unknown_op(),
    }
    step.stamp(page)
}

/// A split's left page loses its mark even where its image was restored.
pub(crate) fn after_image(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op(), step.block.id) {
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => {
            finish_split(step, page)?;
            step.stamp(page)
        }
        _ => Ok(()),
    }
}

fn change_flags(page: &mut Page<'_>, clear: u16, set: u16) -> Res<()> {
    let at = page.special_of(OPAQUE)? + AT_FLAGS;
    page.put_u16(at, page.u16_at(at)? & !clear | set)
}

fn is_leaf(page: &Page<'_>) -> Res<bool> {
    Ok(page.u16_at(page.special_of(OPAQUE)? + AT_FLAGS)? & LEAF != 0)
}

/// Sets the node sequence number, stored as a page's LSN is.
fn set_nsn(page: &mut Page<'_>, nsn: u64) -> Res<()> {
    let at = page.special_of(OPAQUE)?;
    page.put_u32(at, (nsn >> 32) as u32)?;
    page.put_u32(at + 4, nsn as u32)
}

fn finish_split(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    set_nsn(page, step.lsn)?;
    change_flags(page, FOLLOW_RIGHT, 0)
}

/// The next tuple of tuples that follow each other without padding.
fn next_tuple<'a>(data: &mut Reader<'a>) -> Res<&'a [u8]> {
    let size = index_tuple_size(data.rest())?;
    data.take(size)
}

fn update(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (deleted, inserted) = (usize::from(main.u16()?), main.u16()?);
    let mut data = step.data();
    let numbers = data.u16s(deleted)?;
    match (numbers.as_slice(), inserted) {
        // One for one: in place, so that the physical order is the server's.
        ([number], 1) => page.replace_item(*number, next_tuple(&mut data)?)?,
        (numbers, _) => {
            if !numbers.is_empty() {
                page.remove_items(numbers)?;
                if is_leaf(page)? {
                    change_flags(page, 0, TUPLES_DELETED)?;
                }
            }
            for _ in 0..inserted {
                page.append_item(next_tuple(&mut data)?)?;
            }
        }
    }
    data.finish()
}

fn delete(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    main.skip(4)?;
    let count = usize::from(main.u16()?);
    page.remove_items(&main.u16s(count)?)?;
    change_flags(page, HAS_GARBAGE, TUPLES_DELETED)
}

/// One of the pages of a split (block references from 1 on), made from the record alone.
fn split(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let old_right = main.u32()?;
    main.skip(4)?;
    let (nsn, was_leaf) = (main.u64()?, main.bool()?);
    main.skip(1)?;
    let (pages, mark) = (main.u16()?, main.bool()?);
    let id = step.block.id;
    ensure!(u16::from(id) <= pages, "block reference {id} of a split into {pages} pages");
    let is_root = step.block.block == ROOT_BLOCK;

    page.init(OPAQUE);
    let special = page.special_of(OPAQUE)?;
    page.put_u16(special + AT_PAGE_ID, PAGE_ID)?;
    let mut data = step.data();
    let count = data.u32()?;
    for _ in 0..count {
        page.append_item(next_tuple(&mut data)?)?;
    }
    data.finish()?;

    let is_last = u16::from(id) == pages;
    let right = match (is_root, is_last) {
        (true, _) => u32::MAX,
        (false, true) => old_right,
        (false, false) => step.block_number(id.saturating_add(1))?,
    };
    page.put_u32(special + AT_RIGHT, right)?;
    set_nsn(page, nsn)?;
    let splits_root = step.block_number(1)? == ROOT_BLOCK;
    let leaf = if was_leaf && !is_root { LEAF } else { 0 };
    let follow = if !is_root && !is_last && !splits_root && mark { FOLLOW_RIGHT } else { 0 };
    page.put_u16(special + AT_FLAGS, leaf | follow)
}

/// What `gist_mask` masks besides the page's hints and unused space.
pub(crate) fn mask(page: &mut Page<'_>) -> Res<()> {
    set_nsn(page, 0)?;
    change_flags(page, HAS_GARBAGE, FOLLOW_RIGHT)?;
    if is_leaf(page)? { super::mask_line_flags(page) } else { Ok(()) }
}
