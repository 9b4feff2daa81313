//! PostgreSQL WAL bytes <-> records <-> what each record changes. Pure; bad input is an error.
//!
//! Reading order: [`layout`] (page and record headers, constants), [`record`] (a decoded record),
//! [`decode`] (the stream decoder), [`build`] (bytes from records), [`keys`] (names of pages and
//! catalog entries in a volume), [`effects`] (explicit and implicit changes of a record).

pub mod keys;
pub mod record;
