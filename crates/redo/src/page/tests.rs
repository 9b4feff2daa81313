//! Facts about pages that no record has to exercise.

use super::*;

fn page_with(items: &[&[u8]]) -> Box<[u8; PAGE_SIZE]> {
    let mut bytes = Box::new([0; PAGE_SIZE]);
    let mut page = Page::new(&mut bytes);
    page.init(16);
    for item in items {
        page.append_item(item).expect("fits");
    }
    bytes
}

#[test]
fn removing_one_item_keeps_the_physical_order_and_removing_three_restores_line_order() {
    let mut bytes = page_with(&[b"one", b"two", b"three", b"four", b"five"]);
    let mut page = Page::new(&mut bytes);
    page.remove_item(5).expect("exists");
    page.insert_item(1, b"zero").expect("fits");
    let offsets = |page: &Page<'_>| -> Vec<usize> {
        (1..=page.item_count()).map(|n| page.line(n).expect("exists").offset).collect()
    };
    assert_eq!(offsets(&page), [8136, 8168, 8160, 8152, 8144]);
    page.remove_items(&[2, 3, 4]).expect("exist");
    assert_eq!(offsets(&page), [8168, 8160]);
    assert_eq!(page.item(1).expect("kept"), b"zero");
    assert_eq!(page.item(2).expect("kept"), b"four");
}

#[test]
fn replacing_an_item_moves_only_what_lies_below_it() {
    let mut bytes = page_with(&[b"one", b"two", b"three"]);
    let mut page = Page::new(&mut bytes);
    page.replace_item(2, b"a longer item").expect("fits");
    let items: Vec<_> = (1..=3).map(|n| page.item(n).expect("exists").to_vec()).collect();
    assert_eq!(items, [b"one".to_vec(), b"a longer item".to_vec(), b"three".to_vec()]);
    assert_eq!(page.upper(), PAGE_SIZE - 16 - 8 * 4);
    page.replace_item(2, b"short").expect("fits");
    assert_eq!(page.upper(), PAGE_SIZE - 16 - 8 * 3);
}

#[test]
fn an_item_that_does_not_fit_is_refused() {
    let mut bytes = page_with(&[]);
    let mut page = Page::new(&mut bytes);
    assert!(page.append_item(&[0; 8150]).is_err());
    assert!(page.insert_item(2, b"x").is_err());
    assert!(page.item(1).is_err());
}

#[test]
fn a_heap_page_never_loses_its_last_line_pointer_to_vacuum() {
    let mut bytes = page_with(&[b"a", b"b", b"c"]);
    let mut page = Page::new(&mut bytes);
    for number in 1..=3 {
        page.set_line(number, ItemId::UNUSED).expect("exists");
    }
    page.truncate_lines().expect("sound page");
    assert_eq!(page.item_count(), 1);
    assert_eq!(page.flags() & HAS_FREE_LINES, HAS_FREE_LINES);
}
