//! What people are told while something goes on: lines on standard error.

use std::io::Write as _;

/// Writes a line. Whoever reads may be gone, or the file there lie on a full disk: what goes on does
/// not end for that.
pub(crate) fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").unwrap_or_default();
}
