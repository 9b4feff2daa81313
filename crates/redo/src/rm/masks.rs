//! What may differ between a page and its image, as each manager's `rm_mask` defines it.

use pgwal::layout::op::rm;

use super::{brin, btree, gin, gist, hash, heap, spgist};
use crate::fault::{Res, ensure};
use crate::page::{ALL_VISIBLE, HAS_FREE_LINES, HEADER_SIZE, ItemId, LP_UNUSED, PAGE_FULL, Page};

/// Makes equal what two pages of this manager may differ in. `block` is the page's number.
pub(crate) fn mask(rmid: u8, page: &mut Page<'_>, block: u32) -> Res<()> {
    page.set_lsn(0);
    page.set_checksum(0);
    match rmid {
        rm::SEQ | rm::GENERIC => mask_unused(page),
        rm::HEAP | rm::HEAP2 => {
            mask_hints(page);
            mask_unused(page)?;
            heap::mask(page, block)
        }
        rm::BTREE => {
            mask_hints(page);
            mask_unused(page)?;
            btree::mask(page)
        }
        rm::HASH => {
            mask_hints(page);
            mask_unused(page)?;
            hash::mask(page)
        }
        rm::GIST => {
            mask_hints(page);
            mask_unused(page)?;
            gist::mask(page)
        }
        rm::GIN => {
            mask_hints(page);
            gin::mask(page)
        }
        rm::SPGIST => {
            mask_hints(page);
            if page.lower() >= HEADER_SIZE {
                mask_unused(page)?;
            }
            spgist::mask(page)
        }
        rm::BRIN => {
            mask_hints(page);
            brin::mask(page)
        }
        _ => Ok(()),
    }
}

fn mask_hints(page: &mut Page<'_>) {
    page.set_prune_xid(0);
    page.set_flag(PAGE_FULL | HAS_FREE_LINES | ALL_VISIBLE, false);
}

/// Clears the space between line pointers and items.
pub(super) fn mask_unused(page: &mut Page<'_>) -> Res<()> {
    let (lower, upper, special) = (page.lower(), page.upper(), page.special());
    ensure!(
        HEADER_SIZE <= lower && lower <= upper && upper <= special,
        "corrupt page header: lower {lower}, upper {upper}, special {special}"
    );
    page.get_mut(lower, upper - lower)?.fill(0);
    Ok(())
}

/// Clears everything but the header's flags.
pub(super) fn mask_content(page: &mut Page<'_>) -> Res<()> {
    page.bytes_mut()[HEADER_SIZE..].fill(0);
    page.set_lower(0)?;
    page.set_upper(0)
}

/// Clears line pointer flags, which index scans change without logging it.
pub(super) fn mask_line_flags(page: &mut Page<'_>) -> Res<()> {
    for number in 1..=page.item_count() {
        let line = page.line(number)?;
        page.set_line(number, ItemId { flags: LP_UNUSED, ..line })?;
    }
    Ok(())
}
