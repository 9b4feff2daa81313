//! Counts as a table for people: one line for each kind of record.

use std::fmt::Write as _;

use crate::tally::{Kind, Tallies, Tally, kind_name};

const HEADINGS: [&str; 9] = [
    "record type",
    "seen",
    "pages",
    "compared",
    "different",
    "restored",
    "confirmed",
    "not known",
    "other",
];

fn cells(name: String, records: u64, tally: Tally) -> [String; 9] {
    let number = |n: u64| if n == 0 { "-".to_owned() } else { n.to_string() };
    [
        name,
        records.to_string(),
        number(tally.pages),
        number(tally.compared),
        number(tally.different),
        number(tally.restored),
        number(tally.confirmed),
        number(tally.unknown),
        number(tally.ahead + tally.without_image),
    ]
}

/// The table, with a line of sums.
#[must_use]
pub fn text(tallies: &Tallies) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(tallies.records.iter().map(|(kind, records)| {
        let kind: Kind = *kind;
        cells(kind_name(kind), *records, tallies.of(kind))
    }));
    let (records, total) = tallies.total();
    rows.push(cells("all".to_owned(), records, total));
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let written = match column {
                0 => write!(line, "{cell:width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
            written.expect("writing to a String does not fail");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
