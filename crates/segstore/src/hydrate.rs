//! Copying a segment's files to another node: export, install.
//!
//! Rule S9: nothing is put in place before every block of every file has passed its checks against
//! the segment it is meant for; the source's word is not taken for it.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use env::{File, Mode, recipes};
use types::{Lsn, SegmentId};

use crate::codec::Malformed;
use crate::error::StoreError;
use crate::layers;
use crate::manifest::Manifest;
use crate::pages::block::Binding;
use crate::pages::writer::file_name;
use crate::pages::{FileMeta, PageFile};
use crate::segment::{NewFiles, Segment};
use crate::store::{Store, lock};

/// Bytes asked for at once.
const CHUNK: u64 = 1 << 20;

/// A segment's files, pinned while this lives, to be copied by a peer.
pub struct Export {
    /// The manifest's own encoding.
    pub manifest: Bytes,
    files: Vec<Arc<PageFile>>,
}

impl Export {
    /// Bytes of a file; short only at its end.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub fn read(&self, file: u64, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        let found = self.files.iter().find(|known| known.meta.number == file);
        let found = found.ok_or_else(|| {
            StoreError::Invalid(format!("file {file} is not in the manifest given out"))
        })?;
        found.raw(offset, u64::from(length))
    }
}

/// Bytes of an immutable file that an install needs next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// The file's number in the source's manifest.
    pub file: u64,
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u32,
}

/// A segment being copied from a peer: ask for what [`Install::want`] says, several at a time if need be,
/// hand the answers to [`Install::supply`] in the same order until nothing is wanted and all has come, then
/// [`Store::finish_install`].
pub struct Install {
    segment: Arc<Segment>,
    source: Manifest,
    /// The source's files under their numbers here, in the source's order: those still to come.
    targets: VecDeque<(FileMeta, Arc<dyn File>)>,
    /// Those that are here, every block of them checked; not durable yet.
    files: Vec<(Arc<PageFile>, Arc<dyn File>)>,
    /// File and offset of what is to be asked for next.
    asked: (usize, u64),
    /// Offset in the first file to come of what is supplied next.
    offset: u64,
}

impl Install {
    /// What to ask for next; `None` when all has been asked for.
    pub fn want(&mut self) -> Option<Want> {
        let (at, offset) = self.asked;
        let file = self.source.files.get(at)?;
        let length = length_at(file, offset);
        let next = offset + u64::from(length);
        self.asked = if next < file.bytes { (at, next) } else { (at + 1, 0) };
        Some(Want { file: file.number, offset, length })
    }

    /// Takes the answer to the first of the asked that has not come yet. With the last one of a file the whole
    /// file is checked, while the next are on their way.
    ///
    /// # Errors
    /// When they are too few or too many, damaged, or cannot be written; the install is over then.
    pub fn supply(&mut self, bytes: &Bytes) -> Result<(), StoreError> {
        let want = self.targets.front().map_or(0, |(meta, _)| length_at(meta, self.offset));
        let Some((meta, file)) = self.targets.front().filter(|_| bytes.len() == want as usize)
        else {
            let found = bytes.len();
            return Err(StoreError::Invalid(format!("{found} bytes came, {want} were wanted")));
        };
        file.write_at(self.offset, &[IoSlice::new(bytes)])?;
        self.offset += bytes.len() as u64;
        if self.offset >= meta.bytes {
            self.finish_file()?;
        }
        Ok(())
    }

    /// What is read here was written a moment ago: it comes from memory, not from the medium.
    fn finish_file(&mut self) -> Result<(), StoreError> {
        let Some((meta, file)) = self.targets.pop_front() else { return Ok(()) };
        self.offset = 0;
        let binding = Binding { segment: self.segment.id, birth: meta.birth };
        let path = self.segment.dir.join(file_name(meta.number));
        let whole = Arc::new(PageFile::new(Arc::clone(&file), path, binding, meta));
        whole.verify_written()?;
        self.files.push((whole, file));
        Ok(())
    }
}

/// Bytes of a file that are asked for at once from here on.
fn length_at(file: &FileMeta, offset: u64) -> u32 {
    u32::try_from((file.bytes - offset).min(CHUNK)).expect("a chunk is small")
}

/// Whether what a manifest says of its files fits together: ranges that follow each other, none beyond
/// what is flushed, and nothing flushed beyond the durable point.
fn check_claims(source: &Manifest) -> Result<(), StoreError> {
    layers::check(&source.files, source.flushed).map_err(|number| {
        StoreError::Invalid(format!("file {number} of a copy is out of order"))
    })?;
    if source.flushed > source.state.vdl.end || source.horizon > source.flushed {
        return Err(StoreError::Invalid("a copy claims more than it can hold".to_owned()));
    }
    Ok(())
}

impl Store {
    pub(crate) fn export_files(&self, id: SegmentId) -> Result<Export, StoreError> {
        let segment = self.segment(id)?;
        // Under the manifest's lock, so that list and files are of one moment.
        let manifest = segment.manifest();
        let index = segment.read();
        if let Some(why) = index.damage() {
            let what = format!("segment {id}");
            return Err(StoreError::Damaged { what, why });
        }
        let mut said = manifest.clone();
        said.state = index.state.clone();
        let manifest = Bytes::from(said.encode());
        Ok(Export { manifest, files: index.files.to_vec() })
    }

