//! Every segment of one node on one disk: hot log, immutable page files, manifests.
//!
//! A batch is durable, in the log all segments share, before [`Store::append`] returns; it is then
//! readable by page and by chain. What can never be void any more moves to page files sorted by key,
//! and small files are merged into larger ones, folding chains of parts into images.
//! Formats: `FORMAT.md`. Rules S1 and on: `README.md`.
//!
//! Reading order: [`entry`] (what goes into the log), [`store`] (the front), `log`, `index` and `table`
//! (memory), `version` and `read`, `pages` (files), `layers`, `choose`, `background`, `retire`, `merge`, `fold`, `manifest`, `ledger`,
//! `recover`, [`hydrate`], [`scrub`], [`damage`], [`mend`].

mod background;
mod choose;
mod codec;
pub mod damage;
pub mod entry;
pub mod error;
mod fold;
pub mod hydrate;
pub mod identity;
mod index;
mod layers;
mod ledger;
mod log;
mod manifest;
pub mod mend;
mod merge;
pub mod options;
mod pages;
mod read;
mod recover;
mod retire;
pub mod scrub;
mod segment;
pub mod stats;
pub mod store;
mod table;
mod version;

pub use damage::{Damage, DamagedSegment};
pub use entry::{HeldPart, LogEntry, SegmentState};
pub use error::StoreError;
pub use hydrate::{Export, Install, Want};
pub use identity::Identity;
pub use mend::Mend;
pub use options::Options;
pub use scrub::{Scrub, ScrubbedLog, ScrubbedSegment};
pub use stats::{Stats, Usage};
pub use store::{Chain, RestoredSegment, ScanPage, Store};
