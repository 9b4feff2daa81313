//! Reading: pages, versions, ranges of pages, and the chain.
//!
//! A page is read from one moment: versions in memory and the list of files are taken under one hold
//! of the segment's lock, files are read outside of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use types::{Lsn, PageKey, SegmentId};
use wire::{Batch, PageAnswer};

use crate::error::StoreError;
use crate::index::{Index, Run};
use crate::layers::Layers;
use crate::pages::Cursor;
use crate::pages::bad::after;
use crate::segment::Segment;
use crate::store::{Chain, ScanPage, Store};
use crate::version::Found;

/// Runs that changed place while they were being read are looked up again, so often at most.
const TRIES: usize = 4;

impl Index {
    fn check_horizon(&self, read_point: Lsn) -> Result<(), StoreError> {
        if read_point < self.horizon {
            return Err(StoreError::Forgotten { horizon: self.horizon });
        }
        Ok(())
    }
}

impl Store {
    /// What is known of a page, and the durable point at that moment.
    fn collect(
        &self,
        segment: &Segment,
        key: &PageKey,
        read_point: Lsn,
        enough: impl Fn(&Found) -> bool,
    ) -> Result<(Found, Lsn), StoreError> {
        let (mut found, files, settled) = {
            let index = segment.read();
            index.check_horizon(read_point)?;
            let found = index.collect(&*self.engine, key, read_point);
            (found, Arc::clone(&index.files), index.state.vdl.end)
        };
        let in_memory = found.part_count();
        Layers::of(&files).collect(&*self.engine, key, read_point, &mut found, &enough)?;
        let cold = (found.part_count() - in_memory) as u64;
        self.counters.cold_parts_max.fetch_max(cold, Ordering::Relaxed);
        Ok((found, settled))
    }

    pub(crate) fn page(
        &self,
        segment: &Segment,
        key: &PageKey,
        read_point: Lsn,
    ) -> Result<Option<(Lsn, Bytes)>, StoreError> {
        let (found, settled) = self.collect(segment, key, read_point, |_| false)?;
        let page = found.build(&*self.engine, key)?;
        if found.part_count() > self.options.fold_parts * 2
            && let Some((version, bytes)) = &page
            && *version <= settled
        {
            // So that the next read of a page that is changed and read all the time is short. Only
            // what could not be voided since: another part may end at the same position by now.
            segment.write().keep_image(key, *version, bytes.clone());
        }
        Ok(page)
    }

    pub(crate) fn answer(&self, id: SegmentId, key: &PageKey, read_point: Lsn) -> PageAnswer {
        let page = self.segment(id).and_then(|segment| self.page(&segment, key, read_point));
        match page {
            Ok(Some((version, bytes))) => PageAnswer::Page { version, bytes },
            Ok(None) => PageAnswer::Absent,
            Err(error) => PageAnswer::Failed(error.refusal(read_point)),
        }
    }

    pub(crate) fn version(
        &self,
        id: SegmentId,
        key: &PageKey,
        read_point: Lsn,
    ) -> Result<Option<Lsn>, StoreError> {
        let segment = self.segment(id)?;
        let (found, _) =
            self.collect(&segment, key, read_point, |found| found.version().is_some())?;
        Ok(found.version())
    }

