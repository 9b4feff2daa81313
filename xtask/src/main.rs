//! The project's own chores. `cargo xtask tidy` checks what no compiler checks; `cargo xtask
//! instructions` counts the instructions of fixed work; `cargo xtask plants` plants bugs in a copy of the
//! store, each of which the simulator must notice.

mod instructions;
mod plants;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

/// Seeds within which a planted bug must be noticed.
const PLANT_SEEDS: u64 = 4_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tidy"] => tidy::run(root),
        ["instructions"] => instructions::run(root, false),
        ["instructions", "--record"] => instructions::run(root, true),
        ["plants"] => plants::run(root, PLANT_SEEDS, ""),
        ["plants", word] => plants::run(root, PLANT_SEEDS, word),
        _ => {
            eprintln!(
                "usage: cargo xtask tidy\n       cargo xtask instructions [--record]\n       cargo xtask plants [WORD]"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => {
            complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
            eprintln!("{} to put right", complaints.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
