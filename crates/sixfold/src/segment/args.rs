//! The command line of `sixfold segment`. Values only.

use clap::{Args, Subcommand};
use types::NodeId;

use crate::volume::args::ListArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum SegmentCommand {
    /// Have the nodes read and check every block that they store, and mend what is damaged.
    #[command(after_help = "Examples:
  sixfold segment verify                              everything, on every node
  sixfold segment verify --node b1                    one node's disk
  sixfold segment verify --volume orders --group 3    the six copies of one group, and the logs
  sixfold segment verify --json | jq '.nodes[] | {node, damaged, left}'

Nodes do this by themselves once in --scrub-interval; reading and writing go on meanwhile. What is
damaged is mended with other members' pages, for which this waits a while.

Exit status: 0 all is sound, or mended now; 1 damage remains; 2 a node could not be asked.")]
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Only this node; may be repeated.
    #[arg(long)]
    pub node: Vec<NodeId>,
    /// Only this volume's segments.
    #[arg(long)]
    pub volume: Option<String>,
    /// Only this group's segments.
    #[arg(long)]
    pub group: Option<u32>,
    /// How long to wait for damage to be mended, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub wait: u64,
    #[command(flatten)]
    pub to: ListArgs,
}
