//! What eviction looks at in a page: its LSN, what kind it is, and whether two copies are the same.

use pgwal::layout::op::rm;
use redo::mask::{first_difference, manager_of};
use types::Lsn;

use crate::cache::local::BLOCK;

/// Bytes of a page that tell its LSN and layout.
pub const HEADER: usize = 24;
/// First number in a sequence's special space (`SEQ_MAGIC`).
const SEQUENCE_MAGIC: u32 = 0x1717;
/// `PD_ALL_VISIBLE` in `pd_flags`.
const ALL_VISIBLE: u16 = 4;

/// A page's LSN, which PostgreSQL stores as two 32-bit halves, the upper one first.
#[must_use]
pub fn lsn_of(page: &[u8]) -> Lsn {
    Lsn(u64::from(word32(page, 0)) << 32 | u64::from(word32(page, 4)))
}

fn word16(page: &[u8], at: usize) -> u16 {
    page.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn word32(page: &[u8], at: usize) -> u32 {
    page.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Whether the page is a sequence's. Its row is ahead in the log of what the page says (32 values
/// are logged at once), so a page from storage would skip values: sequences are never evicted.
#[must_use]
pub fn is_sequence(page: &[u8]) -> bool {
    let special = usize::from(word16(page, 16));
    special == BLOCK - 8 && word32(page, special) == SEQUENCE_MAGIC
}

/// What the difference between a local page and storage's is, if there is one that matters. Hints
/// may differ, and a page may be newly marked all-visible in storage; but an all-visible mark that
/// only the local page has would be lost while the visibility map keeps its own (rule R4c).
///
/// # Errors
/// When one of the pages is corrupt.
pub fn difference(local: &[u8], stored: &[u8], block: u32) -> Result<Option<String>, String> {
    let whole = |page: &[u8]| -> Result<Box<[u8; BLOCK]>, String> {
        let bytes = page.len();
        let page: [u8; BLOCK] = page.try_into().map_err(|_| format!("a page of {bytes} bytes"))?;
        Ok(Box::new(page))
    };
    let (local, stored) = (whole(local)?, whole(stored)?);
    if lsn_of(&*local) != lsn_of(&*stored) {
        let lsns = format!("LSN {} locally, {} in storage", lsn_of(&*local), lsn_of(&*stored));
        return Ok(Some(lsns));
    }
    if word16(&*local, 10) & ALL_VISIBLE > word16(&*stored, 10) & ALL_VISIBLE {
        return Ok(Some("only the local page is marked all-visible".to_owned()));
    }
    let manager = manager_of(&local).unwrap_or(rm::GENERIC);
    let first =
        first_difference(manager, &local, &stored, block).map_err(|fault| fault.to_string())?;
    Ok(first.map(|byte| {
        let (ours, theirs) = (local.get(byte).copied(), stored.get(byte).copied());
        format!("byte {byte} (under the masks of manager {manager}): {ours:x?} locally, {theirs:x?} in storage")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lsn: u64, flags: u16, special: u16) -> Vec<u8> {
        let mut page = vec![0; BLOCK];
        page[0..4].copy_from_slice(&u32::try_from(lsn >> 32).expect("half").to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[10..12].copy_from_slice(&flags.to_le_bytes());
        page[12..14].copy_from_slice(&24u16.to_le_bytes());
        page[14..16].copy_from_slice(&special.to_le_bytes());
        page[16..18].copy_from_slice(&special.to_le_bytes());
        page[18..20].copy_from_slice(&8196u16.to_le_bytes());
        page
    }

    #[test]
    fn the_lsn_s_upper_half_comes_first() {
        assert_eq!(lsn_of(&page(0x1_0000_0028, 0, 8192)), Lsn(0x1_0000_0028));
    }

    #[test]
    fn an_all_visible_mark_may_come_from_storage_but_not_get_lost() {
        let (plain, marked) = (page(9, 0, 8192), page(9, ALL_VISIBLE, 8192));
        assert_eq!(difference(&plain, &marked, 0), Ok(None));
        assert!(difference(&marked, &plain, 0).expect("sound").is_some());
    }

    #[test]
    fn another_lsn_or_another_byte_is_a_difference() {
        let mut changed = page(9, 0, 8176);
        changed[8190] = 1;
        changed[8180] = 7;
        let mut same = changed.clone();
        same[8180] = 8;
        assert!(difference(&changed, &same, 0).expect("sound").is_some());
        assert!(difference(&page(9, 0, 8192), &page(10, 0, 8192), 0).expect("sound").is_some());
    }

    #[test]
    fn a_sequence_is_known_by_its_magic_number() {
        let mut sequence = page(9, 0, 8184);
        assert!(!is_sequence(&sequence));
        sequence[8184..8188].copy_from_slice(&SEQUENCE_MAGIC.to_le_bytes());
        assert!(is_sequence(&sequence));
    }
}
