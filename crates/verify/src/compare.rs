//! Two copies of a page under the masks of `wal_consistency_checking`; stricter where PostgreSQL's
//! own comparison sees nothing.

use pgwal::vm;
use redo::diff::differences;
use redo::mask::manager_of;

use pgwal::layout::op::rm;

/// A page.
pub type Page = [u8; 8192];

/// Most differences that are told of one page.
const TOLD: usize = 24;

/// What differs between two pages of a main fork, in words; empty when nothing does.
#[must_use]
pub fn pages(rmid: u8, ours: &Page, theirs: &Page, block: u32) -> Vec<String> {
    match differences(rmid, ours, theirs, block) {
        Ok(found) => {
            let more = found.len().saturating_sub(TOLD);
            let mut lines: Vec<_> = found.iter().take(TOLD).map(ToString::to_string).collect();
            if more > 0 {
                lines.push(format!("and {more} more"));
            }
            lines
        }
        Err(fault) => vec![format!("the page is corrupt: {fault}")],
    }
}

/// What differs between a page of a visibility map and the image in the record that set the bits of
/// `heap_block`.
///
/// PostgreSQL's masks leave nothing of a map to compare. Equal must be the header and that block's
/// bits. Of other blocks the image may lack bits: a server clears them before it writes the record
/// that says so, which may then come after this one. `hollow`: the log held this page as a hole
/// before (CREATE DATABASE does so with maps that it copies), so the image may have more bits, too.
#[must_use]
pub fn maps(ours: &Page, theirs: &Page, heap_block: Option<u32>, hollow: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if ours[10..24] != theirs[10..24] {
        lines.push(format!(
            "page header: {:02x?} instead of {:02x?}",
            &ours[10..24],
            &theirs[10..24]
        ));
    }
    let named = heap_block.map(vm::place);
    for (at, (our, their)) in ours.iter().zip(theirs).enumerate().skip(24) {
        if our == their {
            continue;
        }
        let mask = named.filter(|place| place.byte == at).map_or(0, |p| vm::ALL_BITS << p.shift);
        if (our ^ their) & mask != 0 || !hollow && !our & their != 0 {
            let first = (at as u32 - 24) * vm::HEAP_BLOCKS_PER_BYTE;
            let last = first + vm::HEAP_BLOCKS_PER_BYTE - 1;
            lines.push(format!(
                "bits of heap blocks {first} to {last} of the map page: {our:#04x} instead of {their:#04x}"
            ));
        }
    }
    lines
}

/// What differs between a page as it was and the image that is logged because only hints of it have
/// changed. `None` where that cannot be told: a page of a manager that is not PostgreSQL's own, or of
/// a sequence, whose value runs behind the log.
#[must_use]
pub fn hints(before: &Page, image: &Page, block: u32) -> Option<Vec<String>> {
    let rmid = manager_of(image).filter(|rmid| *rmid != rm::SEQ)?;
    Some(pages(rmid, before, image, block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_no_manager_knows_is_not_said_to_be_compared() {
        let mut page = [0; 8192];
        assert_eq!(hints(&page, &page, 0), None);
        page[12..14].copy_from_slice(&24u16.to_le_bytes());
        page[14..20].copy_from_slice(&[0, 0x20, 0, 0x20, 4, 0x20]);
        assert_eq!(hints(&page, &page, 0), Some(Vec::new()));
    }

    #[test]
    fn a_map_may_have_more_bits_than_its_image_but_not_of_the_block_just_set() {
        let (mut ours, mut theirs) = ([0; 8192], [0; 8192]);
        ours[30] = 0b1100;
        assert!(maps(&ours, &theirs, Some(0), false).is_empty());
        assert_eq!(maps(&ours, &theirs, Some(25), false).len(), 1);
        theirs[31] = 1;
        assert_eq!(
            maps(&ours, &theirs, None, false),
            ["bits of heap blocks 28 to 31 of the map page: 0x00 instead of 0x01"]
        );
        assert!(maps(&ours, &theirs, None, true).is_empty());
        assert_eq!(maps(&ours, &theirs, Some(28), true).len(), 1);
    }
}
