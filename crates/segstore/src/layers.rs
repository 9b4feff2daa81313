//! How a segment's page files lie over each other.
//!
//! ```text
//!   keys ─►
//!   ┌───────────────────────────┐ newest
//!   │ upper                     │ flushes and merges of flushes: all keys, each a range of the log; the
//!   ├───────────────────────────┤ ranges are disjoint and ascend
//!   │ upper                     │
//!   ├──────┬──────┬───────┬─────┤
//!   │ base │ base │ base  │ base│ a file a range of keys; each has all that there is up to its `high`
//!   └──────┴──────┴───────┴─────┘
//! ```
//!
//! Rule S18: what an upper has of a key at or below the `high` of the key's base is in the base already, or
//! was hidden by what is there. It is passed over: parts applied twice would make a wrong page, and a deletion
//! would hide what came after it. So base files are replaced one after the other, and an upper goes when the
//! last of them has passed it.
//!
//! In a list of files the uppers come first, newest first; then the base, keys ascending. The first base file
//! begins at the least key, so that there is one for every key, or none at all.

use std::sync::Arc;

use types::{Engine, Lsn, PageKey};

use crate::error::StoreError;
use crate::pages::{FileMeta, PageFile};
use crate::version::Found;

/// A segment's files, or those below some of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Layers<'a> {
    pub(crate) uppers: &'a [Arc<PageFile>],
    pub(crate) base: &'a [Arc<PageFile>],
}

impl<'a> Layers<'a> {
    pub(crate) fn of(files: &'a [Arc<PageFile>]) -> Layers<'a> {
        let (uppers, base) = files.split_at(files.partition_point(|f| f.meta.from.is_none()));
        Layers { uppers, base }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.uppers.is_empty() && self.base.is_empty()
    }

    /// The base file that a key belongs to.
    fn under(&self, key: &PageKey) -> Option<&'a Arc<PageFile>> {
        let after =
            self.base.partition_point(|file| file.meta.from.is_some_and(|from| from <= *key));
        after.checked_sub(1).and_then(|at| self.base.get(at))
    }

    /// Up to where the key's base has everything.
    pub(crate) fn covered(&self, key: &PageKey) -> Lsn {
        self.under(key).map_or(Lsn::ZERO, |base| base.meta.high)
    }

    /// Up to where every base file has everything: what uppers have at or below it is needed no more.
    pub(crate) fn covered_everywhere(&self) -> Lsn {
        self.base.iter().map(|file| file.meta.high).min().unwrap_or(Lsn::ZERO)
    }

    /// Adds to `found` what the files know of a page at or below the read point, newest first, until
    /// nothing older matters or it is enough.
    pub(crate) fn collect(
        &self,
        engine: &dyn Engine,
        key: &PageKey,
        read_point: Lsn,
        found: &mut Found,
        enough: &dyn Fn(&Found) -> bool,
    ) -> Result<(), StoreError> {
        let base = self.under(key);
        let covered = base.map_or(Lsn::ZERO, |base| base.meta.high);
        let above = self.uppers.iter().take_while(|file| file.meta.high > covered);
        let above = above.map(|file| (file, covered));
        for (file, after) in above.chain(base.map(|base| (base, Lsn::ZERO))) {
            if found.is_done() || enough(found) {
                break;
            }
            file.collect(engine, key, (after, read_point), found)?;
        }
        Ok(())
    }

    /// The uppers, and of the base what a range of keys concerns.
    pub(crate) fn in_range(&self, from: &PageKey, to: &PageKey) -> Vec<Arc<PageFile>> {
        let begins =
            |file: &Arc<PageFile>, key: &PageKey| file.meta.from.is_some_and(|f| f <= *key);
        let first = self.base.partition_point(|file| begins(file, from)).saturating_sub(1);
        let last = self.base.partition_point(|file| file.meta.from.is_some_and(|f| f < *to));
        let base = self.base.get(first..last.max(first)).unwrap_or_default();
        self.uppers.iter().chain(base).cloned().collect()
    }
}

/// Whether what is said of files fits together: uppers that follow each other, a base that begins at the
/// least key and ascends, nothing beyond what is flushed. The number of one that does not, otherwise.
pub(crate) fn check(files: &[FileMeta], flushed: Lsn) -> Result<(), u64> {
    let (uppers, base) = files.split_at(files.partition_point(|file| file.from.is_none()));
    let mut above = flushed;
    for file in uppers {
        if file.high > above || file.low > file.high {
            return Err(file.number);
        }
        above = file.low;
    }
    let mut before: Option<PageKey> = None;
    for file in base {
        let follows = match (before, file.from) {
            (None, Some(from)) => from == PageKey::MIN,
            (Some(before), Some(from)) => before < from,
            (_, None) => false,
        };
        if !follows || file.high > flushed || file.low != Lsn::ZERO {
            return Err(file.number);
        }
        before = file.from;
    }
    Ok(())
}
