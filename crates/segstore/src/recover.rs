//! Opening a store: manifests first, then the log's tail over them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use env::{Disk, recipes};
use types::{Incarnation, Lsn, SegmentId};
use wire::{Batch, SegmentSpec};

use crate::codec::{Malformed, Reader, get_state};
use crate::entry::{HeldPart, SegmentState};
use crate::error::StoreError;
use crate::index::Index;
use crate::log::replay::{self, Replayed};
use crate::log::{Entry, Kind, Location, Position};
use crate::manifest::{self, Manifest};
use crate::pages::PageFile;
use crate::pages::block::Binding;
use crate::segment::{Segment, from_dir_name};
use crate::store::RestoredSegment;

/// One segment while the store opens.
pub(crate) struct Opening {
    id: SegmentId,
    dir: std::path::PathBuf,
    index: Index,
    manifest: Manifest,
    held: Vec<HeldPart>,
    damage: Option<String>,
}

fn blank(spec: SegmentSpec) -> Manifest {
    let membership = spec.membership;
    Manifest {
        spec,
        state: SegmentState { membership, ..SegmentState::default() },
        state_at: Position::default(),
        origin: Position::default(),
        covered: Position::default(),
        flushed: Lsn::ZERO,
        horizon: Lsn::ZERO,
        next_file: 1,
        files: Vec::new(),
    }
}

/// A new segment's manifest.
pub(crate) fn first_manifest(
    spec: &SegmentSpec,
    state: &SegmentState,
    origin: Position,
) -> Manifest {
    let state = state.clone();
    Manifest { state, state_at: origin, origin, covered: origin, ..blank(spec.clone()) }
}

/// Reads every segment's directory. What has no manifest was never finished, or was dropped.
pub(crate) fn load_segments(
    disk: &dyn Disk,
    dir: &Path,
) -> Result<BTreeMap<SegmentId, Opening>, StoreError> {
    let mut found = BTreeMap::new();
    for name in disk.list(dir)? {
        let Some(id) = from_dir_name(&name) else { continue };
        let dir = dir.join(&name);
        let opening = match Manifest::load(disk, &dir, id) {
            Ok(Some(manifest)) => load_segment(disk, id, &dir, manifest)?,
            Ok(None) => {
                let names = disk.list(&dir)?;
                recipes::remove_all(disk, &dir, &names)?;
                disk.remove_dir(&dir)?;
                continue;
            }
            Err(StoreError::Damaged { what, why }) => {
                let (members, joining) = (Vec::new(), Vec::new());
                let membership = types::MembershipEpoch(0);
                let spec = SegmentSpec { segment: id, membership, members, joining, fresh: false };
                // Its page files are still there, and their names are taken.
                let next_file = names_end(&disk.list(&dir)?, &[]).max(1);
                let manifest = Manifest { next_file, ..blank(spec) };
                let mut opening = opening(id, &dir, manifest, Vec::new());
                opening.damage = Some(format!("{what}: {why}"));
                opening
            }
            Err(error) => return Err(error),
        };
        found.insert(id, opening);
    }
    Ok(found)
}

fn opening(id: SegmentId, dir: &Path, manifest: Manifest, files: Vec<Arc<PageFile>>) -> Opening {
    let mut index = Index::new(manifest.state.clone(), manifest.flushed, manifest.horizon, files);
    index.state_at = manifest.state_at;
    index.applied = manifest.covered;
    Opening { id, dir: dir.to_owned(), index, manifest, held: Vec::new(), damage: None }
}

fn load_segment(
    disk: &dyn Disk,
    id: SegmentId,
    dir: &Path,
    mut manifest: Manifest,
) -> Result<Opening, StoreError> {
    let mut files = Vec::new();
    let mut damage = None;
    for meta in &manifest.files {
        let binding = Binding { segment: id, birth: meta.birth };
        let whole = PageFile::open(disk, dir, binding, *meta);
        match whole.and_then(|file| Ok((file.length()? == meta.bytes).then_some(file))) {
            Ok(Some(file)) => files.push(Arc::new(file)),
            Ok(None) => damage = Some(format!("page file {} is cut short", meta.number)),
            Err(error) => damage = Some(error.to_string()),
        }
    }
    let mut known: Vec<String> = files.iter().map(|file| file.name()).collect();
    if damage.is_some() {
        // Without one of its files nothing can be told of the segment: it begins again, blank. The
        // other files stay until it has been rebuilt.
        known = disk.list(dir)?;
        let next_file = manifest.next_file;
        let state = SegmentState { full: false, ..manifest.state.clone() };
        let origin = manifest.origin;
        manifest = Manifest { state, origin, next_file, ..blank(manifest.spec) };
        files.clear();
    }
    known.push(manifest::NAME.to_owned());
    let names = disk.list(dir)?;
    let leftover: Vec<String> = names.into_iter().filter(|n| !known.contains(n)).collect();
    recipes::remove_all(disk, dir, &leftover)?;
    let last = names_end(&leftover, &known);
    manifest.next_file = manifest.next_file.max(last);
    let mut opening = opening(id, dir, manifest, files);
    opening.damage = damage;
    Ok(opening)
}

