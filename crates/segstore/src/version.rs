//! Versions of a page, and the walk from newest to oldest that collects what a read needs.
//!
//! Invariant: a segment's changes are totally ordered by (end of record, number within the part);
//! an image stands after the change that it includes.

use bytes::Bytes;
use types::{Engine, EngineError, Epoch, Lsn, PageKey, Span};

/// Where a change stands in its segment's order.
pub(crate) type Place = (Lsn, u32);

/// What one change did to a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The engine applies this body.
    Apply(Bytes),
    /// The page's whole content, from the log.
    Put(Bytes),
    /// The page's whole content, made here by applying everything up to this place.
    Image(Bytes),
}

/// One version of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) span: Span,
    pub(crate) number: u32,
    /// Who wrote it; zero in page files, where nothing can be void any more.
    pub(crate) epoch: Epoch,
    pub(crate) what: What,
}

impl Version {
    pub(crate) fn place(&self) -> Place {
        (self.span.end, self.number)
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        match &self.what {
            What::Apply(bytes) | What::Put(bytes) | What::Image(bytes) => bytes,
        }
    }

    /// Whether nothing before it matters to the page.
    pub(crate) fn is_base(&self, engine: &dyn Engine, key: &PageKey) -> bool {
        match &self.what {
            What::Apply(body) => engine.replaces(key, body),
            What::Put(_) | What::Image(_) => true,
        }
    }
}

/// Every page in `from..to` ceased to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeDelete {
    pub(crate) from: PageKey,
    pub(crate) to: PageKey,
    pub(crate) span: Span,
    pub(crate) number: u32,
    pub(crate) epoch: Epoch,
}

impl RangeDelete {
    pub(crate) fn place(&self) -> Place {
        (self.span.end, self.number)
    }

    pub(crate) fn covers(&self, key: &PageKey) -> bool {
        self.from <= *key && *key < self.to
    }
}

/// The newest deletion of `key` at or below `read_point`.
pub(crate) fn newest_delete<'a>(
    deletes: impl IntoIterator<Item = &'a RangeDelete>,
    key: &PageKey,
    read_point: Lsn,
) -> Option<Place> {
    deletes
        .into_iter()
        .filter(|delete| delete.span.end <= read_point && delete.covers(key))
        .map(RangeDelete::place)
        .max()
}

/// What has been found of a page, walking from the newest version down.
#[derive(Default)]
pub(crate) struct Found {
    base: Option<(Lsn, Bytes)>,
    /// Newest first.
    parts: Vec<(Span, Bytes)>,
    done: bool,
}

impl Found {
    /// Whether nothing older matters.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// End of the newest record found.
    pub(crate) fn version(&self) -> Option<Lsn> {
        match (self.parts.first(), &self.base) {
            (Some((span, _)), _) => Some(span.end),
            (None, base) => base.as_ref().map(|(version, _)| *version),
        }
    }

    /// Parts to apply.
    pub(crate) fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Takes one source's versions at or below the read point, newest first, with the newest
    /// deletion there, until nothing older matters.
    pub(crate) fn walk(
        &mut self,
        engine: &dyn Engine,
        key: &PageKey,
        newest_first: impl Iterator<Item = Version>,
        deleted: Option<Place>,
    ) {
        for version in newest_first {
            if self.done || deleted.is_some_and(|place| place > version.place()) {
                self.done = true;
                return;
            }
            self.take(engine, key, version);
        }
    }

    /// Closes a source: a deletion there hides everything older.
    pub(crate) fn close(&mut self, deleted: Option<Place>) {
        self.done |= deleted.is_some();
    }

    fn take(&mut self, engine: &dyn Engine, key: &PageKey, version: Version) {
        match version.what {
            What::Apply(body) => {
                self.done = engine.replaces(key, &body);
                self.parts.push((version.span, body));
            }
            What::Put(bytes) | What::Image(bytes) => {
                self.base = Some((version.span.end, bytes));
                self.done = true;
            }
        }
    }

    /// Builds the page: `None` where no version exists.
    pub(crate) fn build(
        &self,
        engine: &dyn Engine,
        key: &PageKey,
    ) -> Result<Option<(Lsn, Bytes)>, EngineError> {
        let Some(version) = self.version() else { return Ok(None) };
        let base = self.base.as_ref().map(|(_, bytes)| bytes.clone()).unwrap_or_default();
        if self.parts.is_empty() {
            return Ok(Some((version, base)));
        }
        let mut page = base.to_vec();
        for (span, body) in self.parts.iter().rev() {
            engine.apply(key, &mut page, *span, body)?;
        }
        Ok(Some((version, Bytes::from(page))))
    }
}
