//! B-tree (`access/nbtxlog.h`).
//!
//! Reading order: [`redo`] (which block of which operation), insertions and splits, removals,
//! pages made from scratch. Posting lists are in [`super::btree_posting`].

use pgwal::layout::op::btree::*;

use super::btree_posting::{dedup, swap_posting, update_postings};
use crate::fault::{Res, ensure};
use crate::page::{HEADER_SIZE, Page, aligned};
use crate::step::Step;
use crate::tuple::{Tid, index_tuple_size, index_tuples, link_at};

/// Size of the special space (`BTPageOpaqueData`).
const OPAQUE: usize = 16;
const AT_PREV: usize = 0;
const AT_NEXT: usize = 4;
const AT_LEVEL: usize = 8;
const AT_FLAGS: usize = 12;
const AT_CYCLE: usize = 14;

const LEAF: u16 = 1 << 0;
const ROOT: u16 = 1 << 1;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const HALF_DEAD: u16 = 1 << 4;
const SPLIT_END: u16 = 1 << 5;
const HAS_GARBAGE: u16 = 1 << 6;
const INCOMPLETE_SPLIT: u16 = 1 << 7;
const HAS_FULLXID: u16 = 1 << 8;

const MAGIC: u32 = 0x0005_3162;
/// No sibling.
const NONE: u32 = 0;
const ALT_TID: u16 = 0x2000;

/// Applies a Btree record to one of its blocks.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op(), step.block.id) {
        (INSERT_LEAF | INSERT_UPPER | INSERT_META, 0) => insert(step, page)?,
        (INSERT_POST, 0) => insert_into_posting(step, page)?,
        (INSERT_UPPER | INSERT_META, 1) | (SPLIT_L | SPLIT_R, 3) | (NEWROOT, 1) => {
            clear_flags(page, INCOMPLETE_SPLIT)?;
        }
        (INSERT_META | NEWROOT, 2) | (UNLINK_PAGE_META, 4) | (META_CLEANUP, 0) => {
            restore_meta(step, page)?;
        }
        (SPLIT_L | SPLIT_R, 0) => split_left(step, page)?,
        (SPLIT_L | SPLIT_R, 1) => split_right(step, page)?,
        (SPLIT_L | SPLIT_R, 2) => set_link(page, AT_PREV, step.block_number(1)?)?,
        (DEDUP, 0) => {
            let first = first_data_item(page)?;
            dedup(step, page, first)?;
            clear_flags(page, HAS_GARBAGE)?;
        }
        (VACUUM | DELETE, 0) => delete(step, page)?,
        (MARK_PAGE_HALFDEAD, 0) => half_dead_leaf(step, page)?,
        (MARK_PAGE_HALFDEAD, 1) => remove_downlink(step, page)?,
        (UNLINK_PAGE | UNLINK_PAGE_META, 0..=3) => unlink(step, page)?,
        (NEWROOT, 0) => new_root(step, page)?,
        (op, _) if ALL.contains(&op) => return step.no_such_block(),
        _ => return step.unknown_op(),
    }
    step.stamp(page)
}

fn flags(page: &Page<'_>) -> Res<u16> {
    page.u16_at(page.special_of(OPAQUE)? + AT_FLAGS)
}

fn clear_flags(page: &mut Page<'_>, bits: u16) -> Res<()> {
    let at = page.special_of(OPAQUE)? + AT_FLAGS;
    page.put_u16(at, page.u16_at(at)? & !bits)
}

fn set_link(page: &mut Page<'_>, which: usize, block: u32) -> Res<()> {
    page.put_u32(page.special_of(OPAQUE)? + which, block)
}

/// An empty page with this special space.
fn init(page: &mut Page<'_>, prev: u32, next: u32, level: u32, flags: u16) -> Res<()> {
    page.init(OPAQUE);
    set_link(page, AT_PREV, prev)?;
    set_link(page, AT_NEXT, next)?;
    set_link(page, AT_LEVEL, level)?;
    page.put_u16(page.special_of(OPAQUE)? + AT_FLAGS, flags)
}

/// Number of the first item that is not the high key.
fn first_data_item(page: &Page<'_>) -> Res<u16> {
    let rightmost = page.u32_at(page.special_of(OPAQUE)? + AT_NEXT)? == NONE;
    Ok(if rightmost { 1 } else { 2 })
}

fn insert(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    page.insert_item(step.main().u16()?, step.data().rest())
}

/// Insertion in the middle of a posting list: the list takes the new tuple's position, the new
/// tuple the list's last one.
fn insert_into_posting(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let number = step.main().u16()?;
    let mut data = step.data();
    let at = data.u16()?;
    let mut new = data.rest().to_vec();
    ensure!(number >= 2, "no posting list before item {number}");
    let posting = swap_posting(&mut new, page.item(number - 1)?, at)?;
    let place = page.item_mut(number - 1)?;
    ensure!(place.len() == posting.len(), "posting list changed its size");
    place.copy_from_slice(&posting);
    page.insert_item(number, &new)
}

/// Adds tuples stored in physical order, the last item first.
fn restore_items(page: &mut Page<'_>, bytes: &[u8]) -> Res<()> {
    index_tuples(bytes)?.into_iter().rev().try_for_each(|tuple| page.append_item(tuple))
}

/// The new page to the right, made from the record alone.
fn split_right(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let level = step.main().u32()?;
    let left = step.block_number(0)?;
    let right = step.record.block(2).map_or(NONE, |block| block.block);
    init(page, left, right, level, if level == 0 { LEAF } else { 0 })?;
    restore_items(page, step.data().rest())
}

