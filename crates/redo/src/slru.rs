//! SLRU pages: transaction status, multixacts, commit timestamps.
//!
//! These pages have no header and no LSN. A page that does not exist counts as zeros, as it does
//! in PostgreSQL's recovery.

use pgwal::effects::{Effects, Xact, effects};
use pgwal::keys::Slru;
use pgwal::layout::op::{clog, commit_ts, multixact, rm};
use pgwal::slru::{
    self as layout, COMMIT_TS_PER_PAGE, MEMBERS_PER_PAGE, OFFSETS_PER_PAGE, XACTS_PER_PAGE,
};

use crate::fault::{Fault, Res, ensure, fault};
use crate::page::PAGE_SIZE;
use crate::read::{Reader, put};
use crate::step::Record;

const COMMITTED: u8 = 1;
const ABORTED: u8 = 2;
/// Bytes of a commit timestamp's entry: time and origin.
const COMMIT_TS_SIZE: usize = 10;
/// Bytes of four members: four flag bytes, then four transaction ids.
const MEMBER_GROUP_SIZE: usize = 20;

/// Applies a record to a page of an area.
pub(crate) fn apply(record: &Record<'_>, area: Slru, number: u32, page: &mut [u8]) -> Res<()> {
    ensure!(page.len() == PAGE_SIZE, "an SLRU page has {PAGE_SIZE} bytes, not {}", page.len());
    if let Some(zeroed) = zeroes(record)? {
        ensure!(zeroed == (area, number), "the record begins page {} of {:?}", zeroed.1, zeroed.0);
        page.fill(0);
        return Ok(());
    }
    let any = match (record.rmid, area) {
        (rm::XACT, Slru::Xact) => set_status(&xact(record)?, number, page)?,
        (rm::XACT, Slru::CommitTs) => set_times(&xact(record)?, number, page)?,
        (rm::MULTIXACT, Slru::MultiOffsets) => set_offsets(&Multi::read(record)?, number, page)?,
        (rm::MULTIXACT, Slru::MultiMembers) => set_members(&Multi::read(record)?, number, page)?,
        _ => return fault!("the record changes no page of {area:?}"),
    };
    ensure!(any, "the record changes nothing on page {number} of {area:?}");
    Ok(())
}

/// The page that a record begins afresh, if it does.
pub(crate) fn zeroes(record: &Record<'_>) -> Res<Option<(Slru, u32)>> {
    let area = match (record.rmid, record.op()) {
        (rm::CLOG, clog::ZEROPAGE) => Slru::Xact,
        (rm::COMMIT_TS, commit_ts::ZEROPAGE) => Slru::CommitTs,
        (rm::MULTIXACT, multixact::ZERO_OFF_PAGE) => Slru::MultiOffsets,
        (rm::MULTIXACT, multixact::ZERO_MEM_PAGE) => Slru::MultiMembers,
        _ => return Ok(None),
    };
    Ok(Some((area, Reader::new("main data", record.main).u32()?)))
}

/// What a record changes besides its blocks, as a fault where it cannot be known.
pub(crate) fn effects_of(record: &Record<'_>) -> Res<Effects> {
    effects(record).map_err(|error| Fault(error.to_string()))
}

fn xact(record: &Record<'_>) -> Res<Xact> {
    let mut effects = Effects::default();
    effects.read(record).map_err(|error| Fault(error.to_string()))?;
    match effects.xact {
        Some(xact) if xact.kind.is_end() => Ok(*xact),
        _ => fault!("the record ends no transaction"),
    }
}

/// The transaction and its subtransactions.
fn all_of(xact: &Xact) -> impl Iterator<Item = u32> {
    std::iter::once(xact.xid).chain(xact.subxacts.iter().copied())
}

fn set_status(xact: &Xact, number: u32, page: &mut [u8]) -> Res<bool> {
    let status = if xact.kind.is_commit() { COMMITTED } else { ABORTED };
    let mut any = false;
    for xid in all_of(xact).filter(|xid| layout::xact_page(*xid) == number) {
        let within = xid % XACTS_PER_PAGE;
        let (at, shift) = ((within / 4) as usize, within % 4 * 2);
        page[at] = page[at] & !(3 << shift) | status << shift;
        any = true;
    }
    Ok(any)
}

fn set_times(xact: &Xact, number: u32, page: &mut [u8]) -> Res<bool> {
    ensure!(xact.kind.is_commit(), "the record commits no transaction");
    let mut any = false;
    for xid in all_of(xact).filter(|xid| layout::commit_ts_page(*xid) == number) {
        let at = (xid % COMMIT_TS_PER_PAGE) as usize * COMMIT_TS_SIZE;
        put(page, at, &xact.commit_time.to_le_bytes())?;
        put(page, at + 8, &xact.origin.to_le_bytes())?;
        any = true;
    }
    Ok(any)
}

/// `xl_multixact_create`: a multixact, where its members begin, and the members with their flags.
struct Multi {
    id: u32,
    offset: u32,
    members: Vec<(u32, u8)>,
}

impl Multi {
    fn read(record: &Record<'_>) -> Res<Multi> {
        ensure!(record.op() == multixact::CREATE_ID, "the record makes no multixact");
        let mut main = Reader::new("main data", record.main);
        let (id, offset, count) = (main.u32()?, main.u32()?, main.u32()?);
        let mut members = Vec::with_capacity((count as usize).min(main.remaining() / 8));
        for _ in 0..count {
            let (xid, status) = (main.u32()?, main.u32()?);
            match u8::try_from(status) {
                Ok(status) => members.push((xid, status)),
                Err(_) => return fault!("member {xid} has status {status}"),
            }
        }
        Ok(Multi { id, offset, members })
    }
}

/// The multixact's own offset and, as the end of its members, the next one's.
fn set_offsets(multi: &Multi, number: u32, page: &mut [u8]) -> Res<bool> {
    // Offset zero means "not set yet", so the members never begin there.
    let end = multi.offset.wrapping_add(multi.members.len() as u32).max(1);
    let entries = [(multi.id, multi.offset), (layout::next_multi(multi.id), end)];
    let mut any = false;
    for (id, offset) in entries {
        if layout::multi_offset_page(id) == number {
            put(page, (id % OFFSETS_PER_PAGE) as usize * 4, &offset.to_le_bytes())?;
            any = true;
        }
    }
    Ok(any)
}

fn set_members(multi: &Multi, number: u32, page: &mut [u8]) -> Res<bool> {
    let mut any = false;
    for (index, (xid, status)) in (0u32..).zip(&multi.members) {
        let offset = multi.offset.wrapping_add(index);
        if layout::multi_member_page(offset) == number {
            let within = (offset % MEMBERS_PER_PAGE) as usize;
            let (group, slot) = (within / 4 * MEMBER_GROUP_SIZE, within % 4);
            put(page, group + slot, &[*status])?;
            put(page, group + 4 + slot * 4, &xid.to_le_bytes())?;
            any = true;
        }
    }
    Ok(any)
}
