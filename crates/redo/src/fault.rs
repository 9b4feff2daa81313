//! What is wrong with a record or a page, before the engine adds record, page and position to it.

/// A record that is damaged, unknown or does not fit its page, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// Result of everything that reads records or pages.
pub type Res<T> = Result<T, Fault>;

/// An `Err(Fault)` from a format string.
macro_rules! fault {
    ($($part:tt)*) => {
        Err($crate::fault::Fault(format!($($part)*)))
    };
}
pub(crate) use fault;

/// Fails with the message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($part:tt)*) => {
        if !$condition {
            return $crate::fault::fault!($($part)*);
        }
    };
}
pub(crate) use ensure;
