//! The command line: every subcommand, flag, help text and example. Values only.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use types::{Az, NodeId};

use crate::nodes::args::NodeCommand;
use crate::segment::args::SegmentCommand;
use crate::size;
use crate::volume::args::VolumeCommand;

/// Amazon Aurora's storage under stock PostgreSQL 15: six copies in three zones, four to commit.
#[derive(Debug, Parser)]
#[command(
    name = "sixfold",
    version,
    after_help = "Examples:
  sixfold dev up                     a whole cluster on this machine
  sixfold status                     what it is doing
  sixfold dev kill c1                take a storage node away
  sixfold dev start c1               and bring it back

Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a storage node; or list, drain and replace them.
    Node(NodeArgs),
    /// Run a database instance: PostgreSQL and the daemon beside it.
    Compute(ComputeArgs),
    /// Run the control plane.
    Control(ControlArgs),
    /// Show volume, processes, groups and instances.
    #[command(after_help = "Examples:
  sixfold status                          the development cluster in ./sixfold-dev
  sixfold status --json | jq .volume
  sixfold status --control 10.0.0.1:7300  a real deployment")]
    Status(VolumeArgs),
    /// Compare what storage gives with the writer's own files, page by page.
    #[command(after_help = "Examples:
  sixfold verify-volume                          the development cluster in ./sixfold-dev
  sixfold verify-volume --json | jq .counts
  sixfold verify-volume --control 10.0.0.1:7300  a real deployment, on its writer's host

Makes PostgreSQL write checkpoints, then reads the writer's files and asks the storage nodes for the
same pages, sizes, maps, directories, settings and counters. What moves meanwhile is looked at again.

Exit status: 0 the same, 1 different, 2 it could not be told.")]
    VerifyVolume(VolumeArgs),
    /// Compare redo with PostgreSQL's own pages, as WAL written for the purpose holds them.
    VerifyRedo(VerifyRedoArgs),
    /// Make, list, limit and delete volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Check what the nodes store.
    #[command(subcommand)]
    Segment(SegmentCommand),
    /// Run and disturb a whole cluster on this machine.
    #[command(subcommand)]
    Dev(DevCommand),
}

/// Tied to the process that supervises it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Supervised {
    /// Stop when this process ends.
    #[arg(long, hide = true, value_name = "PID")]
    pub supervisor: Option<u32>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  sixfold node list
  sixfold node --name a1 --az a --listen 10.0.0.11:7400 --control 10.0.0.1:7300 --dir /var/lib/sixfold")]
// Those that are required are, unless there is a subcommand.
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    /// Its name, unique in the cluster.
    #[arg(long, required = true)]
    pub name: Option<NodeId>,
    /// Its availability zone, one letter.
    #[arg(long, required = true)]
    pub az: Option<Az>,
    /// Where to listen, HOST:PORT.
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub listen: Option<String>,
    /// Where others reach it, HOST:PORT [default: as --listen].
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<String>,
    /// The control plane, HOST:PORT.
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub control: Option<String>,
    /// Its disk.
    #[arg(long, required = true)]
    pub dir: Option<PathBuf>,
    /// Where to serve metrics, HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub http: String,
    /// Round trip to add to traffic with other zones, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub az_latency: u64,
    /// Hot log to keep beyond what is in page files, from which peers that were away catch up
    /// [default: 128MB].
    #[arg(long, value_name = "SIZE", env = "SIXFOLD_LOG_RETAIN", value_parser = size::parse)]
    pub log_retain: Option<u64>,
    /// Measurements: nothing is flushed, merged or freed.
    #[arg(long, hide = true, env = "SIXFOLD_HOLD_BACKGROUND")]
    pub hold_background: bool,
    /// Read and check everything stored once in so many seconds [default: 604800, a week].
    #[arg(long, value_name = "SECONDS", env = "SIXFOLD_SCRUB_INTERVAL", hide_env = true)]
    pub scrub_interval: Option<u64>,
    /// Test mode: a segment's bytes in memory at which they move to a page file.
    #[arg(long, hide = true, env = "SIXFOLD_FLUSH_SIZE", value_parser = size::parse)]
    pub flush_size: Option<u64>,
    /// Test mode: size of a log file.
    #[arg(long, hide = true, env = "SIXFOLD_LOG_FILE_SIZE", value_parser = size::parse)]
    pub log_file_size: Option<u64>,
    #[command(flatten)]
    pub supervised: Supervised,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sixfold compute --name writer --control 10.0.0.1:7300 --dir /var/lib/sixfold/writer --port 5432
  sixfold compute --name writer --control 10.0.0.1:7300 --dir /fast/writer --port 5432 \\
      --listen '*' --cache-size 64GB --set shared_buffers=8GB

