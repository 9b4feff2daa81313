//! Sequences (`commands/sequence.h`): each record holds the one tuple of the page.

use pgwal::layout::op::seq::LOG;

use crate::fault::Res;
use crate::page::Page;
use crate::step::Step;

const MAGIC: u32 = 0x1717;

pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    match (step.op(), step.block.id) {
        (LOG, 0) => {}
        (LOG, _) => return step.no_such_block(),
        _ => return step.unknown_op(),
    }
    let mut main = step.main();
    main.skip(12)?;
    page.init(4);
    page.put_u32(page.special(), MAGIC)?;
    page.append_item(main.rest())?;
    step.stamp(page)
}
