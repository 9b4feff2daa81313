//! The hash index's metapage and its bitmaps of free overflow pages (`access/hash.h`).

use super::hash::{BITMAP, META, NONE, init};
use crate::fault::{Res, ensure};
use crate::page::{HEADER_SIZE, Page};
use crate::step::Step;

const MAGIC: u32 = 0x0644_0640;
const VERSION: u32 = 4;

/// Fields of `HashMetaPageData`, from the start of the page.
mod at {
    use super::HEADER_SIZE;

    pub const MAGIC: usize = HEADER_SIZE;
    pub const VERSION: usize = HEADER_SIZE + 4;
    pub const TUPLES: usize = HEADER_SIZE + 8;
    pub const FILL_FACTOR: usize = HEADER_SIZE + 16;
    pub const PAGE_BYTES: usize = HEADER_SIZE + 18;
    pub const BITMAP_BYTES: usize = HEADER_SIZE + 20;
    pub const BITMAP_SHIFT: usize = HEADER_SIZE + 22;
    pub const MAX_BUCKET: usize = HEADER_SIZE + 24;
    pub const HIGH_MASK: usize = HEADER_SIZE + 28;
    pub const LOW_MASK: usize = HEADER_SIZE + 32;
    pub const SPLIT_POINT: usize = HEADER_SIZE + 36;
    pub const FIRST_FREE: usize = HEADER_SIZE + 40;
    pub const BITMAPS: usize = HEADER_SIZE + 44;
    pub const PROCEDURE: usize = HEADER_SIZE + 48;
    pub const SPARES: usize = HEADER_SIZE + 52;
    pub const MAP: usize = SPARES + 4 * super::SPLIT_POINTS_MAX as usize;
    pub const END: usize = HEADER_SIZE + 4544;
}

/// `HASH_MAX_SPLITPOINTS`.
const SPLIT_POINTS_MAX: u32 = 98;
/// `HASH_MAX_BITMAPS`.
const BITMAPS_MAX: u32 = 1024;
/// Bytes between header and special space, and the largest power of two in them.
const PAGE_BYTES: u16 = 8152;
const BITMAP_BYTES: u16 = 4096;
const BITMAP_SHIFT: u16 = 15;

const _: () = assert!(at::MAP + 4 * BITMAPS_MAX as usize <= at::END);

/// Split points up to which each power of two of buckets has one phase; above, it has four.
const SINGLE_PHASE_GROUPS: u32 = 10;

/// The split point's phase that holds bucket number `buckets - 1` (`_hash_spareindex`).
fn split_point(buckets: u32) -> u32 {
    let group = if buckets < 2 { 0 } else { (buckets - 1).ilog2() + 1 };
    if group < SINGLE_PHASE_GROUPS {
        return group;
    }
    let phase = (buckets - 1) >> (group - 3) & 3;
    SINGLE_PHASE_GROUPS + (group - SINGLE_PHASE_GROUPS) * 4 + phase
}

/// Buckets that exist once this split point's phase is complete (`_hash_get_totalbuckets`).
fn buckets_at(point: u32) -> u32 {
    if point < SINGLE_PHASE_GROUPS {
        return 1 << point;
    }
    let group = SINGLE_PHASE_GROUPS + (point - SINGLE_PHASE_GROUPS) / 4;
    let phases = (point - SINGLE_PHASE_GROUPS) % 4 + 1;
    (1 << (group - 1)) + ((1 << (group - 1)) / 4) * phases
}

/// Buckets that an index begins with.
fn first_buckets(tuples: f64, fill_factor: u16) -> u32 {
    const MOST: u32 = 0x4000_0000;
    let wanted = tuples / f64::from(fill_factor);
    if wanted <= 2.0 {
        2
    } else if wanted >= f64::from(MOST) {
        MOST
    } else {
        buckets_at(split_point(wanted as u32))
    }
}

/// A new metapage (`xl_hash_init_meta_page`).
pub(super) fn create(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (tuples, procedure, fill_factor) = (f64::from_bits(main.u64()?), main.u32()?, main.u16()?);
    ensure!(fill_factor > 0 && !tuples.is_nan(), "fill factor {fill_factor} for {tuples} tuples");
    let buckets = first_buckets(tuples, fill_factor);
    let point = split_point(buckets);
    init(page, NONE, NONE, NONE, META)?;
    page.put_u32(at::MAGIC, MAGIC)?;
    page.put_u32(at::VERSION, VERSION)?;
    page.put_u16(at::FILL_FACTOR, fill_factor)?;
    page.put_u16(at::PAGE_BYTES, PAGE_BYTES)?;
    page.put_u16(at::BITMAP_BYTES, BITMAP_BYTES)?;
    page.put_u16(at::BITMAP_SHIFT, BITMAP_SHIFT)?;
    page.put_u32(at::PROCEDURE, procedure)?;
    page.put_u32(at::MAX_BUCKET, buckets - 1)?;
    let high_mask = (buckets + 1).next_power_of_two() - 1;
    page.put_u32(at::HIGH_MASK, high_mask)?;
    page.put_u32(at::LOW_MASK, high_mask >> 1)?;
    page.put_u32(spare(point)?, 1)?;
    page.put_u32(at::SPLIT_POINT, point)?;
    page.set_lower(at::END)
}