Everything in --dir is a cache; started as root, PostgreSQL and the daemon run as --user.")]
pub(crate) struct ComputeArgs {
    /// Its name, unique in the cluster.
    #[arg(long)]
    pub name: NodeId,
    /// The control plane, HOST:PORT.
    #[arg(long, value_name = "ADDRESS")]
    pub control: String,
    /// Its cache; may be lost at any time.
    #[arg(long)]
    pub dir: PathBuf,
    /// The volume to open; created when there is none of this name.
    #[arg(long, default_value = "main")]
    pub volume: String,
    /// PostgreSQL's port.
    #[arg(long, default_value_t = 5432)]
    pub port: u16,
    /// Addresses that PostgreSQL listens on, as its listen_addresses.
    #[arg(long, default_value = "127.0.0.1")]
    pub listen: String,
    /// Directory of PostgreSQL's programs [default: Debian's for version 15].
    #[arg(long, value_name = "DIR", env = "SIXFOLD_PG_BIN")]
    pub pg_bin: Option<PathBuf>,
    /// The preload library [default: libsixfold_shim.so beside this program].
    #[arg(long, value_name = "FILE", env = "SIXFOLD_SHIM")]
    pub shim: Option<PathBuf>,
    #[command(flatten)]
    pub tuning: Tuning,
    /// Its availability zone, one letter.
    #[arg(long, default_value = "a")]
    pub az: Az,
    /// Where to serve metrics, HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub http: String,
    /// Test mode: evict whatever may be evicted at once, comparing it with storage first.
    #[arg(long, hide = true, env = "SIXFOLD_EVICT_EVERYTHING")]
    pub evict_everything: bool,
    /// The user to become when started as root.
    #[arg(long, default_value = "postgres")]
    pub user: String,
    #[command(flatten)]
    pub supervised: Supervised,
}

/// What both an instance and a whole development cluster take.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Tuning {
    /// Bytes of pages at which a group is full; fixed when the volume is created [default: 10GB].
    #[arg(long, value_name = "SIZE", value_parser = size::parse_group)]
    pub group_size: Option<u64>,
    /// Round trip to add to traffic with other zones, milliseconds [default: 0].
    #[arg(long, value_name = "MS")]
    pub az_latency: Option<u64>,
    /// Local bytes to keep pages in [default: 8GB].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub cache_size: Option<u64>,
    /// Local bytes that pages may take at most while a transaction or an index build pins them; then
    /// statements fail with "no space left" [default: what the disk has].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub cache_limit: Option<u64>,
    /// A PostgreSQL setting; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  sixfold control --listen 10.0.0.1:7300 --dir /var/lib/sixfold-control")]
pub(crate) struct ControlArgs {
    /// Its store.
    #[arg(long)]
    pub dir: PathBuf,
    /// Where to listen, HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7300")]
    pub listen: String,
    /// A node silent for so many seconds is taken for lost, and rebuilt on others of its zone
    /// [default: 300].
    #[arg(long, value_name = "SECONDS")]
    pub replace_after: Option<u64>,
    /// A node that writers find far slower than the others for so many seconds is replaced in the same
    /// way [default: 900].
    #[arg(long, value_name = "SECONDS")]
    pub replace_slow_after: Option<u64>,
    #[command(flatten)]
    pub supervised: Supervised,
}