    /// Removes files in a segment's directory that nothing refers to.
    fn sweep_dir(&self, segment: &Segment) -> Result<(), StoreError> {
        let mut known: BTreeSet<String> =
            segment.read().files.iter().map(|file| file.name()).collect();
        known.insert(crate::manifest::NAME.to_owned());
        let names = self.disk.list(&segment.dir)?;
        let unknown: Vec<String> = names.into_iter().filter(|n| !known.contains(n)).collect();
        Ok(recipes::remove_all(&*self.disk, &segment.dir, &unknown)?)
    }

    /// A segment may be dropped, and another of its name begun, while files are copied for it.
    fn still_held(&self, segment: &Arc<Segment>) -> Result<(), StoreError> {
        match Arc::ptr_eq(&self.segment(segment.id)?, segment) {
            true => Ok(()),
            false => Err(StoreError::NoSegment(segment.id)),
        }
    }

    pub(crate) fn install(&self, id: SegmentId, manifest: &Bytes) -> Result<Install, StoreError> {
        let segment = self.segment(id)?;
        let source = Manifest::decode(id, manifest).map_err(|Malformed(why)| {
            StoreError::Invalid(format!("manifest of segment {id} from a peer: {why}"))
        })?;
        check_claims(&source)?;
        // Held to the end: a merge that began meanwhile would find its files swept away.
        let mut work = lock(&self.work);
        self.still_held(&segment)?;
        self.abandon_merge(&mut work, id)?;
        // Files given out or still read are removed later all the same: their names are gone, and
        // removing a name twice is no error.
        self.sweep_dir(&segment)?;
        let mut targets = VecDeque::new();
        for file in &source.files {
            let number = segment.next_file();
            let opened = self.disk.open(&segment.dir.join(file_name(number)), Mode::Create)?;
            targets.push_back((FileMeta { number, ..*file }, opened));
        }
        Ok(Install { segment, source, targets, files: Vec::new(), asked: (0, 0), offset: 0 })
    }

    pub(crate) fn put_in_place(&self, install: Install) -> Result<Lsn, StoreError> {
        let Install { segment, source, targets, files, .. } = install;
        if let Some((meta, _)) = targets.front() {
            return Err(StoreError::Invalid(format!("file {} is not complete", meta.number)));
        }
        for (_, file) in &files {
            file.sync().map_err(|error| self.unless_full(&error))?;
        }
        let files = files.into_iter().map(|(file, _)| file).collect();
        let mut work = lock(&self.work);
        // It may have been dropped meanwhile, and its directory be gone: no error of the disk.
        self.still_held(&segment)?;
        // One may have begun since the copy did, of files that are no longer the segment's.
        self.abandon_merge(&mut work, segment.id)?;
        self.disk.sync_dir(&segment.dir).map_err(|error| self.fatal(&error))?;
        let flushed = source.flushed;
        {
            let mut index = segment.write();
            if flushed < index.flushed {
                return Err(StoreError::Invalid(format!(
                    "the copy of segment {} reaches {flushed}, the one here {}",
                    segment.id, index.flushed
                )));
            }
            let state = &source.state;
            // The files may reach beyond where a newer history cut what is held here.
            index.void_by(&state.history);
            let epoch = state.history.last_epoch();
            index.advance_under(epoch, state.vdl, state.low_water, state.watermark);
        }
        let change = NewFiles { files, flushed, horizon: source.horizon };
        // Without room for the manifest the files stay until the next try sweeps them away.
        self.commit(&mut work, &segment, change, Vec::new())?;
        let mut index = segment.write();
        index.lost = None;
        index.find_floor();
        Ok(flushed)
    }
}

#[cfg(test)]
mod tests {
    use types::{GroupId, VolumeId};
    use wire::SegmentSpec;

    use super::*;
    use crate::entry::SegmentState;
    use crate::log::Position;

    fn manifest(ranges: &[(u64, u64)], flushed: u64, vdl: u64) -> Manifest {
        let segment = SegmentId { volume: VolumeId(1), group: GroupId(1) };
        let mut state = SegmentState::default();
        state.vdl.end = Lsn(vdl);
        let spec = SegmentSpec {
            segment,
            membership: state.membership,
            members: Vec::new(),
            joining: Vec::new(),
            fresh: false,
        };
        let file = |(low, high): &(u64, u64)| FileMeta {
            low: Lsn(*low),
            high: Lsn(*high),
            ..FileMeta::default()
        };
        let (state_at, origin, covered) =
            (Position::default(), Position::default(), Position::default());
        let (generation, flushed, horizon, next_file) = (1, Lsn(flushed), Lsn::ZERO, 9);
        let files = ranges.iter().map(file).collect();
        Manifest {
            spec,
            generation,
            state,
            state_at,
            origin,
            covered,
            flushed,
            horizon,
            next_file,
            files,
        }
    }

    #[test]
    fn a_copy_that_claims_what_it_cannot_hold_is_refused() {
        let claims = |ranges: &[(u64, u64)], flushed, vdl| {
            check_claims(&manifest(ranges, flushed, vdl)).is_ok()
        };
        assert!(claims(&[(20, 30), (0, 20)], 30, 30));
        assert!(claims(&[(20, 30), (0, 10)], 40, 50), "nothing was left of the rest");
        assert!(!claims(&[(20, 30), (0, 25)], 30, 30), "overlapping");
        assert!(!claims(&[(0, 20), (20, 30)], 30, 30), "the wrong way round");
        assert!(!claims(&[(20, 50), (0, 20)], 30, 60), "beyond what is flushed");
        assert!(!claims(&[(20, 30), (0, 20)], 30, 25), "beyond the durable point");
    }
}
