//! Whether a page as the writer has it and as storage gives it are the same page, and in which way
//! not. Pure. What PostgreSQL changes without logging it is passed over here, each case with its
//! reason (rule Q5); everything else that differs is a difference.

use pgwal::keys::Fork;
use pgwal::layout::op::rm;
use redo::diff::differences;
use redo::mask::manager_of;

use crate::cache::local::BLOCK;
use crate::cache::page::{HEADER, is_sequence, lsn_of};

/// A page's bytes.
pub type Page = [u8; BLOCK];

/// First oid given to databases that users create.
const FIRST_NORMAL_OID: u32 = 16_384;
/// `pd_lsn` comes first in a page.
const LSN_BYTES: usize = 8;
/// `PD_ALL_VISIBLE` in the low byte of `pd_flags`, at 10.
const ALL_VISIBLE: u8 = 4;
/// `GistBuildLSN`, which gist.h gives to pages of an index that is being built.
const GIST_BUILD_LSN: u64 = 1;
/// Heap blocks that a byte of a visibility map speaks for, and its bytes in a page.
const BLOCKS_PER_BYTE: usize = 4;
/// Of a page's header, what comes behind LSN and checksum.
const LAYOUT: std::ops::Range<usize> = 10..HEADER;
/// Differences that are told of one page.
const TOLD_MAX: usize = 4;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same, as far as PostgreSQL logs it.
    Same,
    /// Fewer visibility bits in storage, in a database that was copied: its copy's log lacks them.
    FewerVisible,
    /// Not the same: how.
    Different(String),
}

/// A page that says nothing: all zeros, or a header that was made and never logged, because nothing
/// was put behind it yet.
#[must_use]
pub fn is_blank(page: &Page) -> bool {
    lsn_of(page).0 == 0 && page[HEADER..].iter().all(|byte| *byte == 0)
}

/// Compares one block of a fork of a relation in this database.
#[must_use]
pub fn block(
    database: u32,
    fork: Fork,
    block: u32,
    local: &Page,
    stored: Option<&Page>,
) -> Verdict {
    let Some(stored) = stored else {
        return match is_blank(local) {
            true => Verdict::Same,
            false => Verdict::Different(format!(
                "storage has no version of it, the local page has LSN {}",
                lsn_of(local)
            )),
        };
    };
    if local == stored {
        return Verdict::Same;
    }
    if fork == Fork::Vm {
        visibility(database, block, local, stored)
    } else {
        main(fork, block, local, stored)
    }
}

/// A page of a main or init fork, under the masks of its manager.
fn main(fork: Fork, block: u32, local: &Page, stored: &Page) -> Verdict {
    let mut local = *local;
    if written_before_it_was_logged(fork, &local) {
        local[..LSN_BYTES].copy_from_slice(&stored[..LSN_BYTES]);
    }
    if is_sequence(&local) && is_sequence(stored) {
        match sequence_as_logged(&local, stored) {
            Ok(logged) => local = logged,
            Err(how) => return Verdict::Different(how),
        }
    }
    let mut told = lsns(&local, stored);
    let marked = |page: &Page| page[10] & ALL_VISIBLE != 0;
    match (marked(&local), marked(stored)) {
        (true, false) => told.push("only the local page is marked all-visible".to_owned()),
        (false, true) => told.push("only storage's page is marked all-visible".to_owned()),
        _ => {}
    }
    match differences(manager_of(&local).unwrap_or(rm::GENERIC), &local, stored, block) {
        Err(fault) => told.push(format!("a page is corrupt: {fault}")),
        Ok(found) => {
            told.extend(found.iter().take(TOLD_MAX).map(|one| {
                format!("{}: {} locally, {} in storage", one.place, one.ours, one.theirs)
            }));
            if let Some(more @ 1..) = found.len().checked_sub(TOLD_MAX) {
                told.push(format!("and {more} more"));
            }
        }
    }
    verdict(told)
}

/// Different when there is something to tell.
fn verdict(told: Vec<String>) -> Verdict {
    if told.is_empty() { Verdict::Same } else { Verdict::Different(told.join("; ")) }
}

/// The LSNs, if they differ.
fn lsns(local: &Page, stored: &Page) -> Vec<String> {
    let (ours, theirs) = (lsn_of(local), lsn_of(stored));
    let told = (ours != theirs).then(|| format!("LSN {ours} locally, {theirs} in storage"));
    told.into_iter().collect()
}

/// Whether the page was written first and logged then, so that the file's copy has no LSN of the log:
/// init forks of some index types, and Gist indexes built in order (`gist_indexsortbuild_flush_ready_pages`
/// in gistbuild.c).
fn written_before_it_was_logged(fork: Fork, page: &Page) -> bool {
    match lsn_of(page).0 {
        0 => fork == Fork::Init,
        GIST_BUILD_LSN => manager_of(page) == Some(rm::GIST),
        _ => false,
    }
}

