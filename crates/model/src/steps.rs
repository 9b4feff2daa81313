//! What can happen, step by step, as the protocol's rules (V3 to V16) have it.

use types::{COPIES, READ_QUORUM, WRITE_QUORUM};

use crate::bounds::{Bounds, Bug};
use crate::history;
use crate::state::{
    COPIES_MAX, Copy, Epoch, Instance, Phase, Place, REBUILDS_MAX, Rebuild, Report, Seat, State,
    index,
};

/// A copy: its place, and its number there.
pub type Who = (usize, u8);

/// Something that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The control plane raises the epoch, and a recovery begins.
    Open,
    /// A present holder seals an epoch and reports.
    Seal(Epoch, usize),
    /// A recovery decides, by the log of the candidate at this place.
    Decide(Epoch, usize),
    /// A holder is sent a decided epoch's history.
    Adopt(Epoch, Who),
    /// A holder takes the next record from a writer.
    Append(Epoch, Who),
    /// A writer's announcement names all it has sent to a copy that is being rebuilt.
    Announce(Epoch, Who),
    /// A copy learns a newer history from another.
    Learn(Who, Who),
    /// A copy is filled by one record from another of the same history.
    Fill(Who, Who),
    /// A disk is lost.
    Wipe(Who),
    /// A copy being rebuilt hears a full one.
    Hear(Who, Who),
    /// A blank holder joins beside a place's present one.
    Join(usize),
    /// The change of a place is given up.
    GiveUp(usize),
    /// An epoch's writer says that a joining holder is full: it gets the place.
    TakeOver(Epoch, usize),
    /// A recovery names its survivors: a silent holder's place is given to a blank one.
    Replace(Epoch, usize),
    /// A writer learns the member set.
    Members(Epoch),
}

/// Every step that may be taken, with the state that it leads to.
pub fn steps(bounds: &Bounds, state: &State, mut found: impl FnMut(Step, State)) {
    let mut try_step = |step| {
        if let Some(next) = after(bounds, state, step) {
            found(step, next);
        }
    };
    try_step(Step::Open);
    let holders: Vec<Who> = different(state).flat_map(|at| copies_at(state, at)).collect();
    for epoch in 1..=state.epoch {
        match state.instance(epoch).phase {
            Phase::Sealing => different(state).for_each(|place| {
                try_step(Step::Seal(epoch, place));
                try_step(Step::Decide(epoch, place));
                try_step(Step::Replace(epoch, place));
            }),
            Phase::Adopting => holders.iter().for_each(|who| try_step(Step::Adopt(epoch, *who))),
            Phase::Writing => {
                try_step(Step::Members(epoch));
                different(state).for_each(|place| try_step(Step::TakeOver(epoch, place)));
                for who in &holders {
                    try_step(Step::Adopt(epoch, *who));
                    try_step(Step::Append(epoch, *who));
                    try_step(Step::Announce(epoch, *who));
                }
            }
            Phase::Idle => {}
        }
    }
    for place in different(state) {
        try_step(Step::Join(place));
        try_step(Step::GiveUp(place));
    }
    for who in &holders {
        try_step(Step::Wipe(*who));
        gossip(state, *who, &mut try_step);
    }
}

/// What a copy may hear from others.
fn gossip(state: &State, who: Who, try_step: &mut impl FnMut(Step)) {
    let Some(copy) = state.copy(who) else { return };
    let hearing = copy.rebuild > 0 && !copy.informed;
    for from in (0..COPIES).flat_map(|place| copies_at(state, place)) {
        let Some(peer) = state.copy(from) else { continue };
        if peer.history > copy.history {
            try_step(Step::Learn(who, from));
        }
        if peer.history == copy.history && peer.log.len() > copy.log.len() {
            try_step(Step::Fill(who, from));
        }
        if hearing && peer.full {
            try_step(Step::Hear(who, from));
        }
    }
}

