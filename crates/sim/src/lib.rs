//! A deterministic world for the protocol: the real writer, segments and recoveries in simulated
//! time, over a simulated network and real stores on simulated disks, with one checker a promise.
//!
//! Reading order: [`mod@run`] (one seed), [`options`], [`world`] and its `copies`, `nemesis`, `members`,
//! [`disks`] and `endings` (its faults), [`node`] and its [`storage`], [`instance`], [`net`], [`engine`],
//! [`oracle`] and its [`pages`] (the checkers), [`planted`] (bugs that must be caught), [`rng`], [`trace`].

mod copies;
pub mod disks;
mod endings;
pub mod engine;
pub mod instance;
mod members;
pub mod neighbour;
mod nemesis;
pub mod net;
pub mod node;
pub mod options;
pub mod oracle;
pub mod pages;
pub mod planted;
pub mod rng;
pub mod run;
pub mod storage;
pub mod trace;
pub mod world;

pub use run::{Failure, Outcome, run};
