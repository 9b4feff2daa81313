//! Immutable page files: versions sorted by key, then place.
//!
//! Reading order: [`block`] (entries), [`writer`], [`mod@file`] (lookups), [`bad`] (what is damaged),
//! [`check`] (scrubbing), [`cursor`] (reading in order).

pub(crate) mod bad;
pub(crate) mod block;
pub(crate) mod check;
pub(crate) mod cursor;
pub(crate) mod file;
pub(crate) mod writer;

pub(crate) use check::FileCheck;
pub(crate) use cursor::Cursor;
pub(crate) use file::{FileMeta, PageFile};
pub(crate) use writer::PageWriter;
