//! BRIN (`access/brin_xlog.h`): summaries on regular pages, found through a map from heap ranges.

use pgwal::layout::op::brin::*;
use pgwal::layout::op::brin_flags::OP_MASK;

use crate::fault::{Res, ensure};
use crate::page::{HEADER_SIZE, Page};
use crate::step::Step;
use crate::tuple::Tid;

const OPAQUE: usize = 8;
const AT_FLAGS: usize = 4;
const AT_TYPE: usize = 6;
const META: u16 = 0xf091;
const REVMAP: u16 = 0xf092;
const REGULAR: u16 = 0xf093;
const EVACUATE: u16 = 1;
const MAGIC: u32 = 0xa810_9cfa;
const META_SIZE: usize = 16;
const AT_LAST_REVMAP: usize = HEADER_SIZE + 12;
/// Positions on a page of the map (`REVMAP_PAGE_MAXITEMS`).
const REVMAP_ITEMS: u32 = 1360;
const NOWHERE: Tid = Tid { block: u32::MAX, item: 0 };

/// Applies a BRIN record to one of its blocks.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op() & OP_MASK, step.block.id) {
        (CREATE_INDEX, 0) => create(step, page)?,
        (INSERT | UPDATE, 0) => insert(step, page)?,
        (INSERT | UPDATE, 1) => {
            let new = Insertion::read(step)?;
            let tid = Tid { block: step.block_number(0)?, item: new.number };
            set_range(page, new.range_pages, new.heap_block, tid)?;
        }
        (UPDATE, 2) => page.remove_item_keep_line(step.main().u16()?)?,
        (SAMEPAGE_UPDATE, 0) => page.replace_item(step.main().u16()?, step.data().rest())?,
        (REVMAP_EXTEND, 0) => {
            page.put_u32(AT_LAST_REVMAP, step.main().u32()?)?;
            page.set_lower(HEADER_SIZE + META_SIZE)?;
        }
        (REVMAP_EXTEND, 1) => init(page, REVMAP)?,
        (DESUMMARIZE, 0) => {
            let mut main = step.main();
            let (range_pages, heap_block) = (main.u32()?, main.u32()?);
            set_range(page, range_pages, heap_block, NOWHERE)?;
        }
        (DESUMMARIZE, 1) => {
            let mut main = step.main();
            main.skip(8)?;
            page.remove_item_keep_line(main.u16()?)?;
        }
        (op, _) if ALL.contains(&op) => return step.no_such_block(),
        _ => return step.unknown_op(),
    }
    step.stamp(page)
}

/// `xl_brin_insert`, which an update has behind the old tuple's number.
struct Insertion {
    heap_block: u32,
    range_pages: u32,
    number: u16,
}

impl Insertion {
    fn read(step: &Step<'_>) -> Res<Insertion> {
        let mut main = step.main();
        if step.op() & OP_MASK == UPDATE {
            main.skip(4)?;
        }
        Ok(Insertion { heap_block: main.u32()?, range_pages: main.u32()?, number: main.u16()? })
    }
}

fn init(page: &mut Page<'_>, kind: u16) -> Res<()> {
    page.init(OPAQUE);
    page.put_u16(page.special_of(OPAQUE)? + AT_TYPE, kind)
}

fn create(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    let mut main = step.main();
    let (range_pages, version) = (main.u32()?, main.u16()?);
    init(page, META)?;
    page.put_u32(HEADER_SIZE, MAGIC)?;
    page.put_u32(HEADER_SIZE + 4, u32::from(version))?;
    page.put_u32(HEADER_SIZE + 8, range_pages)?;
    page.set_lower(HEADER_SIZE + META_SIZE)
}

fn insert(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    if step.block.will_init {
        init(page, REGULAR)?;
    }
    page.put_item_at(Insertion::read(step)?.number, step.data().rest())
}

/// Points a heap range to its summary.
fn set_range(page: &mut Page<'_>, range_pages: u32, heap_block: u32, tid: Tid) -> Res<()> {
    ensure!(range_pages != 0, "ranges of no pages");
    let index = heap_block / range_pages % REVMAP_ITEMS;
    page.put(HEADER_SIZE + index as usize * Tid::SIZE, &tid.encode())
}

/// What `brin_mask` masks besides the page's hints.
pub(crate) fn mask(page: &mut Page<'_>) -> Res<()> {
    let special = page.special_of(OPAQUE)?;
    let kind = page.u16_at(special + AT_TYPE)?;
    if kind == REGULAR || kind == META && page.lower() > HEADER_SIZE {
        super::masks::mask_unused(page)?;
    }
    page.put_u16(special + AT_FLAGS, page.u16_at(special + AT_FLAGS)? & !EVACUATE)
}
