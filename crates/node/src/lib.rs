//! The storage node: protocol, segment store and redo behind sockets.
//!
//! One thread owns the segments and the hot log; a few serve pages; the rest is in the background.
//! Rules N1 and on: `README.md`.
//!
//! Reading order: [`config`], [`node`] (threads), [`start`] (whose disk), [`log_loop`] and
//! [`dispatch`], [`turns`] and [`unwritten`] (the commit path), [`given_away`] (late orders), [`reader`] and [`serve`]
//! (pages), [`lines`] and [`mail`] (sockets and letters), [`peers`] and [`pace`] (gossip), [`hydrate`], [`background`],
//! [`scrub`], [`check`] and [`mend`], [`registrar`].

mod asks;
mod background;
mod check;
mod config;
mod dispatch;
mod given_away;
mod hydrate;
mod lines;
mod log_loop;
mod mail;
mod mend;
mod metrics;
mod node;
mod pace;
mod peers;
mod reader;
mod registrar;
mod run;
mod scrub;
mod serve;
mod shared;
mod start;
mod turns;
mod unwritten;

pub use config::{NodeConfig, SCRUB_INTERVAL_DEFAULT};
pub use node::{Node, Stopper};
pub use run::run;
