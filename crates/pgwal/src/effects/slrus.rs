//! Effects of records about SLRU areas: transaction status, multixacts, commit timestamps.

use super::Effects;
use crate::cursor::Cursor;
use crate::keys::Slru;
use crate::layout::op::{clog as clog_op, commit_ts as ts_op, multixact as multi_op};
use crate::record::{Record, Source};
use crate::slru::{self, SlruTruncate};

pub(super) fn clog(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    let page = main.u32()?;
    if op == clog_op::ZEROPAGE {
        effects.slru.push((Slru::Xact, page));
    } else {
        // Page, oldest transaction, its database.
        main.skip(8)?;
        effects.slru_truncate.push(SlruTruncate::Before { slru: Slru::Xact, page });
        effects.state = true;
    }
    Some(())
}

pub(super) fn commit_ts(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    let page = main.u32()?;
    if op == ts_op::ZEROPAGE {
        effects.slru.push((Slru::CommitTs, page));
    } else {
        // Page, oldest transaction.
        main.skip(4)?;
        effects.slru_truncate.push(SlruTruncate::Before { slru: Slru::CommitTs, page });
        effects.state = true;
    }
    Some(())
}

pub(super) fn multixact(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    match op {
        multi_op::ZERO_OFF_PAGE => effects.slru.push((Slru::MultiOffsets, main.u32()?)),
        multi_op::ZERO_MEM_PAGE => effects.slru.push((Slru::MultiMembers, main.u32()?)),
        multi_op::CREATE_ID => create(&mut main, effects)?,
        // Database of the oldest, offsets from and to, members from and to.
        _ => {
            main.skip(8)?;
            let end_multi = main.u32()?;
            let (from, to) = (main.u32()?, main.u32()?);
            effects.slru_truncate.push(SlruTruncate::Members {
                from_page: slru::multi_member_page(from),
                to_page: slru::multi_member_page(to),
            });
            // One back, so that the cutoff is a page that exists for certain.
            let page = slru::multi_offset_page(slru::previous_multi(end_multi));
            effects.slru_truncate.push(SlruTruncate::Before { slru: Slru::MultiOffsets, page });
            effects.state = true;
        }
    }
    Some(())
}

/// Multixact, offset of its first member, number of members, then id and status of each. Recovery
/// writes where its members begin and where those of the next one will.
fn create(main: &mut Cursor<'_, impl Source>, effects: &mut Effects) -> Option<()> {
    let (multi, offset, count) = (main.u32()?, main.u32()?, main.u32()?);
    if count as usize > main.left() / 8 {
        return None;
    }
    for _ in 0..count {
        effects.saw_xid(main.u32()?);
        main.skip(4)?;
    }
    let next = slru::next_multi(multi);
    let page = slru::multi_offset_page(multi);
    effects.slru.push((Slru::MultiOffsets, page));
    if slru::multi_offset_page(next) != page {
        effects.slru.push((Slru::MultiOffsets, slru::multi_offset_page(next)));
    }
    let mut member = 0;
    while member < count {
        let at = offset.wrapping_add(member);
        effects.slru.push((Slru::MultiMembers, slru::multi_member_page(at)));
        let left_on_page = slru::MEMBERS_PER_PAGE - at % slru::MEMBERS_PER_PAGE;
        // The circle's last page is shorter than the others.
        member += left_on_page.min((u32::MAX - at).saturating_add(1).max(1));
    }
    effects.next_multi = Some((next, offset.wrapping_add(count)));
    effects.state = true;
    Some(())
}
