//! The decisions that the promises hang on, as constants that the compiler folds away.
//!
//! Production code is the [`Sound`] instance and carries no switch at run time. The simulator
//! compiles the same code with one constant changed at a time and must notice (planted bugs).

/// A set of decisions; every default is the sound one.
pub trait Rules: 'static {
    /// Members that must hold a part before the writer counts it as quorate (rule V1).
    const WRITE_QUORUM: usize = types::WRITE_QUORUM;
    /// A segment refuses writers of other epochs than its own (rule V3).
    const CHECK_EPOCH: bool = true;
    /// A segment answers only when everything it accepted before is durable (rule V2).
    const REPLY_AFTER_PERSISTED: bool = true;
    /// Recovery believes an SCL only from a segment that has sealed the new epoch (rule V7).
    const SEAL_BEFORE_SCL: bool = true;
    /// A record survives only if every group that shares it holds its part (rule V9).
    const SHARERS_TOGETHER: bool = true;
    /// The word of a copy that its node held before counts nowhere (rule V16).
    const COPIES_ARE_NAMED: bool = true;
    /// What a segment holds is measured by the newest history found, not by its own (rule V8).
    const NEWEST_HISTORY: bool = true;
}

/// The rules of production.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sound;

impl Rules for Sound {}
