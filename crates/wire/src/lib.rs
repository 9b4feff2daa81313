//! Network frames between driver, nodes and control plane: batches, messages, handshake.
//!
//! Pure: bytes in, values out, and back. Whatever arrives is validated before anything is
//! allocated for it; a frame that fails says which rule it broke ([`WireError`]).
//!
//! Reading order: [`batch`] (the unit of the log, on the wire and on disk), [`message`], [`frame`].

pub mod batch;
pub mod message;

pub use batch::{Batch, BatchHeader, Change, Part, PartMeta};
pub use message::*;
