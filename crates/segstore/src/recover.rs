//! Opening a store: manifests first, then the log's tail over them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use env::{Disk, DiskError, recipes};
use types::{Incarnation, Lsn, MembershipEpoch, SegmentId};
use wire::{Batch, SegmentSpec};

use crate::codec::{Malformed, Reader, get_state};
use crate::entry::{HeldPart, SegmentState};
use crate::error::StoreError;
use crate::index::Index;
use crate::ledger::Noted;
use crate::log::replay::{self, Replayed};
use crate::log::{Entry, Kind, Location, Position};
use crate::manifest::{self, Manifest};
use crate::pages::PageFile;
use crate::pages::block::Binding;
use crate::segment::{Segment, dir_name, from_dir_name};
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
        generation: 0,
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
    let (state, state_at, covered) = (state.clone(), origin, origin);
    Manifest { generation: 1, state, state_at, origin, covered, ..blank(spec.clone()) }
}

/// What is known of a segment whose manifest is damaged, unless the log knows more.
fn unknown(segment: SegmentId) -> SegmentSpec {
    let (membership, members, joining) = (MembershipEpoch(0), Vec::new(), Vec::new());
    SegmentSpec { segment, membership, members, joining, fresh: false }
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
            // What cannot be read is as good as damaged.
            Err(error) => {
                let spec = unknown(id);
                // Its page files are still there, and their names are taken.
                let next_file = names_end(&disk.list(&dir)?, &[]).max(1);
                let manifest = Manifest { next_file, ..blank(spec) };
                let mut opening = opening(id, &dir, manifest, Vec::new());
                opening.damage = Some(error.to_string());
                opening
            }
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
        let Manifest { next_file, origin, generation, .. } = manifest;
        let state = SegmentState { full: false, ..manifest.state.clone() };
        manifest = Manifest { state, origin, next_file, generation, ..blank(manifest.spec) };
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

/// Replays the log over the segments, and judges by it which of them have lost something.
pub(crate) fn replay_log(
    disk: &dyn Disk,
    dir: &Path,
    seg_dir: &Path,
    incarnation: Incarnation,
    segments: &mut BTreeMap<SegmentId, Opening>,
) -> Result<Replayed, StoreError> {
    let mut malformed: Vec<(SegmentId, String)> = Vec::new();
    let mut notes = BTreeMap::new();
    let mut replayed = replay::replay(disk, dir, incarnation, &mut |entry, location| {
        let taken = match (entry.kind, segments.get_mut(&entry.segment)) {
            (Kind::Ledger, _) => take_note(&mut notes, &entry, location),
            (_, Some(opening)) => opening.apply(&entry, location),
            (_, None) => Ok(()),
        };
        malformed.extend(taken.err().map(|why| (entry.segment, why)));
    })?;
    settle(disk, segments, &notes)?;
    reconcile(disk, seg_dir, segments, &notes, replayed.tail.end.life)?;
    for (id, why) in malformed {
        if let Some(opening) = segments.get_mut(&id) {
            opening.damage.get_or_insert(why);
        }
    }
    for opening in segments.values_mut() {
        opening.judge(&replayed);
        let noted = Noted::of(&opening.manifest).entry();
        replayed.tail.ledger.insert(opening.id, noted.payload);
    }
    Ok(replayed)
}

/// What the log says of a segment's directory last.
enum Note {
    Held(Noted),
    /// Dropped, at this place in the log.
    Dropped(Position),
}

fn take_note(
    notes: &mut BTreeMap<SegmentId, Note>,
    entry: &Entry,
    location: Location,
) -> Result<(), String> {
    let note = match entry.payload.is_empty() {
        true => Note::Dropped(location.position()),
        false => Note::Held(Noted::decode(entry.segment, &entry.payload).map_err(|why| why.0)?),
    };
    let newer = match (notes.get(&entry.segment), &note) {
        // Two threads may have noted their manifests in the other order.
        (Some(Note::Held(known)), Note::Held(noted)) => {
            known.origin != noted.origin || known.generation < noted.generation
        }
        _ => true,
    };
    if newer {
        notes.insert(entry.segment, note);
    }
    Ok(())
}

/// Makes the manifests durable that may not be: those that were replaced and not noted, perhaps because
/// that failed. From now on they are believed (S16).
fn settle(
    disk: &dyn Disk,
    segments: &BTreeMap<SegmentId, Opening>,
    notes: &BTreeMap<SegmentId, Note>,
) -> Result<(), StoreError> {
    for opening in segments.values().filter(|opening| opening.damage.is_none()) {
        let note = notes.get(&opening.id);
        if matches!(note, Some(Note::Held(noted)) if noted.generation >= opening.manifest.generation)
        {
            continue;
        }
        let path = opening.dir.join(manifest::NAME);
        if let Some(content) = recipes::read_all(disk, &path)? {
            recipes::replace(disk, &path, &content)?;
        }
    }
    Ok(())
}

/// Holds the directories against the ledger: what was dropped is removed; what is gone, or an earlier
/// copy, begins again.
fn reconcile(
    disk: &dyn Disk,
    dir: &Path,
    segments: &mut BTreeMap<SegmentId, Opening>,
    notes: &BTreeMap<SegmentId, Note>,
    last_life: u64,
) -> Result<(), StoreError> {
    for (id, note) in notes {
        match (note, segments.get_mut(id)) {
            (Note::Dropped(at), Some(opening)) if opening.manifest.origin <= *at => {
                remove_segment(disk, &opening.dir)?;
                segments.remove(id);
            }
            (Note::Dropped(_), _) => {}
            (Note::Held(noted), Some(opening)) => opening.hold_against(noted),
            (Note::Held(noted), None) => {
                let dir = dir.join(dir_name(*id));
                recipes::create_dir(disk, &dir)?;
                let mut opening = opening(*id, &dir, blank(noted.spec.clone()), Vec::new());
                opening.damage = Some(format!("{} is gone", dir.display()));
                opening.hold_against(noted);
                segments.insert(*id, opening);
            }
        }
    }
    for opening in segments.values_mut().filter(|opening| !notes.contains_key(&opening.id)) {
        // Only what was being added when the store was cut off has no note.
        if opening.manifest.origin.life + 1 < last_life {
            opening.begin_again("the log does not know it any more".to_owned());
        }
    }
    Ok(())
}

fn remove_segment(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    recipes::remove_all(disk, dir, &[manifest::NAME.to_owned()])?;
    let names = disk.list(dir)?;
    recipes::remove_all(disk, dir, &names)?;
    disk.remove_dir(dir)
}

impl Opening {
    /// Lets go of what it has: it does not know what it promised.
    fn begin_again(&mut self, why: String) {
        self.index.begin_again();
        let next_file = self.manifest.next_file;
        let Manifest { spec, generation, state, state_at, origin, covered, .. } =
            std::mem::replace(&mut self.manifest, blank(unknown(self.id)));
        let kept = Manifest { generation, state, state_at, origin, covered, ..blank(spec) };
        self.manifest = Manifest { next_file, ..kept };
        self.damage.get_or_insert(why);
    }

    fn hold_against(&mut self, noted: &Noted) {
        // Manifests on disk count from one: without a generation its own is damaged or gone.
        let damaged = self.manifest.generation == 0;
        let earlier = !damaged && !noted.is_met_by(&self.manifest);
        if earlier {
            self.begin_again("an earlier copy of its directory was put back".to_owned());
        }
        if damaged || earlier {
            let membership = &mut self.index.state.membership;
            *membership = noted.spec.membership.max(*membership);
            self.manifest.spec = noted.spec.clone();
            self.manifest.origin = noted.origin;
        }
        self.manifest.generation = self.manifest.generation.max(noted.generation);
    }

    /// Whether acknowledged bytes of it are missing from the log.
    fn judge(&mut self, replayed: &Replayed) {
        let end = replayed.tail.end;
        let Manifest { covered, state_at, origin, .. } = &mut self.manifest;
        for damage in &replayed.damage {
            if *covered < damage.end && *origin < damage.end {
                self.damage.get_or_insert_with(|| damage.what.clone());
            }
        }
        if (*covered).max(*state_at).max(*origin) > end {
            let what = "the log ends before what the manifest says was in it".to_owned();
            self.damage.get_or_insert(what);
        }
        // Places beyond the end will be given out again, to other entries.
        for place in [covered, state_at, origin] {
            *place = end.min(*place);
        }
        self.index.state_at = end.min(self.index.state_at);
        self.index.applied = end.min(self.index.applied);
    }

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
            Kind::State | Kind::Ledger => {}
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
