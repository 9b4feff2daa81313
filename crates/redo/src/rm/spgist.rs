//! SP-GiST (`access/spgxlog.h`). Its tuples are in [`super::spgist_tuples`].

use pgwal::layout::op::spgist::*;

use super::spgist_tuples::{
    AT_PLACEHOLDERS, AT_REDIRECTS, DEAD, Grave, PLACEHOLDER, REDIRECT, add, bury, count,
    forget_redirect, init, inner, leaf, replace, set_downlink, set_next,
};
use crate::fault::{Res, ensure};
use crate::page::{HEADER_SIZE, ItemId, Page};
use crate::read::Reader;
use crate::step::Step;
use crate::tuple::Tid;

const LEAF: u16 = 1 << 2;
const NULLS: u16 = 1 << 3;
const META: u16 = 1;
/// A meta page's cache of pages with room: eight pairs of block and bytes behind the magic number.
const LAST_USED: std::ops::Range<usize> = HEADER_SIZE + 4..HEADER_SIZE + 4 + 8 * 8;

/// Applies an SP-GiST record to one of its blocks.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op(), step.block.id) {
        (ADD_LEAF, 0 | 1) => add_leaf(step, page)?,
        (MOVE_LEAFS, 0..=2) => move_leafs(step, page)?,
        (ADD_NODE, 0..=2) => add_node(step, page)?,
        (SPLIT_TUPLE, 0 | 1) => split_tuple(step, page)?,
        (PICKSPLIT, 0..=3) => PickSplit::read(step)?.apply(step, page)?,
        (VACUUM_LEAF, 0) => vacuum_leaf(step, page)?,
        (VACUUM_ROOT, 0) => {
            let mut main = step.main();
            let gone = usize::from(main.u16()?);
            main.skip(10)?;
            page.remove_items(&main.u16s(gone)?)?;
        }
        (VACUUM_REDIRECT, 0) => vacuum_redirect(step, page)?,
        (op, _) if ALL.contains(&op) => return step.no_such_block(),
        _ => return step.unknown_op(),
    }
    step.stamp(page)
}

fn init_leaf(page: &mut Page<'_>, nulls: bool) -> Res<()> {
    init(page, if nulls { LEAF | NULLS } else { LEAF })
}

/// `spgxlogState`: the transaction, and whether the index is being built.
fn read_state(main: &mut Reader<'_>) -> Res<(u32, bool)> {
    let state = (main.u32()?, main.bool()?);
    main.skip(3)?;
    Ok(state)
}

/// Block 0 receives the leaf tuple, block 1 holds the downlink to it.
fn add_leaf(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    main.skip(1)?;
    let nulls = main.bool()?;
    let (number, head, parent, node) = (main.u16()?, main.u16()?, main.u16()?, main.u16()?);
    if step.block.id == 1 {
        let tid = Tid { block: step.block_number(0)?, item: number };
        return set_downlink(page, parent, node, tid);
    }
    if step.block.will_init {
        init_leaf(page, nulls)?;
    }
    let tuple = leaf(&mut main)?;
    if number == head {
        return replace(page, number, tuple);
    }
    add(page, number, tuple)?;
    if head != 0 { set_next(page, head, number) } else { Ok(()) }
}

/// Blocks: 0 source, 1 destination, 2 parent.
fn move_leafs(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let moved = usize::from(main.u16()?);
    main.skip(1)?;
    let (replaces_dead, nulls) = (main.bool()?, main.bool()?);
    main.skip(1)?;
    let (parent, node) = (main.u16()?, main.u16()?);
    main.skip(2)?;
    let (xid, building) = read_state(&mut main)?;
    let gone = main.u16s(moved)?;
    let added = main.u16s(if replaces_dead { 1 } else { moved + 1 })?;
    let last = added.last().copied().unwrap_or(0);
    let to = Tid { block: step.block_number(1)?, item: last };
    match step.block.id {
        0 => {
            let first = if building { PLACEHOLDER } else { REDIRECT };
            bury(page, &gone, (first, PLACEHOLDER), &Grave { xid, to })
        }
        1 => {
            if step.block.will_init {
                init_leaf(page, nulls)?;
            }
            for number in added {
                add(page, number, leaf(&mut main)?)?;
            }
            Ok(())
        }
        _ => set_downlink(page, parent, node, to),
    }
}

/// Blocks: 0 the tuple's old page, 1 its new one if another, 2 the parent if yet another.
fn add_node(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (number, new_number) = (main.u16()?, main.u16()?);
    main.skip(1)?;
    let parent_block = main.u8()?;
    let (parent, node) = (main.u16()?, main.u16()?);
    main.skip(2)?;
    let (xid, building) = read_state(&mut main)?;
    let tuple = inner(&mut main)?;
    let Some(new_block) = step.record.block(1) else {
        ensure!(step.block.id == 0, "block reference {} without reference 1", step.block.id);
        return replace(page, number, tuple);
    };
    let to = Tid { block: new_block.block, item: new_number };
    match step.block.id {
        0 => {
            let state = if building { PLACEHOLDER } else { REDIRECT };
            replace(page, number, &Grave { xid, to }.tuple(state))?;
            count(page, if building { AT_PLACEHOLDERS } else { AT_REDIRECTS }, 1)?;
        }
        1 => {
            if step.block.will_init {
                init(page, 0)?;
            }
            add(page, new_number, tuple)?;
        }
        _ => {}
    }
    if parent_block == step.block.id {
        set_downlink(page, parent, node, to)?;
    }
    Ok(())
}