    pub(crate) fn pages_between(
        &self,
        id: SegmentId,
        (from, to): (&PageKey, &PageKey),
        read_point: Lsn,
        bytes_max: usize,
    ) -> Result<ScanPage, StoreError> {
        let segment = self.segment(id)?;
        let mut keys = Keys::new(&segment, from, *to, read_point)?;
        let mut out: Vec<(PageKey, Lsn, Bytes)> = Vec::new();
        let mut bytes = 0;
        loop {
            let last = out.last().map(|(key, _, _)| after(key));
            let key = match (keys.next(), last) {
                (Ok(Some(key)), _) => key,
                (Ok(None), _) => return Ok((out, None)),
                // Whoever asks goes on from here with another member.
                (Err(StoreError::Damaged { .. }), Some(last)) => return Ok((out, Some(last))),
                (Err(error), _) => return Err(error),
            };
            if bytes >= bytes_max && !out.is_empty() {
                return Ok((out, Some(key)));
            }
            match self.page(&segment, &key, read_point) {
                Ok(Some((version, page))) => {
                    bytes += page.len() + PageKey::SIZE + 16;
                    out.push((key, version, page));
                }
                Ok(None) => {}
                Err(StoreError::Damaged { .. }) if !out.is_empty() => return Ok((out, Some(key))),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads one batch back from the log, live parts only.
    pub(crate) fn read_run(&self, id: SegmentId, run: &Run) -> Result<Batch, StoreError> {
        let damaged = |why: String| StoreError::Damaged {
            what: format!(
                "batch of segment {id} in log life {} at offset {}",
                run.location.life, run.location.offset
            ),
            why,
        };
        let file = self.lives.get(run.location.life);
        let file = file.ok_or_else(|| damaged("its file is gone".to_owned()))?;
        let mut raw = vec![0; run.location.length as usize];
        file.file.read_at(run.location.offset, &mut raw)?;
        let mut batch =
            Batch::decode(Bytes::from(raw)).map_err(|error| damaged(error.to_string()))?;
        let header = &batch.header;
        if header.segment != id || header.base != run.base || header.epoch != run.epoch {
            return Err(damaged("another batch lies there".to_owned()));
        }
        batch.parts.retain(|part| part.meta.span.end <= run.last);
        batch.header.last = run.last;
        Ok(batch)
    }

    pub(crate) fn chain(
        &self,
        id: SegmentId,
        after: Lsn,
        upto: Lsn,
        bytes_max: usize,
    ) -> Result<Chain, StoreError> {
        let segment = self.segment(id)?;
        let mut tries = 0;
        'again: loop {
            tries += 1;
            let runs = {
                let index = segment.read();
                if after < index.floor() {
                    return Ok(Chain::Forgotten(index.floor()));
                }
                index.chain(after, upto, bytes_max)
            };
            let mut batches = Vec::with_capacity(runs.len());
            for run in &runs {
                match self.read_run(id, run) {
                    Ok(batch) => batches.push(batch),
                    // The file may have been recycled under the read: then the run has moved.
                    Err(_) if tries < TRIES && !segment.read().has_run(run) => continue 'again,
                    Err(error) => {
                        self.lives.note_damage(run.location.life, error.to_string());
                        return Err(error);
                    }
                }
            }
            return Ok(Chain::Batches(batches));
        }
    }
}

/// Keys that may exist in a range, ascending, from memory and all files as they were at one moment: a
/// flush meanwhile moves pages from the one to the other.
struct Keys {
    cursors: Vec<Cursor>,
    /// Descending, to take from the end.
    memory: Vec<PageKey>,
    to: PageKey,
}

impl Keys {
    fn new(
        segment: &Segment,
        from: &PageKey,
        to: PageKey,
        read_point: Lsn,
    ) -> Result<Keys, StoreError> {
        let (files, mut memory) = {
            let index = segment.read();
            index.check_horizon(read_point)?;
            (Arc::clone(&index.files), index.keys(*from..to))
        };
        memory.sort_unstable_by(|a, b| b.cmp(a));
        let files = Layers::of(&files).in_range(from, &to);
        let wanted = files.into_iter().filter(|file| file.meta.low < read_point);
        let cursors = wanted.map(|file| Cursor::new(file, from));
        let cursors = cursors.collect::<Result<Vec<_>, _>>()?;
        Ok(Keys { cursors, memory, to })
    }

    fn next(&mut self) -> Result<Option<PageKey>, StoreError> {
        let mut next = self.memory.last().copied();
        for cursor in &mut self.cursors {
            let key = cursor.peek()?.filter(|key| *key < self.to);
            next = [next, key].into_iter().flatten().min();
        }
        let Some(key) = next else { return Ok(None) };
        while self.memory.pop_if(|known| *known == key).is_some() {}
        for cursor in &mut self.cursors {
            cursor.skip(&key)?;
        }
        Ok(Some(key))
    }
}
