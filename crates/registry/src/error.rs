//! Failures of a control-plane request, by what the caller does next.

use serde::{Deserialize, Serialize};

/// Why the control plane did not do it, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The kind.
    pub code: ProblemCode,
    /// One sentence for a human: what, to what, what to do.
    pub message: String,
}

/// Kinds of [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The request makes no sense: correct it.
    Invalid,
    /// Another cluster, zone or owner: the address or directory is wrong.
    Mismatch,
    /// The node's disk is older than it was: it has forgotten what it promised, and is to be wiped.
    OlderDisk,
    /// There is no such thing: create it first.
    NotFound,
    /// Somebody else changed it meanwhile (compare-and-set): read it again.
    Changed,
    /// A newer epoch exists: a writer must stop.
    Fenced,
    /// The volume was deleted, for ever: its writer must stop.
    Deleted,
    /// A writer has the volume open: stop it first.
    InUse,
    /// Nodes are missing for now: ask again later.
    TooFewNodes,
    /// The control plane's own trouble (its store): look at its log.
    Internal,
}

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer. Try again; whether the request was done is unknown.
    #[error(
        "control plane at {address} does not answer ({reason}); start it or correct the address"
    )]
    Unreachable {
        /// Where it was sought.
        address: String,
        /// The transport's account.
        reason: String,
    },
    /// An answer that is not this API's: something else listens there, or another version.
    #[error("what answers at {address} is not this version's control plane: {reason}")]
    Foreign {
        /// Where.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// Refused: see [`Problem::code`].
    #[error("{}", .0.message)]
    Refused(Problem),
}

impl Error {
    /// Whether the same request may succeed later, unchanged.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Error::Unreachable { .. })
            || self.code() == Some(ProblemCode::TooFewNodes)
            || self.code() == Some(ProblemCode::Internal)
    }

    /// Whether the asker's epoch is over, for good.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self.code(), Some(ProblemCode::Fenced | ProblemCode::Deleted))
    }

    /// The kind of refusal, if it is one.
    #[must_use]
    pub fn code(&self) -> Option<ProblemCode> {
        match self {
            Error::Refused(problem) => Some(problem.code),
            Error::Unreachable { .. } | Error::Foreign { .. } => None,
        }
    }
}