/// Block 0 holds the prefix tuple, block 1 the postfix tuple if it went elsewhere.
fn split_tuple(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (prefix_number, postfix_number) = (main.u16()?, main.u16()?);
    main.skip(1)?;
    let same_page = main.bool()?;
    let (prefix, postfix) = (inner(&mut main)?, inner(&mut main)?);
    if step.block.id == 0 {
        replace(page, prefix_number, prefix)?;
        if !same_page {
            return Ok(());
        }
    } else if step.block.will_init {
        init(page, 0)?;
    }
    add(page, postfix_number, postfix)
}

/// `spgxlogPickSplit`: a full leaf page's tuples are spread under a new inner tuple.
struct PickSplit<'a> {
    nulls: bool,
    inner_number: u16,
    inner_is_parent: bool,
    parent: u16,
    node: u16,
    building: bool,
    xid: u32,
    gone: Vec<u16>,
    inner: &'a [u8],
    /// Number, whether on the destination page, tuple.
    added: Vec<(u16, bool, &'a [u8])>,
}

impl<'a> PickSplit<'a> {
    fn read(step: &Step<'a>) -> Res<PickSplit<'a>> {
        let mut main = step.main();
        main.skip(2)?;
        let (deleted, inserted) = (usize::from(main.u16()?), usize::from(main.u16()?));
        main.skip(2)?;
        let inner_number = main.u16()?;
        main.skip(1)?;
        let (nulls, inner_is_parent) = (main.bool()?, main.bool()?);
        main.skip(1)?;
        let (parent, node) = (main.u16()?, main.u16()?);
        main.skip(2)?;
        let (xid, building) = read_state(&mut main)?;
        let gone = main.u16s(deleted)?;
        let numbers = main.u16s(inserted)?;
        let pages = main.take(inserted)?;
        let inner = inner(&mut main)?;
        let mut added = Vec::with_capacity(inserted);
        for (number, on_destination) in numbers.into_iter().zip(pages) {
            added.push((number, *on_destination != 0, leaf(&mut main)?));
        }
        Ok(PickSplit {
            nulls,
            inner_number,
            inner_is_parent,
            parent,
            node,
            building,
            xid,
            gone,
            inner,
            added,
        })
    }

    /// Blocks: 0 source, 1 destination, 2 the inner tuple's page, 3 the parent if another.
    fn apply(&self, step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
        let to = Tid { block: step.block_number(2)?, item: self.inner_number };
        match step.block.id {
            0 | 1 => {
                if step.block.will_init {
                    init_leaf(page, self.nulls)?;
                } else if step.block.id == 0 {
                    let first = if self.building { PLACEHOLDER } else { REDIRECT };
                    let grave = Grave { xid: self.xid, to };
                    bury(page, &self.gone, (first, PLACEHOLDER), &grave)?;
                }
                for (number, on_destination, tuple) in &self.added {
                    if *on_destination == (step.block.id == 1) {
                        add(page, *number, tuple)?;
                    }
                }
            }
            2 => {
                if step.block.will_init {
                    init(page, if self.nulls { NULLS } else { 0 })?;
                }
                add(page, self.inner_number, self.inner)?;
                if self.inner_is_parent {
                    set_downlink(page, self.parent, self.node, to)?;
                }
            }
            _ => set_downlink(page, self.parent, self.node, to)?,
        }
        Ok(())
    }
}

fn vacuum_leaf(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let mut counts = [0; 4];
    for count in &mut counts {
        *count = usize::from(main.u16()?);
    }
    let [dead, placeholders, moved, chained] = counts;
    read_state(&mut main)?;
    bury(page, &main.u16s(dead)?, (DEAD, DEAD), &Grave::EMPTY)?;
    bury(page, &main.u16s(placeholders)?, (PLACEHOLDER, PLACEHOLDER), &Grave::EMPTY)?;
    let (from, to) = (main.u16s(moved)?, main.u16s(moved)?);
    for (from, to) in from.iter().zip(&to) {
        let lines: (ItemId, ItemId) = (page.line(*from)?, page.line(*to)?);
        page.set_line(*from, lines.1)?;
        page.set_line(*to, lines.0)?;
    }
    bury(page, &from, (PLACEHOLDER, PLACEHOLDER), &Grave::EMPTY)?;
    let (links, next) = (main.u16s(chained)?, main.u16s(chained)?);
    for (number, next) in links.into_iter().zip(next) {
        set_next(page, number, next)?;
    }
    Ok(())
}

fn vacuum_redirect(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let forgotten = usize::from(main.u16()?);
    let first = main.u16()?;
    main.skip(4)?;
    for number in main.u16s(forgotten)? {
        forget_redirect(page, number)?;
    }
    if first != 0 {
        let tail: Vec<u16> = (first..=page.item_count()).collect();
        count(page, AT_PLACEHOLDERS, -(tail.len() as i32))?;
        page.remove_items(&tail)?;
    }
    Ok(())
}

/// What may differ besides hints and unused space, and `spg_mask` does not know, because no record
/// but a whole image touches it: backends leave in the meta page, unlogged, where they found room.
pub(crate) fn mask(page: &mut Page<'_>) -> Res<()> {
    if page.u16_at(page.special())? & META != 0 {
        page.get_mut(LAST_USED.start, LAST_USED.len())?.fill(0);
    }
    Ok(())
}
