//! B-tree posting lists: one index tuple for many heap positions (`access/nbtree.h`).

use crate::fault::{Res, ensure, fault};
use crate::page::{Page, aligned};
use crate::read::{Reader, put, u16_at};
use crate::step::Step;
use crate::tuple::{Tid, index_tuple_size};

const ALT_TID: u16 = 0x2000;
const SIZE_MASK: u16 = 0x1fff;
const IS_POSTING: u16 = 0x2000;
const COUNT_MASK: u16 = 0x0fff;
/// Largest size of a tuple on a leaf (`BTMaxItemSize`).
const ITEM_SIZE_MAX: usize = 2704;

/// The key part of a leaf tuple and the heap positions it stands for.
#[derive(Clone)]
struct Postings<'a> {
    key: &'a [u8],
    tids: Vec<u8>,
    is_list: bool,
}

impl Postings<'_> {
    fn count(&self) -> usize {
        self.tids.len() / Tid::SIZE
    }
}

/// Takes a leaf tuple apart.
fn read(tuple: &[u8]) -> Res<Postings<'_>> {
    let size = index_tuple_size(tuple)?;
    let Some(tuple) = tuple.get(..size) else {
        return fault!("an index tuple of {size} bytes ends after {}", tuple.len());
    };
    let tid = Tid::at(tuple, 0)?;
    if u16_at(tuple, 6)? & ALT_TID == 0 {
        return Ok(Postings { key: tuple, tids: tuple[..Tid::SIZE].to_vec(), is_list: false });
    }
    ensure!(tid.item & IS_POSTING != 0, "a pivot tuple is among the leaf's data");
    let at = usize::try_from(tid.block).unwrap_or(usize::MAX);
    let length = usize::from(tid.item & COUNT_MASK) * Tid::SIZE;
    let list = at.checked_add(length).and_then(|end| tuple.get(at..end));
    match list {
        Some(list) if at >= 8 && length > 0 => {
            Ok(Postings { key: &tuple[..at], tids: list.to_vec(), is_list: true })
        }
        _ => fault!("a posting list of {length} bytes at {at} leaves its tuple of {size}"),
    }
}

/// A leaf tuple of a key part and heap positions.
fn form(key: &[u8], tids: &[u8]) -> Res<Vec<u8>> {
    let mut tuple = key.to_vec();
    let info = u16_at(key, 6)? & !SIZE_MASK;
    let count = tids.len() / Tid::SIZE;
    if count > 1 {
        let size = aligned(key.len() + tids.len());
        ensure!(
            size <= usize::from(SIZE_MASK) && count <= usize::from(COUNT_MASK),
            "a posting list of {count} positions is too long"
        );
        tuple.extend_from_slice(tids);
        tuple.resize(size, 0);
        let link = Tid { block: key.len() as u32, item: count as u16 | IS_POSTING };
        put(&mut tuple, 0, &link.encode())?;
        put(&mut tuple, 6, &(info | ALT_TID | size as u16).to_le_bytes())?;
    } else {
        ensure!(count == 1, "a leaf tuple without a heap position");
        put(&mut tuple, 0, tids)?;
        put(&mut tuple, 6, &(info & !ALT_TID | key.len() as u16).to_le_bytes())?;
    }
    Ok(tuple)
}

/// Puts `new`'s position into the posting list at place `at` and gives `new` the list's last one.
/// Returns the list's tuple, which keeps its size.
pub(super) fn swap_posting(new: &mut [u8], list: &[u8], at: u16) -> Res<Vec<u8>> {
    let postings = read(list)?;
    let at = usize::from(at);
    ensure!(
        postings.is_list && at > 0 && at < postings.count(),
        "a posting list of {} positions cannot be split at {at}",
        postings.count()
    );
    let start = postings.key.len();
    let mut changed = list.to_vec();
    let last = start + (postings.count() - 1) * Tid::SIZE;
    let place = start + at * Tid::SIZE;
    changed.copy_within(place..last, place + Tid::SIZE);
    let Some(position) = new.get_mut(..Tid::SIZE) else {
        return fault!("the new tuple has no position");
    };
    changed[place..place + Tid::SIZE].copy_from_slice(position);
    position.copy_from_slice(&list[last..last + Tid::SIZE]);
    Ok(changed)
}

/// Removes positions from the posting lists at `numbers`; `updates` says which (`xl_btree_update`).
pub(super) fn update_postings(
    page: &mut Page<'_>,
    numbers: &[u16],
    mut updates: Reader<'_>,
) -> Res<()> {
    for number in numbers {
        let count = usize::from(updates.u16()?);
        let gone = updates.u16s(count)?;
        let item = page.item(*number)?.to_vec();
        let postings = read(&item)?;
        let mut gone = gone.into_iter().map(usize::from).peekable();
        let mut kept = Vec::with_capacity(postings.tids.len());
        for (index, tid) in postings.tids.chunks_exact(Tid::SIZE).enumerate() {
            if gone.next_if_eq(&index).is_none() {
                kept.extend_from_slice(tid);
            }
        }
        ensure!(gone.next().is_none(), "positions to remove are not in posting list {number}");
        page.replace_item(*number, &form(postings.key, &kept)?)?;
    }
    Ok(())
}

/// Rebuilds the page with runs of equal items merged into posting lists, as the record lists them.
pub(super) fn dedup(step: &Step<'_>, page: &mut Page<'_>, first: u16) -> Res<()> {
    let count = usize::from(step.main().u16()?);
    let mut data = step.data();
    let mut intervals = Vec::with_capacity(count.min(data.remaining() / 4));
    for _ in 0..count {
        intervals.push((data.u16()?, data.u16()?));
    }
    let mut intervals = intervals.into_iter().peekable();
    let mut fresh = page.fresh_like()?;
    let mut new = Page::new(&mut fresh);
    if first > 1 {
        new.append_item(page.item(1)?)?;
    }
    let mut number = first;
    while number <= page.item_count() {
        let base = page.item(number)?;
        match intervals.next_if(|(from, _)| *from == number) {
            Some((_, length)) if length > 1 => {
                let Postings { key, mut tids, .. } = read(base)?;
                for next in number.saturating_add(1)..number.saturating_add(length) {
                    tids.extend_from_slice(&read(page.item(next)?)?.tids);
                }
                let merged = form(key, &tids)?;
                ensure!(merged.len() <= ITEM_SIZE_MAX, "a merged posting list is too long");
                new.append_item(&merged)?;
                number = number.saturating_add(length);
            }
            Some(_) => return fault!("a run to merge at item {number} has one item"),
            None => {
                let size = index_tuple_size(base)?;
                match base.get(..size) {
                    Some(tuple) => new.append_item(tuple)?,
                    None => return fault!("item {number} is longer than its line pointer says"),
                }
                number += 1;
            }
        }
    }
    ensure!(intervals.next().is_none(), "a run to merge begins at no item of the page");
    page.bytes_mut().copy_from_slice(fresh.as_slice());
    Ok(())
}
