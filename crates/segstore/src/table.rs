//! Changes in memory, by page: what the log holds and page files do not hold yet.
//!
//! Built for the acknowledgement's path: taking a change costs one hash lookup and a push, nothing is
//! sorted until somebody asks for an order. Changes of a page are chained from the newest to the
//! oldest, an image after the change that it includes; a part that comes late goes to its place in the chain. Nothing is
//! removed: a table is filtered into a new one, or dropped whole after a flush.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use types::{Epoch, Lsn, PageKey, Span};
use wire::Change;

use crate::version::{Version, What};

/// End of a chain.
const NONE: u32 = u32::MAX;

/// What the versions of one part share.
struct Part {
    span: Span,
    epoch: Epoch,
    body: Bytes,
}

/// One change of one page. Slots stand in the order of their parts.
#[derive(Clone, Copy)]
struct Slot {
    key: PageKey,
    /// The next older one of the page.
    older: u32,
    part: u32,
    number: u32,
    /// 0: the part's body is to be applied. Else the content with this number, from 1.
    content: u32,
}

/// Changes by page.
#[derive(Default)]
pub(crate) struct Table {
    /// The newest slot of each page.
    pages: FxHashMap<PageKey, u32>,
    /// Of pages that got a change late: the slot before which it was put. The next one goes there as well
    /// when a gap is filled from its beginning, and a hot page's chain is long.
    late: FxHashMap<PageKey, u32>,
    slots: Vec<Slot>,
    parts: Vec<Part>,
    /// Whole pages, and whether they were made here.
    contents: Vec<(bool, Bytes)>,
    /// No version ends above this.
    last: Lsn,
}

fn index(len: usize) -> u32 {
    let len = u32::try_from(len).expect("a table is flushed long before it holds 2^32 changes");
    assert!(len < NONE, "a table is flushed long before it holds 2^32 changes");
    len
}

impl Table {
    /// Takes what one part does to pages; range deletions are not for here.
    pub(crate) fn insert(&mut self, span: Span, epoch: Epoch, changes: &[Change], body: &Bytes) {
        let part = index(self.parts.len());
        self.parts.push(Part { span, epoch, body: body.clone() });
        let newest = span.end > self.last;
        self.last = self.last.max(span.end);
        for (number, change) in changes.iter().enumerate() {
            let (key, content) = match change {
                Change::Apply(key) => (*key, 0),
                Change::Put(key, bytes) => (*key, self.keep(false, bytes.clone())),
                Change::Delete { .. } => continue,
            };
            let slot = Slot { key, older: NONE, part, number: number as u32, content };
            if newest { self.push(slot) } else { self.chain(slot) }
        }
    }

    /// Takes an image that includes everything up to `place`.
    pub(crate) fn insert_image(&mut self, key: PageKey, after: &Version, bytes: Bytes) {
        let part = index(self.parts.len());
        self.parts.push(Part { span: after.span, epoch: after.epoch, body: Bytes::new() });
        let content = self.keep(true, bytes);
        self.last = self.last.max(after.span.end);
        self.chain(Slot { key, older: NONE, part, number: after.number, content });
    }

    fn keep(&mut self, image: bool, bytes: Bytes) -> u32 {
        self.contents.push((image, bytes));
        index(self.contents.len())
    }

    fn order(&self, slot: &Slot) -> (Lsn, u32, bool) {
        let image = slot.content > 0 && self.contents[slot.content as usize - 1].0;
        (self.parts[slot.part as usize].span.end, slot.number, image)
    }

    /// Puts a slot before all others of its page.
    fn push(&mut self, slot: Slot) {
        let older = self.pages.insert(slot.key, index(self.slots.len())).unwrap_or(NONE);
        self.slots.push(Slot { older, ..slot });
    }