/// Where the count of overflow pages before a split point lies.
fn spare(point: u32) -> Res<usize> {
    ensure!(point < SPLIT_POINTS_MAX, "split point {point} is out of range");
    Ok(at::SPARES + 4 * point as usize)
}

fn add_spare(page: &mut Page<'_>) -> Res<()> {
    let place = spare(page.u32_at(at::SPLIT_POINT)?)?;
    page.put_u32(place, page.u32_at(place)?.wrapping_add(1))
}

fn add_bitmap(page: &mut Page<'_>, block: u32) -> Res<()> {
    let count = page.u32_at(at::BITMAPS)?;
    ensure!(count < BITMAPS_MAX, "the index already has {count} bitmap pages");
    page.put_u32(at::MAP + 4 * count as usize, block)?;
    page.put_u32(at::BITMAPS, count + 1)
}

/// The index's first bitmap lies behind its first buckets.
pub(super) fn add_first_bitmap(page: &mut Page<'_>) -> Res<()> {
    let buckets = page.u32_at(at::MAX_BUCKET)?.wrapping_add(1);
    add_bitmap(page, buckets.wrapping_add(1))
}

/// A new bitmap: every overflow page is in use until freed.
pub(super) fn create_bitmap(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let bytes = usize::from(step.main().u16()?);
    init(page, NONE, NONE, NONE, BITMAP)?;
    ensure!(bytes <= usize::from(PAGE_BYTES), "a bitmap of {bytes} bytes");
    page.get_mut(HEADER_SIZE, bytes)?.fill(0xff);
    page.set_lower(HEADER_SIZE + bytes)
}

pub(super) fn set_bitmap_bit(step: &Step<'_>, page: &mut Page<'_>, used: bool) -> Res<()> {
    let bit = step.data().u32()?;
    ensure!(bit < u32::from(PAGE_BYTES) * 8, "bit {bit} is not on a bitmap page");
    let place = HEADER_SIZE + 4 * (bit / 32) as usize;
    let (word, mask) = (page.u32_at(place)?, 1 << (bit % 32));
    page.put_u32(place, if used { word | mask } else { word & !mask })
}

pub(super) fn set_first_free(page: &mut Page<'_>, bit: u32) -> Res<()> {
    page.put_u32(at::FIRST_FREE, bit)
}

/// `ADD_OVFL_PAGE`: the page may come with a new bitmap page, which is an overflow page too.
pub(super) fn add_overflow_page(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    set_first_free(page, step.data().u32()?)?;
    let mut main = step.main();
    main.skip(2)?;
    if !main.bool()? {
        add_spare(page)?;
        if let Some(bitmap) = step.record.block(3) {
            add_bitmap(page, bitmap.block)?;
            add_spare(page)?;
        }
    }
    Ok(())
}

pub(super) fn add_tuples(page: &mut Page<'_>, count: f64) -> Res<()> {
    let mut old = [0; 8];
    old.copy_from_slice(page.get(at::TUPLES, 8)?);
    page.put(at::TUPLES, &(f64::from_le_bytes(old) + count).to_le_bytes())
}

pub(super) fn set_tuples(page: &mut Page<'_>, count: &[u8]) -> Res<()> {
    page.put(at::TUPLES, count)
}

/// `SPLIT_ALLOCATE_PAGE`: one more bucket.
pub(super) fn split(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    const MASKS: u8 = 1;
    const POINT: u8 = 2;
    let mut main = step.main();
    let bucket = main.u32()?;
    main.skip(4)?;
    let flags = main.u8()?;
    let mut data = step.data();
    page.put_u32(at::MAX_BUCKET, bucket)?;
    if flags & MASKS != 0 {
        page.put_u32(at::LOW_MASK, data.u32()?)?;
        page.put_u32(at::HIGH_MASK, data.u32()?)?;
    }
    if flags & POINT != 0 {
        let point = data.u32()?;
        page.put_u32(spare(point)?, data.u32()?)?;
        page.put_u32(at::SPLIT_POINT, point)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_begins_with_a_whole_phase_of_buckets() {
        assert_eq!(first_buckets(0.0, 307), 2);
        assert_eq!(first_buckets(1000.0, 307), 4);
        assert_eq!(first_buckets(600.0 * 307.0, 307), 640);
        assert_eq!((split_point(2), split_point(512), split_point(513)), (1, 9, 10));
        assert_eq!((buckets_at(9), buckets_at(10), buckets_at(13)), (512, 640, 1024));
    }
}
