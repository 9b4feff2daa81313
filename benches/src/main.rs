//! Side-by-side benchmarks of commits, reads and opening, all systems alternating in one run.
//!
//! The systems: stock PostgreSQL alone; stock with six hot standbys, `ANY 4`; stock with six
//! `pg_receivewal`, `ANY 4`; Sixfold with six storage nodes. All are set up first and stay up, so
//! that each measurement of one is followed at once by the same measurement of the next and the
//! machine's mood is shared. Every result is a JSON line on standard output; a table follows in the
//! file given by `--table`.
//!
//! Reading order: [`arguments`], [`system`] (what is measured), [`stock`] and [`sixfold`] (setting it up), [`load`]
//! (pgbench), [`cpu`] (who spent the time), [`opening`] (cold start), [`report`]; [`redo`], [`grey`],
//! [`repair`], [`space`], [`restart`] (over [`filled`] stores), [`scale`] and [`flood`] (over [`storage`] without
//! PostgreSQL) are measurements of their own.

mod arguments;
mod cpu;
mod filled;
mod flood;
mod grey;
// The end-to-end suites' own: nothing may depend on their crate.
#[path = "../../tests/src/hold.rs"]
mod hold;
mod load;
mod opening;
mod redo;
mod repair;
mod report;
mod restart;
mod scale;
mod sixfold;
mod space;
mod stock;
mod storage;
mod system;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::arguments::Common;
use crate::report::Report;
use crate::system::System;

#[global_allocator]
static ALLOCATOR: scale::Counting = scale::Counting;

/// Measures Sixfold beside stock PostgreSQL on this machine.
#[derive(Parser, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    sixfold-bench --scale 50 --rounds 1\n  \
    sixfold-bench --systems alone,sixfold --workloads tpcb-like --clients 8 --seconds 10\n  \
    sixfold-bench --only opening\n  \
    sixfold-bench redo --rounds 5\n  \
    sixfold-bench grey\n  \
    sixfold-bench repair\n  \
    sixfold-bench space --seconds 60\n  \
    sixfold-bench flood --megabytes 10\n  \
    sixfold-bench restart --gibibytes 10\n  \
    sixfold-bench scale --tebibytes 1,10,128"
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Systems to measure, in turn.
    #[arg(long, value_delimiter = ',', default_value = "alone,standbys6,receivers6,sixfold")]
    systems: Vec<String>,
    /// pgbench's built-in workloads.
    #[arg(long, value_delimiter = ',', default_value = "tpcb-like,simple-update,select-only")]
    workloads: Vec<String>,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_value = "8,32")]
    clients: Vec<u32>,
    /// pgbench scale factor.
    #[arg(long, default_value_t = 50)]
    scale: u32,
    /// Only `load` or only `opening`.
    #[arg(long)]
    only: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Replays one log with stock PostgreSQL's recovery and with ours, in turn.
    Redo(redo::Arguments),
    /// Commits and page reads while one node is stopped, slow, or has slow syncs.
    Grey(grey::Arguments),
    /// Repair of a wiped node beside a plain copy, and commits meanwhile.
    Repair(repair::Arguments),
    /// A node with gigabytes of segments, from its start to the first page.
    Restart(restart::Arguments),
    /// Memory, open time and traffic of driver, node and control plane for volumes of terabytes.
    Scale(scale::Arguments),
    /// Endless updates: write amplification, disk use, commits with background work on and off.
    Space(space::Arguments),
    /// One volume's commits alone and beside another volume's flood, in turn.
    Flood(flood::Arguments),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    match &arguments.command {
        Some(Command::Redo(arguments)) => return redo::run(arguments, &mut report),
        Some(Command::Grey(arguments)) => return grey::run(arguments, &mut report),
        Some(Command::Repair(arguments)) => return repair::run(arguments, &mut report),
        Some(Command::Restart(arguments)) => return restart::run(arguments, &mut report),
        Some(Command::Scale(arguments)) => return scale::run(arguments, &mut report),
        Some(Command::Space(arguments)) => return space::run(arguments, &mut report),
        Some(Command::Flood(arguments)) => return flood::run(arguments, &mut report),
        None => {}
    }
    let wants = |part: &str| arguments.only.as_deref().is_none_or(|only| only == part);
    if wants("load") {
        let mut systems = set_up(&arguments)?;
        for _ in 0..arguments.common.rounds {
            for workload in &arguments.workloads {
                for clients in &arguments.clients {
                    for system in &mut systems {
                        let seconds = arguments.common.seconds;
                        report.add(load::run(system.as_mut(), workload, *clients, seconds)?)?;
                    }
                }
            }
        }
    }
    if wants("opening") {
        opening::run(&arguments, &mut report)?;
    }
    report.write_table(&arguments.common.files.table("benchmarks"))
}

fn set_up(arguments: &Arguments) -> Result<Vec<Box<dyn System>>> {
    arguments
        .systems
        .iter()
        .map(|name| {
            eprintln!("setting up {name}, scale {} ...", arguments.scale);
            let mut system: Box<dyn System> = match name.as_str() {
                "sixfold" => Box::new(sixfold::Sixfold::up(arguments.common.files.sixfold())?),
                _ => Box::new(stock::Stock::up(name)?),
            };
            load::initialise(system.as_ref(), arguments.scale)?;
            system.quorum().with_context(|| format!("set up {name}"))?;
            Ok(system)
        })
        .collect()
}
