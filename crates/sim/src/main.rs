//! Runs seeds: `sixfold-sim --seeds 1000 --start 1 [--planted NAME] [--trace]`.

use std::process::ExitCode;

use clap::Parser;
use sim::run::Counts;

#[derive(Parser)]
#[command(about = "Runs the protocol in a deterministic world, one run a seed")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// A planted bug to run with: `list` names them.
    #[arg(long)]
    planted: Option<String>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let planted = arguments.planted.as_deref();
    if planted == Some("list") {
        sim::planted::NAMES.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = 0_u64;
    let mut counts = Counts::default();
    for seed in arguments.start..arguments.start + arguments.seeds {
        let run = sim::planted::run_with(planted, seed, arguments.trace);
        let run = run.ok_or_else(|| anyhow::anyhow!("no planted bug of that name; see `list`"))?;
        match run {
            Ok(outcome) => counts += outcome.counts,
            Err(failure) => {
                failed += 1;
                println!("seed {seed} at {} us: {}", failure.at, failure.what);
                println!("  {:?}", failure.options);
                println!("  again with: sixfold-sim --start {seed} --seeds 1 --trace");
                if !arguments.keep_going {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    }
    println!("{} seeds, {failed} failed; {counts}", arguments.seeds);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
