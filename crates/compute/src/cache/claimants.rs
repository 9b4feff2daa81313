//! Claimants for whoever fills or evicts in this process: places on the board, reused.
//!
//! A place allows one claim at a time (rule H6), so every piece of work takes one for itself.

use std::sync::{Arc, Mutex, PoisonError};

use seam::{Claimant, Instance, SharedBoard, slot};

/// See the module's description.
#[derive(Debug)]
pub struct Claimants {
    board: SharedBoard,
    instance: Instance,
    free: Mutex<Vec<u32>>,
}

impl Claimants {
    /// Claimants on this board. What dead processes left claimed is undone first.
    #[must_use]
    pub fn new(board: SharedBoard, instance: Instance) -> Arc<Claimants> {
        slot::sweep(board, &instance);
        Arc::new(Claimants { board, instance, free: Mutex::new(Vec::new()) })
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The board.
    #[must_use]
    pub fn board(&self) -> SharedBoard {
        self.board
    }

    /// Does a piece of work as a claimant of its own; `None` when the board has no place left.
    pub fn with<T>(&self, work: impl FnOnce(Claimant<'_>) -> T) -> Option<T> {
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let claimant = match index {
            Some(index) => Claimant::at(self.board, &self.instance, index),
            None => Claimant::enter(self.board, &self.instance)?,
        };
        let result = work(claimant);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(claimant.index());
        Some(result)
    }
}

impl Drop for Claimants {
    fn drop(&mut self) {
        let free = self.free.get_mut().unwrap_or_else(PoisonError::into_inner);
        for index in free.drain(..) {
            Claimant::at(self.board, &self.instance, index).leave();
        }
    }
}
