//! What is known to be damaged in one page file, from the first read that met it until the file is
//! replaced: a file never changes, so damage never goes away by itself.

use std::collections::BTreeMap;
use std::ops::Range;

use types::PageKey;

/// Stands for the file as a whole where an offset is expected.
pub(crate) const WHOLE: u64 = u64::MAX;

/// Damage of one page file.
#[derive(Default)]
pub(crate) struct Bad {
    /// Index, filter, deletions or footer. They may be in memory still.
    sections: Option<String>,
    /// By offset: the keys whose versions lie there, and which check failed.
    blocks: BTreeMap<u64, (Range<PageKey>, String)>,
}

impl Bad {
    /// Notes a damaged block; `true` when it was not known.
    pub(crate) fn add_block(&mut self, offset: u64, keys: Range<PageKey>, why: String) -> bool {
        self.blocks.insert(offset, (keys, why)).is_none()
    }

    /// Notes that the file's own index or another section is damaged; `true` when it was not known.
    pub(crate) fn add_sections(&mut self, why: String) -> bool {
        self.sections.replace(why).is_none()
    }

    /// Damaged places.
    pub(crate) fn places(&self) -> impl Iterator<Item = u64> {
        self.sections.iter().map(|_| WHOLE).chain(self.blocks.keys().copied())
    }

    /// What to tell of it.
    pub(crate) fn why(&self) -> Option<&str> {
        let block = self.blocks.values().next().map(|(_, why)| why.as_str());
        self.sections.as_deref().or(block)
    }

    /// Keys of which versions cannot be read; all of them when the index is not in memory either.
    pub(crate) fn holes(&self, index_loaded: bool) -> Vec<Range<PageKey>> {
        if self.sections.is_some() && !index_loaded {
            return vec![PageKey::MIN..PageKey::MAX];
        }
        self.blocks.values().map(|(keys, _)| keys.clone()).collect()
    }
}

/// The key after this one.
pub(crate) fn after(key: &PageKey) -> PageKey {
    let mut next = *key;
    for byte in next.0.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return next;
        }
    }
    PageKey::MAX
}

/// Ranges in order, those that touch made one.
pub(crate) fn united(mut ranges: Vec<Range<PageKey>>) -> Vec<Range<PageKey>> {
    ranges.sort_by_key(|range| range.start);
    let mut out: Vec<Range<PageKey>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8) -> PageKey {
        let mut key = PageKey::MIN;
        key.0[19] = last;
        key
    }

    #[test]
    fn ranges_that_touch_are_one_and_the_key_after_carries() {
        let all = vec![key(7)..key(9), key(1)..key(3), key(3)..key(5), key(2)..key(4)];
        assert_eq!(united(all), [key(1)..key(5), key(7)..key(9)]);
        assert_eq!(after(&key(4)), key(5));
        let mut carried = PageKey::MIN;
        carried.0[18] = 1;
        assert_eq!(after(&key(255)), carried);
        assert_eq!(after(&PageKey::MAX), PageKey::MAX);
    }

    #[test]
    fn a_damaged_index_hides_every_key_unless_it_is_in_memory() {
        let mut bad = Bad::default();
        assert!(bad.add_block(512, key(1)..key(3), "block".to_owned()));
        assert!(bad.add_sections("index".to_owned()));
        assert!(!bad.add_sections("index".to_owned()), "known already");
        assert_eq!(bad.holes(true), [key(1)..key(3)]);
        assert_eq!(bad.holes(false), [PageKey::MIN..PageKey::MAX]);
        assert_eq!(bad.places().collect::<Vec<_>>(), [WHOLE, 512]);
    }
}
