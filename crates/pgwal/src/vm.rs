//! Where a heap block's bits lie in the visibility map (`visibilitymap.c`): two bits a block, four
//! blocks a byte, after a page header of 24 bytes.

use crate::layout::{BLOCK_SIZE, PAGE_HEADER_SIZE};

/// All tuples of the block are visible to all transactions.
pub const ALL_VISIBLE: u8 = 0x01;
/// All tuples of the block are frozen.
pub const ALL_FROZEN: u8 = 0x02;
/// Both.
pub const ALL_BITS: u8 = ALL_VISIBLE | ALL_FROZEN;

/// Bits a heap block has.
pub const BITS_PER_HEAP_BLOCK: u32 = 2;
/// Heap blocks described by a byte.
pub const HEAP_BLOCKS_PER_BYTE: u32 = 4;
/// Heap blocks described by a page of the map.
pub const HEAP_BLOCKS_PER_PAGE: u32 =
    (BLOCK_SIZE as u32 - PAGE_HEADER_SIZE as u32) * HEAP_BLOCKS_PER_BYTE;

/// Place of a heap block's bits in the visibility map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmPlace {
    /// Block of the map fork.
    pub block: u32,
    /// Byte within the page, counted from the page's start (header included).
    pub byte: usize,
    /// Shift of the two bits within the byte.
    pub shift: u32,
}

/// Where the bits of `heap_block` are.
#[must_use]
pub fn place(heap_block: u32) -> VmPlace {
    let within = heap_block % HEAP_BLOCKS_PER_PAGE;
    VmPlace {
        block: heap_block / HEAP_BLOCKS_PER_PAGE,
        byte: PAGE_HEADER_SIZE + (within / HEAP_BLOCKS_PER_BYTE) as usize,
        shift: within % HEAP_BLOCKS_PER_BYTE * BITS_PER_HEAP_BLOCK,
    }
}

/// Clears `bits` of `heap_block` on its page of the map. Returns whether anything changed.
pub fn clear(page: &mut [u8], heap_block: u32, bits: u8) -> bool {
    let place = place(heap_block);
    let Some(byte) = page.get_mut(place.byte) else { return false };
    let before = *byte;
    *byte &= !((bits & ALL_BITS) << place.shift);
    *byte != before
}

/// What a truncation of the heap to `heap_blocks` leaves of the map: the number of blocks that
/// stay, and whether the last of them loses bits (then [`truncate_page`] must be applied to it).
#[must_use]
pub fn truncated(heap_blocks: u32) -> (u32, bool) {
    let place = place(heap_blocks);
    let partial = !heap_blocks.is_multiple_of(HEAP_BLOCKS_PER_PAGE);
    (place.block + u32::from(partial), partial)
}

/// Clears on the last page that stays all bits of blocks from `heap_blocks` on.
pub fn truncate_page(page: &mut [u8], heap_blocks: u32) {
    let place = place(heap_blocks);
    let Some(rest) = page.get_mut(place.byte..) else { return };
    if let Some((first, beyond)) = rest.split_first_mut() {
        *first &= (1u8 << place.shift) - 1;
        beyond.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_a_block_are_where_postgres_keeps_them() {
        assert_eq!(HEAP_BLOCKS_PER_PAGE, 32672);
        assert_eq!(place(0), VmPlace { block: 0, byte: 24, shift: 0 });
        assert_eq!(place(5), VmPlace { block: 0, byte: 25, shift: 2 });
        assert_eq!(place(32672), VmPlace { block: 1, byte: 24, shift: 0 });
        let mut page = vec![0xff; BLOCK_SIZE];
        assert!(clear(&mut page, 5, ALL_FROZEN));
        assert_eq!(page[25], 0b1111_0111);
        assert!(!clear(&mut page, 5, ALL_FROZEN));
    }

    #[test]
    fn truncation_clears_only_what_lies_beyond() {
        assert_eq!(truncated(0), (0, false));
        assert_eq!(truncated(HEAP_BLOCKS_PER_PAGE), (1, false));
        assert_eq!(truncated(HEAP_BLOCKS_PER_PAGE + 1), (2, true));
        let mut page = vec![0xff; BLOCK_SIZE];
        truncate_page(&mut page, 6);
        assert_eq!(&page[23..27], &[0xff, 0xff, 0x0f, 0]);
        assert_eq!(page[BLOCK_SIZE - 1], 0);
    }
}