    /// Puts a slot in its place; one that is there already changes nothing.
    fn chain(&mut self, slot: Slot) {
        let order = self.order(&slot);
        let late = self.late.get(&slot.key).copied();
        let mut newer = late.filter(|at| self.order(&self.slots[*at as usize]) > order);
        let mut next = match newer {
            Some(at) => self.slots[at as usize].older,
            None => self.pages.get(&slot.key).copied().unwrap_or(NONE),
        };
        while let Some(there) = self.slots.get(next as usize) {
            match self.order(there).cmp(&order) {
                Ordering::Less => break,
                Ordering::Equal => return,
                Ordering::Greater => newer = Some(std::mem::replace(&mut next, there.older)),
            }
        }
        let Some(newer) = newer else { return self.push(slot) };
        self.late.insert(slot.key, newer);
        self.slots[newer as usize].older = index(self.slots.len());
        self.slots.push(Slot { older: next, ..slot });
    }

    fn version(&self, slot: &Slot) -> Version {
        let part = &self.parts[slot.part as usize];
        let what = match slot.content.checked_sub(1).map(|at| &self.contents[at as usize]) {
            None => What::Apply(part.body.clone()),
            Some((false, bytes)) => What::Put(bytes.clone()),
            Some((true, bytes)) => What::Image(bytes.clone()),
        };
        Version { span: part.span, number: slot.number, epoch: part.epoch, what }
    }

    fn slots_from(&self, head: u32) -> impl Iterator<Item = &Slot> {
        let slot = |at: u32| self.slots.get(at as usize);
        std::iter::successors(slot(head), move |newer| slot(newer.older))
    }

