//! The LD_PRELOAD library: PostgreSQL's file calls, made durable at the quorum and filled from storage.
//!
//! Rules H1.. are `crates/seam`'s, L1.. this crate's README's. No allocation, no threads, no
//! panics, raw system calls only; everything that is not below the data directory passes through
//! untouched, so children of PostgreSQL (archive commands and the like) are unharmed.
//!
//! Reading order: [`raw`] (the calls as libc would make them), [`process`] (what one process
//! knows), [`place`] (what a path means here), [`table`] (what a descriptor means), [`driver`]
//! (talking to it), [`wal`] (rule R1), [`relation`] (rules R2, R2a), and then the exported names:
//! [`open`], [`io`], [`files`].

#![expect(unsafe_code, reason = "exports of the C library's names, with its signatures")]

mod driver;
mod files;
mod io;
mod open;
mod place;
mod process;
mod raw;
mod relation;
mod table;
mod wal;