/// Which volume of which cluster, and how to print what is said of it.
#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The volume.
    #[arg(long, default_value = "main")]
    pub volume: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which cluster: a development one by its directory, a real one by its control plane.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    #[command(flatten)]
    pub dir: DirArg,
    /// The control plane of a real deployment, HOST:PORT.
    #[arg(long, value_name = "ADDRESS")]
    pub control: Option<String>,
    /// A file that names it: `control = \"HOST:PORT\"`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sixfold verify-redo --wal /var/lib/postgresql/15/main/pg_wal
  sixfold verify-redo --wal archive --from base-backup
  sixfold verify-redo --wal archive --json | jq '.types[] | select(.different > 0)'

The WAL must be written with wal_consistency_checking = all. Each record is applied as a storage node
applies it, and each page compared with the image of it in the record, under PostgreSQL's masks; what a
map or a hint's image says is compared too. Columns: seen (records), pages they change, compared,
different, restored (replaced by the record's image, as in recovery), confirmed (restored ones found
right by the next comparison of the page), not known (before the record: never seen whole), other (newer
than the record, or no image to compare with). The pages touched are kept in memory.

Exit status: 0 all equal, 1 differences, 2 it cannot run, or not to the end of the WAL.")]
pub(crate) struct VerifyRedoArgs {
    /// Segments as in pg_wal or a plain archive; of several timelines the newest is followed.
    #[arg(long, value_name = "DIR")]
    pub wal: PathBuf,
    /// A data directory to begin pages with: a base backup, or a copy of a stopped server.
    #[arg(long, value_name = "IMAGES")]
    pub from: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which development cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct DirArg {
    /// The development cluster's directory.
    #[arg(long, env = "SIXFOLD_DIR", default_value = "./sixfold-dev")]
    pub dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Start six storage nodes, the control plane and a writer; the same directory resumes.
    Up(UpArgs),
    /// Kill or signal a process; killing an instance means its daemon and its PostgreSQL.
    Kill(KillArgs),
    /// Start a process that is down again.
    Start(NameArgs),
    /// Throw away a stopped node's disk or a stopped instance's cache.
    Wipe(NameArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sixfold dev up                                      in ./sixfold-dev, PostgreSQL on port 5432
  sixfold dev up --dir /tmp/demo --port 6000 --az-latency 2
  sixfold dev up --group-size 8MB --cache-size 32MB   small, to see groups and eviction
  sixfold dev up --set shared_buffers=1GB --set max_connections=300

Prints `ready: URL` when writes work; stops everything on Ctrl-C or SIGTERM. Options not given are as
last time in the same directory.")]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub dir: DirArg,
    /// PostgreSQL's port [default: 5432].
    #[arg(long)]
    pub port: Option<u16>,
    /// Read replicas; not available yet.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub replicas: u32,
    #[command(flatten)]
    pub nodes: DevNodes,
    #[command(flatten)]
    pub tuning: Tuning,
}

/// Which storage nodes a development cluster has, and how patient it is with them.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DevNodes {
    /// A third node in each zone (a3 b3 c3), which lost and drained ones are replaced by.
    #[arg(long)]
    pub spares: bool,
    /// A node silent for so many seconds is taken for lost, and rebuilt on others of its zone
    /// [default: 300].
    #[arg(long, value_name = "SECONDS")]
    pub replace_after: Option<u64>,
    /// A node that writers find far slower than the others for so many seconds is replaced in the same
    /// way [default: 900].
    #[arg(long, value_name = "SECONDS")]
    pub replace_slow_after: Option<u64>,
    /// Others reach the node (or the control plane) of this name there: tests put something between.
    #[arg(long, hide = true, value_name = "NAME=ADDRESS", value_parser = setting)]
    pub through: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sixfold dev kill c1                  as if its machine lost power
  sixfold dev kill writer
  sixfold dev kill b2 --signal STOP    as if it hung; --signal CONT wakes it")]
pub(crate) struct KillArgs {
    #[command(flatten)]
    pub dir: DirArg,
    /// A node (a1 a2 b1 b2 c1 c2), `writer` or `control`.
    pub name: String,
    /// What to send.
    #[arg(long, value_enum, ignore_case = true, default_value_t = SignalName::Kill)]
    pub signal: SignalName,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sixfold dev start c1
  sixfold dev kill writer && sixfold dev wipe writer && sixfold dev start writer")]
pub(crate) struct NameArgs {
    #[command(flatten)]
    pub dir: DirArg,
    /// A node (a1 a2 b1 b2 c1 c2), `writer` or `control`.
    pub name: String,
}

/// Signals that an operator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum SignalName {
    /// Die at once.
    Kill,
    /// Stand still.
    Stop,
    /// Go on.
    Cont,
    /// Stop in good order.
    Term,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("`{text}` is not NAME=VALUE, such as work_mem=64MB")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_help_with_an_example() {
        let mut root = Cli::command();
        root.clone().debug_assert();
        fn visit(command: &mut clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(!leaf || after.contains("Example"), "{} has no example", command.get_name());
            assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
            command.get_subcommands_mut().filter(|c| c.get_name() != "help").for_each(visit);
        }
        visit(&mut root);
    }

    #[test]
    fn dev_up_takes_what_the_contract_says() {
        let line = "sixfold dev up --dir d --port 6000 --replicas 0 --group-size 8MB \
                    --az-latency 2 --cache-size 32MB --set fsync=on --set a=b=c";
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Command::Dev(DevCommand::Up(up)) = parse(&line).expect("valid").command else {
            panic!("another command");
        };
        assert_eq!((up.port, up.tuning.group_size), (Some(6000), Some(8 << 20)));
        assert_eq!((up.tuning.az_latency, up.tuning.cache_size), (Some(2), Some(32 << 20)));
        assert_eq!(up.tuning.set[1], ("a".to_owned(), "b=c".to_owned()));
    }

    #[test]
    fn kill_sends_kill_unless_told_otherwise() {
        for (line, signal) in [
            ("sixfold dev kill a1", SignalName::Kill),
            ("sixfold dev kill a1 --signal STOP", SignalName::Stop),
            ("sixfold dev kill --signal CONT a1 --dir d", SignalName::Cont),
            ("sixfold dev kill writer --signal term", SignalName::Term),
        ] {
            let Command::Dev(DevCommand::Kill(kill)) = parse(line).expect("valid").command else {
                panic!("another command");
            };
            assert_eq!(kill.signal, signal, "{line}");
        }
    }

    #[test]
    fn node_runs_one_or_does_something_with_those_that_run() {
        let run = parse("sixfold node --name a1 --az a --listen x --control y --dir d");
        let Command::Node(args) = run.expect("valid").command else { panic!("another command") };
        assert!(args.command.is_none() && args.name.is_some() && args.dir.is_some());
        let list = parse("sixfold node list --json --dir d").expect("valid").command;
        let Command::Node(args) = list else { panic!("another command") };
        assert!(matches!(args.command, Some(NodeCommand::List(_))));
    }

    #[test]
    fn wrong_usage_is_refused_with_status_two() {
        for line in [
            "sixfold",
            "sixfold dev up --no-such-flag",
            "sixfold dev up --port 70000",
            "sixfold dev kill",
            "sixfold dev kill a1 --signal HUP",
            "sixfold dev up --group-size big",
            "sixfold dev up --set nonsense",
            "sixfold volume create",
            "sixfold volume limit main much",
            "sixfold node --name A1 --az a --listen x --control y --dir d",
            "sixfold node",
            "sixfold node drain",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn version_and_help_succeed() {
        assert_eq!(parse("sixfold --version").expect_err("prints").exit_code(), 0);
        assert_eq!(parse("sixfold dev up --help").expect_err("prints").exit_code(), 0);
    }
}
