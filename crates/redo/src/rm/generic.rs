//! Generic records (`access/generic_xlog.h`), which extensions use: pieces of new page content.

use pgwal::layout::op::generic::DELTA;

use crate::fault::Res;
use crate::page::Page;
use crate::step::Step;

/// Applies a Generic record to one of its blocks.
pub(crate) fn redo(step: &Step<'_>, page: &mut Page<'_>) -> Res<()> {
    if step.op() != DELTA {
        return step.unknown_op();
    }
    let mut data = step.data();
    while data.remaining() > 0 {
        let (at, length) = (usize::from(data.u16()?), usize::from(data.u16()?));
        page.put(at, data.take(length)?)?;
    }
    page.check()?;
    let (lower, upper) = (page.lower(), page.upper());
    page.get_mut(lower, upper - lower)?.fill(0);
    step.stamp(page)
}
