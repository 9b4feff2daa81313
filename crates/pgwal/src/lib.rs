//! PostgreSQL WAL bytes <-> records <-> what each record changes. Pure; bad input is an error.
//!
//! Reading order: [`layout`] (page and record headers, constants), [`record`] (a decoded record),
//! [`page`] and [`decode`] (the stream decoder), [`keys`] (names of pages and catalog entries in a
//! volume), [`vm`], [`fsm`] and [`slru`] (where recovery keeps what), [`mod@effects`] (implicit changes
//! of a record), [`image`] and [`pglz`] (full-page images), [`build`] (records and segments from
//! parts), [`checkpoint`] and [`control_file`], [`error`].

pub mod build;
pub mod checkpoint;
pub mod control_file;
mod cursor;
pub mod decode;
pub mod effects;
pub mod error;
pub mod fsm;
pub mod image;
pub mod keys;
pub mod layout;
pub mod page;
pub mod pglz;
pub mod record;
pub mod slru;
pub mod vm;

pub use build::{Draft, Segment, SegmentBuilder};
pub use checkpoint::CheckPoint;
pub use control_file::ControlFile;
pub use decode::{Decoder, Waiting};
pub use effects::{Effects, effects};
pub use error::WalError;
pub use record::Record;
