//! Visibility map pages: bits set by Heap2's own record, and cleared as a side effect of others.
//!
//! A clear leaves the map page's LSN as it is; setting bits that are already set does too.

use pgwal::keys::Rel;
use pgwal::vm;

use crate::fault::{Res, ensure};
use crate::page::Page;
use crate::slru::effects_of;
use crate::step::{Record, Step};

/// Heap2 VISIBLE on the map page (block reference 0; 1 is the heap page).
pub(crate) fn set(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let heap_block = step.block_number(1)?;
    let mut main = step.main();
    main.skip(4)?;
    let flags = main.u8()?;
    let place = vm::place(heap_block);
    ensure!(
        flags != 0 && flags & !vm::ALL_BITS == 0 && place.block == step.block.block,
        "bits {flags:#x} of heap page {heap_block} are not in map page {}",
        step.block.block
    );
    if page.is_new() {
        page.init(0);
    }
    if page.lsn() >= step.lsn {
        return Ok(());
    }
    let old = page.get(place.byte, 1)?[0];
    if old >> place.shift & vm::ALL_BITS != flags {
        page.put(place.byte, &[old | flags << place.shift])?;
        step.stamp(page)?;
    }
    Ok(())
}

/// Does on map page `map_block` what the record does to it without naming it: bits cleared by a
/// heap record, or the tail cut off by a truncation. A record without such an effect is an error:
/// it was not meant for this page.
pub(crate) fn implicit(
    record: &Record<'_>,
    rel: Rel,
    map_block: u32,
    page: &mut Page<'_>,
) -> Res<()> {
    use pgwal::effects::CatalogChange::Truncated;

    let effects = effects_of(record)?;
    if page.is_new() {
        page.init(0);
    }
    let mut any = false;
    for clear in &effects.vm_clear {
        if clear.rel == rel && vm::place(clear.heap_block).block == map_block {
            vm::clear(page.bytes_mut(), clear.heap_block, clear.bits);
            any = true;
        }
    }
    for change in &effects.catalog {
        if let Truncated(cut) = change
            && cut.rel == rel
            && cut.vm
            && vm::place(cut.blocks).block == map_block
        {
            vm::truncate_page(page.bytes_mut(), cut.blocks);
            any = true;
        }
    }
    ensure!(any, "the record changes no bit of visibility map page {map_block}");
    Ok(())
}
