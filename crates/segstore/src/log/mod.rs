//! The hot log that all segments of a node share: a ring of zeroed files.
//!
//! Reading order: [`mod@unit`] (bytes of one durable write), [`ring`] (appending), [`replay`] and `scan`,
//! [`check`].

pub(crate) mod check;
pub(crate) mod replay;
pub(crate) mod ring;
mod scan;
pub(crate) mod unit;

pub(crate) use check::LifeCheck;
pub(crate) use ring::{Lives, Log, LogError};
pub(crate) use unit::{Entry, Kind, Location, Position};
