//! `sixfold status`: the cluster as an operator sees it, with parts of it down.
//!
//! Reading order: [`report`] (what is printed; field names are a contract), [`collect`] (asking the
//! control plane and the nodes), [`print`](mod@print) (for people).

mod collect;
pub(crate) mod print;
mod report;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cli::{PlaceArgs, VolumeArgs};
use crate::dev::layout::Layout;

/// Prints the status.
pub(crate) fn run(args: &VolumeArgs) -> anyhow::Result<()> {
    let report = match deployment(&args.place)? {
        Some(address) => collect::deployment(&address, &args.volume)?,
        None => {
            let layout = Layout::new(&args.place.dir.dir)?;
            let saved = layout.require()?;
            collect::development(&layout, &saved, &args.volume)
        }
    };
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("a report is plain values")?
    } else {
        print::text(&report)
    };
    put_out(&text)
}

/// Prints to standard output.
pub(crate) fn put_out(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // Whoever reads, as `head` does, has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot print"),
    }
}

/// The control plane of the deployment that was named; none for a development cluster.
pub(crate) fn deployment(place: &PlaceArgs) -> anyhow::Result<Option<String>> {
    match (&place.control, &place.config) {
        (Some(address), _) => Ok(Some(address.clone())),
        (None, Some(file)) => control_of(file).map(Some),
        (None, None) => Ok(None),
    }
}

/// The control plane of the cluster that was named, a development one too.
pub(crate) fn control_of_place(place: &PlaceArgs) -> anyhow::Result<String> {
    match deployment(place)? {
        Some(address) => Ok(address),
        None => Ok(Layout::new(&place.dir.dir)?.require()?.control().to_owned()),
    }
}

/// Reads `control = "HOST:PORT"`.
fn control_of(file: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let table: toml::Table =
        text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
    match table.get("control").and_then(toml::Value::as_str) {
        Some(address) => Ok(address.to_owned()),
        None => bail!("{} does not say `control = \"HOST:PORT\"`", file.display()),
    }
}
