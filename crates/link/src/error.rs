//! Failures of a connection. All but `Refused` mean: this connection is over, make another.

use std::io;

use wire::{Refusal, WireError};

/// Why a connection, or one request on it, failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address does not resolve.
    #[error("address {address} cannot be resolved: {source}")]
    Address {
        /// As configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The network failed.
    #[error("{what} {peer}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// With whom.
        peer: String,
        /// Why.
        source: io::Error,
    },
    /// The peer closed the connection.
    #[error("{peer} closed the connection")]
    Closed {
        /// Who.
        peer: String,
    },
    /// The peer sent what breaks the format.
    #[error("{peer} sent bytes that are not understood: {source}")]
    Wire {
        /// Who.
        peer: String,
        /// Which rule.
        source: WireError,
    },
    /// The peer understood and declined. During the handshake the connection is over; after it
    /// only the request is.
    #[error("{peer} refused: {refusal}")]
    Refused {
        /// Who.
        peer: String,
        /// Its reason, which tells what to do.
        refusal: Refusal,
    },
    /// The peer was turned away by us.
    #[error("turned {peer} away: {refusal}")]
    TurnedAway {
        /// Who.
        peer: String,
        /// Our reason.
        refusal: Refusal,
    },
    /// A frame that has no place where it came.
    #[error("{peer} sent {what} out of turn")]
    Unexpected {
        /// Who.
        peer: String,
        /// What.
        what: &'static str,
    },
}

impl LinkError {
    /// The peer's refusal, if that is what it was.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            LinkError::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Whether nothing is wrong but that nothing came in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        use io::ErrorKind::{TimedOut, WouldBlock};
        matches!(self, LinkError::Io { source, .. } if matches!(source.kind(), WouldBlock | TimedOut))
    }
}
