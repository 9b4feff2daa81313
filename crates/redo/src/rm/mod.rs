//! Resource managers: which of them changes which pages, and how.
//!
//! Each `redo` gets a record seen from one block ([`crate::step::Step`]) and the page before it; it
//! stamps the page itself, because not every change moves a page's LSN.

mod brin;
mod btree;
mod btree_posting;
pub(crate) mod free_space;
mod generic;
mod gin;
mod gin_leaf;
mod gist;
mod hash;
mod hash_meta;
mod heap;
mod heap_tuples;
mod masks;
mod sequence;
mod spgist;
mod spgist_tuples;
pub(crate) mod visibility;

use pgwal::keys::Fork;
use pgwal::layout::op::{heap2, rm, xlog};

pub(crate) use masks::mask;
use masks::mask_line_flags;

use crate::fault::{Res, fault};
use crate::page::Page;
use crate::step::Step;

/// Applies a record to one of the blocks that it references, where it has no image of it.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let is_vm = step.block.fork == Fork::Vm;
    let sets_vm = step.record.rmid == rm::HEAP2 && step.op() == heap2::VISIBLE;
    if is_vm && sets_vm {
        return visibility::set(step, page);
    }
    if page.is_new() && !step.block.will_init && !step.is_hint() {
        return fault!("the page is empty and the record does not initialise it");
    }
    if page.lsn() >= step.lsn && !step.block.will_init {
        // As recovery does: the page came from a file that was written after the record.
        return Ok(());
    }
    match step.record.rmid {
        rm::HEAP => heap::redo(step, page),
        rm::HEAP2 => heap::redo2(step, page),
        rm::BTREE => btree::redo(step, page),
        rm::HASH => hash::redo(step, page),
        rm::GIN => gin::redo(step, page),
        rm::GIST => gist::redo(step, page),
        rm::SEQ => sequence::redo(step, page),
        rm::SPGIST => spgist::redo(step, page),
        rm::BRIN => brin::redo(step, page),
        rm::GENERIC => generic::redo(step, page),
        rm::XLOG if step.is_hint() => Ok(()),
        rm::XLOG if step.op() == xlog::FPI => fault!("the record has no image of the page"),
        _ => fault!("the resource manager changes no blocks"),
    }
}

/// Changes that recovery makes to a block even where it has restored an image of it.
pub(crate) fn after_image(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match step.record.rmid {
        rm::HASH => hash::after_image(step, page),
        rm::GIST => gist::after_image(step, page),
        _ => Ok(()),
    }
}
