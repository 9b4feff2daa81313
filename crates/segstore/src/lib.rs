//! Every segment of one node on one disk: hot log, immutable page files, manifests.
//!
//! A batch is durable, in the log all segments share, before [`Store::append`] returns; it is then
//! readable by page and by chain. What can never be void any more moves to page files sorted by key,
//! and small files are merged into larger ones, folding chains of parts into images.
//! Formats: `FORMAT.md`. Rules S1 and on: `README.md`.
//!
//! Reading order: [`error`], [`options`], [`entry`] (what goes into the log), [`store`] (the front).

pub mod entry;
pub mod error;
pub mod identity;
pub mod options;
pub mod store;

pub use entry::{LogEntry, SegmentState};
pub use error::StoreError;
pub use identity::Identity;
pub use options::Options;
pub use store::{Chain, Export, Install, RestoredSegment, Stats, Store, Want};
