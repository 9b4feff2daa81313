//! GIN (`access/ginxlog.h`): the tree of entries, the trees of postings, the pending list.
//!
//! Reading order: [`redo`], entries and inner posting pages, pages made from scratch. Leaves of
//! posting trees hold compressed segments: [`super::gin_leaf`].

use pgwal::layout::op::gin::*;

use super::gin_leaf;
use crate::fault::{Res, ensure, fault};
use crate::page::{HEADER_SIZE, Page};
use crate::read::{Reader, put, u16_at};
use crate::step::Step;
use crate::tuple::{Tid, index_tuple_size};

pub(super) const OPAQUE: usize = 8;
const AT_RIGHT: usize = 0;
pub(super) const AT_COUNT: usize = 4;
const AT_FLAGS: usize = 6;

const DATA: u16 = 1 << 0;
const LEAF: u16 = 1 << 1;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const LIST: u16 = 1 << 4;
const LIST_FULLROW: u16 = 1 << 5;
const INCOMPLETE_SPLIT: u16 = 1 << 6;
pub(super) const COMPRESSED: u16 = 1 << 7;

const INSERT_IS_DATA: u16 = 1;
const INSERT_IS_LEAF: u16 = 2;
const NONE: u32 = u32::MAX;
/// Size of `GinMetaPageData`.
const META_SIZE: usize = 56;
/// Where a posting page's items begin, behind its right bound.
pub(super) const ITEMS: usize = HEADER_SIZE + 8;
/// Size of a `PostingItem`: a block and the first position not in it.
const POSTING_ITEM: usize = 10;

/// Applies a GIN record to one of its blocks.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op(), step.block.id) {
        (CREATE_PTREE, 0) => create_posting_tree(step, page)?,
        (INSERT, 0) => insert(step, page)?,
        (INSERT, 1) | (SPLIT, 3) => change_flags(page, INCOMPLETE_SPLIT, 0)?,
        (SPLIT, 0..=2) | (VACUUM_PAGE, 0) => {
            return fault!("the record has no image of the page");
        }
        (VACUUM_DATA_LEAF_PAGE, 0) => gin_leaf::recompress(page, step.data())?,
        (DELETE_PAGE, _) => delete_page(step, page)?,
        (UPDATE_META_PAGE, 0) => {
            let mut main = step.main();
            main.skip(16)?;
            restore_meta(page, main)?;
        }
        (UPDATE_META_PAGE, 1) => change_tail(step, page)?,
        (INSERT_LISTPAGE, 0) => list_page(step, page)?,
        (DELETE_LISTPAGE, 0) => restore_meta(page, step.main())?,
        (DELETE_LISTPAGE, _) => init(page, DELETED)?,
        (op, _) if ALL.contains(&op) => return step.no_such_block(),
        _ => return step.unknown_op(),
    }
    step.stamp(page)
}

fn init(page: &mut Page<'_>, flags: u16) -> Res<()> {
    page.init(OPAQUE);
    set_right(page, NONE)?;
    change_flags(page, 0, flags)
}

fn set_right(page: &mut Page<'_>, block: u32) -> Res<()> {
    page.put_u32(page.special_of(OPAQUE)? + AT_RIGHT, block)
}

pub(super) fn flags(page: &Page<'_>) -> Res<u16> {
    page.u16_at(page.special_of(OPAQUE)? + AT_FLAGS)
}

pub(super) fn change_flags(page: &mut Page<'_>, clear: u16, set: u16) -> Res<()> {
    let at = page.special_of(OPAQUE)? + AT_FLAGS;
    page.put_u16(at, page.u16_at(at)? & !clear | set)
}

fn create_posting_tree(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let size = main.u32()? as usize;
    init(page, DATA | LEAF | COMPRESSED)?;
    let segments = main.take(size)?;
    ensure!(ITEMS + size <= page.upper(), "{size} bytes of postings do not fit");
    page.put(ITEMS, segments)?;
    page.set_lower(ITEMS + size)
}

/// Insertion into either kind of tree; on an inner page it completes a split of a child.
fn insert(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let insert_flags = main.u16()?;
    let is_leaf = insert_flags & INSERT_IS_LEAF != 0;
    let mut right_child = NONE;
    if !is_leaf {
        main.skip(4)?;
        right_child = u32::from(main.u16()?) << 16 | u32::from(main.u16()?);
    }
    let is_data = flags(page)? & DATA != 0;
    ensure!(
        is_data == (insert_flags & INSERT_IS_DATA != 0) && is_leaf == (flags(page)? & LEAF != 0),
        "the page's flags {:#x} do not fit an insertion with flags {insert_flags:#x}",
        flags(page)?
    );
    match (is_data, is_leaf) {
        (true, true) => gin_leaf::recompress(page, step.data()),
        (true, false) => insert_posting_item(page, right_child, step.data()),
        (false, _) => insert_entry(page, right_child, step.data()),
    }
}

