//! Everything that is: the copies, what writers and recoveries were told, the control plane.
//!
//! States that differ only in the order of places are one state ([`State::sorted`]): no step asks for a
//! place's number.

use types::COPIES;

/// Epochs that fit into a state.
pub const EPOCHS_MAX: usize = 3;
/// Positions that fit into a log.
pub const POSITIONS_MAX: usize = 3;
/// Copies that a place can have had.
pub const COPIES_MAX: usize = 2;
/// Copies that are rebuilt at the same time.
pub const REBUILDS_MAX: usize = 2;

/// A number of an epoch, from 1; 0 where there is none.
pub type Epoch = u8;

/// The epochs of the records at the first positions, without a gap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Log([Epoch; POSITIONS_MAX]);

impl Log {
    /// How many records it holds.
    #[must_use]
    pub fn len(&self) -> u8 {
        self.0.iter().take_while(|epoch| **epoch > 0).count() as u8
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The epoch of the record at a position; 0 where none is.
    #[must_use]
    pub fn at(&self, position: u8) -> Epoch {
        self.0.get(usize::from(position)).copied().unwrap_or(0)
    }

    /// Adds a record.
    pub fn push(&mut self, epoch: Epoch) {
        let len = usize::from(self.len());
        self.0[len] = epoch;
    }

    /// The first `len` records.
    #[must_use]
    pub fn first(mut self, len: u8) -> Log {
        self.0.iter_mut().skip(usize::from(len)).for_each(|epoch| *epoch = 0);
        self
    }

    /// Whether both hold the same records at the first `len` positions.
    #[must_use]
    pub fn agrees(self, other: Log, len: u8) -> bool {
        self.first(len) == other.first(len) && self.len() >= len
    }
}

/// What a member said of itself in answer to a seal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Report {
    /// The history it followed, by its last epoch.
    pub history: Epoch,
    /// What it held.
    pub log: Log,
    /// Whether it votes.
    pub full: bool,
}

/// One copy of the group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Copy {
    /// Newest epoch sealed.
    pub sealed: Epoch,
    /// The history it follows, by its last epoch.
    pub history: Epoch,
    /// What it holds, live under that history.
    pub log: Log,
    /// It votes and serves.
    pub full: bool,
    /// Its number among those being rebuilt, from 1; 0 when it is not.
    pub rebuild: u8,
    /// It has heard enough to take part.
    pub informed: bool,
    /// Whose writer's announcement it must reach to be full, and how far.
    pub target: Option<(Epoch, u8)>,
    /// Those being rebuilt that have heard it, as bits.
    pub heard_by: u8,
    /// By epoch: what it said to the recovery.
    pub reports: [Option<Report>; EPOCHS_MAX],
    /// By epoch: the most it ever told the writer it holds, and whether it was full then.
    pub told: [Option<(u8, bool)>; EPOCHS_MAX],
}

impl Copy {
    /// A copy that was lost, or never there. What it said before stays said.
    #[must_use]
    pub fn blank(self, rebuild: u8) -> Copy {
        let Copy { reports, told, .. } = self;
        Copy { rebuild, reports, told, ..Copy::default() }
    }
}

/// Who holds a place: copies of it, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Seat {
    /// Who decides.
    pub present: u8,
    /// Who is to take over.
    pub joining: Option<u8>,
}

impl Seat {
    /// All its holders.
    pub fn holders(self) -> impl Iterator<Item = u8> {
        [Some(self.present), self.joining].into_iter().flatten()
    }
}

/// One of the six places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    /// Every copy that it ever had; those that left may still answer who asks them.
    pub copies: [Option<Copy>; COPIES_MAX],
    /// Its holders.
    pub now: Seat,
    /// Its holders as far as each epoch's instance knows.
    pub known: [Seat; EPOCHS_MAX],
    /// Its present holder as far as each copy being rebuilt knows.
    pub spec: [u8; REBUILDS_MAX],
}

/// How far an epoch's instance is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Phase {
    /// Not begun.
    #[default]
    Idle,
    /// It seals and asks.
    Sealing,
    /// It has decided, and has its decision adopted.
    Adopting,
    /// It writes.
    Writing,
}

/// An epoch's recovery, and then its writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instance {
    /// How far it is.
    pub phase: Phase,
    /// Generation of the member set that it knows.
    pub members: u8,
    /// The history that its own entry was added to, by its last epoch.
    pub before: Epoch,
    /// What its recovery decided on: this epoch begins where that ends.
    pub decided: Log,
    /// Records sent, those decided on included.
    pub sent: u8,
    /// Records declared durable.
    pub durable: u8,
}

/// What a copy being rebuilt has heard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Rebuild {
    /// Whether there is such a copy.
    pub used: bool,
    /// The newest seal.
    pub sealed: Epoch,
    /// The newest history.
    pub history: Epoch,
}

/// The world.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct State {
    /// The six places.
    pub places: [Place; COPIES],
    /// By epoch.
    pub instances: [Instance; EPOCHS_MAX],
    /// By number.
    pub rebuilds: [Rebuild; REBUILDS_MAX],
    /// The control plane's epoch.
    pub epoch: Epoch,
    /// Generation of the control plane's member set.
    pub members: u8,
    /// Disks lost so far.
    pub wipes: u8,
    /// Members that joined so far.
    pub joins: u8,
}

impl State {
    /// Six equal copies of an empty log; the first epoch is open.
    #[must_use]
    pub fn first() -> State {
        let copy = Copy { sealed: 1, history: 1, full: true, informed: true, ..Default::default() };
        let copy = Copy { told: [Some((0, true)), None, None], ..copy };
        let place = Place { copies: [Some(copy), None], ..Place::default() };
        let mut state = State { places: [place; COPIES], epoch: 1, ..State::default() };
        state.instances[0].phase = Phase::Writing;
        state
    }

    /// An epoch's instance.
    #[must_use]
    pub fn instance(&self, epoch: Epoch) -> &Instance {
        &self.instances[index(epoch)]
    }

    /// A copy.
    #[must_use]
    pub fn copy(&self, (place, number): (usize, u8)) -> Option<&Copy> {
        self.places[place].copies[usize::from(number)].as_ref()
    }

    /// A place's present copy.
    #[must_use]
    pub fn present(&self, place: usize) -> Option<&Copy> {
        self.copy((place, self.places[place].now.present))
    }

    /// Present holders that are full, but for one place.
    #[must_use]
    pub fn full_without(&self, lost: usize) -> usize {
        let full = |place: &usize| self.present(*place).is_some_and(|copy| copy.full);
        (0..COPIES).filter(|place| *place != lost).filter(full).count()
    }

    /// The same state, with its places in order.
    #[must_use]
    pub fn sorted(mut self) -> State {
        self.places.sort_unstable();
        self
    }
}

/// Where an epoch's share of an array is.
#[must_use]
pub fn index(epoch: Epoch) -> usize {
    usize::from(epoch).saturating_sub(1)
}