/// Places of which no earlier one is the same: to their equals the same would happen.
fn different(state: &State) -> impl Iterator<Item = usize> {
    let fresh = |place: &usize| *place == 0 || state.places[*place] != state.places[*place - 1];
    (0..COPIES).filter(fresh)
}

fn copies_at(state: &State, place: usize) -> impl Iterator<Item = Who> {
    let copies = state.places[place].copies;
    let there = move |number: &u8| copies[usize::from(*number)].is_some();
    (0..COPIES_MAX as u8).filter(there).map(move |number| (place, number))
}

fn all_copies(state: &State) -> impl Iterator<Item = Who> {
    (0..COPIES).flat_map(|place| copies_at(state, place))
}

/// The state after a step, places in order; none when it cannot be taken or changes nothing.
pub(crate) fn after(bounds: &Bounds, state: &State, step: Step) -> Option<State> {
    let mut world = World { bounds, state: *state };
    match step {
        Step::Open => world.open(),
        Step::Seal(epoch, place) => world.seal(epoch, place),
        Step::Decide(epoch, place) => world.decide(epoch, place),
        Step::Adopt(epoch, who) => world.adopt(epoch, who),
        Step::Append(epoch, who) => world.append(epoch, who),
        Step::Announce(epoch, who) => world.announce(epoch, who),
        Step::Learn(who, from) => world.learn(who, from),
        Step::Fill(who, from) => world.fill(who, from),
        Step::Wipe(who) => world.wipe(who),
        Step::Hear(who, from) => world.hear(who, from),
        Step::Join(place) => world.join(place),
        Step::GiveUp(place) => world.give_up(place),
        Step::TakeOver(epoch, place) => world.take_over(epoch, place),
        Step::Replace(epoch, place) => world.replace(epoch, place),
        Step::Members(epoch) => world.learn_members(epoch),
    }?;
    for epoch in 1..=world.state.epoch {
        world.begin(epoch);
        world.acknowledge(epoch);
    }
    world.forget_copies();
    let next = world.state.sorted();
    (next != *state).then_some(next)
}

/// A step under way: `None` from any part of it means that it cannot be taken.
struct World<'a> {
    bounds: &'a Bounds,
    state: State,
}

