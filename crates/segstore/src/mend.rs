//! Mending a segment some of whose blocks are damaged, while it goes on: peers give the pages that lay
//! there, and a merge of all files puts them in the place of what cannot be read.
//!
//! The pages are as of one read point, the end of what is flushed: it is durable, so every peer that
//! is complete to there gives the same. What lies between the low-water mark and that read point is
//! forgotten with the damaged blocks (S13); other members still answer for it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use types::{Epoch, Lsn, PageKey, SegmentId, Span};

use crate::background::{Work, is_piled_up};
use crate::choose::Merge;
use crate::error::StoreError;
use crate::layers::Layers;
use crate::merge::{MergeJob, Patch, Sources};
use crate::pages::bad::united;
use crate::pages::{PageFile, PageWriter};
use crate::segment::Segment;
use crate::store::{Store, lock};
use crate::version::{Version, What};

/// Damaged places of a segment: file and offset.
type Places = BTreeSet<(u64, u64)>;

/// Pages wanted from peers: scan [`Mend::want`] at [`Mend::read_point`] and hand the answer to
/// [`Mend::supply`] until nothing is wanted, then [`Store::finish_mend`].
pub struct Mend {
    segment: Arc<Segment>,
    places: Places,
    holes: Vec<Range<PageKey>>,
    read_point: Lsn,
    /// What is still to come.
    wanted: VecDeque<Range<PageKey>>,
    writer: Option<PageWriter>,
}

/// A mend whose pages are here, waiting for its merge.
pub(crate) struct Mended {
    pub(crate) segment: Arc<Segment>,
    places: Places,
    pub(crate) patch: Patch,
}

impl Mend {
    /// The segment.
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        self.segment.id
    }

    /// Read point of the pages wanted; the peer must be complete to there.
    #[must_use]
    pub fn read_point(&self) -> Lsn {
        self.read_point
    }

    /// The keys whose pages are wanted next; `None` when all are here.
    #[must_use]
    pub fn want(&self) -> Option<Range<PageKey>> {
        self.wanted.front().cloned()
    }

    /// Takes the pages that exist in what was last wanted, in key order, up to `next` (`None`: to its
    /// end).
    ///
    /// # Errors
    /// When that is not what was asked for, or cannot be written: the mend is over then.
    pub fn supply(
        &mut self,
        pages: Vec<(PageKey, Lsn, Bytes)>,
        next: Option<PageKey>,
    ) -> Result<(), StoreError> {
        let (Some(range), Some(writer)) = (self.wanted.pop_front(), self.writer.as_mut()) else {
            return Err(StoreError::Invalid("no page is wanted".to_owned()));
        };
        let upto = next.unwrap_or(range.end);
        let mut from = range.start;
        if upto <= from || upto > range.end {
            return Err(StoreError::Invalid(format!("pages from {from} on end at {upto}")));
        }
        for (key, version, bytes) in pages {
            if key < from || key >= upto || version > self.read_point || version == Lsn::ZERO {
                return Err(StoreError::Invalid(format!("page {key} at {version} is not wanted")));
            }
            from = crate::pages::bad::after(&key);
            // It stands after whatever the last record did.
            let span = Span { start: version, end: version };
            let what = What::Image(bytes);
            writer.push(&key, &Version { span, number: u32::MAX, epoch: Epoch(0), what })?;
        }
        if upto < range.end {
            self.wanted.push_front(upto..range.end);
        }
        Ok(())
    }
}

/// Damaged places of a segment's files, and the keys that they hide.
fn survey(files: &[Arc<PageFile>]) -> (Places, Vec<Range<PageKey>>) {
    let places = |file: &Arc<PageFile>| {
        let number = file.meta.number;
        file.damaged_places().into_iter().map(move |place| (number, place))
    };
    let holes = files.iter().flat_map(|file| file.holes()).collect();
    (files.iter().flat_map(places).collect(), united(holes))
}

