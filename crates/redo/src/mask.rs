//! Comparing pages as PostgreSQL's `wal_consistency_checking` does: with everything made equal that
//! may differ, each resource manager having its own rules.

use pgwal::layout::op::rm as manager;

use crate::fault::Fault;
use crate::page::{PAGE_SIZE, Page};
use crate::rm;

/// Makes equal in a page of manager `rmid` what may differ between two true copies of it: LSN and
/// checksum always, then hints, unused space and the like. `block` is the page's number.
///
/// # Errors
/// When the page's header or items are corrupt.
pub fn mask_page(rmid: u8, page: &mut [u8; PAGE_SIZE], block: u32) -> Result<(), Fault> {
    if Page::new(page).is_new() {
        return Ok(());
    }
    rm::mask(rmid, &mut Page::new(page), block)
}

/// Position of the first byte that differs between two pages of manager `rmid` after masking.
///
/// # Errors
/// When one of the pages is corrupt.
pub fn first_difference(
    rmid: u8,
    ours: &[u8; PAGE_SIZE],
    theirs: &[u8; PAGE_SIZE],
    block: u32,
) -> Result<Option<usize>, Fault> {
    let (mut ours, mut theirs) = (Box::new(*ours), Box::new(*theirs));
    mask_page(rmid, &mut ours, block)?;
    mask_page(rmid, &mut theirs, block)?;
    Ok(ours.iter().zip(theirs.iter()).position(|(a, b)| a != b))
}

/// The resource manager that a page of a main fork belongs to, from its special space, where each
/// index type leaves its mark; `None` when it has no page header or an unknown mark. Tables are
/// told from other pages without special space (maps) by nothing: the caller knows the fork.
#[must_use]
pub fn manager_of(page: &[u8; PAGE_SIZE]) -> Option<u8> {
    const SEQUENCE_MAGIC: u32 = 0x1717;
    let mut copy = *page;
    let view = Page::new(&mut copy);
    if view.is_new() || view.check().is_err() {
        return None;
    }
    let special = view.special();
    let mark = view.u16_at(PAGE_SIZE - 2).ok()?;
    match (PAGE_SIZE - special, mark) {
        (0, _) => Some(manager::HEAP),
        (16, 0xff80) => Some(manager::HASH),
        (16, 0xff81) => Some(manager::GIST),
        // A vacuum cycle, which stays below the marks.
        (16, 0..=0xff7f) => Some(manager::BTREE),
        (8, 0xff82) => Some(manager::SPGIST),
        (8, 0xff83) => Some(manager::GENERIC),
        (8, 0xf091..=0xf093) => Some(manager::BRIN),
        (8, 0) if page.get(special..)? == (u64::from(SEQUENCE_MAGIC)).to_le_bytes() => {
            Some(manager::SEQ)
        }
        // GIN's flags.
        (8, 0..=0xff) => Some(manager::GIN),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cache_of_an_spgist_meta_page_may_differ() {
        let mut ours = [0; PAGE_SIZE];
        ours[12..14].copy_from_slice(&92u16.to_le_bytes());
        for at in [14, 16] {
            ours[at..at + 2].copy_from_slice(&8184u16.to_le_bytes());
        }
        ours[8190..].copy_from_slice(&0xff82u16.to_le_bytes());
        let mut meta = ours;
        meta[8184] = 1;
        for page in [&mut ours, &mut meta] {
            page[24..28].copy_from_slice(&0xba0b_abeeu32.to_le_bytes());
        }
        let differs = |page: &[u8; PAGE_SIZE], at: usize| {
            let mut theirs = *page;
            theirs[at] ^= 1;
            first_difference(manager::SPGIST, page, &theirs, 0) == Ok(Some(at))
        };
        assert!((28..92).all(|at| !differs(&meta, at) && differs(&ours, at)));
        assert!((24..28).chain(8184..8192).all(|at| differs(&meta, at)));
    }
}
