//! Scrubbing: everything that a store keeps is read from the medium and checked, a little at a time,
//! beside appends, reads and background work.
//!
//! What is damaged in files is remembered by the files, and mended with pages from peers (`mend`). What
//! is damaged in the log, in a manifest or in the identity is in memory: it is written again here.

use std::collections::VecDeque;
use std::sync::Arc;

use env::{ErrorKind, Mode};
use types::SegmentId;

use crate::error::StoreError;
use crate::log::LifeCheck;
use crate::manifest::Manifest;
use crate::pages::{FileCheck, PageFile};
use crate::segment::Segment;
use crate::store::{Store, lock};

/// A scrub under way: [`Store::scrub`] takes it on.
pub struct Scrub {
    todo: VecDeque<Turn>,
    now: Now,
    /// What has been checked of each segment, in the order in which it was.
    pub segments: Vec<ScrubbedSegment>,
    /// What has been checked of the log.
    pub log: ScrubbedLog,
    /// Bytes to check, as they were at the beginning.
    pub bytes_planned: u64,
    /// Bytes checked.
    pub bytes_checked: u64,
}

/// What has been checked of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubbedSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Page files, as far as they were begun.
    pub files: u64,
    /// Their blocks and indexes.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged blocks, indexes and manifests met.
    pub damaged: u64,
}

/// What has been checked of the log that all segments share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubbedLog {
    /// Files, as far as they were begun.
    pub files: u64,
    /// Durable writes.
    pub units: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged files met.
    pub damaged: u64,
}

enum Turn {
    Segment(SegmentId),
    Life(u64),
}

enum Now {
    Between,
    Files { waiting: VecDeque<Arc<PageFile>>, check: Option<FileCheck> },
    Life(LifeCheck),
}

impl Store {
    pub(crate) fn plan_scrub(&self, only: Option<&dyn Fn(SegmentId) -> bool>) -> Scrub {
        let wanted = |id: &SegmentId| only.is_none_or(|only| only(*id));
        let segments = self.all_segments();
        let ids: Vec<SegmentId> = segments.iter().map(|s| s.id).filter(wanted).collect();
        let files = segments.iter().filter(|segment| wanted(&segment.id));
        let files = files.flat_map(|segment| segment.read().files.to_vec());
        let mut planned: u64 = files.map(|file| file.meta.bytes).sum();
        // One segment's share of the log cannot be told apart from the others'.
        let lives = self.lives.numbers();
        let oldest = lock(&self.log).oldest_durable();
        planned += self.lives.bytes_from(oldest);
        let lives = lives.into_iter().filter(|life| *life >= oldest).map(Turn::Life);
        Scrub {
            todo: ids.into_iter().map(Turn::Segment).chain(lives).collect(),
            now: Now::Between,
            segments: Vec::new(),
            log: ScrubbedLog::default(),
            bytes_planned: planned,
            bytes_checked: 0,
        }
    }

    pub(crate) fn scrub_on(&self, scrub: &mut Scrub, bytes_max: u64) -> Result<bool, StoreError> {
        let limit = scrub.bytes_checked.saturating_add(bytes_max);
        while scrub.bytes_checked < limit {
            let more = match std::mem::replace(&mut scrub.now, Now::Between) {
                Now::Between => self.next_turn(scrub)?,
                Now::Files { waiting, check } => self.check_file(scrub, waiting, check),
                Now::Life(check) => self.check_life(scrub, check),
            };
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn next_turn(&self, scrub: &mut Scrub) -> Result<bool, StoreError> {
        let Some(turn) = scrub.todo.pop_front() else { return Ok(false) };
        match turn {
            Turn::Segment(id) => {
                let Ok(segment) = self.segment(id) else { return Ok(true) };
                let mut row =
                    ScrubbedSegment { segment: id, files: 0, blocks: 0, bytes: 0, damaged: 0 };
                row.damaged += u64::from(self.check_manifest(&segment)?);
                scrub.segments.push(row);
                let waiting = segment.read().files.iter().cloned().collect();
                scrub.now = Now::Files { waiting, check: None };
            }
            Turn::Life(number) => {
                self.check_identity()?;
                let newest = lock(&self.log).position();
                let Some(life) = self.lives.look(number) else { return Ok(true) };
                let end = if newest.life == number { newest.offset } else { life.end.unwrap_or(0) };
                scrub.log.files += 1;
                let path = self.log_dir().join(&life.file.name);
                if self.disk.open(&path, Mode::Read).is_err_and(|e| e.kind == ErrorKind::Missing) {
                    self.lives.note_damage(number, format!("{} is gone", path.display()));
                    scrub.log.damaged += 1;
                    return Ok(true);
                }
                let incarnation = self.identity.incarnation;
                scrub.now = Now::Life(LifeCheck::new(number, life, incarnation, end));
            }
        }
        Ok(true)
    }

    fn check_file(
        &self,
        scrub: &mut Scrub,
        mut waiting: VecDeque<Arc<PageFile>>,
        check: Option<FileCheck>,
    ) -> bool {
        let Some(row) = scrub.segments.last_mut() else { return true };
        let Some(mut check) = check.or_else(|| {
            row.files += u64::from(!waiting.is_empty());
            waiting.pop_front().map(FileCheck::new)
        }) else {
            return true;
        };
        let Some(step) = check.step(&*self.disk) else {
            scrub.now = Now::Files { waiting, check: None };
            return true;
        };
        row.blocks += 1;
        row.bytes += step.bytes;
        row.damaged += u64::from(step.damage.is_some());
        scrub.bytes_checked += step.bytes;
        scrub.now = Now::Files { waiting, check: Some(check) };
        true
    }

    fn check_life(&self, scrub: &mut Scrub, mut check: LifeCheck) -> bool {
        match check.step() {
            None => return true,
            Some(Ok(bytes)) => {
                scrub.log.units += 1;
                scrub.log.bytes += bytes;
                scrub.bytes_checked += bytes;
            }
            Some(Err(why)) => {
                self.lives.note_damage(check.number, why);
                scrub.log.damaged += u64::from(self.lives.look(check.number).is_some());
            }
        }
        scrub.now = Now::Life(check);
        true
    }

    /// Whether a segment's manifest on disk was damaged; it is written again from memory then.
    fn check_manifest(&self, segment: &Segment) -> Result<bool, StoreError> {
        {
            let known = segment.manifest();
            match Manifest::load(&*self.disk, &segment.dir, segment.id) {
                // Files begun since it was written have taken numbers.
                Ok(Some(found))
                    if Manifest { next_file: known.next_file, ..found.clone() } == *known =>
                {
                    return Ok(false);
                }
                Err(StoreError::Disk(_)) => return Ok(false), // nothing is known of it
                _ => {}
            }
        }
        let _work = lock(&self.work);
        if self.segment(segment.id).is_err() {
            return Ok(false); // dropped meanwhile
        }
        self.save(segment, None, |_| {})?;
        self.counters.count_rewritten();
        Ok(true)
    }

    /// The same for the store's identity.
    fn check_identity(&self) -> Result<(), StoreError> {
        // When it cannot be read nothing is known of it.
        if self.identity.is_stored(&*self.disk, self.dir()).unwrap_or(true) {
            return Ok(());
        }
        self.identity.save(&*self.disk, self.dir()).map_err(|error| match error {
            StoreError::Disk(error) => self.fatal(&error),
            other => other,
        })?;
        self.counters.count_rewritten();
        Ok(())
    }
}
