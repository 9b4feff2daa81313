//! Log positions: a byte offset in one volume's log, and the span of one record.

use std::fmt;
use std::str::FromStr;

/// A byte position in a volume's log (PostgreSQL: `XLogRecPtr`, `access/xlogdefs.h`).
///
/// It is reused after a crash, so a record's identity is the pair of epoch and `Lsn`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position before every record; PostgreSQL's `InvalidXLogRecPtr`.
    pub const ZERO: Lsn = Lsn(0);
    /// Above every position a log can reach.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Position `bytes` further on.
    ///
    /// # Panics
    /// When the position leaves the 64-bit range: a programmer's error, input is checked before.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Lsn {
        Lsn(self.0.checked_add(bytes).expect("log position overflow"))
    }

    /// Bytes from `earlier` to here, zero when `earlier` is not earlier.
    #[must_use]
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The next multiple of eight (PostgreSQL's `MAXALIGN`), where a record may start.
    #[must_use]
    pub fn aligned(self) -> Lsn {
        Lsn(self.0.checked_add(7).expect("log position overflow") & !7)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a log position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log position; expected two hexadecimal numbers as in 0/16B3748")]
pub struct LsnParseError(String);

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Lsn, LsnParseError> {
        let bad = || LsnParseError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

/// The bytes of one record in the log: `start` of its first byte, `end` just past its last.
///
/// `end` is what PostgreSQL stamps on pages and reports as a flush position; `start` is what the
/// next record names in `xl_prev`. The volume's durable point (VDL) is kept as a span, so that a
/// new writer can link its first record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Span {
    /// Position of the record's first byte.
    pub start: Lsn,
    /// Position just past the record's last byte.
    pub end: Lsn,
}

impl Span {
    /// The span before every record.
    pub const ZERO: Span = Span { start: Lsn::ZERO, end: Lsn::ZERO };
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_prints_and_parses_as_postgres_does() {
        let lsn = Lsn(0x1_016B_3748);
        assert_eq!(lsn.to_string(), "1/16B3748");
        assert_eq!("1/16B3748".parse(), Ok(lsn));
        for bad in ["", "1", "/", "1/", "x/0", "1/123456789", "1/2/3"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn alignment_is_to_eight_bytes() {
        assert_eq!(Lsn(8).aligned(), Lsn(8));
        assert_eq!(Lsn(9).aligned(), Lsn(16));
    }
}
