//! Free space map pages: the tail that a truncation cuts off (`storage/freespace/README`).
//!
//! A page holds a binary tree of bytes behind the header and a four-byte hint; each inner node is
//! the greater of its children, the leaves are the slots.

use pgwal::fsm::{self, SLOTS_PER_PAGE};

use crate::fault::{Res, ensure};
use crate::page::{HEADER_SIZE, PAGE_SIZE, Page};

const NODES: usize = HEADER_SIZE + 4;
const NODE_COUNT: usize = PAGE_SIZE - NODES;
const INNER_COUNT: usize = NODE_COUNT - SLOTS_PER_PAGE as usize;

/// Clears the slots of heap pages from `heap_blocks` on, on the last page that stays of the map.
pub(crate) fn truncate(heap_blocks: u32, map_block: u32, page: &mut Page<'_>) -> Res<()> {
    let (blocks, slots) = fsm::truncated(heap_blocks);
    let Some(slots) = slots.filter(|_| blocks == map_block.wrapping_add(1)) else {
        return crate::fault::fault!(
            "truncation to {heap_blocks} blocks changes nothing on map page {map_block}"
        );
    };
    if page.is_new() {
        return Ok(());
    }
    let nodes = page.get_mut(NODES, NODE_COUNT)?;
    let from = INNER_COUNT + slots as usize;
    ensure!(from <= NODE_COUNT, "slot {slots} is not on a map page");
    nodes[from..].fill(0);
    for node in (0..INNER_COUNT).rev() {
        let child = |at: usize| nodes.get(at).copied().unwrap_or(0);
        nodes[node] = child(2 * node + 1).max(child(2 * node + 2));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_clears_slots_and_what_they_made_of_inner_nodes() {
        let mut bytes = Box::new([0; PAGE_SIZE]);
        let mut page = Page::new(&mut bytes);
        page.init(0);
        page.put(NODES + INNER_COUNT + 5, &[7]).expect("on the page");
        page.put(NODES + INNER_COUNT + 9, &[200]).expect("on the page");
        page.put(NODES, &[200]).expect("on the page");
        truncate(8, 2, &mut page).expect("the leaf of the first heap blocks");
        assert_eq!(page.get(NODES, 1).expect("root"), [7]);
        assert_eq!(page.get(NODES + INNER_COUNT + 9, 1).expect("slot"), [0]);
        assert!(truncate(8, 3, &mut page).is_err());
    }
}
