//! Vocabulary shared by every crate: log positions, epochs, identities, page keys, limits.
//!
//! Every number that could be confused with another has a type of its own. Nothing here does I/O,
//! and nothing here knows PostgreSQL, except that an [`Lsn`] prints as PostgreSQL prints it.
//!
//! Reading order: [`lsn`], [`epoch`], [`identity`], [`members`], [`page_key`], [`engine`], [`limits`].

mod engine;
mod epoch;
mod identity;
mod limits;
mod lsn;
mod members;
mod page_key;

pub use engine::{Engine, EngineError};
pub use epoch::{Epoch, EpochStart, GeometryEpoch, History, MembershipEpoch, Timeline};
pub use identity::{
    Az, ClusterId, GroupId, Incarnation, MemberIndex, NameError, NodeId, SegmentId, VolumeId,
};
pub use limits::*;
pub use lsn::{Lsn, LsnParseError, Span};
pub use members::{Holder, Members, Place};
pub use page_key::PageKey;
