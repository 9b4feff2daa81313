//! `sixfold segment verify`: every block on the nodes' disks is read and checked. Exit status: 0 sound, or
//! mended; 1 damage remains; 2 a node could not be asked.
//!
//! Reading order: [`args`] (the command line), here (asking the nodes, and what is printed; field names
//! are a contract with scripts).

pub(crate) mod args;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use registry::{CheckProgress, CheckWish, CheckedLog, CheckedSegment, Client, SegmentDamage};
use serde::Serialize;
use serde_json::json;

use crate::say::say;
use crate::size;
use crate::status::print::{row, table};
use crate::status::{control_of_place, put_out};
use args::{SegmentCommand, VerifyArgs};

/// Between two looks at how far the nodes are.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two lines about it.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// A node that has not answered for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What one node found on its disk.
#[derive(Debug, Default, Serialize)]
struct Node {
    node: String,
    /// Why it could not be asked, or not to the end.
    error: Option<String>,
    /// Blocks, indexes and durable writes checked.
    checked: u64,
    /// Their bytes.
    bytes: u64,
    /// Damaged places met.
    damaged: u64,
    /// Of everything asked for, what is damaged still.
    left: Vec<SegmentDamage>,
    log_left: Vec<String>,
    segments: Vec<CheckedSegment>,
    log: CheckedLog,
}

impl Node {
    fn is_damaged(&self) -> bool {
        !(self.left.is_empty() && self.log_left.is_empty())
    }
}

/// A check that a node was asked for.
struct Asked {
    name: String,
    /// The check's number, or why there is none.
    check: Result<(Client, u64), String>,
    progress: CheckProgress,
    /// When it answered last.
    heard: Instant,
}

