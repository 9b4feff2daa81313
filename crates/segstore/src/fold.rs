//! Folding: a page's parts into images, and versions that no read can ask for into nothing.
//!
//! Rules: nothing that a read point at or above the low-water mark can see changes (S7); a chain
//! above about [`crate::Options::fold_parts`] parts gets an image (S8). What the engine refuses stays
//! as it is: the page is not served from a guess.

use types::{Engine, Lsn, PageKey};

use crate::layers::Layers;
use crate::version::{Found, Place, Version, What};

/// What folding needs to know besides the versions.
pub(crate) struct Folder<'a> {
    pub(crate) engine: &'a dyn Engine,
    /// No read point below this comes any more.
    pub(crate) low_water: Lsn,
    pub(crate) fold_parts: usize,
    /// Whether a page that has an image gets a new one for a single part after it: what is written is to
    /// be as small as the pages are.
    pub(crate) tight: bool,
    /// Files below the ones being written; none when there is nothing below.
    pub(crate) older: Layers<'a>,
    /// Chains that the engine refused.
    pub(crate) refused: u64,
}

/// A chain with this many bytes of parts is folded whatever its length, unless the page is larger.
const CHAIN_BYTES: usize = 8192;

impl Folder<'_> {
    /// Folds one page's versions (ascending, all of the files being written), given the deletions
    /// that cover it. Returns what is to be written.
    pub(crate) fn fold(
        &mut self,
        key: &PageKey,
        mut versions: Vec<Version>,
        deletes: &[Place],
    ) -> Vec<Version> {
        let deleted_at = |limit: Lsn| deletes.iter().filter(|(end, _)| *end <= limit).max();
        let deleted = deleted_at(self.low_water).copied();
        let mut whole = self.older.is_empty() || deleted.is_some();
        let mut keep_from = 0;
        for (at, version) in versions.iter().enumerate() {
            if version.span.end > self.low_water {
                break;
            }
            if deleted.is_some_and(|place| version.place() < place) {
                keep_from = at + 1;
            } else if version.is_base(self.engine, key) {
                keep_from = at;
                whole = true;
            }
        }
        versions.drain(..keep_from);
        let settled = versions.partition_point(|version| version.span.end <= self.low_water);
        if self.is_long(&versions[..settled]) {
            match self.image(key, &versions[..settled], whole) {
                Some(image) => {
                    versions.splice(..settled, [image]);
                }
                None => return versions,
            }
        }
        self.add_images(key, versions, deletes, whole)
    }

    fn is_long(&self, versions: &[Version]) -> bool {
        let (mut parts, mut part_bytes, mut page_bytes) = (0, 0, CHAIN_BYTES);
        for version in versions {
            match &version.what {
                What::Apply(body) => {
                    parts += 1;
                    part_bytes += body.len();
                }
                What::Put(page) | What::Image(page) => page_bytes = page.len().max(256),
            }
        }
        let based = versions.first().is_some_and(|v| !matches!(v.what, What::Apply(_)));
        parts > self.fold_parts
            || (parts > 1 && part_bytes > page_bytes)
            || (parts > 0 && based && self.tight)
    }

    /// The page just before `versions`, from the files below.
    fn below(&mut self, key: &PageKey) -> Option<Vec<u8>> {
        let mut found = Found::default();
        self.older.collect(self.engine, key, Lsn::MAX, &mut found, &|_| false).ok()?;
        match found.build(self.engine, key) {
            Ok(page) => Some(page.map(|(_, bytes)| bytes.to_vec()).unwrap_or_default()),
            Err(_) => {
                self.refused += 1;
                None
            }
        }
    }

    fn step(&mut self, key: &PageKey, page: &mut Vec<u8>, version: &Version) -> Option<()> {
        match &version.what {
            What::Apply(body) => {
                if self.engine.apply(key, page, version.span, body).is_err() {
                    self.refused += 1;
                    return None;
                }
            }
            What::Put(bytes) | What::Image(bytes) => {
                page.clear();
                page.extend_from_slice(bytes);
            }
        }
        Some(())
    }

    /// The page after all of `versions`, as the last one's image.
    fn image(&mut self, key: &PageKey, versions: &[Version], whole: bool) -> Option<Version> {
        let last = versions.last()?;
        let mut page = if whole { Vec::new() } else { self.below(key)? };
        for version in versions {
            self.step(key, &mut page, version)?;
        }
        Some(Version { what: What::Image(page.into()), ..last.clone() })
    }

    /// Puts images between the parts of a chain that is long although reads may still want every
    /// version of it.
    fn add_images(
        &mut self,
        key: &PageKey,
        versions: Vec<Version>,
        deletes: &[Place],
        whole: bool,
    ) -> Vec<Version> {
        let interval = self.fold_parts * 2;
        let is_part = |version: &&Version| matches!(version.what, What::Apply(_));
        if versions.iter().filter(is_part).count() <= interval {
            return versions;
        }
        let Some(mut page) = (if whole { Some(Vec::new()) } else { self.below(key) }) else {
            return versions;
        };
        let mut out = Vec::with_capacity(versions.len() + versions.len() / interval + 1);
        let (mut since, mut before) = (0, None);
        for version in &versions {
            let between = |place: &&Place| {
                **place < version.place() && before.is_none_or(|before| before < **place)
            };
            if deletes.iter().any(|place| between(&place)) {
                page.clear();
                since = 0;
            }
            before = Some(version.place());
            if self.step(key, &mut page, version).is_none() {
                return versions;
            }
            out.push(version.clone());
            since = if matches!(version.what, What::Apply(_)) { since + 1 } else { 0 };
            if since >= interval {
                let what = What::Image(page.clone().into());
                out.push(Version { what, ..version.clone() });
                since = 0;
            }
        }
        out
    }
}
