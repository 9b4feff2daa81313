//! Where log lines go: standard error as text for people, JSON lines when told.
//!
//! `SIXFOLD_LOG` filters (`info` by default; `debug`, `node=trace,info`, …), `SIXFOLD_LOG_FORMAT=json`
//! switches to one JSON object a line, `SIXFOLD_LOG_FILE` appends to a file instead.

use std::fs::OpenOptions;
use std::sync::Mutex;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Starts logging for a process of this role and name. Later calls change nothing.
///
/// # Errors
/// When the filter does not parse or the file cannot be opened.
pub fn init_logging(role: &str, name: &str) -> anyhow::Result<()> {
    let wanted = std::env::var("SIXFOLD_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&wanted).with_context(|| {
        format!("SIXFOLD_LOG={wanted} is not a filter such as `info` or `node=debug,info`")
    })?;
    let writer = match std::env::var_os("SIXFOLD_LOG_FILE") {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file =
                OpenOptions::new().create(true).append(true).open(&path).with_context(|| {
                    format!(
                        "cannot open the log file {} (SIXFOLD_LOG_FILE)",
                        path.to_string_lossy()
                    )
                })?;
            BoxMakeWriter::new(Mutex::new(file))
        }
    };
    let json = std::env::var("SIXFOLD_LOG_FORMAT").is_ok_and(|format| format == "json");
    // A line that cannot be written is lost. Reported, it would go to standard error, which may be
    // the same full disk, and end the process.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .log_internal_errors(false);
    // An earlier subscriber (a test's) stays: both outcomes leave the process with one.
    let started =
        if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    if started.is_ok() {
        tracing::info!(role, name, pid = std::process::id(), "process starts");
    }
    Ok(())
}

/// Makes a panic in any thread end the process, after it was reported.
///
/// A thread that died half-way through its work has broken an invariant; a process without that
/// thread would answer as if it had not. Peers handle a dead process.
pub fn stop_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        tracing::error!(panic = %info, "stopping: a thread panicked");
        std::process::abort();
    }));
}
