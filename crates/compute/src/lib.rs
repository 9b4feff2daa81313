//! The compute host's daemon: driver between PostgreSQL and the storage nodes, and PostgreSQL's
//! supervisor. Rules D1 to D28 are in the README; comments cite them.
//!
//! Reading order: [`catalog`], `room`, [`draft`], [`xids`], [`riders`], [`router`] (pure: what a record means for each
//! group); [`links`], [`suspicion`] (pure: which nodes are slow), [`volume_log`] (the volume's log over six
//! links), [`volume_view`] (what other threads see of it); [`wal_tail`], [`bell`], [`ship`] (the hot loop); [`open`], [`opening`], [`recover`],
//! [`pages`], [`startpoint`], [`skeleton`], [`directories`], [`import`], [`create`] (opening and creating a volume);
//! [`cache`] (pages on the host); [`mod@verify`] (are they the volume's?);
//! [`settings`], [`supervise`], [`signals`], [`attach`], [`tend`], [`carrier`], [`office`], [`copies`], [`free_space`],
//! [`threads`], [`mod@run`] (PostgreSQL and the
//! daemon's life).

pub mod attach;
pub mod bell;
pub mod cache;
pub mod carrier;
pub mod catalog;
pub mod config;
pub mod copies;
pub mod create;
pub mod directories;
pub mod draft;
pub mod free_space;
pub mod import;
pub mod links;
pub mod metrics;
pub mod office;
pub mod open;
pub mod opening;
pub mod pages;
pub mod recover;
pub mod riders;
mod room;
pub mod router;
pub mod run;
pub mod settings;
pub mod ship;
pub mod signals;
pub mod skeleton;
pub mod startpoint;
pub mod supervise;
pub mod suspicion;
pub mod tend;
pub mod threads;
pub mod verify;
pub mod volume_log;
pub mod volume_view;
pub mod wal_tail;
pub mod xids;

pub use config::ComputeConfig;
pub use run::run;
