//! Where a heap block's slot lies in the free space map (`storage/freespace/README`), as far as a
//! truncation needs it: a tree of pages, three levels, [`SLOTS_PER_PAGE`] slots a page, stored
//! depth first.

use crate::layout::{BLOCK_SIZE, PAGE_HEADER_SIZE};

/// Inner nodes of a page's binary tree.
const INNER_NODES: u32 = BLOCK_SIZE as u32 / 2 - 1;
/// Leaf nodes of a page's binary tree, i.e. slots.
pub const SLOTS_PER_PAGE: u32 = BLOCK_SIZE as u32 - PAGE_HEADER_SIZE as u32 - 4 - INNER_NODES;
/// Levels of pages.
const LEVELS: u32 = 3;

/// Block of the map fork that holds the leaf page with this number.
fn leaf_block(leaf: u32) -> u32 {
    let mut above = leaf;
    let mut pages = 0;
    for _ in 0..LEVELS {
        pages += above + 1;
        above /= SLOTS_PER_PAGE;
    }
    pages - 1
}

/// What a truncation of the heap to `heap_blocks` leaves of the map: the number of blocks that
/// stay, and how many slots of the last of them (always a leaf) stay when it loses some.
#[must_use]
pub fn truncated(heap_blocks: u32) -> (u32, Option<u32>) {
    let (leaf, slot) = (heap_blocks / SLOTS_PER_PAGE, heap_blocks % SLOTS_PER_PAGE);
    let block = leaf_block(leaf);
    if slot > 0 { (block + 1, Some(slot)) } else { (block, None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_lie_depth_first() {
        assert_eq!(SLOTS_PER_PAGE, 4069);
        assert_eq!(leaf_block(0), 2);
        assert_eq!(leaf_block(1), 3);
        // Before the first leaf of the second middle page lies that page.
        assert_eq!(leaf_block(SLOTS_PER_PAGE), SLOTS_PER_PAGE + 3);
    }

    #[test]
    fn truncation_keeps_a_leaf_that_still_has_slots() {
        assert_eq!(truncated(10), (3, Some(10)));
        assert_eq!(truncated(SLOTS_PER_PAGE), (3, None));
        assert_eq!(truncated(u32::MAX - 1).0, leaf_block((u32::MAX - 1) / SLOTS_PER_PAGE) + 1);
    }
}
