//! Arguments that several measurements have, each said once.

use std::path::{Path, PathBuf};

use clap::Args;

/// How long and how often, with which program, and where the table goes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 20)]
    pub seconds: u32,
    /// Rounds over all that is compared.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    #[command(flatten)]
    pub files: Files,
}

/// The program measured, and the table.
#[derive(Args, Clone, Debug)]
pub struct Files {
    /// Where the table goes (default: target/bench/, under the measurement's name).
    #[arg(long)]
    table: Option<PathBuf>,
    /// The sixfold binary (default: beside this program).
    #[arg(long)]
    sixfold: Option<PathBuf>,
}

impl Files {
    /// Where the table of this measurement goes.
    #[must_use]
    pub fn table(&self, measurement: &str) -> PathBuf {
        let usual = || Path::new("target/bench").join(measurement).with_extension("md");
        self.table.clone().unwrap_or_else(usual)
    }

    /// The binary that was asked for.
    #[must_use]
    pub fn sixfold(&self) -> Option<&Path> {
        self.sixfold.as_deref()
    }
}

/// A measurement with pgbench.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// Clients.
    #[arg(long, default_value_t = 8)]
    pub clients: u32,
    #[command(flatten)]
    pub common: Common,
}
