//! The outside world as traits: a disk and a clock, real and simulated.
//!
//! Stores above speak only to [`Disk`] and [`File`], so that the same code runs on a real file system
//! and on one that loses what was not synced. Every order of sync and rename that durability rests on
//! is in [`recipes`] and nowhere else.
//!
//! Reading order: [`disk`] (traits and errors), [`recipes`], [`room`], [`real`], [`mem`], [`clock`],
//! [`conformance`].

pub mod clock;
pub mod conformance;
pub mod disk;
pub mod mem;
pub mod real;
pub mod recipes;
pub mod room;

pub use clock::{Clock, ManualClock, RealClock};
pub use disk::{Disk, DiskError, ErrorKind, File, Mode, Operation};
pub use mem::{MemDisk, Survive};
pub use real::RealDisk;