/// A page of a visibility map: no masks fit it, every bit counts.
fn visibility(database: u32, block: u32, local: &Page, stored: &Page) -> Verdict {
    if is_blank(local) && is_blank(stored) {
        return Verdict::Same;
    }
    let (ours, theirs) = (&local[LAYOUT], &stored[LAYOUT]);
    if ours != theirs {
        let how = format!("page header {ours:02x?} locally, {theirs:02x?} in storage");
        return Verdict::Different(how);
    }
    let pairs = || local[HEADER..].iter().zip(&stored[HEADER..]);
    let Some(first) = pairs().position(|(ours, theirs)| ours != theirs) else {
        return verdict(lsns(local, stored));
    };
    // CREATE DATABASE logs copied pages without what lies between a header's `lower` and `upper`,
    // which in a map is everything. A bit that is not set is always safe.
    if database >= FIRST_NORMAL_OID && pairs().all(|(ours, theirs)| theirs & !ours == 0) {
        return Verdict::FewerVisible;
    }
    let heap = (block as usize * (BLOCK - HEADER) + first) * BLOCKS_PER_BYTE;
    let (ours, theirs) = (local[HEADER + first], stored[HEADER + first]);
    Verdict::Different(format!(
        "bits of blocks {heap}..{}: {ours:#04x} locally, {theirs:#04x} in storage",
        heap + BLOCKS_PER_BYTE
    ))
}

/// The local page as it was logged. `nextval` logs the value that many calls ahead (`log_cnt`), so
/// storage must be ahead by a multiple of that count; without any, the two are equal.
fn sequence_as_logged(local: &Page, stored: &Page) -> Result<Page, String> {
    let at = sequence_row(local).filter(|at| sequence_row(stored) == Some(*at));
    let at = at.ok_or("the sequence's row is not in its place")?;
    let number = |page: &Page, at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&page[at..at + 8]);
        i64::from_le_bytes(bytes)
    };
    let (value, ahead) = (number(local, at), number(local, at + 8));
    let (logged, left) = (number(stored, at), number(stored, at + 8));
    let distance = i128::from(logged) - i128::from(value);
    let plausible = match ahead {
        0 => distance == 0,
        _ => distance != 0 && distance % i128::from(ahead) == 0,
    };
    if !plausible || left != 0 {
        return Err(format!(
            "the sequence stands at {value} locally, with {ahead} values logged ahead; storage has \
             {logged}, {left} ahead"
        ));
    }
    let mut as_logged = *local;
    as_logged[at..at + 16].copy_from_slice(&stored[at..at + 16]);
    Ok(as_logged)
}

/// Where a sequence's `last_value` is; `log_cnt` follows it.
fn sequence_row(page: &Page) -> Option<usize> {
    let item = item_at(page, 1)?;
    let data = item.start + usize::from(*page.get(item.start + 22)?);
    (data + 17 <= item.end).then_some(data)
}

fn word(page: &Page, at: usize) -> Option<u16> {
    Some(u16::from_le_bytes([*page.get(at)?, *page.get(at + 1)?]))
}

