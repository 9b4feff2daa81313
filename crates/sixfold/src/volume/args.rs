//! The command line of `sixfold volume`. Values only.

use clap::{Args, Subcommand};

use crate::cli::PlaceArgs;
use crate::size;

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List the cluster's volumes and what they take.
    #[command(after_help = "Examples:
  sixfold volume list                          of the development cluster in ./sixfold-dev
  sixfold volume list --json | jq '.volumes[] | {name, live_bytes}'
  sixfold volume list --control 10.0.0.1:7300  of a real deployment")]
    List(ListArgs),
    /// Show one volume: its groups, and what each node keeps of them.
    #[command(after_help = "Examples:
  sixfold volume show main
  sixfold volume show main --json | jq .volume.file_bytes

Live bytes are those of the pages that exist, told by the writer; file and log bytes are what the nodes
keep on their disks, all copies together.")]
    Show(NameArgs),
    /// Make a volume, to be opened and filled by the first `sixfold compute` that names it.
    #[command(after_help = "Examples:
  sixfold volume create orders
  sixfold volume create orders --group-size 1GB --limit 50GB
  sixfold compute --volume orders --name orders-1 --control 10.0.0.1:7300 --dir /var/lib/sixfold/orders")]
    Create(CreateArgs),
    /// Delete a volume and everything in it, for ever.
    #[command(after_help = "Examples:
  sixfold volume delete orders
  sixfold volume delete orders --force      even while an instance has it open, which stops it

Returns when every node that answers has freed its disk. One that is away does so when it is back.")]
    Delete(DeleteArgs),
    /// Set or lift a volume's limit.
    #[command(after_help = "Examples:
  sixfold volume limit orders 100GB
  sixfold volume limit orders none

At the limit, statements that would make a table or an index larger fail with PostgreSQL's \"no space
left on device\"; everything else goes on. It is looked at twenty times a second, so some megabytes may
pass. Dropping and truncating make room.")]
    Limit(LimitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The volume.
    pub name: String,
    #[command(flatten)]
    pub to: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: 1 to 63 lower-case letters, digits or hyphens.
    pub name: String,
    /// Bytes of pages at which a group is full; fixed from now on [default: 10GB].
    #[arg(long, value_name = "SIZE", value_parser = size::parse_group)]
    pub group_size: Option<u64>,
    /// Bytes of pages beyond which it may not grow [default: unlimited].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub to: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The volume.
    pub name: String,
    /// Even while an instance has it open: that instance is stopped.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub to: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// The volume.
    pub name: String,
    /// Bytes of pages, such as 100GB, or `none`.
    #[arg(value_parser = limit)]
    pub limit: Limit,
    #[command(flatten)]
    pub to: ListArgs,
}

/// A limit as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub Option<u64>);

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        size => size::parse(size).map(|bytes| Limit(Some(bytes))),
    }
}
