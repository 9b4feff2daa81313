//! A record's changes while they are collected, group by group, in the order in which they apply.

use pgwal::keys::Key;
use types::{GroupId, PageKey};
use wire::Change;

/// The group that holds the catalog.
pub const CATALOG: GroupId = GroupId(0);

/// Changes of one record, ascending by group once [`Draft::into_parts`] is called.
#[derive(Debug, Default)]
pub struct Draft {
    parts: Vec<(GroupId, Vec<Change>)>,
}

impl Draft {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Draft {
        Draft::default()
    }

    /// Adds a change to a group's page.
    pub fn push(&mut self, group: GroupId, change: Change) {
        match self.parts.iter_mut().find(|(known, _)| *known == group) {
            Some((_, changes)) => changes.push(change),
            None => self.parts.push((group, vec![change])),
        }
    }

    /// The record is applied to this page. Naming a page twice in one record counts once: redo
    /// looks for all of a page's references in the record itself.
    pub fn apply(&mut self, group: GroupId, key: PageKey) {
        let known = self.parts.iter().any(|(at, changes)| {
            *at == group && changes.iter().any(|c| matches!(c, Change::Apply(k) if *k == key))
        });
        if !known {
            self.push(group, Change::Apply(key));
        }
    }

    /// A catalog entry's new content.
    pub fn put(&mut self, key: Key, value: impl Into<bytes::Bytes>) {
        self.push(CATALOG, Change::Put(key.encode(), value.into()));
    }

    /// A range of pages of a group ceases to exist.
    pub fn delete(&mut self, group: GroupId, (from, to): (PageKey, PageKey)) {
        self.push(group, Change::Delete { from, to });
    }

    /// One catalog entry ceases to exist.
    pub fn delete_entry(&mut self, key: Key) {
        let from = key.encode();
        let mut to = from;
        to.0[PageKey::SIZE - 1] = 1; // always zero in a key, so this is the next one
        self.delete(CATALOG, (from, to));
    }

    /// Whether nothing was collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts, ascending by group.
    #[must_use]
    pub fn into_parts(mut self) -> Vec<(GroupId, Vec<Change>)> {
        self.parts.sort_by_key(|(group, _)| *group);
        self.parts
    }
}
