//! Quorum arithmetic: sizes, member sets, and the way from SCL over GCL and VCL to VDL.
//!
//! Pure and small: nothing here knows messages, epochs or disks. Rules Q1 to Q6 are in the README.
//!
//! Reading order: [`members`] (sets of six, which sets suffice), [`points`] (SCL to GCL),
//! [`ledger`] (GCL to VCL and VDL).

pub mod ledger;
pub mod members;
pub mod points;

pub use ledger::Ledger;
pub use members::{MemberSet, Rule};
pub use points::{Scls, by_place, gcl, reached_by};