/// The bytes of an item, by its number from 1 on.
fn item_at(page: &Page, number: usize) -> Option<std::ops::Range<usize>> {
    let at = HEADER + (number - 1) * 4;
    let line = u32::from(word(page, at)?) | u32::from(word(page, at + 2)?) << 16;
    let (start, length) = (line as usize & 0x7fff, (line >> 17) as usize);
    (length > 0 && start + length <= BLOCK).then_some(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heap page with one item of 40 bytes at the end.
    fn heap() -> Page {
        let mut page = [0; BLOCK];
        page[4] = 9;
        page[12..14].copy_from_slice(&28u16.to_le_bytes());
        page[14..16].copy_from_slice(&8152u16.to_le_bytes());
        page[16..18].copy_from_slice(&8192u16.to_le_bytes());
        page[18..20].copy_from_slice(&8196u16.to_le_bytes());
        page[24..28].copy_from_slice(&(8152u32 | 1 << 15 | 40 << 17).to_le_bytes());
        page[8152 + 22] = 24;
        page
    }

    fn sequence(value: i64, ahead: i64) -> Page {
        let mut page = heap();
        page[14..16].copy_from_slice(&8136u16.to_le_bytes());
        page[16..18].copy_from_slice(&8184u16.to_le_bytes());
        page[24..28].copy_from_slice(&(8136u32 | 1 << 15 | 41 << 17).to_le_bytes());
        page[8136..8184].fill(0);
        page[8136 + 22] = 24;
        page[8160..8168].copy_from_slice(&value.to_le_bytes());
        page[8168..8176].copy_from_slice(&ahead.to_le_bytes());
        page[8184..8192].copy_from_slice(&0x1717u64.to_le_bytes());
        page
    }

    fn told(verdict: Verdict) -> String {
        match verdict {
            Verdict::Different(how) => how,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_different_byte_is_told_with_its_item_and_a_hint_bit_is_not_a_difference() {
        let (local, mut stored) = (heap(), heap());
        stored[8152 + 30] = 1;
        let how = told(block(5, Fork::Main, 3, &local, Some(&stored)));
        assert_eq!(how, "tuple at item 1: data offset 6..7: 00 locally, 01 in storage");
        let mut hinted = heap();
        hinted[8152 + 21] |= 1; // HEAP_XMIN_COMMITTED
        assert_eq!(block(5, Fork::Main, 3, &hinted, Some(&local)), Verdict::Same);
    }

    #[test]
    fn an_all_visible_mark_on_one_side_only_is_a_difference() {
        let (plain, mut marked) = (heap(), heap());
        marked[10] |= ALL_VISIBLE;
        assert!(told(block(5, Fork::Main, 0, &plain, Some(&marked))).contains("storage"));
        assert!(told(block(5, Fork::Main, 0, &marked, Some(&plain))).contains("local"));
    }

    #[test]
    fn only_a_blank_page_may_be_unknown_to_storage() {
        let mut begun = [0; BLOCK];
        begun[12] = 24; // a header that was made and not logged
        assert_eq!(block(5, Fork::Main, 0, &[0; BLOCK], None), Verdict::Same);
        assert_eq!(block(5, Fork::Main, 0, &begun, None), Verdict::Same);
        assert!(told(block(5, Fork::Main, 0, &heap(), None)).contains("no version"));
        // The other way round it is a page that the writer has lost.
        told(block(5, Fork::Main, 0, &[0; BLOCK], Some(&heap())));
    }

    #[test]
    fn an_init_page_may_have_been_written_before_it_was_logged() {
        let (mut local, stored) = (heap(), heap());
        local[4] = 0;
        assert_eq!(block(5, Fork::Init, 0, &local, Some(&stored)), Verdict::Same);
        told(block(5, Fork::Main, 0, &local, Some(&stored)));
    }

    #[test]
    fn a_page_of_a_gist_index_built_in_order_has_another_lsn_but_no_other_content() {
        let (mut local, mut stored) = (heap(), heap());
        for (page, lsn) in [(&mut local, 1), (&mut stored, 9)] {
            page[4] = lsn;
            page[8190..].copy_from_slice(&0xff81u16.to_le_bytes());
            page[14..18].copy_from_slice(&[0xc8, 0x1f, 0xf0, 0x1f]); // upper 8136, special 8176
            page[24..28].copy_from_slice(&(8136u32 | 1 << 15 | 40 << 17).to_le_bytes());
        }
        assert_eq!(block(5, Fork::Main, 3, &local, Some(&stored)), Verdict::Same);
        stored[8150] = 1;
        told(block(5, Fork::Main, 3, &local, Some(&stored)));
        let mut heap_page = heap();
        heap_page[4] = 1;
        told(block(5, Fork::Main, 3, &heap_page, Some(&heap())));
    }

    #[test]
    fn a_sequence_may_be_ahead_in_storage_by_what_was_logged_and_by_nothing_else() {
        let same = |local: Page, stored: Page| block(5, Fork::Main, 0, &local, Some(&stored));
        assert_eq!(same(sequence(1, 32), sequence(33, 0)), Verdict::Same);
        assert_eq!(same(sequence(-5, 10), sequence(-35, 0)), Verdict::Same);
        told(same(sequence(1, 0), sequence(33, 0)));
        told(same(sequence(33, 32), sequence(33, 0)));
        told(same(sequence(1, 32), sequence(34, 0)));
    }

    #[test]
    fn visibility_bits_count_except_those_that_a_copied_database_has_not_logged() {
        let (mut local, mut stored) = ([0; BLOCK], [0; BLOCK]);
        (local[4], stored[4]) = (9, 9);
        local[HEADER + 2] = 0b11;
        assert_eq!(block(16_390, Fork::Vm, 0, &local, Some(&stored)), Verdict::FewerVisible);
        let how = told(block(5, Fork::Vm, 0, &local, Some(&stored)));
        assert!(how.contains("blocks 8..12"), "{how}");
        // A bit that only storage has would hide rows from an index-only scan.
        told(block(16_390, Fork::Vm, 0, &stored, Some(&local)));
        stored[HEADER + 2] = 0b11;
        stored[4] = 8;
        told(block(5, Fork::Vm, 0, &local, Some(&stored)));
        // PostgreSQL reads no map whose header is none.
        (stored[4], stored[16]) = (9, 1);
        assert!(told(block(5, Fork::Vm, 0, &local, Some(&stored))).contains("header"));
    }
}
