//! Planted bugs: the protocol with one decision made wrongly. The simulator must catch each.

use protocol::{Rules, Sound};

use crate::run::{Failure, Outcome, run};

macro_rules! planted {
    ($($(#[$doc:meta])* $type:ident, $name:literal, { $($item:item)* })*) => {
        $(
            $(#[$doc])*
            pub struct $type;
            impl Rules for $type { $($item)* }
        )*

        /// Names of all planted bugs.
        pub const NAMES: &[&str] = &[$($name),*];

        /// Runs a seed with the named bug, or with none; `None` for an unknown name.
        #[must_use]
        pub fn run_with(
            name: Option<&str>,
            seed: u64,
            printing: bool,
        ) -> Option<Result<Outcome, Box<Failure>>> {
            match name {
                None => Some(run::<Sound>(seed, printing)),
                $(Some($name) => Some(run::<$type>(seed, printing)),)*
                Some(_) => None,
            }
        }
    };
}

planted! {
    /// Three copies are taken for a write quorum.
    AckAtThree, "ack-at-three", { const WRITE_QUORUM: usize = 3; }
    /// Segments accept whatever epoch writes.
    SkipEpochCheck, "skip-epoch-check", { const CHECK_EPOCH: bool = false; }
    /// Segments answer before their log is synced.
    AckBeforeSync, "ack-before-sync", { const REPLY_AFTER_PERSISTED: bool = false; }
    /// Recovery believes SCLs told before the seal.
    TrustStaleScl, "trust-stale-scl", { const SEAL_BEFORE_SCL: bool = false; }
    /// Recovery takes a shared record for whole when one of its groups has it.
    ForgetSharer, "forget-sharer", { const SHARERS_TOGETHER: bool = false; }
    /// The word of a copy that its node held before is taken for that of the one it holds.
    AnyCopy, "any-copy", { const COPIES_ARE_NAMED: bool = false; }
    /// Recovery measures a segment that slept through an open by its own, older history.
    TrustSleeper, "trust-sleeper", { const NEWEST_HISTORY: bool = false; }
}