impl World<'_> {
    fn has(&self, bug: Bug) -> bool {
        self.bounds.bug == Some(bug)
    }

    /// Copies that nobody knows any more are gone: whoever could ask them is told of others.
    fn forget_copies(&mut self) {
        let rebuilds = self.state.rebuilds;
        let epochs = usize::from(self.state.epoch);
        for place in &mut self.state.places {
            let Place { copies, now, known, spec } = place;
            let seats = known.iter().take(epochs).chain([&*now]);
            let specs = spec.iter().zip(rebuilds).filter(|(_, rebuild)| rebuild.used);
            let named = seats.flat_map(|seat| seat.holders()).chain(specs.map(|(of, _)| *of));
            let named = named.fold(0_u8, |named, number| named | 1 << number);
            for (number, copy) in copies.iter_mut().enumerate() {
                if named & 1 << number == 0 {
                    *copy = None;
                }
            }
        }
    }

    fn instance(&mut self, epoch: Epoch) -> &mut Instance {
        &mut self.state.instances[index(epoch)]
    }

    fn phase(&self, epoch: Epoch) -> Phase {
        self.state.instance(epoch).phase
    }

    fn get(&self, who: Who) -> Option<Copy> {
        self.state.copy(who).copied()
    }

    fn put(&mut self, (place, number): Who, copy: Copy) {
        self.state.places[place].copies[usize::from(number)] = Some(copy);
    }

    fn known(&self, epoch: Epoch, place: usize) -> Seat {
        self.state.places[place].known[index(epoch)]
    }

    fn open(&mut self) -> Option<()> {
        let epoch = self.state.epoch + 1;
        (epoch <= self.bounds.epochs).then_some(())?;
        self.state.epoch = epoch;
        self.instance(epoch).phase = Phase::Sealing;
        self.know_members(epoch);
        Some(())
    }

    fn know_members(&mut self, epoch: Epoch) {
        for place in &mut self.state.places {
            place.known[index(epoch)] = place.now;
        }
        self.instance(epoch).members = self.state.members;
    }

    /// V7: what is reported is reported after the seal.
    fn seal(&mut self, epoch: Epoch, place: usize) -> Option<()> {
        let who = (place, self.known(epoch, place).present);
        let mut copy = self.get(who)?;
        let takes = self.phase(epoch) == Phase::Sealing && self.takes_part(&copy);
        (takes && copy.sealed <= epoch).then_some(())?;
        copy.sealed = epoch;
        let Copy { history, log, full, .. } = copy;
        copy.reports[index(epoch)] = Some(Report { history, log, full });
        self.put(who, copy);
        Some(())
    }

    /// V12: a wiped copy refuses everything until it knows what was promised in its name.
    fn takes_part(&self, copy: &Copy) -> bool {
        copy.informed || self.has(Bug::WipedForgetsSeals)
    }

    fn report(&self, epoch: Epoch, place: usize) -> Option<Report> {
        let who = (place, self.known(epoch, place).present);
        self.get(who)?.reports[index(epoch)]
    }

    fn votes(&self, report: &Report) -> bool {
        report.full || self.has(Bug::RebuildingDecides)
    }

    /// V7: four sealed, three of them full.
    fn may_decide(&self, epoch: Epoch) -> bool {
        let reports = || (0..COPIES).filter_map(|place| self.report(epoch, place));
        let quorum = if self.has(Bug::ThreeForAQuorum) { READ_QUORUM } else { WRITE_QUORUM };
        let voters = reports().filter(|report| self.votes(report)).count();
        reports().count() >= quorum && voters >= READ_QUORUM
    }

    /// V8: the newest history found anywhere counts, and everything is measured by it.
    fn newest(&self, epoch: Epoch) -> Epoch {
        let reports = (0..COPIES).filter_map(|place| self.report(epoch, place));
        reports.map(|report| report.history).max().unwrap_or(0)
    }

    fn measure(&self, report: &Report, newest: Epoch) -> (u8, bool) {
        let bound = match self.has(Bug::OwnHistory) {
            true => u8::MAX,
            false => history::added_begin(&self.state, report.history, newest),
        };
        (report.log.len().min(bound), report.history == newest)
    }

    fn decide(&mut self, epoch: Epoch, place: usize) -> Option<()> {
        let ready = self.phase(epoch) == Phase::Sealing && self.may_decide(epoch);
        let candidate = self.report(epoch, place).filter(|report| ready && self.votes(report))?;
        let newest = self.newest(epoch);
        let reports = (0..COPIES).filter_map(|place| self.report(epoch, place));
        let best = reports.filter(|report| self.votes(report));
        let best = best.map(|report| self.measure(&report, newest)).max()?;
        (self.measure(&candidate, newest) == best).then_some(())?;
        let decided = match self.has(Bug::OwnHistory) {
            true => candidate.log,
            false => history::live(&self.state, newest, candidate.log),
        };
        let instance = self.instance(epoch);
        (instance.phase, instance.before) = (Phase::Adopting, newest);
        (instance.decided, instance.sent, instance.durable) = (decided, decided.len(), 0);
        // Nobody asks for them any more.
        let copies = self.state.places.iter_mut().flat_map(|place| place.copies.iter_mut());
        copies.flatten().for_each(|copy| copy.reports[index(epoch)] = None);
        Some(())
    }

    /// Follows a newer history: what it voids is dropped.
    fn follow(&self, copy: &mut Copy, history: Epoch) {
        copy.history = history;
        copy.sealed = copy.sealed.max(history);
        copy.log = history::live(&self.state, history, copy.log);
    }

    /// Puts a changed copy in place, with what follows by itself: it may be full now, and whoever
    /// writes the epoch that it follows may hear how far it is.
    fn progress(&mut self, who: Who, mut copy: Copy) {
        let epoch = copy.history;
        let reached = match copy.target {
            Some((of, base)) => of == epoch && copy.sealed == epoch && copy.log.len() >= base,
            None => self.has(Bug::FullTooEarly) && copy.sealed == epoch && epoch > 0,
        };
        if reached && copy.rebuild > 0 && self.takes_part(&copy) {
            self.state.rebuilds[index(copy.rebuild)] = Rebuild::default();
            copy = Copy { full: true, informed: true, rebuild: 0, target: None, ..copy };
        }
        if epoch > 0 && copy.sealed == epoch {
            tell(&mut copy, epoch);
        }
        self.put(who, copy);
    }

    /// What a copy being rebuilt has heard matters no more.
    fn end_hearing(&mut self, rebuild: u8) {
        let at = index(rebuild);
        self.state.rebuilds[at] = Rebuild { used: true, ..Rebuild::default() };
        for place in &mut self.state.places {
            place.spec[at] = 0;
            place.copies.iter_mut().flatten().for_each(|copy| copy.heard_by &= !(1 << rebuild));
        }
    }

    /// V11, V6.
    fn adopt(&mut self, epoch: Epoch, who: Who) -> Option<()> {
        let mut copy = self.get(who)?;
        let known = self.known(epoch, who.0).holders().any(|holder| holder == who.1);
        let sends = self.phase(epoch) >= Phase::Adopting && known;
        let takes = self.takes_part(&copy) && copy.sealed <= epoch && copy.history < epoch;
        (sends && takes).then_some(())?;
        self.follow(&mut copy, epoch);
        self.progress(who, copy);
        Some(())
    }

    /// V11: an opening is done as soon as enough present holders have said so. That it is noticed late
    /// is the same as that it writes late.
    fn begin(&mut self, epoch: Epoch) {
        if self.phase(epoch) != Phase::Adopting {
            return;
        }
        let begins = self.state.instance(epoch).decided.len();
        let holds = |place: &usize| {
            let told = self.told(epoch, (*place, self.known(epoch, *place).present));
            told.is_some_and(|(len, _)| len >= begins)
        };
        if (0..COPIES).filter(holds).count() >= self.write_quorum() {
            let instance = self.instance(epoch);
            (instance.phase, instance.durable) = (Phase::Writing, begins);
        }
    }

    /// What a copy told the writer of an epoch.
    fn told(&self, epoch: Epoch, who: Who) -> Option<(u8, bool)> {
        self.get(who)?.told[index(epoch)]
    }

    fn write_quorum(&self) -> usize {
        if self.has(Bug::ThreeForAQuorum) { READ_QUORUM } else { WRITE_QUORUM }
    }

    /// V3.
    fn append(&mut self, epoch: Epoch, who: Who) -> Option<()> {
        let mut copy = self.get(who)?;
        let known = self.known(epoch, who.0).holders().any(|holder| holder == who.1);
        let sends = self.phase(epoch) == Phase::Writing && known && self.takes_part(&copy);
        let fenced = copy.sealed != epoch || copy.history != epoch;
        (sends && (!fenced || self.has(Bug::NoFence))).then_some(())?;
        let (position, Instance { decided, sent, .. }) =
            (copy.log.len(), *self.state.instance(epoch));
        let next = position >= decided.len() && position <= sent;
        (next && position < self.bounds.positions).then_some(())?;
        copy.log.push(epoch);
        self.instance(epoch).sent = sent.max(position + 1);
        tell(&mut copy, epoch);
        self.progress(who, copy);
        Some(())
    }

    /// V1, Q6: what a place counts for is what all its holders have. A record is acknowledged as soon
    /// as it may be: nothing that is promised holds only for those acknowledged late.
    fn acknowledge(&mut self, epoch: Epoch) {
        if self.phase(epoch) != Phase::Writing {
            return;
        }
        let mut places: [u8; COPIES] = std::array::from_fn(|place| {
            let seat = self.known(epoch, place);
            let alone = seat.joining.filter(|_| self.has(Bug::JoiningCountsAlone));
            let told = |number: u8| self.told(epoch, (place, number)).map_or(0, |(len, _)| len);
            let holders = seat.holders().filter(|holder| alone.is_none_or(|of| of == *holder));
            holders.map(told).min().unwrap_or(0)
        });
        places.sort_unstable_by(|a, b| b.cmp(a));
        let durable = places[self.write_quorum() - 1];
        let instance = self.instance(epoch);
        instance.durable = instance.durable.max(durable);
    }

    /// V12.
    fn announce(&mut self, epoch: Epoch, who: Who) -> Option<()> {
        let mut copy = self.get(who)?;
        let known = self.known(epoch, who.0).holders().any(|holder| holder == who.1);
        let sends = self.phase(epoch) == Phase::Writing && known && copy.rebuild > 0;
        let takes = self.takes_part(&copy) && copy.sealed == epoch && copy.history == epoch;
        let newer = copy.target.is_none_or(|(of, _)| of < epoch);
        (sends && takes && newer).then_some(())?;
        copy.target = Some((epoch, self.state.instance(epoch).sent));
        self.progress(who, copy);
        Some(())
    }

    /// V6.
    fn learn(&mut self, who: Who, from: Who) -> Option<()> {
        let (mut copy, peer) = (self.get(who)?, self.get(from)?);
        let speak = self.takes_part(&copy) && self.takes_part(&peer) && who != from;
        let newer = peer.history > copy.history && peer.history >= copy.sealed;
        (speak && newer).then_some(())?;
        self.follow(&mut copy, peer.history);
        self.progress(who, copy);
        Some(())
    }

    fn fill(&mut self, who: Who, from: Who) -> Option<()> {
        let (mut copy, peer) = (self.get(who)?, self.get(from)?);
        let speak = self.takes_part(&copy) && self.takes_part(&peer) && who != from;
        let ahead = peer.history == copy.history && peer.log.len() > copy.log.len();
        (speak && ahead).then_some(())?;
        copy.log.push(peer.log.at(copy.log.len()));
        self.progress(who, copy);
        Some(())
    }

    /// Begins to rebuild a copy, if there is room for one more.
    fn begin_rebuild(&mut self, who: Who, copy: Copy) -> Option<()> {
        let free = (0..REBUILDS_MAX).find(|at| !self.state.rebuilds[*at].used)?;
        self.state.rebuilds[free] = Rebuild { used: true, ..Rebuild::default() };
        for place in &mut self.state.places {
            place.spec[free] = place.now.present;
        }
        self.put(who, copy.blank(free as u8 + 1));
        Some(())
    }

    /// Three full present holders are left, even if a joining one that is lost takes over.
    fn wipe(&mut self, who: Who) -> Option<()> {
        let copy = self.get(who)?;
        let holds = self.state.places[who.0].now.holders().any(|holder| holder == who.1);
        let bearable = holds && self.state.full_without(who.0) >= READ_QUORUM;
        let left = self.state.wipes < self.bounds.wipes;
        (bearable && left && copy.rebuild == 0).then_some(())?;
        self.state.wipes += 1;
        self.begin_rebuild(who, copy)
    }

    /// V12: it learns what its lost self, or the holder before it, may have promised.
    fn hear(&mut self, who: Who, from: Who) -> Option<()> {
        let (mut copy, mut peer) = (self.get(who)?, self.get(from)?);
        let wants = copy.rebuild > 0 && !copy.informed && who != from;
        let fresh = peer.heard_by & 1 << copy.rebuild == 0;
        (wants && fresh && peer.full).then_some(())?;
        let at = index(copy.rebuild);
        (self.state.places[from.0].spec[at] == from.1).then_some(())?;
        peer.heard_by |= 1 << copy.rebuild;
        self.put(from, peer);
        let rebuild = &mut self.state.rebuilds[at];
        rebuild.sealed = rebuild.sealed.max(peer.sealed);
        rebuild.history = rebuild.history.max(peer.history);
        let Rebuild { sealed, history, .. } = *rebuild;
        let heard = |who: &Who| {
            self.state.copy(*who).is_some_and(|peer| peer.heard_by & 1 << copy.rebuild > 0)
        };
        if all_copies(&self.state).filter(heard).count() >= READ_QUORUM {
            (copy.informed, copy.sealed) = (true, copy.sealed.max(sealed));
            copy.history = copy.history.max(history);
            self.end_hearing(copy.rebuild);
            self.progress(who, copy);
        }
        Some(())
    }

    /// A free number for a new copy of a place.
    fn free(&self, place: usize) -> Option<u8> {
        (0..COPIES_MAX as u8).find(|number| self.get((place, *number)).is_none())
    }

    fn may_join(&mut self, place: usize) -> Option<u8> {
        let left = self.state.joins < self.bounds.joins;
        let joint = self.state.places[place].now.joining.is_some();
        let number = self.free(place).filter(|_| left && !joint)?;
        self.state.joins += 1;
        self.state.members += 1;
        Some(number)
    }

    /// V16.
    fn join(&mut self, place: usize) -> Option<()> {
        let number = self.may_join(place)?;
        if self.has(Bug::NoOverlap) {
            self.state.places[place].now.present = number;
            self.put((place, number), Copy { full: true, informed: true, ..Copy::default() });
            return Some(());
        }
        self.state.places[place].now.joining = Some(number);
        self.begin_rebuild((place, number), Copy::default())
    }

    fn give_up(&mut self, place: usize) -> Option<()> {
        let number = self.state.places[place].now.joining.take()?;
        self.state.members += 1;
        let copy = self.get((place, number))?;
        if copy.rebuild > 0 {
            self.end_hearing(copy.rebuild);
            self.state.rebuilds[index(copy.rebuild)] = Rebuild::default();
        }
        // It is told to forget; what it said stays said.
        self.put((place, number), copy.blank(0));
        Some(())
    }

    /// V16: by compare-and-set on epoch and member set.
    fn take_over(&mut self, epoch: Epoch, place: usize) -> Option<()> {
        let writer = *self.state.instance(epoch);
        let newest = epoch == self.state.epoch || self.has(Bug::OvertakenWord);
        let current = newest && writer.members == self.state.members;
        (writer.phase == Phase::Writing && current).then_some(())?;
        let number = self.state.places[place].now.joining?;
        let filled = self.told(epoch, (place, number)).is_some_and(|(_, full)| full);
        filled.then_some(())?;
        self.state.members += 1;
        self.state.places[place].now = Seat { present: number, joining: None };
        Some(())
    }

    /// V16: a recovery that cannot write names its survivors; that is a wipe of the silent one.
    fn replace(&mut self, epoch: Epoch, place: usize) -> Option<()> {
        let Instance { phase, members, .. } = *self.state.instance(epoch);
        let current = epoch == self.state.epoch && members == self.state.members;
        let reports = || (0..COPIES).filter_map(|place| self.report(epoch, place));
        let survivors = reports().filter(|report| report.full).count();
        let crippled = phase == Phase::Sealing && !self.may_decide(epoch);
        let silent = self.report(epoch, place).is_none_or(|report| !report.full);
        let bearable = self.state.full_without(place) >= READ_QUORUM;
        (current && crippled && survivors >= READ_QUORUM && silent && bearable).then_some(())?;
        let number = self.may_join(place)?;
        self.state.places[place].now.present = number;
        self.begin_rebuild((place, number), Copy::default())
    }

    fn learn_members(&mut self, epoch: Epoch) -> Option<()> {
        (self.phase(epoch) == Phase::Writing).then_some(())?;
        (self.state.instance(epoch).members < self.state.members).then_some(())?;
        self.know_members(epoch);
        Some(())
    }
}

/// The writer of the epoch may hear how far the copy is.
fn tell(copy: &mut Copy, epoch: Epoch) {
    let (len, full) = copy.told[index(epoch)].unwrap_or((0, false));
    copy.told[index(epoch)] = Some((len.max(copy.log.len()), full || copy.full));
}
