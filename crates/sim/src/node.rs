//! A simulated storage node: real segments over a real store on a simulated disk, and the dull shell
//! between them.

use std::collections::{BTreeMap, BTreeSet};

use env::{DiskError, MemDisk, Operation};
use protocol::{Asker, Input, Output, Rules, Segment};
use segstore::{Export, Install, Options, Store, StoreError};
use types::{
    GroupId, History, Incarnation, Lsn, MembershipEpoch, NodeId, PageKey, SegmentId, Span,
};
use wire::{Message, PageAnswer, Refusal, SegmentReport, SegmentSpec};

use crate::disks::Promise;
use crate::neighbour::{self, Neighbour};
use crate::net::End;
use crate::rng::Rng;
use crate::storage::{Entries, Storage, chain};
use crate::world::VOLUME;

/// Who waits for an answer: where to, and about which group.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The asker.
    pub to: End,
    /// The asker's connection: an answer to an older one is dropped.
    pub session: u64,
    /// The group asked about.
    pub group: GroupId,
}

/// What a node wants done outside itself.
pub enum Effect {
    /// Answer.
    Answer(Route, Message),
    /// Ask a peer's segment of the group.
    Ask(NodeId, GroupId, Message),
    /// Copy the segment's files from a peer, if it follows this history.
    Hydrate(NodeId, GroupId, History),
    /// A page was served at a read point.
    Served(GroupId, PageKey, Lsn, PageAnswer),
    /// Entries wait to be written.
    Wrote,
}

/// A copy of a group.
pub struct Copy<R: Rules> {
    /// The brain.
    pub segment: Segment<R>,
    /// Marks last told to the store.
    marks: (Span, Lsn, u64),
}

/// Entries for the disk, and the last number of each group's.
#[derive(Default)]
struct Write {
    entries: Entries,
    last: BTreeMap<GroupId, u64>,
}

/// A copy of a peer's files under way.
struct Copying {
    peer: NodeId,
    report: SegmentReport,
    export: Export,
    install: Install,
}

/// A storage node.
pub struct Node<R: Rules> {
    /// Its name.
    pub name: NodeId,
    /// Counts its lives: what was sent to an earlier one is dropped.
    pub life: u64,
    /// Whether it runs.
    pub up: bool,
    /// Stopped until then.
    pub paused_until: u64,
    /// Its disk is slow until then.
    pub slow_until: u64,
    /// Its segments, while it runs.
    pub copies: BTreeMap<GroupId, Copy<R>>,
    storage: Storage,
    /// The life in which the disk was new.
    disk_life: u64,
    options: Options,
    /// What it is to hold: a restart creates what the disk lacks.
    orders: BTreeMap<GroupId, SegmentSpec>,
    /// While it is down: the groups of which its disk has whole copies.
    whole: BTreeSet<GroupId>,
    /// Copies dropped on a full disk: its log may not know, and an opening miss their directories.
    unnoted: BTreeSet<(GroupId, MembershipEpoch)>,
    waiting: Write,
    writing: Option<Write>,
    copying: BTreeMap<GroupId, Copying>,
    routes: BTreeMap<Asker, Route>,
    asked: Asker,
    /// A segment of another volume on the same store, in worlds that have those.
    pub neighbour: Option<Neighbour>,
}

impl<R: Rules> Node<R> {
    /// A node that runs on an empty disk.
    ///
    /// # Errors
    /// The store's.
    pub fn new(name: NodeId, options: Options) -> Result<Self, StoreError> {
        let mut node = Node {
            name,
            life: 1,
            up: true,
            paused_until: 0,
            slow_until: 0,
            copies: BTreeMap::new(),
            storage: blank_disk(name, 0, &options),
            disk_life: 0,
            options,
            orders: BTreeMap::new(),
            whole: BTreeSet::new(),
            unnoted: BTreeSet::new(),
            waiting: Write::default(),
            writing: None,
            copying: BTreeMap::new(),
            routes: BTreeMap::new(),
            asked: 0,
            neighbour: None,
        };
        node.storage.start()?;
        Ok(node)
    }