    /// Versions of a page with ends in `(after, upto]`, newest first.
    pub(crate) fn newest_first(
        &self,
        key: &PageKey,
        after: Lsn,
        upto: Lsn,
    ) -> impl Iterator<Item = Version> + use<'_> {
        let head = self.pages.get(key).copied().unwrap_or(NONE);
        let end = |slot: &Slot| self.parts[slot.part as usize].span.end;
        self.slots_from(head)
            .skip_while(move |slot| end(slot) > upto)
            .take_while(move |slot| end(slot) > after)
            .map(|slot| self.version(slot))
    }

    /// Keys in a range, in no order.
    pub(crate) fn keys(&self, range: Range<PageKey>) -> impl Iterator<Item = PageKey> {
        self.pages.keys().copied().filter(move |key| range.contains(key))
    }

    /// All keys, ascending.
    pub(crate) fn sorted_keys(&self) -> Vec<PageKey> {
        let mut keys: Vec<PageKey> = self.pages.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// A table of the versions that `wanted` wants. Costs little more than a look at every part when
    /// only the last ones are wanted, as at a flush.
    pub(crate) fn filtered(&self, wanted: impl Fn(Epoch, Span) -> bool) -> Table {
        let mut out = Table::default();
        let is_wanted = |part: &Part| wanted(part.epoch, part.span);
        let Some(first) = self.parts.iter().position(is_wanted) else { return out };
        // Where the wanted parts are in the new table.
        let mut moved = Vec::with_capacity(self.parts.len() - first);
        for part in &self.parts[first..] {
            if is_wanted(part) {
                moved.push(index(out.parts.len()));
                out.parts.push(Part { body: part.body.clone(), ..*part });
            } else {
                moved.push(NONE);
            }
        }
        out.last = self.last;
        let from = self.slots.partition_point(|slot| (slot.part as usize) < first);
        for slot in &self.slots[from..] {
            let part = moved[slot.part as usize - first];
            if part == NONE {
                continue;
            }
            let content = match slot.content.checked_sub(1) {
                None => 0,
                Some(at) => {
                    let (image, bytes) = &self.contents[at as usize];
                    out.keep(*image, bytes.clone())
                }
            };
            out.chain(Slot { part, content, ..*slot });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, end: u64) -> Span {
        Span { start: Lsn(start), end: Lsn(end) }
    }

    fn key(first: u8) -> PageKey {
        let mut key = PageKey::MIN;
        key.0[0] = first;
        key
    }

    fn ends(table: &Table, page: u8, after: u64, upto: u64) -> Vec<u64> {
        let key = key(page);
        let found = table.newest_first(&key, Lsn(after), Lsn(upto));
        found.map(|version| version.span.end.0).collect()
    }

    fn table(parts: &[(u64, u64, &[u8])]) -> Table {
        let mut table = Table::default();
        for (start, end, pages) in parts {
            let changes: Vec<Change> = pages.iter().map(|p| Change::Apply(key(*p))).collect();
            table.insert(span(*start, *end), Epoch(*start % 7), &changes, &Bytes::new());
        }
        table
    }

    #[test]
    fn late_parts_go_to_their_place_and_known_ones_change_nothing() {
        let mut table = table(&[(0, 10, &[1]), (30, 40, &[1, 2]), (10, 20, &[1]), (20, 30, &[1])]);
        assert_eq!(ends(&table, 1, 0, 100), [40, 30, 20, 10]);
        table.insert(span(10, 20), Epoch(3), &[Change::Apply(key(1))], &Bytes::new());
        assert_eq!(ends(&table, 1, 0, 100), [40, 30, 20, 10]);
        assert_eq!(ends(&table, 1, 10, 30), [30, 20]);
        assert_eq!(ends(&table, 2, 0, 39), [0; 0]);
        assert_eq!(ends(&table, 9, 0, 100), [0; 0]);
    }

    /// A node that fills a gap while its writer goes on puts one change after another of a hot page below
    /// ever more newer ones: walked from the newest each time, this test would not end.
    #[test]
    fn a_gap_below_a_long_chain_is_filled_without_walking_it_each_time() {
        let mut table = Table::default();
        let mut take = |at: u64| {
            let changes = [Change::Apply(key(1)), Change::Apply(key(2))];
            table.insert(span(at, at + 1), Epoch(1), &changes, &Bytes::new());
        };
        take(0);
        for at in 1..400_000 {
            take(500_000 + at);
            take(at);
        }
        for page in [1, 2] {
            let ends = ends(&table, page, 0, u64::MAX);
            assert_eq!(ends.len(), 799_999);
            assert!(ends.is_sorted_by(|newer, older| newer > older));
        }
    }

    #[test]
    fn late_parts_in_any_order_go_to_their_places() {
        for seed in 1..50 {
            let mut table = Table::default();
            // Coprime to 101: every number once, in another order for each seed.
            for at in (0..101).map(|at| at * seed % 101) {
                let changes = [Change::Apply(key(1))];
                table.insert(span(at, at + 1), Epoch(1), &changes, &Bytes::new());
            }
            assert_eq!(ends(&table, 1, 0, 200), (1..=101).rev().collect::<Vec<_>>(), "{seed}");
        }
    }

    #[test]
    fn an_image_stands_right_after_the_change_it_includes() {
        let mut table = table(&[(0, 10, &[1]), (10, 20, &[1])]);
        let page = key(1);
        let first = table.newest_first(&page, Lsn(0), Lsn(10)).next().unwrap();
        table.insert_image(key(1), &first, Bytes::from_static(b"page"));
        let whats = table.newest_first(&page, Lsn(0), Lsn(20)).map(|v| v.what);
        let whats: Vec<What> = whats.collect();
        assert_eq!(whats[1], What::Image(Bytes::from_static(b"page")));
        assert!(matches!(whats[0], What::Apply(_)) && matches!(whats[2], What::Apply(_)));
    }

    #[test]
    fn a_filtered_table_holds_what_was_wanted_in_order() {
        let table = table(&[(0, 10, &[1, 3]), (20, 30, &[1]), (10, 20, &[1, 2])]);
        let later = table.filtered(|_, span| span.end > Lsn(10));
        assert_eq!(ends(&later, 1, 0, 100), [30, 20]);
        assert_eq!(ends(&later, 3, 0, 100), [0; 0]);
        assert_eq!(later.sorted_keys(), [key(1), key(2)]);
        let by_epoch = table.filtered(|epoch, _| epoch != Epoch(3));
        assert_eq!(ends(&by_epoch, 1, 0, 100), [30, 10]);
    }
}
