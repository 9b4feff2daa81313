//! Connections between the processes: handshake, framing, delay between zones.
//!
//! One TCP stream, opened by [`wire::Hello`] and [`wire::Welcome`], then messages both ways.
//! [`Client`] blocks; [`Connection`] is for an event loop. Nothing depends on loopback, and the two
//! places that touch a stream's bytes ([`Connection`]'s `read_once`/`write_once`, [`Client`]'s
//! `fill`/`send`) are where TLS would wrap it.
//!
//! Reading order: [`party`] (who speaks, and the handshake's checks), [`socket`], [`client`],
//! [`connection`], [`timer`].

mod client;
mod connection;
mod error;
mod party;
mod socket;
mod timer;

pub use client::Client;
pub use connection::{Connection, Peer, READS_MAX, Received, Sent};
pub use error::LinkError;
pub use party::{Host, Party, letter};
pub use socket::resolve;
pub use timer::DueTimer;