/// The page that was split, rebuilt in item order as the server built it.
fn split_left(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (level, first_right, new_number, posting_at) =
        (main.u32()?, main.u16()?, main.u16()?, main.u16()?);
    let new_is_left = step.op() == SPLIT_L;
    let mut rest = step.data().rest();
    let mut take = || -> Res<&[u8]> {
        let size = aligned(index_tuple_size(rest)?);
        ensure!(size <= rest.len(), "a tuple of {size} bytes ends after {}", rest.len());
        let (tuple, after) = rest.split_at(size);
        rest = after;
        Ok(tuple)
    };
    let mut new = if new_is_left || posting_at != 0 { take()?.to_vec() } else { Vec::new() };
    let high_key = take()?;
    ensure!(rest.is_empty(), "{} bytes follow the high key", rest.len());
    let mut replaced = None;
    if posting_at != 0 {
        ensure!(new_number >= 2, "no posting list before item {new_number}");
        let posting = swap_posting(&mut new, page.item(new_number - 1)?, posting_at)?;
        replaced = Some((new_number - 1, posting));
    }
    let mut fresh = page.fresh_like()?;
    let mut left = Page::new(&mut fresh);
    left.append_item(high_key)?;
    for number in first_data_item(page)?..first_right {
        if let Some((_, posting)) = replaced.as_ref().filter(|(at, _)| *at == number) {
            left.append_item(posting)?;
            continue;
        }
        if new_is_left && number == new_number {
            left.append_item(&new)?;
        }
        left.append_item(page.item(number)?)?;
    }
    if new_is_left && new_number == first_right {
        left.append_item(&new)?;
    }
    let special = left.special_of(OPAQUE)?;
    left.put_u16(special + AT_FLAGS, INCOMPLETE_SPLIT | if level == 0 { LEAF } else { 0 })?;
    left.put_u32(special + AT_NEXT, step.block_number(1)?)?;
    left.put_u16(special + AT_CYCLE, 0)?;
    page.bytes_mut().copy_from_slice(fresh.as_slice());
    Ok(())
}

/// `VACUUM` and `DELETE`: posting lists made shorter, then items removed.
fn delete(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    if step.op() == DELETE {
        main.skip(4)?;
    }
    let (deleted, updated) = (usize::from(main.u16()?), usize::from(main.u16()?));
    let mut data = step.data();
    let deleted = data.u16s(deleted)?;
    let updated = data.u16s(updated)?;
    update_postings(page, &updated, data)?;
    page.remove_items(&deleted)?;
    clear_flags(page, HAS_GARBAGE)
}

/// The parent of a subtree that goes: its downlink takes over the next one's target.
fn remove_downlink(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let number = step.main().u16()?;
    let next = number.saturating_add(1);
    let right = link_at(page.item(next)?, 0)?;
    let item = page.item_mut(number)?;
    let tid = Tid { block: right, ..Tid::at(item, 0)? };
    crate::read::put(item, 0, &tid.encode())?;
    page.remove_item(next)
}

/// An empty half-dead leaf whose high key links to the top of its subtree.
fn init_half_dead(page: &mut Page<'_>, left: u32, right: u32, top: u32) -> Res<()> {
    init(page, left, right, 0, HALF_DEAD | LEAF)?;
    let mut tuple = [0; 8];
    tuple[..6].copy_from_slice(&Tid { block: top, item: 0 }.encode());
    tuple[6..].copy_from_slice(&(8 | ALT_TID).to_le_bytes());
    page.append_item(&tuple)
}

fn half_dead_leaf(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    main.skip(8)?;
    let (left, right, top) = (main.u32()?, main.u32()?, main.u32()?);
    init_half_dead(page, left, right, top)
}

/// Blocks of `UNLINK_PAGE`: 0 the page, 1 and 2 its siblings, 3 the leaf of its subtree.
fn unlink(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (left, right, level) = (main.u32()?, main.u32()?, main.u32()?);
    main.skip(4)?;
    let safe_xid = main.u64()?;
    match step.block.id {
        0 => {
            let leaf = if level == 0 { LEAF } else { 0 };
            init(page, left, right, level, DELETED | HAS_FULLXID | leaf)?;
            page.put(HEADER_SIZE, &safe_xid.to_le_bytes())?;
            page.set_lower(HEADER_SIZE + 8)
        }
        1 => set_link(page, AT_NEXT, right),
        2 => set_link(page, AT_PREV, left),
        _ => {
            let (left, right, top) = (main.u32()?, main.u32()?, main.u32()?);
            init_half_dead(page, left, right, top)
        }
    }
}

fn new_root(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    main.skip(4)?;
    let level = main.u32()?;
    init(page, NONE, NONE, level, ROOT | if level == 0 { LEAF } else { 0 })?;
    if level > 0 { restore_items(page, step.data().rest()) } else { Ok(()) }
}

/// The metapage, made from the record alone (`xl_btree_metadata` to `BTMetaPageData`).
fn restore_meta(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut data = step.data();
    init(page, NONE, NONE, 0, META)?;
    page.put_u32(HEADER_SIZE, MAGIC)?;
    // version, root, level, fast root, fast level, deleted pages at the last cleanup
    page.put(HEADER_SIZE + 4, data.take(24)?)?;
    page.put(HEADER_SIZE + 32, &(-1.0f64).to_le_bytes())?;
    page.put(HEADER_SIZE + 40, &[u8::from(data.bool()?)])?;
    page.set_lower(HEADER_SIZE + 48)
}

/// What `btree_mask` masks besides the page's hints and unused space.
pub(crate) fn mask(page: &mut Page<'_>) -> Res<()> {
    if flags(page)? & LEAF != 0 {
        super::mask_line_flags(page)?;
    }
    clear_flags(page, HAS_GARBAGE | SPLIT_END)?;
    page.put_u16(page.special_of(OPAQUE)? + AT_CYCLE, 0)
}
