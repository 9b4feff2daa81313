//! Every page as the promised log makes it: the naive fold that stored pages are checked against.

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::Record;
use types::{Engine as _, EngineError, GroupId, Lsn, PageKey, Span};
use wire::Change;

use crate::engine::Digest;

/// What one record did to one page.
enum Step {
    Apply(Bytes),
    Put(Bytes),
    Gone,
}

/// What the promised records did to every page of every group, oldest first.
#[derive(Default)]
pub struct Pages {
    steps: BTreeMap<GroupId, BTreeMap<PageKey, Vec<(Span, Step)>>>,
}

/// End of the last record that changed a page, and its content.
pub type Version = (Lsn, Vec<u8>);

impl Pages {
    /// The next promised record.
    pub fn promised(&mut self, record: &Record) {
        for (group, changes, body) in &record.parts {
            let pages = self.steps.entry(*group).or_default();
            for change in changes {
                let (key, step) = match change {
                    Change::Apply(key) => (*key, Step::Apply(body.clone())),
                    Change::Put(key, content) => (*key, Step::Put(content.clone())),
                    Change::Delete { from, to } => {
                        for (_, steps) in pages.range_mut(*from..*to) {
                            steps.push((record.span, Step::Gone));
                        }
                        continue;
                    }
                };
                pages.entry(key).or_default().push((record.span, step));
            }
        }
    }

    /// A page at a read point; none where it does not exist.
    ///
    /// # Errors
    /// The engine's.
    pub fn page(
        &self,
        group: GroupId,
        key: &PageKey,
        read_point: Lsn,
    ) -> Result<Option<Version>, EngineError> {
        let steps = self.steps.get(&group).and_then(|pages| pages.get(key));
        let mut page: Option<Version> = None;
        for (span, step) in steps.into_iter().flatten() {
            if span.end > read_point {
                break;
            }
            page = match step {
                Step::Apply(body) => {
                    let mut content = page.map(|(_, content)| content).unwrap_or_default();
                    Digest.apply(key, &mut content, *span, body)?;
                    Some((span.end, content))
                }
                Step::Put(content) => Some((span.end, content.to_vec())),
                Step::Gone => None,
            };
        }
        Ok(page)
    }

    /// Every page of a group that exists at a read point.
    ///
    /// # Errors
    /// The engine's.
    pub fn all(
        &self,
        group: GroupId,
        read_point: Lsn,
    ) -> Result<Vec<(PageKey, Version)>, EngineError> {
        let keys = self.steps.get(&group).into_iter().flat_map(BTreeMap::keys);
        let page = |key: &PageKey| Ok(self.page(group, key, read_point)?.map(|page| (*key, page)));
        keys.map(page).filter_map(Result::transpose).collect()
    }
}