/// Does what was asked.
pub(crate) fn run(command: &SegmentCommand) -> ExitCode {
    let SegmentCommand::Verify(args) = command;
    match verify(args) {
        Ok(nodes) if nodes.iter().any(Node::is_damaged) => ExitCode::from(1),
        Ok(nodes) if nodes.iter().any(|node| node.error.is_some()) => ExitCode::from(2),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("sixfold: the segments cannot be verified: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn verify(args: &VerifyArgs) -> anyhow::Result<Vec<Node>> {
    let mut asked = ask(args)?;
    let (mut told, mut read) = (Instant::now(), None);
    loop {
        asked.iter_mut().for_each(Asked::look);
        let reading = asked.iter().filter(|one| one.is_reading()).count();
        let damaged = asked.iter().filter(|one| one.is_damaged()).count();
        if reading == 0 {
            let read = read.get_or_insert_with(Instant::now);
            if damaged == 0 || read.elapsed() >= Duration::from_secs(args.wait) {
                break;
            }
        }
        if told.elapsed() >= TELL_EVERY {
            asked.iter().for_each(Asked::tell);
            told = Instant::now();
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let nodes: Vec<Node> = asked.into_iter().map(Asked::outcome).collect();
    match args.to.json {
        true => {
            let nodes = json!({ "nodes": nodes });
            put_out(&serde_json::to_string_pretty(&nodes).context("plain values")?)?;
        }
        false => put_out(&text(&nodes))?,
    }
    Ok(nodes)
}

/// Has every node begin that is meant.
fn ask(args: &VerifyArgs) -> anyhow::Result<Vec<Asked>> {
    let control = Client::new(&control_of_place(&args.to.place)?);
    let volume = match &args.volume {
        Some(name) => {
            let found = control.volumes()?.into_iter().find(|volume| volume.name == *name);
            Some(found.with_context(|| format!("there is no volume {name}"))?.id)
        }
        None => None,
    };
    let wish = CheckWish { volume, group: args.group };
    let nodes = control.topology()?.nodes;
    for name in &args.node {
        ensure!(nodes.iter().any(|node| node.name == *name), "there is no node {name}");
    }
    let meant = |node: &&registry::NodeInfo| args.node.is_empty() || args.node.contains(&node.name);
    let begin = |node: &registry::NodeInfo| {
        let begun = match &node.http {
            Some(address) => {
                let client = Client::new(address);
                let begun = client.begin_check(&wish);
                begun.map(|progress| (client, progress.id)).map_err(|_| no_answer(address))
            }
            None => Err("it was started without --http".to_owned()),
        };
        let (name, progress) = (node.name.to_string(), CheckProgress::default());
        Asked { name, check: begun, progress, heard: Instant::now() }
    };
    let asked: Vec<Asked> = nodes.iter().filter(meant).map(begin).collect();
    if asked.is_empty() {
        bail!("there is no node");
    }
    Ok(asked)
}

fn no_answer(address: &str) -> String {
    format!("it does not answer at {address}")
}

impl Asked {
    fn look(&mut self) {
        let Ok((client, id)) = &self.check else { return };
        match client.check_progress() {
            Ok(progress) if progress.id == *id => {
                (self.progress, self.heard) = (progress, Instant::now());
            }
            Ok(_) => self.check = Err("another check has taken over, or it was restarted".into()),
            Err(_) if self.heard.elapsed() < SILENCE_MAX => {}
            Err(_) => self.check = Err(no_answer(client.address())),
        }
    }

    fn is_reading(&self) -> bool {
        self.check.is_ok() && !self.progress.done
    }

    fn is_damaged(&self) -> bool {
        let CheckProgress { damage, log_damage, .. } = &self.progress;
        self.check.is_ok() && !(damage.is_empty() && log_damage.is_empty())
    }

    fn tell(&self) {
        let CheckProgress { bytes_planned, bytes_checked, .. } = self.progress;
        if self.is_reading() {
            let of = (size::text(bytes_checked), size::text(bytes_planned));
            say(&format!("{}: {} of about {} checked", self.name, of.0, of.1));
        } else if self.is_damaged() {
            say(&format!("{}: being mended", self.name));
        }
    }

    fn outcome(self) -> Node {
        let CheckProgress { failed, segments, log, damage, log_damage, .. } = self.progress;
        let blocks: u64 = segments.iter().map(|segment| segment.blocks).sum();
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let damaged: u64 = segments.iter().map(|segment| segment.damaged).sum();
        Node {
            node: self.name,
            error: self.check.err().or(failed),
            checked: blocks + log.units,
            bytes: bytes + log.bytes,
            damaged: damaged + log.damaged,
            left: damage,
            log_left: log_damage,
            segments,
            log,
        }
    }
}

/// The outcome for people.
fn text(nodes: &[Node]) -> String {
    let mut rows = vec![row(["node", "segments", "checked", "bytes", "damaged", "left", ""])];
    rows.extend(nodes.iter().map(|node| {
        let places: u64 = node.left.iter().map(|segment| segment.places.max(1)).sum();
        row([
            node.node.as_str(),
            &node.segments.len().to_string(),
            &node.checked.to_string(),
            &size::text(node.bytes),
            &node.damaged.to_string(),
            &(places + node.log_left.len() as u64).to_string(),
            node.error.as_deref().unwrap_or_default(),
        ])
    }));
    let mut out = String::new();
    table(&mut out, &rows);
    for node in nodes {
        let segments = node.left.iter().map(|segment| segment.why.as_str());
        for why in segments.chain(node.log_left.iter().map(String::as_str)) {
            out += &format!("{}: {why}\n", node.node);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_damage_is_told_and_its_json_fields_are_those_that_scripts_know() {
        let asked = |damage| Asked {
            name: "b1".to_owned(),
            check: Ok((Client::new("127.0.0.1:1"), 1)),
            progress: CheckProgress { id: 1, done: true, damage, ..CheckProgress::default() },
            heard: Instant::now(),
        };
        let damage = SegmentDamage {
            volume: types::VolumeId(1),
            group: 3,
            places: 2,
            lost: false,
            why: "block at 512".to_owned(),
        };
        assert!(!asked(Vec::new()).outcome().is_damaged());
        let node = asked(vec![damage]).outcome();
        assert!(node.is_damaged());
        let text = text(std::slice::from_ref(&node));
        assert!(text.contains("b1: block at 512"), "{text}");
        let json = serde_json::to_value(&node).expect("plain values");
        let names: Vec<&String> = json.as_object().expect("an object").keys().collect();
        let known =
            ["bytes", "checked", "damaged", "error", "left", "log", "log_left", "node", "segments"];
        let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, known);
        assert_eq!((&json["left"][0]["places"], &json["left"][0]["group"]), (&2.into(), &3.into()));
    }
}
