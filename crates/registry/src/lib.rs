//! The control plane's HTTP API as typed values, and its client.
//!
//! One JSON document per request and answer. Identities travel as the text they print as (a volume
//! is 32 hexadecimal digits, a log position `0/16B3748`), epochs as numbers. Fields may be added;
//! readers ignore what they do not know.
//!
//! Reading order: [`text`] (how identities become JSON), [`model`] (nodes, volumes, instances),
//! `check` (which nodes answer themselves),
//! [`error`] (what a caller does next), [`client`].

mod check;
mod client;
mod error;
mod model;
pub mod text;

pub use check::*;
pub use client::Client;
pub use error::{Error, Problem, ProblemCode};
pub use model::*;
