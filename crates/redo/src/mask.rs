//! Comparing pages as PostgreSQL's `wal_consistency_checking` does: with everything made equal that
//! may differ, each resource manager having its own rules.

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
