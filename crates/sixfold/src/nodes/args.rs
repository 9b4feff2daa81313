//! The command line of `sixfold node list|drain|replace`. Values only.

use clap::{Args, Subcommand};
use types::NodeId;

use crate::volume::args::ListArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the storage nodes, what they are for and what they hold.
    #[command(after_help = "Examples:
  sixfold node list                          of the development cluster in ./sixfold-dev
  sixfold node list --json | jq '.nodes[] | select(.state != \"up\")'
  sixfold node list --control 10.0.0.1:7300  of a real deployment")]
    List(ListArgs),
    /// Move all segments of a living node to others of its zone, before it is taken away.
    #[command(after_help = "Examples:
  sixfold node drain b1                its segments are copied, then handed over; it is given no more
  sixfold node drain b1 --cancel       what has not moved stays, and it is given segments again

Writing and reading go on. Returns when nothing is left on the node; interrupted, the move goes on.")]
    Drain(DrainArgs),
    /// Rebuild a lost node's segments on others of its zone at once, without waiting for its return.
    #[command(after_help = "Examples:
  sixfold node replace c2              its disk is gone: rebuild now what it held
  sixfold node drain c2 --cancel       it is back after all, and may be given segments again

A node that is silent for long enough is replaced without being told (`sixfold control
--replace-after`). What comes back under its name is told to forget what others hold now.")]
    Replace(ReplaceArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node.
    pub name: NodeId,
    /// Take a drain, or a replacement, back.
    #[arg(long)]
    pub cancel: bool,
    #[command(flatten)]
    pub to: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    /// The node.
    pub name: NodeId,
    #[command(flatten)]
    pub to: ListArgs,
}
