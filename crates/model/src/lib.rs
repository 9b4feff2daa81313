//! The protocol's decisions as a small state space that is explored whole: who may write, which
//! records a recovery keeps, and who counts while members are wiped and replaced.
//!
//! One group of six places and a log of a few positions; everything that the promises do not hang on
//! (sizes, gaps, files, connections) is left out, everything that they do hang on is a step of its own.
//! A message that is on its way is a step not taken yet, so every delay, loss and reordering is
//! covered; what an answer said stays known to whoever asked. What is left out, and why: `README.md`.
//!
//! Reading order: [`bounds`] (how much is explored, and planted bugs), [`state`], [`history`] (which
//! records are live), `steps` (what can happen), [`promises`] (what must hold).

pub mod bounds;
pub mod history;
pub mod promises;
pub mod state;
mod steps;

pub use bounds::{Bounds, Bug};
pub use promises::broken;
pub use state::State;
pub use steps::{Step, steps};
