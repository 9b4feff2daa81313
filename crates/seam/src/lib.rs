//! What the preload library and the compute daemon share: memory layout, presence maps, requests.
//!
//! Both sides map the same files below `<instance>/shm` and follow the rules in this crate's README
//! (H1, H2, …). Everything here works by raw system calls and without allocation, because half of
//! it runs inside PostgreSQL, in a library that interposes the ordinary file calls.
//!
//! Reading order: [`sys`] (system calls), [`name`] (which file a path means), [`instance`] (where
//! things are), [`board`] (the commit path), [`slot`] (who holds claims), [`map`] (presence maps and
//! their words), [`access`] (reads, writes and discards that obey
//! them), [`request`] (messages on the driver's socket), [`socket`] (its addresses).

#![expect(unsafe_code, reason = "shared memory and raw system calls are this crate's subject")]

pub mod access;
pub mod board;
pub mod instance;
pub mod map;
pub mod name;
pub mod request;
pub mod slot;
pub mod socket;
pub mod sys;

pub use board::{Board, BoardError, Flush, Mode, NoRoom, SharedBoard};
pub use instance::{Instance, PathText};
pub use map::{BLOCK_BYTES, BLOCKS_PER_SEGMENT, Map, State};
pub use name::{FileKind, SegmentName, classify};
pub use request::{Reply, Request};
pub use slot::Claimant;
