//! The compute host's daemon: driver between PostgreSQL and the storage nodes, and PostgreSQL's
//! supervisor.
//!
//! Reading order: [`catalog`], [`draft`], [`xids`], [`router`] (pure: what a record means for each
//! group), [`links`], [`volume_log`], [`wal_tail`], [`ship`] (the hot loop), [`startpoint`],
//! [`skeleton`], [`settings`], [`supervise`] (PostgreSQL), [`import`], [`create`].

pub mod catalog;
pub mod create;
pub mod draft;
pub mod import;
pub mod router;
pub mod settings;
pub mod skeleton;
pub mod startpoint;
pub mod supervise;
pub mod xids;
