//! `sixfold node list|drain|replace`: what an operator does with storage nodes.
//!
//! Reading order: [`args`] (the command line), here (asking the control plane, and what is printed;
//! field names are a contract with scripts).

pub(crate) mod args;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use registry::{Client, Duty, NodeInfo};
use serde::Serialize;
use serde_json::json;
use types::NodeId;

use crate::say::say;
use crate::status::print::{row, table};
use crate::status::{control_of_place, put_out};
use crate::volume::args::ListArgs;
use args::NodeCommand;

/// A node not heard for longer is silent.
const SILENT_MS: u64 = 5_000;
/// Between two looks at how far a move is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two lines about it.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// A storage node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Node {
    name: String,
    az: String,
    address: String,
    /// `up`, `full` (it is heard, and acknowledges nothing until its disk has room), `suspect` (it is heard,
    /// but a writer finds it far slower than the others) or `silent`.
    state: &'static str,
    /// `serving`, `draining` or `lost`.
    duty: Duty,
    /// Segments whose place it has.
    segments: usize,
    /// Segments that it copies, to take over a place.
    filling: usize,
    seen_ms_ago: Option<u64>,
    /// For how long some writer has found it suspect.
    suspect_ms: Option<u64>,
    /// Whether it said last that its disk is full.
    disk_full: bool,
}

impl From<&NodeInfo> for Node {
    fn from(info: &NodeInfo) -> Node {
        let heard = info.seen_ms_ago.is_some_and(|ms| ms < SILENT_MS);
        Node {
            name: info.name.to_string(),
            az: info.az.to_string(),
            address: info.address.clone(),
            state: if heard { info.ailment().unwrap_or("up") } else { "silent" },
            duty: info.duty,
            segments: info.segments,
            filling: info.filling,
            seen_ms_ago: info.seen_ms_ago,
            suspect_ms: info.suspect_ms,
            disk_full: info.disk_full,
        }
    }
}

/// Does what was asked.
pub(crate) fn run(command: NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::List(args) => {
            let nodes = client(&args)?.topology()?.nodes;
            print(&args, &nodes.iter().map(Node::from).collect::<Vec<_>>())
        }
        NodeCommand::Drain(args) if args.cancel => {
            let node = client(&args.to)?.set_duty(args.name, Duty::Serving)?;
            print(&args.to, &[Node::from(&node)])
        }
        NodeCommand::Drain(args) => move_away(&args.to, args.name, Duty::Draining),
        NodeCommand::Replace(args) => move_away(&args.to, args.name, Duty::Lost),
    }
}

fn client(args: &ListArgs) -> anyhow::Result<Client> {
    Ok(Client::new(&control_of_place(&args.place)?))
}

/// Gives the node its duty, and tells how its segments move until none is left.
fn move_away(args: &ListArgs, name: NodeId, duty: Duty) -> anyhow::Result<()> {
    let client = client(args)?;
    let mut node = client.set_duty(name, duty)?;
    let mut told: Option<Instant> = None;
    while node.segments > 0 {
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            say(&format!("{} segments of {name} are still to move", node.segments));
            told = Some(Instant::now());
        }
        std::thread::sleep(LOOK_EVERY);
        let nodes = client.topology()?.nodes;
        let found = nodes.into_iter().find(|node| node.name == name);
        node = found.with_context(|| format!("node {name} is not listed any more"))?;
        anyhow::ensure!(
            node.duty == duty,
            "somebody else has changed what {name} is for; see `sixfold node list`"
        );
    }
    print(args, &[Node::from(&node)])
}

fn print(args: &ListArgs, nodes: &[Node]) -> anyhow::Result<()> {
    if args.json {
        let nodes = json!({ "nodes": nodes });
        return put_out(&serde_json::to_string_pretty(&nodes).context("plain values")?);
    }
    let mut rows = vec![row(["node", "az", "address", "state", "duty", "segments", "filling"])];
    rows.extend(nodes.iter().map(|node| {
        let duty = match node.duty {
            Duty::Serving => "serving",
            Duty::Draining => "draining",
            Duty::Lost => "lost",
        };
        row([
            node.name.as_str(),
            node.az.as_str(),
            node.address.as_str(),
            node.state,
            duty,
            &node.segments.to_string(),
            &node.filling.to_string(),
        ])
    }));
    let mut out = String::new();
    table(&mut out, &rows);
    put_out(&out)
}
