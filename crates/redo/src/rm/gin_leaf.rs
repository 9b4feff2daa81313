//! Leaves of GIN posting trees: segments of compressed heap positions (`access/ginblock.h`).
//!
//! A segment is its first position (6 bytes), a length, and that many bytes of differences, seven
//! bits a byte; it is padded to two bytes. A position counts as `block << 11 | item`.

use super::gin::{AT_COUNT, COMPRESSED, ITEMS, OPAQUE, change_flags, flags};
use crate::fault::{Res, ensure, fault};
use crate::page::{PAGE_SIZE, Page};
use crate::read::Reader;
use crate::tuple::Tid;

const DELETE: u8 = 1;
const INSERT: u8 = 2;
const REPLACE: u8 = 3;
const ADD_ITEMS: u8 = 4;

const ITEM_BITS: u32 = 11;
/// Size of a segment before its differences.
const SEGMENT_HEADER: usize = 8;

fn number(tid: Tid) -> u64 {
    u64::from(tid.block) << ITEM_BITS | u64::from(tid.item)
}

fn position(number: u64) -> Tid {
    Tid { block: (number >> ITEM_BITS) as u32, item: (number & ((1 << ITEM_BITS) - 1)) as u16 }
}

/// The next segment, padding included.
fn segment<'a>(bytes: &mut Reader<'a>) -> Res<&'a [u8]> {
    let mut header = bytes.clone();
    header.skip(Tid::SIZE)?;
    let length = usize::from(header.u16()?);
    bytes.take(SEGMENT_HEADER + length.next_multiple_of(2))
}

fn decode(segment: &[u8]) -> Res<Vec<u64>> {
    let mut reader = Reader::new("posting segment", segment);
    let mut last = number(Tid::at(reader.take(Tid::SIZE)?, 0)?);
    let length = usize::from(reader.u16()?);
    let mut numbers = vec![last];
    let (mut difference, mut shift) = (0u64, 0);
    for byte in reader.take(length)? {
        ensure!(shift < 49, "a difference of more than 7 bytes in a posting segment");
        difference |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            last = last.wrapping_add(difference);
            numbers.push(last);
            (difference, shift) = (0, 0);
        }
    }
    ensure!(shift == 0, "a posting segment ends within a difference");
    Ok(numbers)
}

fn encode(numbers: &[u64]) -> Res<Vec<u8>> {
    let Some((first, rest)) = numbers.split_first() else {
        return fault!("a posting segment of no positions");
    };
    let mut segment = position(*first).encode().to_vec();
    segment.extend_from_slice(&[0, 0]);
    let mut last = *first;
    for number in rest {
        ensure!(*number > last, "positions of a posting segment are not in order");
        let mut difference = number - last;
        while difference > 0x7f {
            segment.push(0x80 | (difference & 0x7f) as u8);
            difference >>= 7;
        }
        segment.push(difference as u8);
        last = *number;
    }
    let length = segment.len() - SEGMENT_HEADER;
    ensure!(segment.len() <= PAGE_SIZE, "a posting segment of {length} bytes is too long");
    segment[6..8].copy_from_slice(&(length as u16).to_le_bytes());
    if !length.is_multiple_of(2) {
        segment.push(0);
    }
    Ok(segment)
}

/// A segment with more positions in it.
fn merged(segment: &[u8], tids: &[u8]) -> Res<Vec<u8>> {
    let mut numbers = decode(segment)?;
    for tid in tids.chunks_exact(Tid::SIZE) {
        numbers.push(number(Tid::at(tid, 0)?));
    }
    numbers.sort_unstable();
    numbers.dedup();
    encode(&numbers)
}

/// A leaf from before compression (an index from PostgreSQL 9.3) becomes one segment.
fn compress_old_leaf(page: &mut Page<'_>) -> Res<()> {
    let at = page.special_of(OPAQUE)? + AT_COUNT;
    let count = usize::from(page.u16_at(at)?);
    let mut size = 0;
    if count > 0 {
        let tids = page.get(ITEMS, count * Tid::SIZE)?;
        let numbers: Res<Vec<u64>> =
            tids.chunks_exact(Tid::SIZE).map(|tid| Ok(number(Tid::at(tid, 0)?))).collect();
        let segment = encode(&numbers?)?;
        size = segment.len();
        page.put(ITEMS, &segment)?;
    }
    page.set_lower(ITEMS + size)?;
    page.put_u16(at, 0)?;
    change_flags(page, 0, COMPRESSED)
}

/// Applies a list of segment changes (`ginxlogRecompressDataLeaf`).
pub(super) fn recompress(page: &mut Page<'_>, mut changes: Reader<'_>) -> Res<()> {
    if flags(page)? & COMPRESSED == 0 {
        compress_old_leaf(page)?;
    }
    let (lower, special) = (page.lower(), page.special_of(OPAQUE)?);
    ensure!((ITEMS..=special).contains(&lower), "corrupt page header: lower {lower}");
    let old = page.get(ITEMS, lower - ITEMS)?.to_vec();
    let mut old = Reader::new("posting leaf", &old);
    let mut new = Vec::with_capacity(special - ITEMS);
    let mut at = 0;
    for _ in 0..changes.u16()? {
        let (target, action) = (changes.u8()?, changes.u8()?);
        ensure!(at <= target, "changes of segments are not in order");
        while at < target {
            new.extend_from_slice(segment(&mut old)?);
            at += 1;
        }
        if action != INSERT {
            at = at.saturating_add(1);
        }
        match action {
            DELETE => {
                segment(&mut old)?;
            }
            INSERT => new.extend_from_slice(segment(&mut changes)?),
            REPLACE => {
                segment(&mut old)?;
                new.extend_from_slice(segment(&mut changes)?);
            }
            ADD_ITEMS => {
                let count = usize::from(changes.u16()?);
                let tids = changes.take(count * Tid::SIZE)?;
                new.extend_from_slice(&merged(segment(&mut old)?, tids)?);
            }
            _ => return fault!("unknown change {action} of segment {target}"),
        }
    }
    new.extend_from_slice(old.rest());
    ensure!(ITEMS + new.len() <= special, "{} bytes of postings do not fit", new.len());
    page.put(ITEMS, &new)?;
    page.set_lower(ITEMS + new.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_a_segment() {
        let numbers: Vec<u64> = [(0, 1), (0, 2), (3, 291), (70_000, 1), (u32::MAX - 1, 9)]
            .into_iter()
            .map(|(block, item)| number(Tid { block, item }))
            .collect();
        let segment = encode(&numbers).expect("in order");
        assert_eq!(segment.len() % 2, 0);
        assert_eq!(decode(&segment).expect("sound"), numbers);
        let more = merged(&segment, &Tid { block: 1, item: 5 }.encode()).expect("sound");
        assert_eq!(decode(&more).expect("sound").len(), numbers.len() + 1);
    }
}
