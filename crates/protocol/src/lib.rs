//! The sans-IO heart: how a writer, six segments and a recovery agree on what is durable.
//!
//! State machines without I/O, clock, threads or randomness: inputs are method calls, outputs are
//! values that a dull shell carries out. The simulator and the real processes run this same code.
//! Rules V1 to V16 are in the README; comments cite them.
//!
//! Reading order: [`rules`] (what may not be broken, as constants), [`chain`] (what a segment
//! holds), [`segment`], [`writer`], [`recovery`].

pub mod chain;
pub mod recovery;
pub mod rules;
pub mod segment;
pub mod writer;

pub use chain::{Chain, HeldPart};
pub use recovery::{
    Command, Crippled, Event, GroupMembers, Opened, Recovery, RecoveryError, Timelines,
};
pub use rules::{Rules, Sound};
pub use segment::{Asker, Input, LogEntry, Output, Segment, SegmentState};
pub use writer::{GroupSetup, Held, Record, Writer, WriterState};
