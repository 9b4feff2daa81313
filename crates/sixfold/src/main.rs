//! The `sixfold` binary: one subcommand a role, the operator's commands, and a whole cluster on one
//! machine. Exit status: 0 done, 1 failed, 2 wrong usage; `verify-redo` has its own.
//!
//! Reading order: [`cli`], [`roles`] (`node`, `compute`, `control`), [`dev`], [`status`], [`verify_redo`],
//! [`verify_volume`], [`volume`], [`segment`]; [`processes`], [`privileges`], [`postgres`] and [`signals`] serve them.

mod cli;
mod dev;
mod nodes;
mod postgres;
mod privileges;
mod processes;
mod roles;
mod say;
mod segment;
mod signals;
mod size;
mod status;
mod verify_redo;
mod verify_volume;
mod volume;

use std::io;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command, DevCommand, NodeArgs};
use dev::layout::Layout;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            say::say(&format!("sixfold: {error:#}{}", advice(&error)));
            ExitCode::FAILURE
        }
    }
}

/// What to do about a failure whose own words cannot say it.
fn advice(error: &anyhow::Error) -> String {
    let is_full = |cause: &io::Error| {
        matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    };
    match error.chain().filter_map(|cause| cause.downcast_ref()).any(is_full) {
        true => format!("; {}", env::room::FULL),
        false => String::new(),
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::VerifyVolume(args) => return Ok(verify_volume::run(&args)),
        Command::Segment(command) => return Ok(segment::run(&command)),
        Command::VerifyRedo(args) => return Ok(verify_redo::run(&args)),
        Command::Node(NodeArgs { command: Some(command), .. }) => nodes::run(command),
        Command::Node(args) => roles::node(args),
        Command::Compute(args) => roles::compute(args),
        Command::Control(args) => roles::control(args),
        Command::Status(args) => status::run(&args),
        Command::Volume(command) => volume::run(command),
        Command::Dev(DevCommand::Up(args)) => dev::up::run(&args),
        Command::Dev(DevCommand::Start(args)) => {
            dev::request::start(&Layout::new(&args.dir.dir)?, &args.name)
        }
        Command::Dev(DevCommand::Kill(args)) => {
            dev::disturb::kill(&Layout::new(&args.dir.dir)?, &args.name, args.signal)
        }
        Command::Dev(DevCommand::Wipe(args)) => {
            dev::disturb::wipe(&Layout::new(&args.dir.dir)?, &args.name)
        }
    }?;
    Ok(ExitCode::SUCCESS)
}
