//! PostgreSQL WAL bytes <-> records <-> what each record changes. Pure; bad input is an error.
//!
//! Reading order: [`layout`] (page and record headers, constants), [`record`] (a decoded record),
//! [`keys`] (names of pages and catalog entries in a volume), [`vm`] (where visibility bits lie),
//! [`effects`] (implicit changes of a record), [`error`].

pub mod effects;
pub mod error;
pub mod keys;
pub mod layout;
pub mod record;
pub mod vm;

pub use effects::{Effects, effects};
pub use error::WalError;
pub use record::Record;
