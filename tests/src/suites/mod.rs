//! PostgreSQL's own suites, each run on a stock server and then on a cluster that evicts whatever it
//! may: what stock passes must pass here too, and what is left behind must be sound.
//!
//! Reading order: [`source`] (the suites' files, from the distribution), [`suite`] (one suite run
//! against one server), [`sound`] (what is checked after a
//! suite), [`report`] (the table and the verdict), [`kills`] (the writer killed in the middle of one).

pub mod kills;
pub mod report;
pub mod sound;
pub mod source;
pub mod suite;

/// PostgreSQL's settings for both servers. Few buffers, so that pages are read again and again; no
/// scan joins another one in its middle, which would change the order of rows; and prepared
/// transactions are tested rather than refused.
pub const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "8MB"),
    ("synchronize_seqscans", "off"),
    ("max_prepared_transactions", "10"),
];

/// Tests that stock passes and a cluster need not pass: suite, test, reason.
pub const ALLOWED: &[(&str, &str, &str)] = &[];
