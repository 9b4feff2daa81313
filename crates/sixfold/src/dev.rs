//! `sixfold dev`: a whole cluster on one machine, each role its own process.
//!
//! - V1: `dev up` is the parent of every process and restarts none by itself; what was killed stays
//!   down until `dev start`.
//! - V2: one `dev up` a directory, by a lock on a file in it that dies with the process.
//! - V3: a directory that is not a cluster's, or another version's, is left as it is.
//! - V4: killing an instance means its daemon and every process that works in its directory.
//!
//! Reading order: [`layout`] (files, addresses, options), [`member`] (who there is, how each is
//! started), [`up`] (the supervisor; [`room`] on the disk), [`request`] (`dev start`), [`disturb`]
//! (`dev kill`, `dev wipe`).

pub(crate) mod disturb;
pub(crate) mod layout;
pub(crate) mod member;
mod ready;
pub(crate) mod request;
mod room;
mod supervisor;
pub(crate) mod up;
