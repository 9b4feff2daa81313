//! The name of a page in a volume: opaque bytes whose order is meaningful to the engine.

use std::fmt;

/// A page's name: 20 bytes, compared as bytes. What they mean is the engine's business (rule R7);
/// the PostgreSQL engine's layout is `pgwal::keys`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PageKey(pub [u8; PageKey::SIZE]);

impl PageKey {
    /// Bytes of a key.
    pub const SIZE: usize = 20;
    /// The lowest key.
    pub const MIN: PageKey = PageKey([0; PageKey::SIZE]);
    /// The highest key.
    pub const MAX: PageKey = PageKey([0xff; PageKey::SIZE]);
}

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
