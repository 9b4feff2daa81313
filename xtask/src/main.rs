//! The project's own chores. `cargo xtask tidy` checks what no compiler checks; `cargo xtask
//! instructions` counts the instructions of fixed work.

mod instructions;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tidy"] => tidy::run(root),
        ["instructions"] => instructions::run(root, false),
        ["instructions", "--record"] => instructions::run(root, true),
        _ => {
            eprintln!("usage: cargo xtask tidy\n       cargo xtask instructions [--record]");
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
