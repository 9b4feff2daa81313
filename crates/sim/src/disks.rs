//! Disks that go wrong: rot, misdirected and lost writes, an earlier image put back; no room, errors,
//! slowness.
//!
//! The atlas of what is bearable. A disk that loses something without a word counts, from then on and
//! until it is known to be mended, as a member that votes and forgets. Of those there is never more
//! than one, and never beside a member that is being rebuilt: any four that a recovery seals share two
//! with any four that acknowledged, so one of the two still knows. What only stops a disk loses
//! nothing, and may strike any number of nodes.

use std::collections::BTreeMap;

use env::{MemDisk, Operation};
use protocol::Rules;
use segstore::{Store, StoreError};
use types::{COPIES, Epoch, GroupId, Lsn, SegmentId};
use wire::PageAnswer;

use crate::net::End;
use crate::oracle::Violation;
use crate::world::{Happening, World};

/// What a segment had said of itself when its node lost power.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// How far it was complete.
    pub scl: Lsn,
    /// The newest epoch that it had sealed.
    pub sealed: Epoch,
    /// The last epoch of the history that it followed.
    pub history: Epoch,
}

/// A node whose disk may have lost something without a word.
#[derive(Default)]
pub struct Hurt {
    /// What it had promised when power was lost: until it holds that again it may have forgotten.
    promised: BTreeMap<GroupId, Promise>,
    /// It still loses what it writes.
    lying: bool,
    /// Nothing that it stores is damaged any more.
    clean: bool,
    /// Only a segment's directory is an earlier one: its log knows better, and says so at the next start.
    told_on: bool,
}

/// An earlier state of a node's disk.
pub struct Image {
    life: u64,
    disk: MemDisk,
}

impl<R: Rules> World<R> {
    /// A turn of the nemesis.
    pub(crate) fn trouble_disks(&mut self, node: usize) {
        let options = self.options.clone();
        if !self.nodes[node].up {
            return;
        }
        if self.rng.chance(options.slow_disks) {
            self.nodes[node].slow_until = self.now + self.rng.between(10_000, 500_000);
        }
        if self.rng.chance(options.stopped_disks) {
            self.stop_disk(node);
        }
        if self.rng.chance(options.images) && !self.images.contains_key(&node) {
            let (life, disk) = (self.nodes[node].disk_life(), self.nodes[node].disk().clone());
            let disk = disk.crash(env::Survive::Everything);
            self.images.insert(node, Image { life, disk });
        }
        let bearable = self.may_hurt(node);
        if bearable && self.rng.chance(options.rot) {
            self.rot(node);
        } else if bearable && self.rng.chance(options.misdirections) {
            let seed = self.rng.next_u64();
            self.nodes[node].disk().misdirect_next(Some(seed));
            self.hurt(node, "misdirects its next write");
        } else if bearable && self.rng.chance(options.lost_writes) {
            self.nodes[node].disk().set_lying(true);
            self.hurt(node, "loses what it writes from now on");
            self.hurt.iter_mut().for_each(|(_, hurt)| hurt.lying = true);
            let (life, delay) = (self.nodes[node].life, self.rng.between(1_000, 100_000));
            self.schedule(delay, Happening::Cut { node, life });
        } else if bearable
            && self.rng.chance(options.images)
            && let Some(image) = self.images.remove(&node)
            && image.life == self.nodes[node].disk_life()
        {
            self.hurt(node, "gets an earlier image of its disk");
            let back = self.rng.between(5_000, 300_000);
            self.crash(node, false, Some(back));
            let put = self.nodes[node].put_back(image.disk, &mut self.rng);
            let directory = put.expect("files are copied from one disk to another");
            // What a full disk kept out of the log it cannot know.
            let told_on = directory && options.stopped_disks == 0;
            self.hurt.iter_mut().for_each(|(_, hurt)| hurt.told_on = told_on);
        }
    }

    /// Whether a disk may lose something without a word: every other present holder is whole.
    fn may_hurt(&self, node: usize) -> bool {
        let others = |(group, _, members): &protocol::GroupMembers| {
            let whole = |place: &&types::Place| {
                let holder = self.index(place.present.node);
                holder == node || self.nodes[holder].holds_full(*group, place.present.since)
            };
            members.places().iter().filter(whole).count() == COPIES
        };
        self.hurt.is_none() && self.gone.is_empty() && self.geometry.iter().all(others)
    }

    fn hurt(&mut self, node: usize, what: &str) {
        self.trace
            .note("disk", &[node as u64], || format!("the disk of {} {what}", self.names[node]));
        self.hurt = Some((node, Hurt::default()));
        self.hurts += 1;
        let delay = self.rng.between(10_000, 200_000);
        self.schedule(delay, Happening::Scrub { node });
    }

