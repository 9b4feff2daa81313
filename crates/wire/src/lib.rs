//! Network frames between driver, nodes and control plane: batches, messages, handshake.
//!
//! Pure: bytes in, values out, and back. Whatever arrives is validated before anything is
//! allocated for it; a frame that fails says which rule it broke ([`WireError`]).
//!
//! Reading order: [`batch`] (the unit of the log, on the wire and on disk), [`message`], [`frame`];
//! `FORMAT.md` for the bytes.

pub mod batch;
mod batch_codec;
mod codec;
mod error;
pub mod frame;
pub mod message;
mod message_codec;

pub use batch::{Batch, BatchHeader, Change, Part, PartMeta};
pub use codec::{CHANGES_MAX, PARTS_MAX, TEXT_BYTES_MAX};
pub use error::WireError;
pub use frame::{Decoder, Frame};
pub use message::*;
