//! Recovery over real connections, in as many epochs as it takes.
//!
//! - D20: an opening never waits for one node. Too few nodes are waited for, loudly; but once a
//!   decision is being made or carried out and nothing moves, some node on which it rests is dead or
//!   dumb, and it is made anew without that one, in a newer epoch. The newer epoch is raised from
//!   our own: whoever else has opened the volume meanwhile keeps it.
//!
//! Connections belong to one attempt: no answer to an earlier one can be taken for an answer to this.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use link::Party;
use protocol::{Command, Crippled, Event, Opened, Recovery, RecoveryError, Timelines};
use registry::VolumeInfo;
use types::{Epoch, GroupId, MembershipEpoch, NodeId};
use wire::Message;

use crate::links::{LinkEvent, Links};
use crate::open::Volume;
use crate::volume_log::members;

/// Unanswered questions are asked again after this long.
const TICK: Duration = Duration::from_millis(250);
/// How often a wait is explained.
const EXPLAIN: Duration = Duration::from_secs(2);
/// So long an attempt may stand still before the next one; longer each time, because nodes that are
/// far behind may need it.
const PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// The same while too few nodes answer: all that a new attempt brings is the addresses of nodes that
/// came back elsewhere.
const PATIENCE_FOR_NODES: Duration = Duration::from_secs(30);

impl std::fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Means")
    }
}

/// How an attempt ended.
enum Attempt {
    Opened(Opened),
    /// It leads nowhere, for the reason given.
    Futile(String),
}

/// What a recovery asks of others.
pub struct Means<'a> {
    /// Gives the next epoch, from the one expected.
    pub raise: &'a mut dyn FnMut(Option<u64>) -> anyhow::Result<VolumeInfo>,
    /// Asks for members in the place of silent ones, in the epoch being opened; how many there are.
    pub rescue: &'a mut dyn FnMut(Epoch, Vec<Crippled>) -> usize,
    /// Whether to give up.
    pub stop: &'a dyn Fn() -> bool,
}

/// Opens the volume in the epoch that it is given, or in a later one.
///
/// # Errors
/// When fenced by a newer open, refused, contradicted, or asked to stop.
pub fn recover(
    mut means: Means<'_>,
    mut expected_epoch: Option<u64>,
    timelines: Timelines,
    party: &Party,
) -> anyhow::Result<Volume> {
    let mut patience = PATIENCE;
    loop {
        let info = (means.raise)(expected_epoch)?;
        let epoch = Epoch(info.epoch);
        tracing::info!(volume = %info.id, %epoch, groups = info.groups.len(), "opening the volume");
        let mut links = Links::new(party.clone())?;
        let recovery = begin(&info, timelines, &mut links)?;
        match attempt(recovery, &mut links, patience, &mut means)? {
            Attempt::Opened(opened) => {
                let timeline = opened.timeline();
                tracing::info!(%epoch, vdl = %opened.vdl.end, %timeline, "volume open");
                return Ok(Volume { info, opened, links });
            }
            Attempt::Futile(reason) => {
                tracing::warn!(%epoch, reason, "opening the volume again, in a newer epoch");
            }
        }
        expected_epoch = Some(info.epoch);
        patience = (patience * 2).min(PATIENCE_MAX);
    }
}

fn begin(info: &VolumeInfo, timelines: Timelines, links: &mut Links) -> anyhow::Result<Recovery> {
    let mut groups = Vec::new();
    for group in &info.groups {
        let nodes = members(group)
            .with_context(|| format!("group {} has {} members", group.id, group.members.len()))?;
        groups.push((GroupId(group.id), MembershipEpoch(group.membership_epoch), nodes));
        for member in group.holders() {
            links.add(member.node, &member.address);
        }
    }
    let mut recovery = Recovery::new(info.id, Epoch(info.epoch), groups, timelines);
    for node in links.nodes() {
        recovery.handle(Event::Unreachable { node });
    }
    Ok(recovery)
}

fn attempt(
    mut recovery: Recovery,
    links: &mut Links,
    patience: Duration,
    means: &mut Means<'_>,
) -> anyhow::Result<Attempt> {
    let mut events = Vec::new();
    let (mut ticked, mut told) = (Instant::now(), Instant::now());
    let (mut awaited, mut moved) = (String::new(), Instant::now());
    loop {
        while let Some(Command::Send { node, message }) = recovery.poll() {
            if !links.send(node, group_of(&message), &message) {
                recovery.handle(Event::Unreachable { node });
            }
        }
        links.flush(&mut events);
        match recovery.outcome() {
            Some(Ok(opened)) => return Ok(Attempt::Opened(opened)),
            // A group was added while we asked: the next answer of the control plane lists it.
            Some(Err(error @ RecoveryError::UnknownGroup { .. })) if !(means.stop)() => {
                std::thread::sleep(TICK);
                return Ok(Attempt::Futile(error.to_string()));
            }
            Some(Err(error)) => {
                return Err(error).context("the volume cannot be opened in this epoch");
            }
            None => {}
        }
        let timeout = if events.is_empty() { TICK } else { Duration::ZERO };
        links.turn(timeout, &mut events)?;
        for event in events.drain(..) {
            take(&mut recovery, event);
        }
        if ticked.elapsed() < TICK {
            continue;
        }
        ticked = Instant::now();
        recovery.handle(Event::Tick);
        let waits_for = recovery.waiting_for();
        if waits_for != awaited {
            (awaited, moved) = (waits_for, Instant::now());
        }
        let patience = if recovery.is_sealing() { PATIENCE_FOR_NODES } else { patience };
        if told.elapsed() >= EXPLAIN {
            told = Instant::now();
            let missing = missing(links);
            tracing::warn!(waits_for = awaited, not_connected = missing, "still opening");
            let crippled = recovery.crippled();
            if !crippled.is_empty() && (means.rescue)(recovery.epoch(), crippled) > 0 {
                return Ok(Attempt::Futile("lost members have been replaced".to_owned()));
            }
        }
        if (means.stop)() {
            bail!("asked to stop while opening the volume ({awaited})");
        }
        if moved.elapsed() >= patience {
            return Ok(Attempt::Futile(format!("no progress for {patience:?}: {awaited}")));
        }
    }
}

fn take(recovery: &mut Recovery, event: LinkEvent) {
    match event {
        LinkEvent::Up(node) => recovery.handle(Event::Reachable { node }),
        LinkEvent::Down(node) => recovery.handle(Event::Unreachable { node }),
        LinkEvent::Message(node, tag, message) => {
            if let Some(event) = Event::of(node, GroupId(tag), message) {
                recovery.handle(event);
            }
        }
        LinkEvent::Barred(node, why) => tracing::error!(%node, why, "a node refuses us"),
        LinkEvent::Woken | LinkEvent::Bell => {}
    }
}

/// The nodes without a connection, for humans.
fn missing(links: &Links) -> String {
    let down = links.nodes().filter(|node| !links.is_up(*node));
    let names: Vec<String> = down.map(|node: NodeId| node.to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// The group a recovery message is about.
fn group_of(message: &Message) -> u32 {
    match message {
        Message::Seal { segment, .. }
        | Message::AskTail { segment, .. }
        | Message::Adopt { segment, .. }
        | Message::AskReport { segment } => segment.group.0,
        _ => 0,
    }
}
