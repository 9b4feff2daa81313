//! Tuples of SP-GiST pages (`access/spgist_private.h`): inner, leaf, and the ones left for dead.

use crate::fault::{Res, ensure, fault};
use crate::page::Page;
use crate::read::{Reader, put, u16_at, u32_at};
use crate::tuple::{Tid, index_tuple_size};

pub(super) const REDIRECT: u32 = 1;
pub(super) const DEAD: u32 = 2;
pub(super) const PLACEHOLDER: u32 = 3;

pub(super) const OPAQUE: usize = 8;
const AT_FLAGS: usize = 0;
pub(super) const AT_REDIRECTS: usize = 2;
pub(super) const AT_PLACEHOLDERS: usize = 4;
const AT_PAGE_ID: usize = 6;
const PAGE_ID: u16 = 0xff82;

/// Size of a dead tuple of any kind (`SGDTSIZE`).
const DEAD_SIZE: usize = 16;
const NOWHERE: Tid = Tid { block: u32::MAX, item: 0 };

/// An empty page with these flags.
pub(super) fn init(page: &mut Page<'_>, flags: u16) -> Res<()> {
    page.init(OPAQUE);
    let special = page.special_of(OPAQUE)?;
    page.put_u16(special + AT_FLAGS, flags)?;
    page.put_u16(special + AT_PAGE_ID, PAGE_ID)
}

/// Adds to a count in the special space.
pub(super) fn count(page: &mut Page<'_>, which: usize, change: i32) -> Res<()> {
    let at = page.special_of(OPAQUE)? + which;
    let old = i32::from(page.u16_at(at)?);
    match u16::try_from(old + change) {
        Ok(new) => page.put_u16(at, new),
        Err(_) => fault!("a page with {old} dead tuples of a kind cannot have {change} more"),
    }
}

/// The next leaf tuple of a record.
pub(super) fn leaf<'a>(main: &mut Reader<'a>) -> Res<&'a [u8]> {
    let size = (u32_at(main.rest(), 0)? >> 2) as usize;
    ensure!(size >= 12, "a leaf tuple of {size} bytes has no header");
    main.take(size)
}

/// The next inner tuple of a record.
pub(super) fn inner<'a>(main: &mut Reader<'a>) -> Res<&'a [u8]> {
    let size = usize::from(u16_at(main.rest(), 4)?);
    ensure!(size >= 8, "an inner tuple of {size} bytes has no header");
    main.take(size)
}

fn state(tuple: &[u8]) -> Res<u32> {
    Ok(u32_at(tuple, 0)? & 3)
}

/// Replaces item `number` by another tuple, at the place where items are added.
pub(super) fn replace(page: &mut Page<'_>, number: u16, tuple: &[u8]) -> Res<()> {
    page.remove_item(number)?;
    page.insert_item(number, tuple)
}

/// Adds a tuple at `number`, or puts it in the place of a placeholder.
pub(super) fn add(page: &mut Page<'_>, number: u16, tuple: &[u8]) -> Res<()> {
    if number > page.item_count() {
        return page.insert_item(number, tuple);
    }
    ensure!(state(page.item(number)?)? == PLACEHOLDER, "tuple {number} is not a placeholder");
    count(page, AT_PLACEHOLDERS, -1)?;
    replace(page, number, tuple)
}

/// Sets the link of a leaf tuple to the next one of its chain.
pub(super) fn set_next(page: &mut Page<'_>, number: u16, next: u16) -> Res<()> {
    let tuple = page.item_mut(number)?;
    let info = u16_at(tuple, 4)? & 0xc000 | next & 0x3fff;
    put(tuple, 4, &info.to_le_bytes())
}

/// Points node `node` of the inner tuple `number` to `tid`.
pub(super) fn set_downlink(page: &mut Page<'_>, number: u16, node: u16, tid: Tid) -> Res<()> {
    let tuple = page.item_mut(number)?;
    let word = u32_at(tuple, 0)?;
    let (nodes, prefix) = (word >> 3 & 0x1fff, (word >> 16) as usize);
    ensure!(u32::from(node) < nodes, "inner tuple {number} has {nodes} nodes, not {node} + 1");
    let mut at = 8 + prefix;
    for _ in 0..node {
        at += index_tuple_size(tuple.get(at..).unwrap_or(&[]))?;
    }
    put(tuple, at, &tid.encode())
}

/// What takes the place of tuples that go: redirection and its transaction, or nothing.
pub(super) struct Grave {
    /// Who removed them.
    pub xid: u32,
    /// Where a redirection leads.
    pub to: Tid,
}

impl Grave {
    /// For states that lead nowhere.
    pub const EMPTY: Grave = Grave { xid: 0, to: NOWHERE };

    /// A dead tuple in this state.
    pub fn tuple(&self, state: u32) -> [u8; DEAD_SIZE] {
        let mut tuple = [0; DEAD_SIZE];
        let (to, xid) = if state == REDIRECT { (self.to, self.xid) } else { (NOWHERE, 0) };
        tuple[0..4].copy_from_slice(&(state | (DEAD_SIZE as u32) << 2).to_le_bytes());
        tuple[6..12].copy_from_slice(&to.encode());
        tuple[12..16].copy_from_slice(&xid.to_le_bytes());
        tuple
    }
}

/// Replaces tuples by dead ones: the first listed in state `first`, the others in state `rest`.
pub(super) fn bury(
    page: &mut Page<'_>,
    numbers: &[u16],
    (first, rest): (u32, u32),
    grave: &Grave,
) -> Res<()> {
    let Some(head) = numbers.first() else { return Ok(()) };
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    page.remove_items(&sorted)?;
    for number in &sorted {
        let state = if number == head { first } else { rest };
        page.insert_item(*number, &grave.tuple(state))?;
        match state {
            REDIRECT => count(page, AT_REDIRECTS, 1)?,
            PLACEHOLDER => count(page, AT_PLACEHOLDERS, 1)?,
            _ => {}
        }
    }
    Ok(())
}

/// Turns a redirection that nobody follows any more into a placeholder.
pub(super) fn forget_redirect(page: &mut Page<'_>, number: u16) -> Res<()> {
    let tuple = page.item_mut(number)?;
    let word = u32_at(tuple, 0)?;
    ensure!(word & 3 == REDIRECT, "tuple {number} is not a redirection");
    put(tuple, 0, &(word & !3 | PLACEHOLDER).to_le_bytes())?;
    put(tuple, 6, &NOWHERE.encode())?;
    count(page, AT_REDIRECTS, -1)?;
    count(page, AT_PLACEHOLDERS, 1)
}
