//! Epochs: generations of the writer, of a group's members, of the volume's list of groups; and
//! the history of writers that decides which records are live.

use std::fmt;

use crate::Lsn;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub $repr);

        impl $name {
            /// The generation that follows.
            #[must_use]
            pub fn next(self) -> $name {
                $name(self.0.checked_add(1).expect("generation counter overflow"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Generation of a volume's writer. Raised in the metadata store by every open; a record is
    /// identified by its epoch and position together.
    Epoch(u64)
}
counter! {
    /// Generation of one group's member set.
    MembershipEpoch(u64)
}
counter! {
    /// Generation of a volume's list of groups.
    GeometryEpoch(u64)
}
counter! {
    /// The engine's own name for an epoch's branch of the log (PostgreSQL: `TimeLineID`).
    Timeline(u32)
}

impl MembershipEpoch {
    /// The member set that a group begins with.
    pub const FIRST: MembershipEpoch = MembershipEpoch(1);
}

/// Where one epoch began in the log: everything older epochs wrote at or above `begins` is void.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The volume's durable point (VDL) that this epoch was opened at.
    pub begins: Lsn,
    /// The engine's timeline that this epoch writes.
    pub timeline: Timeline,
}

/// The volume's epochs in order, oldest first; the newest entry makes the whole list authoritative.
///
/// An epoch's entry is written once, by the recovery that opened it, so two histories that both
/// name an epoch agree on it. Of two histories the one with the newer last epoch wins as a whole.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct History(Vec<EpochStart>);

impl History {
    /// A history of the given entries; `None` unless epochs strictly ascend.
    #[must_use]
    pub fn new(entries: Vec<EpochStart>) -> Option<History> {
        entries
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.epoch < b.epoch))
            .then_some(History(entries))
    }

    /// The entries, oldest epoch first.
    #[must_use]
    pub fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// The newest epoch named; epoch zero when empty.
    #[must_use]
    pub fn last_epoch(&self) -> Epoch {
        self.0.last().map_or(Epoch(0), |entry| entry.epoch)
    }

    /// Whether a record written by `epoch` that starts at `start` is live: no later epoch began at
    /// or below its start.
    #[must_use]
    pub fn is_live(&self, epoch: Epoch, start: Lsn) -> bool {
        !self.0.iter().any(|later| later.epoch > epoch && later.begins <= start)
    }

    /// This history with one more, newer epoch.
    ///
    /// # Panics
    /// When `entry` is not newer than the last one.
    #[must_use]
    pub fn with(&self, entry: EpochStart) -> History {
        assert!(entry.epoch > self.last_epoch(), "an epoch is added after the ones before it");
        let mut entries = self.0.clone();
        entries.push(entry);
        History(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(epoch: u64, begins: u64) -> EpochStart {
        EpochStart { epoch: Epoch(epoch), begins: Lsn(begins), timeline: Timeline(1) }
    }

    #[test]
    fn a_later_epoch_voids_what_starts_at_or_above_its_beginning() {
        let history = History::new(vec![start(1, 0), start(3, 100)]).expect("ordered");
        assert!(history.is_live(Epoch(1), Lsn(99)));
        assert!(!history.is_live(Epoch(1), Lsn(100)));
        assert!(!history.is_live(Epoch(2), Lsn(100)));
        assert!(history.is_live(Epoch(3), Lsn(100)));
    }

    #[test]
    fn a_history_out_of_order_is_refused() {
        assert!(History::new(vec![start(2, 0), start(2, 5)]).is_none());
    }
}