    /// Some stored bytes change.
    fn rot(&mut self, node: usize) {
        let files = self.nodes[node].disk().files();
        for _ in 0..self.rng.between(1, 4) {
            let Some((path, length)) = self.rng.pick(&files).filter(|(_, length)| *length > 0)
            else {
                continue;
            };
            let (at, mask) = (self.rng.below(*length), 1 << self.rng.below(8));
            self.trace.note("rot", &[node as u64, at], || {
                format!("{}: {mask:02x} of byte {at} in {}", self.names[node], path.display())
            });
            // What is not on the medium yet cannot rot there: the byte is spoilt in the cache only.
            let _cached = self.nodes[node].disk().flip(path, at, mask);
        }
        self.hurt(node, "rots");
    }

    /// The disk takes nothing more for a while, or only fails to: the process ends and comes back.
    fn stop_disk(&mut self, node: usize) {
        let what = *self
            .rng
            .pick(&[None, Some(Operation::Write), Some(Operation::Sync), Some(Operation::SyncDir)])
            .unwrap_or(&None);
        self.nodes[node].stop_disk(what);
        self.trace.note("disk", &[node as u64, 9], || {
            format!("the disk of {} {}", self.names[node], what.map_or("is full", |_| "fails"))
        });
        let delay = self.rng.between(5_000, 400_000);
        self.schedule(delay, Happening::Relief { node });
    }