/// A number above every page file's.
fn names_end(leftover: &[String], known: &[String]) -> u64 {
    let names = leftover.iter().chain(known);
    let numbers = names.filter_map(|name| name.strip_suffix(".pages")?.parse::<u64>().ok());
    numbers.max().map_or(0, |last| last + 1)
}

/// Replays the log over the segments.
pub(crate) fn replay_log(
    disk: &dyn Disk,
    dir: &Path,
    incarnation: Incarnation,
    segments: &mut BTreeMap<SegmentId, Opening>,
) -> Result<Replayed, StoreError> {
    let mut malformed: Vec<(SegmentId, String)> = Vec::new();
    let replayed = replay::replay(disk, dir, incarnation, &mut |entry, location| {
        if let Some(opening) = segments.get_mut(&entry.segment)
            && let Err(why) = opening.apply(&entry, location)
        {
            malformed.push((entry.segment, why));
        }
    })?;
    for (id, why) in malformed {
        if let Some(opening) = segments.get_mut(&id) {
            opening.damage.get_or_insert(why);
        }
    }
    let end = replayed.tail.end;
    for opening in segments.values_mut() {
        let Manifest { covered, state_at, .. } = opening.manifest;
        if covered.max(state_at) > end {
            let what = "the log ends before what the manifest says was in it".to_owned();
            opening.damage.get_or_insert(what);
        }
    }
    for damage in &replayed.damage {
        for opening in segments.values_mut() {
            if opening.manifest.covered < damage.end && opening.manifest.origin < damage.end {
                opening.damage.get_or_insert_with(|| damage.what.clone());
            }
        }
    }
    Ok(replayed)
}

impl Opening {
    fn apply(&mut self, entry: &Entry, location: Location) -> Result<(), String> {
        let position = location.position();
        if position <= self.manifest.origin {
            return Ok(());
        }
        let place = || format!("log life {} at offset {}", location.life, location.offset);
        match entry.kind {
            Kind::Batch => {
                let batch = Batch::decode(entry.payload.clone())
                    .map_err(|error| format!("{}: {error}", place()))?;
                let flushed = self.manifest.flushed;
                self.held.extend(HeldPart::of(&batch).filter(|p| p.meta.span.end > flushed));
                self.index.insert(&batch, location);
            }
            Kind::State if position > self.manifest.state_at => {
                let state = get_state(&mut Reader::new(&entry.payload))
                    .map_err(|Malformed(why)| format!("{}: {why}", place()))?;
                self.index.set_state(&state);
                self.index.state_at = position;
            }
            Kind::State => {}
        }
        self.index.applied = self.index.applied.max(position);
        Ok(())
    }

    /// The segment, and what the node is told of it.
    pub(crate) fn finish(mut self) -> (Segment, RestoredSegment) {
        self.index.find_floor();
        if self.damage.is_some() {
            self.index.state.full = false;
            // Not copied from, and not merged, until it has been rebuilt.
            self.index.lost.clone_from(&self.damage);
        }
        let index = &self.index;
        self.held.retain(|part| index.holds(part.epoch, part.meta.span));
        self.held.sort_by_key(|part| part.meta.span.end);
        self.held.dedup_by_key(|part| part.meta.span.end);
        let restored = RestoredSegment {
            spec: self.manifest.spec.clone(),
            state: self.index.state.clone(),
            flushed: self.index.flushed,
            held: self.held,
            damage: self.damage,
        };
        (Segment::new(self.id, self.dir, self.index, self.manifest), restored)
    }
}