    /// The store, while the node runs.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.storage.store()
    }

    /// What the control plane tells: a copy to hold from now on, anew if the one held is of an earlier
    /// member set, or who else holds the group. What it lacks is created now, or when it is back.
    ///
    /// # Errors
    /// The store's.
    pub fn hold(
        &mut self,
        mut spec: SegmentSpec,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let (group, since) = (spec.group(), spec.since(self.name));
        if let Some(known) = self.orders.get(&group) {
            let (held, known_fresh) = (known.since(self.name), known.fresh);
            if held > since || known.membership >= spec.membership {
                return self.create_missing(); // there was no room for it, perhaps
            }
            if held < since {
                self.drop_copy(group, held)?;
            }
            // The same copy on a disk that was lost meanwhile is not new again.
            spec.fresh &= known_fresh || held < since;
        }
        self.orders.insert(group, spec.clone());
        if let Some((store, copy)) = self.storage.store().zip(self.copies.get(&group)) {
            store.add_segment(&spec, copy.segment.state())?;
            self.input(group, Input::Members(spec), effects);
        }
        self.create_missing()
    }

    /// A copy whose place another has got is forgotten, unless a later member set gave one back.
    ///
    /// # Errors
    /// The store's.
    pub fn forget(&mut self, group: GroupId, by: MembershipEpoch) -> Result<(), StoreError> {
        let since = self.orders.get(&group).map(|order| order.since(self.name));
        let Some(since) = since.filter(|since| *since < by) else { return Ok(()) };
        self.orders.remove(&group);
        self.drop_copy(group, since)
    }

    fn drop_copy(&mut self, group: GroupId, since: MembershipEpoch) -> Result<(), StoreError> {
        if self.storage.is_stopped() {
            self.unnoted.insert((group, since));
        }
        self.copies.remove(&group);
        self.copying.remove(&group);
        self.whole.remove(&group);
        for write in self.writing.iter_mut().chain([&mut self.waiting]) {
            write.entries.retain(|(id, _)| id.group != group);
            write.last.remove(&group);
        }
        self.storage.store().map_or(Ok(()), |store| store.drop_segment(segment_id(group)))
    }

    /// Whether it holds this copy of the group, whole.
    #[must_use]
    pub fn holds_full(&self, group: GroupId, since: MembershipEpoch) -> bool {
        let ordered = self.orders.get(&group).is_some_and(|order| order.since(self.name) == since);
        let whole = match self.copies.get(&group) {
            Some(copy) => copy.segment.state().full,
            None => !self.up && self.whole.contains(&group),
        };
        ordered && whole
    }

    fn create_missing(&mut self) -> Result<(), StoreError> {
        let Some(store) = self.storage.store() else { return Ok(()) };
        for (group, spec) in &self.orders {
            if self.copies.contains_key(group) {
                continue;
            }
            let segment: Segment<R> = match spec.fresh {
                true => Segment::fresh_under(self.name, spec.clone()),
                false => Segment::blank_under(self.name, spec.clone()),
            };
            store.add_segment(spec, segment.state())?;
            self.unnoted.remove(&(*group, spec.since(self.name)));
            self.copies.insert(*group, Copy { segment, marks: Default::default() });
        }
        Ok(())
    }

    /// Its process ends, or its power is lost as well.
    pub fn crash(&mut self, power: bool, rng: &mut Rng) {
        let whole =
            |(group, copy): (&GroupId, &Copy<R>)| copy.segment.state().full.then_some(*group);
        self.whole = self.copies.iter().filter_map(whole).collect();
        self.up = false;
        self.life += 1;
        self.routes.clear();
        self.copies.clear();
        self.copying.clear();
        self.waiting = Write::default();
        let unfinished = self.writing.take().unwrap_or_default();
        self.storage.end(power, &unfinished.entries, rng);
    }

    /// The disk is lost too: the segments are blank when the node comes back.
    pub fn wipe(&mut self) {
        self.storage = blank_disk(self.name, self.life, &self.options);
        self.disk_life = self.life;
        self.orders.values_mut().for_each(|spec| spec.fresh = false);
        self.neighbour.iter_mut().for_each(Neighbour::wiped);
        self.whole.clear();
        self.unnoted.clear();
    }

    /// It comes back, and perhaps ends again before the store is open.
    ///
    /// # Errors
    /// The store's; or damage, if the disk is not hurt: a loss of power does not explain it.
    pub fn restart(&mut self, rng: &mut Rng, hurt: bool) -> Result<(), StoreError> {
        while rng.chance(100) {
            self.storage.end(hurt || rng.chance(600), &Vec::new(), rng);
        }
        let restored = self.storage.start()?;
        self.up = true;
        for told in neighbour::greet(&mut self.neighbour, self.storage.store(), restored)? {
            let (group, held) = (told.spec.group(), told.held);
            let since = told.spec.since(self.name);
            // A damaged manifest no longer says whose copy it was.
            let unknown = told.damage.is_some() && told.spec.members.is_empty();
            let mine = |order: &&SegmentSpec| unknown || order.since(self.name) == since;
            let order = self.orders.get(&group).filter(mine);
            let Some(order) = order.cloned() else {
                // One whose drop a full log did not note is gone, and nobody wants it.
                self.drop_copy(group, since)?;
                continue;
            };
            // The order to hold it may come after the one to forget it.
            let unnoted = self.unnoted.remove(&(group, since));
            if let Some(why) = told.damage.filter(|_| !hurt && !unnoted) {
                let what = format!("segment {} after a loss of power", told.spec.segment);
                return Err(StoreError::Damaged { what, why });
            }
            let segment = Segment::restore_under(self.name, order, told.state, told.flushed, held);
            self.copies.insert(group, Copy { segment, marks: Default::default() });
        }
        self.create_missing()
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &MemDisk {
        self.storage.disk()
    }

    /// The life in which its disk was new.
    #[must_use]
    pub fn disk_life(&self) -> u64 {
        self.disk_life
    }

    /// An earlier image of its disk is put back while it is down, or only a segment's directory of it:
    /// whether it is that.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_back(&mut self, image: MemDisk, rng: &mut Rng) -> Result<bool, DiskError> {
        let directory = rng.chance(500);
        match directory {
            true => self.storage.put_back_directory(&image, rng)?,
            false => self.storage.put_back(image),
        }
        Ok(directory)
    }

    /// Its disk is full, or fails at this.
    pub fn stop_disk(&mut self, what: Option<Operation>) {
        self.storage.stop(what);
    }

    /// Its disk works again.
    pub fn relieve_disk(&mut self) {
        self.storage.relieve();
    }

    /// Whether its disk is full or fails.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.storage.is_stopped()
    }

    /// What its segments have said of themselves.
    #[must_use]
    pub fn promises(&self) -> BTreeMap<GroupId, Promise> {
        let promise = |(group, copy): (&GroupId, &Copy<R>)| {
            let (state, scl) = (copy.segment.state(), copy.segment.scl());
            let (sealed, history) = (state.sealed, state.history.last_epoch());
            (*group, Promise { scl, sealed, history })
        };
        self.copies.iter().map(promise).collect()
    }

    /// Everything stored is read and checked.
    ///
    /// # Errors
    /// The store's.
    pub fn scrub(&self) -> Result<(), StoreError> {
        let Some(store) = self.storage.store() else { return Ok(()) };
        let mut scrub = store.begin_scrub(None);
        while store.scrub(&mut scrub, 1 << 20)? {}
        Ok(())
    }

    /// Whether some segment has yet to be rebuilt.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        match self.up {
            true => self.copies.values().any(|copy| !copy.segment.state().full),
            false => self.orders.keys().any(|group| !self.whole.contains(group)),
        }
    }

    /// Takes a request about a group.
    pub fn request(&mut self, route: Route, message: Message, effects: &mut Vec<Effect>) {
        self.asked += 1;
        let from = self.asked;
        let input = match message {
            Message::Append(batch) => Input::Append { from, batch },
            Message::Seal { epoch, .. } => Input::Seal { from, epoch },
            Message::Adopt { history, vdl, until, peer, .. } => {
                Input::Adopt { from, history, vdl, until, peer }
            }
            Message::AskReport { .. } => Input::AskReport { from },
            Message::AskTail { epoch, history, after, .. } => {
                Input::AskTail { from, epoch, history, after }
            }
            Message::Pull { history, after, bytes_max, .. } => {
                Input::Pull { from, history, after, bytes_max }
            }
            Message::ReadPages { read_point, complete_to, keys, .. } => {
                return self.serve(route, (read_point, complete_to), keys, effects);
            }
            other => unreachable!("nobody asks {other:?}"),
        };
        if !self.copies.contains_key(&route.group) {
            let refusal = Refusal::NoSegment(segment_id(route.group));
            effects.push(Effect::Answer(route, Message::Refused(refusal)));
            return;
        }
        self.routes.insert(from, route);
        self.input(route.group, input, effects);
    }

    fn serve(
        &self,
        route: Route,
        (read_point, complete_to): (Lsn, Lsn),
        keys: Vec<PageKey>,
        effects: &mut Vec<Effect>,
    ) {
        let group = route.group;
        let mut answers = Vec::new();
        for key in keys {
            let answer = match self.copies.get(&group).zip(self.storage.store()) {
                None => PageAnswer::Failed(Refusal::NoSegment(segment_id(group))),
                Some((copy, store)) => match copy.segment.may_serve(complete_to) {
                    Err(refusal) => PageAnswer::Failed(refusal),
                    Ok(()) => {
                        let answer = store.read_page(segment_id(group), &key, read_point);
                        effects.push(Effect::Served(group, key, read_point, answer.clone()));
                        answer
                    }
                },
            };
            answers.push(answer);
        }
        effects.push(Effect::Answer(route, Message::Pages(answers)));
    }

    /// A peer answered.
    pub fn answered(
        &mut self,
        peer: NodeId,
        group: GroupId,
        message: Message,
        effects: &mut Vec<Effect>,
    ) {
        let input = match message {
            Message::Report { report, .. } => {
                Input::Filled { from_peer: peer, report, batches: Vec::new() }
            }
            Message::Fill { report, batches, .. } => {
                Input::Filled { from_peer: peer, report, batches }
            }
            Message::Refused(refusal) => Input::PeerRefused { peer, refusal: Some(refusal) },
            other => unreachable!("no peer answers {other:?}"),
        };
        self.input(group, input, effects);
    }

    /// A segment's input, and what comes of it.
    pub fn input(&mut self, group: GroupId, input: Input, effects: &mut Vec<Effect>) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        let Some(store) = self.storage.store() else { return };
        let id = segment_id(group);
        let mut outputs = Vec::new();
        copy.segment.handle(input, &mut outputs);
        copy.segment.invariants();
        for output in outputs {
            match output {
                Output::Persist { seq, entry } => {
                    self.waiting.entries.push((id, entry));
                    self.waiting.last.insert(group, seq);
                    effects.push(Effect::Wrote);
                }
                Output::Reply { to, message } => {
                    // An adoption may be answered twice: its route stays.
                    if let Some(route) = self.routes.get(&to) {
                        effects.push(Effect::Answer(*route, message));
                    }
                }
                Output::Ask { peer, message } => effects.push(Effect::Ask(peer, group, message)),
                Output::Read { to, after, upto, bytes_max: _, report } => {
                    let message = chain(store, id, report, (after, upto));
                    if let Some(route) = self.routes.get(&to) {
                        effects.push(Effect::Answer(*route, message));
                    }
                }
                Output::Void { history } => store.void(id, &history).expect("the segment is held"),
                Output::Hydrate { peer, history } => {
                    effects.push(Effect::Hydrate(peer, group, history));
                }
            }
        }
        copy.publish(store);
        if self.routes.len() > 4096 {
            self.routes.pop_first();
        }
    }

    /// Begins to write what waits, unless a write is under way; false when there is nothing to begin.
    ///
    /// # Errors
    /// The store's.
    pub fn begin_write(&mut self) -> Result<bool, StoreError> {
        let begins = self.writing.is_none() && !self.waiting.entries.is_empty();
        if begins {
            let trouble = self.storage.is_stopped();
            if let Some((neighbour, store)) = self.neighbour.as_mut().zip(self.storage.store()) {
                neighbour.write(self.name, store, &mut self.waiting.entries, trouble)?;
            }
            self.writing = Some(std::mem::take(&mut self.waiting));
        }
        Ok(begins)
    }

    /// The write under way is done: its entries are durable.
    ///
    /// # Errors
    /// The store's.
    pub fn written(&mut self, effects: &mut Vec<Effect>) -> Result<(), StoreError> {
        let Some(store) = self.storage.store() else { return Ok(()) };
        let Some(write) = self.writing.take() else { return Ok(()) };
        if let Err(error) = store.append(&write.entries) {
            self.writing = Some(write);
            return Err(error);
        }
        if let Some(neighbour) = &mut self.neighbour {
            neighbour.written(store, &write.entries);
        }
        for (group, seq) in write.last {
            self.input(group, Input::Persisted { seq }, effects);
        }
        Ok(())
    }

    /// A unit of background work: flush, recycle, merge, remove.
    ///
    /// # Errors
    /// The store's.
    pub fn work(&self) -> Result<(), StoreError> {
        let Some(store) = self.storage.store() else { return Ok(()) };
        store.background()?;
        self.neighbour.iter().for_each(|neighbour| neighbour.check(store));
        Ok(())
    }

    /// Moves what is durable of every segment from the log into files.
    ///
    /// # Errors
    /// The store's.
    pub fn flush(&self) -> Result<(), StoreError> {
        let Some(store) = self.storage.store() else { return Ok(()) };
        self.neighbour.iter().try_for_each(|neighbour| neighbour.flush(store))?;
        self.copies.keys().try_for_each(|group| store.flush_segment(segment_id(*group)).map(drop))
    }

    /// Pins a full segment's files for a peer that follows this history.
    #[must_use]
    pub fn give(&self, group: GroupId, history: &History) -> Option<(SegmentReport, Export)> {
        let report = self.copies.get(&group)?.segment.report();
        if !report.full || report.history.last_epoch() > history.last_epoch() {
            return None;
        }
        Some((report, self.storage.store()?.export(segment_id(group)).ok()?))
    }

    /// Begins to copy what a peer gave.
    ///
    /// # Errors
    /// The store's.
    pub fn begin_copy(
        &mut self,
        group: GroupId,
        peer: NodeId,
        (report, export): (SegmentReport, Export),
    ) -> Result<(), StoreError> {
        let Some(store) = self.storage.store() else { return Ok(()) };
        if !self.copies.contains_key(&group) {
            return Ok(()); // its place was given away meanwhile
        }
        let install = store.begin_install(segment_id(group), &export.manifest)?;
        self.copying.insert(group, Copying { peer, report, export, install });
        Ok(())
    }

    /// Ends the copy: puts it in place if its source was there to the end, else drops it.
    ///
    /// # Errors
    /// The store's.
    pub fn end_copy(&mut self, group: GroupId, whole: bool) -> Result<Option<Input>, StoreError> {
        let Some(copying) = self.copying.remove(&group) else { return Ok(None) };
        let Some(store) = self.storage.store() else { return Ok(None) };
        let Copying { peer, report, export, mut install } = copying;
        if !whole {
            return Ok(Some(Input::NotHydrated { peer }));
        }
        while let Some(want) = install.want() {
            install.supply(&export.read(want.file, want.offset, want.length)?)?;
        }
        Ok(Some(match store.finish_install(install) {
            Ok(flushed) => Input::Hydrated { report, flushed },
            // What is here has got further meanwhile.
            Err(StoreError::Invalid(_)) => Input::NotHydrated { peer },
            Err(error) => return Err(error),
        }))
    }
}

impl<R: Rules> Copy<R> {
    /// Tells the store what may be flushed and folded.
    fn publish(&mut self, store: &Store) {
        let report = self.segment.report();
        let marks = (report.vdl, report.low_water, report.watermark);
        if std::mem::replace(&mut self.marks, marks) != marks {
            store.advance(self.segment.id(), &report);
        }
    }
}

fn segment_id(group: GroupId) -> SegmentId {
    SegmentId { volume: VOLUME, group }
}

fn blank_disk(name: NodeId, life: u64, options: &Options) -> Storage {
    let number = name.as_str().bytes().fold(life, |number, byte| number << 8 | u64::from(byte));
    Storage::blank(name, Incarnation(number.into()), options.clone())
}
