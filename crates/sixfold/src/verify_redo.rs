//! `sixfold verify-redo`: WAL written under `wal_consistency_checking=all`, replayed and compared page
//! by page with PostgreSQL's own. Exit status: 0 all equal, 1 differences, 2 it cannot run, or not to the
//! end.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use pgwal::layout::op;
use serde::Serialize;
use verify::tally::{Tallies, kind_name};
use verify::{DataDirectory, Finding, Images, NoImages, Replay, Tally, WalDirectory};

use crate::cli::VerifyRedoArgs;
use crate::say::say;
use crate::status::put_out;

/// Findings that are printed in full.
const PRINTED: usize = 20;
const DIFFERENT: u8 = 1;
const CANNOT: u8 = 2;

/// What is printed; field names are a contract.
#[derive(Debug, Serialize)]
struct Report {
    /// Where the log was read from and to, and why it ended there.
    wal: String,
    begin: String,
    end: String,
    end_reason: String,
    /// Whether that is the log's end; else it cannot be read on.
    complete: bool,
    /// The data directory that pages began with.
    from: Option<String>,
    records: u64,
    #[serde(flatten)]
    pages: Counts,
    /// Shutdown checkpoints whose counters were compared.
    checkpoints_compared: u64,
    types: Vec<TypeLine>,
    /// The first findings, and how many there are.
    findings: Vec<FindingLine>,
    findings_total: u64,
    #[serde(skip)]
    table: String,
}

#[derive(Debug, Serialize)]
struct Counts {
    pages: u64,
    compared: u64,
    different: u64,
    restored: u64,
    confirmed: u64,
    not_known: u64,
    ahead: u64,
    without_image: u64,
}

#[derive(Debug, Serialize)]
struct TypeLine {
    manager: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    seen: u64,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize)]
struct FindingLine {
    start: String,
    end: String,
    record: String,
    page: String,
    differences: Vec<String>,
}

impl From<Tally> for Counts {
    fn from(tally: Tally) -> Counts {
        Counts {
            pages: tally.pages,
            compared: tally.compared,
            different: tally.different,
            restored: tally.restored,
            confirmed: tally.confirmed,
            not_known: tally.unknown,
            ahead: tally.ahead,
            without_image: tally.without_image,
        }
    }
}

impl From<&Finding> for FindingLine {
    fn from(finding: &Finding) -> FindingLine {
        FindingLine {
            start: finding.span.start.to_string(),
            end: finding.span.end.to_string(),
            record: kind_name(finding.kind),
            page: finding.page.clone(),
            differences: finding.lines.clone(),
        }
    }
}

/// Compares and prints.
pub(crate) fn run(args: &VerifyRedoArgs) -> ExitCode {
    match compare(args).and_then(|report| print(&report, args.json).map(|()| report)) {
        Ok(report) => {
            if !report.complete {
                say(&format!("sixfold: {}", report.end_reason));
            }
            match (report.findings_total, report.complete) {
                (1.., _) => ExitCode::from(DIFFERENT),
                (0, true) => ExitCode::SUCCESS,
                (0, false) => ExitCode::from(CANNOT),
            }
        }
        Err(error) => {
            say(&format!("sixfold: {error:#}"));
            ExitCode::from(CANNOT)
        }
    }
}

fn compare(args: &VerifyRedoArgs) -> anyhow::Result<Report> {
    let wal = WalDirectory::open(&args.wal)?;
    let report = match &args.from {
        Some(path) => {
            let images = DataDirectory::open(path)?;
            let start = verify::start_of(&wal, &images)?;
            replay(&wal, Some(start), images)
        }
        None => replay(&wal, None, NoImages),
    };
    ensure!(
        report.pages.compared + report.findings_total > 0 || !report.complete,
        "{}: nothing to compare in {} records up to {} ({}): the WAL must be written with \
         wal_consistency_checking = all",
        report.wal,
        report.records,
        report.end,
        report.end_reason
    );
    Ok(Report { from: args.from.as_ref().map(|path| path.display().to_string()), ..report })
}

/// Replays as far as it goes: what was found before damage counts.
fn replay<I: Images>(directory: &WalDirectory, start: Option<types::Lsn>, images: I) -> Report {
    let mut wal = directory.records(start);
    let mut replay = Replay::new(images);
    let stopped = verify::run(&mut wal, &mut replay).err();
    let (findings, findings_total) = replay.findings();
    let tallies = replay.tallies();
    let (records, total) = tallies.total();
    Report {
        wal: directory.path().display().to_string(),
        begin: start.unwrap_or(directory.first()).to_string(),
        end: wal.position().to_string(),
        complete: stopped.is_none(),
        end_reason: stopped.map_or_else(|| wal.end().to_owned(), |error| error.to_string()),
        from: None,
        records,
        pages: total.into(),
        checkpoints_compared: replay.checkpoints_compared(),
        types: lines(tallies),
        findings: findings.iter().map(FindingLine::from).collect(),
        findings_total,
        table: verify::table::text(tallies),
    }
}

fn lines(tallies: &Tallies) -> Vec<TypeLine> {
    let line = |(kind, seen): (&(u8, u8), &u64)| TypeLine {
        manager: op::name(kind.0),
        kind: op::kind_name(kind.0, kind.1),
        seen: *seen,
        counts: tallies.of(*kind).into(),
    };
    tallies.records.iter().map(line).collect()
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string_pretty(report).context("a report is plain values")?
    } else {
        words(report)
    };
    put_out(&text)
}

/// The report for people.
fn words(report: &Report) -> String {
    let mut out = format!("{}\n", report.table);
    for finding in report.findings.iter().take(PRINTED) {
        let FindingLine { start, end, record, page, .. } = finding;
        out.push_str(&format!("{start}-{end} {record}, {page}:\n"));
        for line in &finding.differences {
            out.push_str(&format!("    {line}\n"));
        }
    }
    let more = report.findings_total.saturating_sub(PRINTED as u64);
    if more > 0 {
        out.push_str(&format!("and {more} more\n"));
    }
    let counts = &report.pages;
    if counts.not_known > 0 {
        let hint = if report.from.is_some() { "" } else { "; --from gives pages to begin with" };
        out.push_str(&format!(
            "{} pages were not known before their record and could not be compared{hint}\n",
            counts.not_known
        ));
    }
    out.push_str(&format!(
        "{} from {} to {} ({}): {} records, {} pages and the counters of {} checkpoints compared, {} findings\n",
        report.wal,
        report.begin,
        report.end,
        report.end_reason,
        report.records,
        counts.compared,
        report.checkpoints_compared,
        report.findings_total
    ));
    out
}