    /// What a store's error means: the end of the process when its disk is in trouble, which comes back
    /// later; else a broken promise.
    pub(crate) fn stored<T>(
        &mut self,
        node: usize,
        result: Result<T, StoreError>,
    ) -> Result<Option<T>, Violation> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error,
        };
        let state = &self.nodes[node];
        if !state.is_stopped() && !self.is_hurt(node) {
            return Err(Violation(format!("the store of {}: {error}", self.names[node])));
        }
        self.trace.note("error", &[node as u64], || format!("{}: {error}", self.names[node]));
        let stopped = state.store().is_none_or(|store| store.poisoned().is_some());
        if stopped {
            let back = self.rng.between(5_000, 100_000);
            self.crash(node, false, None);
            self.schedule(back, Happening::Restart { node });
        }
        Ok(None)
    }

    /// Whether a node's disk may have lost something without a word.
    pub(crate) fn is_hurt(&self, node: usize) -> bool {
        self.hurt.as_ref().is_some_and(|(hurt, _)| *hurt == node)
    }

    /// A node with a hurt disk loses power: what it promised is remembered.
    pub(crate) fn remember_promises(&mut self, node: usize) {
        let promised = self.nodes[node].promises();
        let Some((_, hurt)) = self.hurt.as_mut().filter(|(hurt, _)| *hurt == node) else { return };
        for (group, promise) in promised {
            let kept = hurt.promised.entry(group).or_insert(promise);
            kept.scl = kept.scl.max(promise.scl);
            kept.sealed = kept.sealed.max(promise.sealed);
            kept.history = kept.history.max(promise.history);
        }
        (hurt.clean, hurt.lying) = (false, false);
    }

    /// A hurt disk is scrubbed and mended; it counts again once nothing is damaged and nothing
    /// forgotten.
    pub(crate) fn scrub(&mut self, node: usize) -> Result<(), Violation> {
        if !self.is_hurt(node) {
            return Ok(());
        }
        let delay = self.rng.between(10_000, 100_000);
        self.schedule(delay, Happening::Scrub { node });
        if !self.nodes[node].up {
            return Ok(());
        }
        // From here on it is the scrub that counts: no further write goes astray.
        self.nodes[node].disk().misdirect_next(None);
        let scrubbed = self.nodes[node].scrub();
        if self.stored(node, scrubbed)?.is_none() {
            return Ok(());
        }
        let damaged = self.nodes[node].store().map(Store::damage).unwrap_or_default();
        for segment in damaged.segments.iter().filter(|segment| !segment.lost) {
            let mended = self.mend(node, segment.segment);
            if self.stored(node, mended)?.is_none() {
                return Ok(());
            }
        }
        for _ in 0..20 {
            let worked = self.nodes[node].work();
            if self.stored(node, worked)?.is_none() {
                return Ok(());
            }
        }
        let lying = self.hurt.as_ref().is_some_and(|(_, hurt)| hurt.lying);
        // What it holds of a group whose order to forget came before the order to hold matters to nobody.
        let whole = !damaged.segments.iter().any(|damaged| self.has_place(node, damaged.segment));
        let clean = whole && damaged.log.is_empty() && !lying;
        let known = |(group, promise): (&GroupId, &Promise)| self.knows(node, *group, promise);
        let Some((_, hurt)) = &self.hurt else { return Ok(()) };
        let mended = clean && !self.nodes[node].is_blank() && hurt.promised.iter().all(known);
        self.trace.note("scrub", &[node as u64], || format!("{}: {damaged:?}", self.names[node]));
        if let Some((_, hurt)) = &mut self.hurt {
            hurt.clean = clean;
        }
        if mended {
            self.trace.note("mended", &[node as u64], || format!("{} is mended", self.names[node]));
            self.hurt = None;
        }
        Ok(())
    }

    /// A directory that is older than the log has lost what it promised: its segment votes no more
    /// before it is rebuilt.
    pub(crate) fn check_told_on(&mut self, node: usize) -> Result<(), Violation> {
        let Some((_, hurt)) = self.hurt.as_mut().filter(|(hurt, _)| *hurt == node) else {
            return Ok(());
        };
        if !std::mem::take(&mut hurt.told_on) {
            return Ok(());
        }
        let Some((_, hurt)) = &self.hurt else { return Ok(()) };
        let votes = |group: &GroupId| {
            let copy = self.nodes[node].copies.get(group);
            copy.is_some_and(|copy| copy.segment.state().full)
        };
        let forgot = |(group, promise): &(&GroupId, &Promise)| {
            votes(group) && !self.knows(node, **group, promise)
        };
        match hurt.promised.iter().find(forgot) {
            Some((group, promise)) => Err(Violation(format!(
                "{} votes in group {group} from an earlier directory, without {promise:?}",
                self.names[node]
            ))),
            None => Ok(()),
        }
    }

    fn has_place(&self, node: usize, segment: SegmentId) -> bool {
        let (_, _, members) = self.geometry[segment.group.0 as usize];
        members.holders().any(|(_, holder)| holder.node == self.names[node])
    }

    /// Whether a segment holds again what it had promised before it may have forgotten it.
    fn knows(&self, node: usize, group: GroupId, promise: &Promise) -> bool {
        let Some(copy) = self.nodes[node].copies.get(&group) else { return true };
        let (state, scl) = (copy.segment.state(), copy.segment.scl());
        let newer = state.history.last_epoch() > promise.history;
        let complete = scl >= promise.scl || newer && scl >= self.oracle.tail(group);
        state.sealed >= promise.sealed && complete
    }

    /// Peers give the pages that lay in damaged places.
    fn mend(&mut self, node: usize, segment: SegmentId) -> Result<(), StoreError> {
        let Some(store) = self.nodes[node].store() else { return Ok(()) };
        let Some(mut mend) = store.begin_mend(segment)? else { return Ok(()) };
        while let Some(range) = mend.want() {
            let peers: Vec<usize> = (0..self.nodes.len())
                .filter(|peer| self.gives(*peer, node, segment.group, mend.read_point()))
                .collect();
            let peer = self.rng.pick(&peers).and_then(|peer| self.nodes[*peer].store());
            let given = peer.and_then(|peer| {
                peer.scan(segment, &range.start, &range.end, mend.read_point(), 200).ok()
            });
            let Some((pages, next)) = given else { return store.abandon_mend(mend) };
            self.trace.note("mend", &[node as u64, mend.read_point().0], || {
                let (names, group) = (&self.names, segment.group);
                format!(
                    "{} mends group {group} at {} with {range:?}: {} pages",
                    names[node],
                    mend.read_point(),
                    pages.len()
                )
            });
            mend.supply(pages, next)?;
        }
        self.mends += 1;
        store.finish_mend(mend)
    }

    /// Whether a peer is complete to there, and not by an older history, under which that is void.
    fn gives(&self, peer: usize, node: usize, group: GroupId, read_point: Lsn) -> bool {
        let reached = self.nodes[peer].up && self.net.open(End::Node(peer), End::Node(node));
        let epoch = |node: usize| {
            let copy = self.nodes[node].copies.get(&group)?;
            Some(copy.segment.state().history.last_epoch())
        };
        let copy = self.nodes[peer].copies.get(&group).filter(|_| reached && peer != node);
        epoch(peer) >= epoch(node)
            && copy.is_some_and(|copy| copy.segment.may_serve(read_point).is_ok())
    }

    /// A page refused for a reason that a disk's trouble explains. Never a wrong one.
    pub(crate) fn is_excused(&self, node: usize, answer: &PageAnswer) -> bool {
        let PageAnswer::Failed(refusal) = answer else { return false };
        match refusal {
            wire::Refusal::Damaged(_) => self.is_hurt(node),
            // What was mended, or copied from there, answers for no earlier read point (rule S13).
            wire::Refusal::Forgotten { .. } => self.mends > 0,
            _ => false,
        }
    }

    /// All disks work again; what one has lost is lost.
    pub(crate) fn heal_disks(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].relieve_disk();
            self.nodes[node].slow_until = 0;
            if self.is_hurt(node) {
                self.nodes[node].disk().misdirect_next(None);
                self.crash(node, false, None);
            }
        }
    }

    /// Whether some disk is still to be mended.
    #[must_use]
    pub fn unmended(&self) -> Option<String> {
        let (node, _) = self.hurt.as_ref().filter(|(_, hurt)| !hurt.clean)?;
        Some(format!("the disk of {} is not mended", self.names[*node]))
    }
}