fn insert_entry(page: &mut Page<'_>, right_child: u32, mut data: Reader<'_>) -> Res<()> {
    let (number, replaces) = (data.u16()?, data.u8()? != 0);
    data.skip(1)?;
    if right_child != NONE {
        put(page.item_mut(number)?, 0, &Tid { block: right_child, item: 0 }.encode())?;
    }
    if replaces {
        page.remove_item(number)?;
    }
    let size = index_tuple_size(data.rest())?;
    page.insert_item(number, data.take(size)?)
}

fn count(page: &Page<'_>) -> Res<usize> {
    Ok(usize::from(page.u16_at(page.special_of(OPAQUE)? + AT_COUNT)?))
}

fn set_count(page: &mut Page<'_>, count: usize) -> Res<()> {
    page.put_u16(page.special_of(OPAQUE)? + AT_COUNT, count as u16)?;
    let lower = ITEMS + count * POSTING_ITEM;
    ensure!(lower <= page.special(), "{count} posting items do not fit");
    page.set_lower(lower)
}

fn insert_posting_item(page: &mut Page<'_>, right_child: u32, mut data: Reader<'_>) -> Res<()> {
    let number = usize::from(data.u16()?);
    let item = data.take(POSTING_ITEM)?;
    let items = count(page)?;
    ensure!((1..=items).contains(&number), "no posting item {number}, the page has {items}");
    ensure!(
        ITEMS + (items + 1) * POSTING_ITEM <= page.special(),
        "{} posting items do not fit",
        items + 1
    );
    let at = ITEMS + (number - 1) * POSTING_ITEM;
    page.put(at, &Tid { block: right_child, item: 0 }.encode()[..4])?;
    page.shift(at, at + POSTING_ITEM, (items + 1 - number) * POSTING_ITEM)?;
    page.put(at, item)?;
    set_count(page, items + 1)
}

/// Blocks of `DELETE_PAGE`: 0 the page, 1 its parent, 2 its left sibling.
fn delete_page(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let number = usize::from(main.u16()?);
    main.skip(2)?;
    let (right, delete_xid) = (main.u32()?, main.u32()?);
    match step.block.id {
        0 => {
            change_flags(page, 0, DELETED)?;
            page.set_prune_xid(delete_xid);
            Ok(())
        }
        1 => {
            let items = count(page)?;
            ensure!((1..=items).contains(&number), "no posting item {number}");
            let at = ITEMS + (number - 1) * POSTING_ITEM;
            page.shift(at + POSTING_ITEM, at, (items - number) * POSTING_ITEM)?;
            set_count(page, items - 1)
        }
        2 => set_right(page, right),
        _ => step.no_such_block(),
    }
}

/// The metapage, whose content the record holds at `main`.
fn restore_meta(page: &mut Page<'_>, mut main: Reader<'_>) -> Res<()> {
    init(page, META)?;
    page.put(HEADER_SIZE, main.take(META_SIZE)?)?;
    page.set_lower(HEADER_SIZE + META_SIZE)
}

/// The next tuple of tuples that follow each other without padding.
fn append_tuples(page: &mut Page<'_>, mut data: Reader<'_>, count: u32) -> Res<()> {
    for _ in 0..count {
        let size = index_tuple_size(data.rest())?;
        page.append_item(data.take(size)?)?;
    }
    data.finish()
}

/// `UPDATE_META_PAGE` on the pending list's last page: new tuples, or a link to a new last page.
fn change_tail(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    main.skip(16 + META_SIZE)?;
    let (prev_tail, right, tuples) = (main.u32()?, main.u32()?, main.u32()? as i32);
    if tuples > 0 {
        append_tuples(page, step.data(), tuples as u32)?;
        let at = page.special_of(OPAQUE)? + AT_COUNT;
        page.put_u16(at, u16_at(page.bytes(), at)?.wrapping_add(1))
    } else {
        ensure!(prev_tail != NONE, "the record names no last page of the pending list");
        set_right(page, right)
    }
}

fn list_page(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (right, tuples) = (main.u32()?, main.u32()?);
    let is_tail = right == NONE;
    init(page, LIST | if is_tail { LIST_FULLROW } else { 0 })?;
    set_right(page, right)?;
    page.put_u16(page.special_of(OPAQUE)? + AT_COUNT, u16::from(is_tail))?;
    append_tuples(page, step.data(), tuples)
}

/// What `gin_mask` masks besides the page's hints.
pub(crate) fn mask(page: &mut Page<'_>) -> Res<()> {
    if flags(page)? & DELETED != 0 {
        super::masks::mask_content(page)
    } else if page.lower() > HEADER_SIZE {
        super::masks::mask_unused(page)
    } else {
        Ok(())
    }
}
