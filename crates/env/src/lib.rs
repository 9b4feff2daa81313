//! The outside world as traits: clock and disk; a conformance suite for each.
