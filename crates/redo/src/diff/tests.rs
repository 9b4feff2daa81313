//! What a difference is called, for one page of each kind of content.

use pgwal::layout::op::rm;

use super::*;

fn places(rmid: u8, ours: &[u8; PAGE_SIZE], theirs: &[u8; PAGE_SIZE]) -> Vec<String> {
    let found = differences(rmid, ours, theirs, 7).expect("sound pages");
    found.into_iter().map(|difference| difference.to_string()).collect()
}

/// A page with three items of 40 bytes that look like heap tuples.
fn page(special: usize) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    let mut page = Page::new(&mut bytes);
    page.init(special);
    for number in 1..=3 {
        let mut item = [number; 40];
        // Frozen, so that masking leaves the other bits of t_infomask; 24 bytes of header.
        item[20..23].copy_from_slice(&[0, 3, 24]);
        item[6..8].copy_from_slice(&40u16.to_le_bytes());
        page.append_item(&item).expect("room");
    }
    bytes
}

fn item(bytes: &mut [u8; PAGE_SIZE], number: u16) -> &mut [u8] {
    let line = Page::new(bytes).line(number).expect("there");
    &mut bytes[line.offset..line.offset + line.length]
}

#[test]
fn equal_pages_and_masked_bytes_are_no_difference() {
    let (ours, mut theirs) = (page(0), page(0));
    assert!(places(rm::HEAP, &ours, &theirs).is_empty());
    Page::new(&mut theirs).set_lsn(77);
    theirs[200] = 9;
    assert!(places(rm::HEAP, &ours, &theirs).is_empty());
}

#[test]
fn heap_tuples_are_told_by_header_field_and_data_offset() {
    let (mut ours, theirs) = (page(0), page(0));
    item(&mut ours, 2)[4] = 99;
    item(&mut ours, 2)[12..18].copy_from_slice(&[1, 0, 2, 0, 5, 0]);
    item(&mut ours, 3)[30..33].fill(0xee);
    let found = places(rm::HEAP, &ours, &theirs);
    assert_eq!(
        found,
        [
            "tuple at item 2: t_xmax: 2622051 instead of 2621954",
            "tuple at item 2: t_ctid: (65538,5) instead of (33686018,514)",
            "tuple at item 3: data offset 6..9: ee ee ee instead of 03 03 03",
        ]
    );
}

#[test]
fn bytes_between_items_count() {
    let mut ours = page(8);
    let mut page = Page::new(&mut ours);
    page.append_item(&[4; 41]).expect("room");
    let end = page.line(4).expect("there").offset + 41;
    let mut theirs = ours;
    theirs[end] = 1; // what aligns the item
    let place = format!("bytes of no item offset {end}..{}: 00 instead of 01", end + 1);
    assert_eq!(places(rm::SEQ, &ours, &theirs), [place]);
}

#[test]
fn line_pointers_and_header_fields_are_named_and_moved_items_are_not_different_bytes() {
    let (mut ours, mut theirs) = (page(0), page(0));
    Page::new(&mut ours).set_prune_xid(0);
    let line = Page::new(&mut ours).line(3).expect("there");
    // The same item eight bytes lower.
    ours.copy_within(line.offset..line.offset + 40, line.offset - 8);
    let moved = ItemId { offset: line.offset - 8, ..line };
    Page::new(&mut ours).set_line(3, moved).expect("there");
    Page::new(&mut ours).set_upper(line.offset - 8).expect("within");
    Page::new(&mut theirs).set_line(1, ItemId::redirect(2)).expect("there");
    let found = places(rm::HEAP, &ours, &theirs);
    assert_eq!(
        found,
        [
            "page header: pd_upper: 8064 instead of 8072",
            "line pointer 1: normal, 40 bytes at 8152 instead of redirect to 2",
            "line pointer 3: normal, 40 bytes at 8064 instead of normal, 40 bytes at 8072",
        ]
    );
}

#[test]
fn fields_of_the_special_space_have_their_access_methods_names() {
    for (rmid, special, at, name) in [
        (rm::BTREE, 16, 4, "btree page: btpo_next"),
        (rm::HASH, 16, 8, "hash page: hasho_bucket"),
        (rm::GIST, 16, 8, "gist page: rightlink"),
        (rm::SPGIST, 8, 4, "spgist page: nPlaceholder"),
        (rm::GIN, 8, 0, "gin page: rightlink"),
    ] {
        let mut theirs = page(special);
        if rmid == rm::HASH {
            // A bucket's page; unused ones are masked as a whole.
            theirs[PAGE_SIZE - special + 12] = 2;
        }
        let mut ours = theirs;
        ours[PAGE_SIZE - special + at] = 3;
        let found = places(rmid, &ours, &theirs);
        assert_eq!(found, [format!("special space of the {name}: 3 instead of 0")]);
    }
}

#[test]
fn pages_without_items_are_told_by_structure_entry_or_range() {
    let made = |special: usize, lower: usize, mark: (usize, u16)| {
        let mut bytes = [0; PAGE_SIZE];
        let mut page = Page::new(&mut bytes);
        page.init(special);
        page.set_lower(lower).expect("within");
        if special > 0 {
            page.put_u16(PAGE_SIZE - special + mark.0, mark.1).expect("within");
        }
        bytes
    };
    for (rmid, theirs, at, name) in [
        (rm::BTREE, made(16, 72, (12, 8)), 32, "btm_root: 3 instead of 0"),
        (rm::GIN, made(8, 80, (6, 8)), 28, "tail: 3 instead of 0"),
        (rm::GIN, made(8, 52, (6, 1)), 46, "posting item 2: key: (196608,0) instead of (0,0)"),
        (rm::GIN, made(8, 200, (6, 3)), 100, "posting segments offset 68..69: 03 instead of 00"),
        (rm::BRIN, made(8, 24, (6, 0xf092)), 32, "revmap entry 2: tid: (3,0) instead of (0,0)"),
        (rm::HASH, made(16, 4120, (12, 4)), 30, "bitmap offset 6..7: 03 instead of 00"),
        (rm::GENERIC, made(0, 100, (0, 0)), 30, "content offset 6..7: 03 instead of 00"),
    ] {
        let mut ours = theirs;
        ours[at] = 3;
        assert_eq!(places(rmid, &ours, &theirs), [name]);
    }
}

/// Whatever byte is changed, if masking leaves it, something is said of it.
#[test]
fn every_byte_that_differs_is_accounted_for() {
    let whole = page(16);
    for rmid in [rm::HEAP, rm::BTREE, rm::GIST, rm::SEQ, rm::GENERIC] {
        for at in 24..PAGE_SIZE {
            let mut ours = whole;
            ours[at] ^= 0x10;
            let Ok(found) = differences(rmid, &ours, &whole, 0) else { continue };
            let differs = crate::mask::first_difference(rmid, &ours, &whole, 0);
            assert_eq!(found.is_empty(), differs == Ok(None), "manager {rmid}, byte {at}");
        }
    }
}
