//! Freeing log files: the oldest when more than the retention is held, and damaged ones at once (S12).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wire::Batch;

use crate::background::Work;
use crate::error::StoreError;
use crate::index::Run;
use crate::log::{Entry, Kind};
use crate::segment::Segment;
use crate::store::{Store, lock};

impl Store {
    /// Frees the log's oldest life when more than the retention is held.
    pub(crate) fn retire(&self, work: &mut Work) -> Result<bool, StoreError> {
        let (life, newest) = {
            let log = lock(&self.log);
            (log.oldest_needed(), log.position().life)
        };
        if life >= newest || self.lives.bytes_from(life) <= self.options.log_retain_bytes {
            return Ok(false);
        }
        let segments = self.all_segments();
        self.flush_out_of(work, &segments, life)?;
        // When most of a life waits for a durable point or a missing part, copying it forward would
        // free little or nothing: the log grows instead.
        let waiting: u64 = segments.iter().map(|s| s.read().unflushed_bytes_in(life)).sum();
        if waiting > self.lives.get(life).map_or(0, |file| file.bytes) / 2 {
            return Ok(false);
        }
        self.empty(&segments, life)
    }

    /// Empties the oldest log file that is damaged, and those before it: what they held is in memory,
    /// and goes to page files, to manifests, or to the log's end. False when there is none, or when
    /// something in it cannot be read and waits for a durable point to be flushed.
    pub(crate) fn retire_damaged(&self, work: &mut Work) -> Result<bool, StoreError> {
        let (oldest, newest) = {
            let log = lock(&self.log);
            (log.oldest_durable(), log.position().life)
        };
        let damaged = self.lives.damaged_from(oldest);
        let Some((life, _)) = damaged.first() else { return Ok(false) };
        let roll = || lock(&self.log).roll(0).map_err(|error| self.log_failed(error));
        if *life == newest {
            roll()?;
        }
        let segments = self.all_segments();
        self.flush_out_of(work, &segments, *life)?;
        if !self.empty(&segments, *life)? {
            return Ok(false);
        }
        // A restart must not meet the damage any more.
        roll()?;
        Ok(true)
    }

    /// Flushes what may be flushed of this life and those before it.
    fn flush_out_of(
        &self,
        work: &mut Work,
        segments: &[Arc<Segment>],
        life: u64,
    ) -> Result<(), StoreError> {
        for segment in segments {
            if !segment.read().unflushed_in(life).is_empty() {
                self.flush(work, segment)?;
            }
        }
        Ok(())
    }

    /// Copies the rest of this life and those before it forward and lets go of them; false when
    /// something there cannot be read.
    fn empty(&self, segments: &[Arc<Segment>], life: u64) -> Result<bool, StoreError> {
        for segment in segments {
            let rest = segment.read().unflushed_in(life);
            if !self.copy_forward(segment, &rest)? {
                return Ok(false);
            }
            let state_at = segment.read().state_at;
            if state_at.life <= life && segment.manifest().state_at < state_at {
                self.save(segment, None, |_| {})?;
            }
        }
        for segment in segments {
            segment.write().forget_life(life);
        }
        lock(&self.log).retire(life);
        Ok(true)
    }

    /// Writes batches that cannot be flushed yet to the log's end again; false when one of them is
    /// damaged, so that its life must stay.
    fn copy_forward(&self, segment: &Arc<Segment>, runs: &[Run]) -> Result<bool, StoreError> {
        let mut batches = Vec::with_capacity(runs.len());
        for run in runs {
            match self.read_run(segment.id, run) {
                Ok(batch) => batches.push(batch),
                Err(error) => {
                    self.lives.note_damage(run.location.life, error.to_string());
                    return Ok(false);
                }
            }
        }
        let raw = |batch: &Batch| Entry {
            segment: segment.id,
            kind: Kind::Batch,
            payload: batch.encode(),
        };
        let entries: Vec<Entry> = batches.iter().map(raw).collect();
        let mut log = lock(&self.log);
        let (locations, bytes) = log.append(&entries).map_err(|error| self.log_failed(error))?;
        self.counters.log_bytes_written.fetch_add(bytes, Ordering::Relaxed);
        let mut index = segment.write();
        for (batch, location) in batches.iter().zip(locations) {
            index.insert(batch, location);
            index.applied = location.position();
        }
        Ok(true)
    }
}
