//! Who holds claims: one place on the board per process or thread, so that claims of the dead are
//! found and undone by whoever waits for them.
//!
//! A holder publishes the range it is about to claim *before* it claims and retires it *after* it
//! has released (rule H6). So a place whose process is dead names everything that it can have left
//! behind, and a place without a published range has left nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::board::{Board, SLOTS};
use crate::{Instance, Map, SegmentName, sys};

/// Set in a place's pid while somebody undoes its claims.
const RECOVERING: u32 = 1 << 31;

/// One process's place.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slot {
    pid: AtomicU32,
    active: AtomicU32,
    started: AtomicU64,
    name: [AtomicU32; 5],
    first: AtomicU32,
    count: AtomicU32,
}

impl Slot {
    fn is_dead(&self, pid: u32) -> bool {
        let started = self.started.load(SeqCst);
        match sys::process_started(pid & !RECOVERING) {
            None => true,
            // Zero: its owner has not yet written its own start time.
            Some(now) => started != 0 && started != now && pid & RECOVERING == 0,
        }
    }

    fn name(&self) -> SegmentName {
        let [tablespace, database, relation, fork, segment] =
            [0, 1, 2, 3, 4].map(|at: usize| self.name.get(at).map_or(0, |word| word.load(SeqCst)));
        SegmentName { tablespace, database, relation, fork, segment }
    }
}

/// The right to claim blocks, for one process or one thread at a time.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    pub(crate) board: &'a Board,
    pub(crate) instance: &'a Instance,
    /// `1..SLOTS`; zero in a map word means unclaimed.
    pub(crate) index: u32,
}

impl<'a> Claimant<'a> {
    /// Takes a place on the board; `None` when all are taken by the living. Give it back with
    /// [`Claimant::leave`]; a process that dies without is swept when places run out.
    #[must_use]
    pub fn enter(board: &'a Board, instance: &'a Instance) -> Option<Claimant<'a>> {
        let pid = sys::own_pid();
        let start = pid as usize % SLOTS;
        let places = || (start..SLOTS).chain(0..start).filter(|index| *index > 0);
        let taken = places().find(|index| {
            board
                .slot(*index)
                .is_some_and(|slot| slot.pid.compare_exchange(0, pid, SeqCst, SeqCst).is_ok())
        });
        let index = taken.or_else(|| {
            places().find(|index| {
                undo(board, instance, *index)
                    && board.slot(*index).is_some_and(|slot| {
                        slot.pid.compare_exchange(0, pid, SeqCst, SeqCst).is_ok()
                    })
            })
        })?;
        let slot = board.slot(index)?;
        slot.started.store(sys::process_started(pid).unwrap_or(0), SeqCst);
        Some(Claimant { board, instance, index: u32::try_from(index).ok()? })
    }

    /// The claimant that already owns this place (a process remembers only the number).
    #[must_use]
    pub fn at(board: &'a Board, instance: &'a Instance, index: u32) -> Claimant<'a> {
        Claimant { board, instance, index }
    }

    /// The place's number.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Gives the place back, unless claims are still published in it.
    pub fn leave(self) {
        if let Some(slot) = self.board.slot(self.index as usize)
            && slot.active.load(SeqCst) == 0
        {
            slot.started.store(0, SeqCst);
            slot.pid.store(0, SeqCst);
        }
    }

    /// Publishes the blocks about to be claimed, numbers within the segment.
    pub fn publish(&self, name: &SegmentName, first: u32, count: u32) {
        let Some(slot) = self.board.slot(self.index as usize) else { return };
        let numbers = [name.tablespace, name.database, name.relation, name.fork, name.segment];
        for (place, number) in slot.name.iter().zip(numbers) {
            place.store(number, SeqCst);
        }
        slot.first.store(first, SeqCst);
        slot.count.store(count, SeqCst);
        slot.active.store(1, SeqCst);
    }

    /// Says that everything published has been released.
    pub fn retire(&self) {
        if let Some(slot) = self.board.slot(self.index as usize) {
            slot.active.store(0, SeqCst);
        }
    }

    /// Undoes the claims of another place's owner if it is dead; called while waiting for it.
    pub fn undo_if_dead(&self, owner: u32) {
        if owner != self.index {
            undo(self.board, self.instance, owner as usize);
        }
    }
}

/// Undoes the claims of every dead process. The driver calls this when it takes over a board.
pub fn sweep(board: &Board, instance: &Instance) {
    for index in 1..SLOTS {
        undo(board, instance, index);
    }
}

/// Frees a place whose process is dead, undoing its claims; `false` if it is free or its process
/// lives. Whoever undoes takes the place first, so that it cannot be reused meanwhile; if that one
/// dies too, the range is still published and the next one does it again.
fn undo(board: &Board, instance: &Instance, index: usize) -> bool {
    let Some(slot) = board.slot(index) else { return false };
    let pid = slot.pid.load(SeqCst);
    if pid == 0 || !slot.is_dead(pid) {
        return false;
    }
    let mine = sys::own_pid() | RECOVERING;
    if slot.pid.compare_exchange(pid, mine, SeqCst, SeqCst).is_err() {
        return false;
    }
    if slot.active.load(SeqCst) != 0 {
        let (first, count) = (slot.first.load(SeqCst), slot.count.load(SeqCst));
        // No map: the file is gone, and with it what was claimed.
        match Map::open(instance, &slot.name()) {
            Ok(Some(map)) => {
                for block in first..first.saturating_add(count) {
                    map.undo_claim(block, u32::try_from(index).unwrap_or(0));
                }
            }
            Ok(None) => {}
            // The claims cannot be undone now: leave the place to the next one who tries.
            Err(_errno) => {
                slot.pid.store(pid, SeqCst);
                return false;
            }
        }
        slot.active.store(0, SeqCst);
    }
    slot.started.store(0, SeqCst);
    slot.pid.store(0, SeqCst);
    true
}