impl Store {
    pub(crate) fn plan_mend(&self, id: SegmentId) -> Result<Option<Mend>, StoreError> {
        let segment = self.segment(id)?;
        let mut work = lock(&self.work);
        if segment.read().lost.is_some() || work.mends(id) {
            return Ok(None);
        }
        let damaged = segment.read().files.iter().any(|file| file.damage().is_some());
        if !damaged {
            return Ok(None);
        }
        self.abandon_merge(&mut work, id)?;
        // So that the read point is no older than what peers still answer for. A damaged segment is not
        // merged: attempt after attempt would only leave files.
        if !is_piled_up(&segment) {
            self.flush(&mut work, &segment)?;
        }
        let (files, read_point) = {
            let index = segment.read();
            (Arc::clone(&index.files), index.flushed)
        };
        let (places, holes) = survey(&files);
        let writer = self.writer(&segment, (Lsn::ZERO, read_point))?;
        let wanted = holes.iter().cloned().collect();
        Ok(Some(Mend { segment, places, holes, read_point, wanted, writer: Some(writer) }))
    }

    pub(crate) fn end_mend(&self, mend: Mend) -> Result<(), StoreError> {
        let Mend { segment, places, holes, read_point, wanted, writer } = mend;
        if let Some(range) = wanted.front() {
            let from = range.start;
            return Err(StoreError::Invalid(format!("pages from {from} on have not come")));
        }
        let mut work = lock(&self.work);
        let held = self.segment(segment.id);
        let file = match writer {
            // Of a segment that was dropped meanwhile, even the directory may be gone.
            Some(writer) if held.is_ok_and(|held| Arc::ptr_eq(&held, &segment)) => {
                writer.finish().map_err(|error| self.unless_full(&error))?.map(Arc::new)
            }
            _ => return Ok(()),
        };
        let patch = Patch { holes, read_point, file };
        work.mended.push_back(Mended { segment, places, patch });
        Ok(())
    }

    pub(crate) fn drop_mend(&self, mut mend: Mend) -> Result<(), StoreError> {
        let writer = mend.writer.take();
        writer.map_or(Ok(()), |writer| writer.abandon().map_err(|error| self.fatal(&error)))
    }

    /// The next mend whose merge may begin. Those are thrown away whose segment has changed meanwhile
    /// or has lost more: what is damaged then is mended anew.
    fn next_mend(&self, work: &mut Work) -> Option<Mended> {
        while let Some(mended) = work.mended.pop_front() {
            let held = self.segment(mended.segment.id);
            let current = held.is_ok_and(|held| Arc::ptr_eq(&held, &mended.segment));
            let (places, _) = survey(&mended.segment.read().files);
            if current && places == mended.places && !places.is_empty() {
                return Some(mended);
            }
            work.discard(&mended.segment, mended.patch);
        }
        None
    }

    /// Begins the merge of a mend; false when none waits, or there is no room for it.
    pub(crate) fn merge_mend(&self, work: &mut Work) -> Result<bool, StoreError> {
        let Some(mended) = self.next_mend(work) else { return Ok(false) };
        let segment = Arc::clone(&mended.segment);
        let (files, low_water) = {
            let index = segment.read();
            (index.files.to_vec(), index.state.low_water)
        };
        let needed: u64 = files.iter().map(|file| file.meta.bytes).sum();
        if !self.has_room(&segment, needed)? {
            work.mended.push_back(mended);
            return Ok(false);
        }
        let (piece, all) = (self.piece(&files), 0..Layers::of(&files).base.len());
        let sources = Sources { files, what: Merge::Base(all) };
        let low_water = low_water.min(sources.range().1);
        let patch = Some(mended.patch);
        match MergeJob::new(Arc::clone(&segment), sources, low_water, piece, patch) {
            Ok(job) => work.merge = Some(job),
            Err(patch) => patch.into_iter().for_each(|patch| work.discard(&segment, patch)),
        }
        Ok(true)
    }
}

impl Work {
    /// Whether a mend of this segment is under way.
    fn mends(&self, id: SegmentId) -> bool {
        let merging = self.merge.as_ref().filter(|job| job.segment.id == id);
        merging.is_some_and(|job| job.is_mend())
            || self.mended.iter().any(|mended| mended.segment.id == id)
    }

    /// Has a patch's file removed once nobody reads it.
    pub(crate) fn discard(&mut self, segment: &Arc<Segment>, patch: Patch) {
        self.graveyard.extend(patch.file.map(|file| (Arc::clone(segment), file)));
    }
}
