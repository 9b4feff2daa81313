//! `sixfold verify-volume`: what storage gives against the writer's own files. Exit status: 0 the same,
//! 1 different, 2 it could not be told.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use compute::verify;
use compute::verify::report::{Difference, Outcome, Pages, Report};
use registry::Client;

use crate::cli::VolumeArgs;
use crate::say::say;
use crate::status::{control_of_place, put_out};

/// Differences printed for people; JSON has them all.
const LISTED_MAX: usize = 50;

/// Compares, and prints what came out.
pub(crate) fn run(args: &VolumeArgs) -> ExitCode {
    match compare(args) {
        Ok(Outcome::Same) => ExitCode::SUCCESS,
        Ok(Outcome::Different) => ExitCode::from(1),
        Ok(Outcome::Unsettled) => ExitCode::from(2),
        Err(error) => {
            say(&format!("sixfold: the volume cannot be compared: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn compare(args: &VolumeArgs) -> anyhow::Result<Outcome> {
    let control = control_of_place(&args.place)?;
    let mut tell = |line: &str| say(&format!("verify-volume: {line}"));
    let report = verify::run(&Client::new(&control), &args.volume, &mut tell)?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("a report is plain values")?
    } else {
        text(&report)
    };
    put_out(&text)?;
    Ok(report.outcome)
}

/// The report for people.
fn text(report: &Report) -> String {
    let counts = &report.counts;
    let mut out = format!(
        "{} at {} (epoch {}, checkpoint of {} at {}, {})\n",
        match report.outcome {
            Outcome::Same => "the same",
            Outcome::Different => "DIFFERENT",
            Outcome::Unsettled => "not told: the server never stood still",
        },
        report.read_point,
        report.epoch,
        report.writer,
        report.checkpoint,
        plural(u64::from(report.rounds), "look"),
    );
    let slru: Vec<String> =
        counts.slru_pages.iter().map(|(directory, pages)| format!("{directory} {pages}")).collect();
    let lines = [
        ("relations", format!("{}, {} of forks", counts.relations, plural(counts.sizes, "length"))),
        ("main forks", forks(&counts.main)),
        ("visibility maps", forks(&counts.vm)),
        ("init forks", forks(&counts.init)),
        ("SLRU pages", slru.join(", ")),
        ("relation maps", counts.relation_maps.to_string()),
        (
            "directories",
            format!("{} of databases, {} tablespaces", counts.databases, counts.tablespaces),
        ),
        ("prepared", plural(counts.prepared_transactions, "transaction")),
        (
            "not compared",
            format!(
                "{}, unlogged content of {}, {}, databases being copied: {}",
                plural(counts.fsm_forks_not_compared, "free space map"),
                plural(counts.unlogged_relations, "relation"),
                plural(counts.temporary_files, "temporary file"),
                counts.copies_under_way,
            ),
        ),
    ];
    for (name, what) in lines {
        writeln!(out, "  {name:<18} {what}").expect("writing to a String does not fail");
    }
    if counts.fewer_visible > 0 {
        writeln!(
            out,
            "  {:<18} {} of copied databases have fewer bits in storage, which is safe",
            "visibility",
            plural(counts.fewer_visible, "map page")
        )
        .expect("writing to a String does not fail");
    }
    list(&mut out, "different", &report.differences);
    list(&mut out, "never stood still", &report.unsettled);
    out
}

fn forks(pages: &Pages) -> String {
    format!(
        "{}: {} compared, {} not held locally, {} grown and not yet logged",
        pages.forks,
        plural(pages.compared, "page"),
        pages.not_held,
        pages.grown
    )
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn list(out: &mut String, name: &str, differences: &[Difference]) {
    for one in differences.iter().take(LISTED_MAX) {
        let version = one.version.as_deref().map(|at| format!(" [version {at}]"));
        writeln!(out, "{name}: {}: {}{}", one.what, one.how, version.unwrap_or_default())
            .expect("writing to a String does not fail");
    }
    if let Some(more) = differences.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        writeln!(out, "{name}: and {more} more (--json lists them)")
            .expect("writing to a String does not fail");
    }
}

#[cfg(test)]
mod tests {
    use compute::verify::report::Counts;
    use pgwal::keys::{Fork, Key, Rel};

    use super::*;

    #[test]
    fn a_difference_is_named_and_its_json_fields_are_those_that_scripts_know() {
        let rel = Rel { tablespace: 1663, database: 5, relation: 16384 };
        let key = Key::Block(rel, Fork::Main, 7);
        let report = Report {
            outcome: Outcome::Different,
            epoch: 3,
            writer: "writer".to_owned(),
            read_point: "0/2000".to_owned(),
            checkpoint: "0/1000".to_owned(),
            rounds: 2,
            counts: Counts::default(),
            differences: vec![Difference::new(key, "byte 9".to_owned(), Some("0/900".to_owned()))],
            unsettled: vec![],
        };
        let text = text(&report);
        assert!(text.starts_with("DIFFERENT at 0/2000"), "{text}");
        assert!(
            text.contains("different: block 7 of 1663/5/16384: byte 9 [version 0/900]"),
            "{text}"
        );
        let json = serde_json::to_value(&report).expect("plain values");
        assert_eq!(json["outcome"], "different");
        assert_eq!(json["counts"]["main"]["compared"], 0);
        let expected = serde_json::json!({
            "kind": "page", "what": "block 7 of 1663/5/16384", "relation": "1663/5/16384",
            "fork": "main", "block": 7, "how": "byte 9", "version": "0/900",
        });
        assert_eq!(json["differences"][0], expected);
    }
}
