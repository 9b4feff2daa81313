//! Why bytes are not what they should be. Whatever the variant, nothing of the frame was believed:
//! a connection that yields one is closed, a stored batch that yields one is not there.

/// Bytes that break a rule of the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The first bytes are not those of `what`.
    #[error("{what}: magic {found:#010x} is not ours; the peer speaks another protocol")]
    Magic {
        /// What was expected.
        what: &'static str,
        /// What is there.
        found: u32,
    },
    /// Another version of the format.
    #[error("protocol version {theirs} is not ours ({ours}); upgrade one side")]
    Version {
        /// Ours.
        ours: u16,
        /// The one found.
        theirs: u16,
    },
    /// A kind, tag or flag that this version does not know.
    #[error("{what} {value} is not known to protocol version {}", crate::PROTOCOL_VERSION)]
    Unknown {
        /// What kind of number.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// A length or count beyond its limit.
    #[error("{what} of {found} is above the limit of {limit}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// What was found.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A checksum does not match: the bytes were damaged, or belong elsewhere.
    #[error("checksum of {what} does not match: {found:#010x} stored, {computed:#010x} computed")]
    Checksum {
        /// What is covered.
        what: &'static str,
        /// As stored.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// The bytes end inside a value.
    #[error("bytes end inside {what}")]
    Short {
        /// What was being read.
        what: &'static str,
    },
    /// Bytes are left over after the last value.
    #[error("{left} bytes are left over after {what}")]
    Trailing {
        /// What was read.
        what: &'static str,
        /// How many bytes are left.
        left: usize,
    },
    /// A value that no sender may send.
    #[error("{what} is not possible")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
}
