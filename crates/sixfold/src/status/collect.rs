//! Asking: the control plane once, every node at the same time, this machine's processes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use link::{Client as Link, Party};
use registry::{Client, ControlStatus, InstanceInfo, NodeInfo, VolumeInfo};
use types::{ClusterId, Lsn, NodeId, SegmentId, VolumeId};
use wire::{Message, SegmentReport, Speaker};

use super::report::{Group, GroupMember, Instance, ProcessLine, Report, Volume};
use crate::dev::layout::{Layout, Saved, WRITER};
use crate::dev::member::{self, Role};
use crate::processes::Process;

/// A node that does not answer by then counts as down.
const NODE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Somebody not heard for longer counts as down.
const SILENT_MS: u64 = 5_000;

/// What each node says it holds; absent when it does not answer.
type Answers = BTreeMap<String, Vec<(SegmentId, SegmentReport)>>;

/// Status of a deployment named by its control plane.
pub(crate) fn deployment(address: &str, volume: &str) -> anyhow::Result<Report> {
    let status = Client::new(address).status()?;
    let addresses = status.nodes.iter().map(|node| (node.name.to_string(), node.address.clone()));
    let answers = ask_nodes(status.cluster, addresses.collect());
    let mut processes = vec![ProcessLine {
        role: "control".to_owned(),
        name: "control".to_owned(),
        az: None,
        pid: Some(status.pid),
        address: address.to_owned(),
        state: "running".to_owned(),
    }];
    processes.extend(status.nodes.iter().map(|node| ProcessLine {
        role: "node".to_owned(),
        name: node.name.to_string(),
        az: Some(node.az.to_string()),
        pid: Some(node.pid),
        address: node.address.clone(),
        state: match heard(node.seen_ms_ago) {
            state if state == "running" => node.ailment().unwrap_or("running").to_owned(),
            state => state,
        },
    }));
    processes.extend(status.instances.iter().map(|instance| ProcessLine {
        role: "compute".to_owned(),
        name: instance.heartbeat.name.clone(),
        az: instance.heartbeat.az.map(|az| az.to_string()),
        pid: Some(instance.heartbeat.daemon_pid),
        address: instance.heartbeat.endpoint.clone(),
        state: heard(Some(instance.seen_ms_ago)),
    }));
    let instances = status.instances.iter().map(instance_line).collect();
    Ok(assemble(Some(&status), &answers, volume, processes, instances))
}

fn heard(seen_ms_ago: Option<u64>) -> String {
    let alive = seen_ms_ago.is_some_and(|ms| ms < SILENT_MS);
    if alive { "running" } else { "down" }.to_owned()
}

/// Status of a development cluster: this machine's processes are looked at, too.
pub(crate) fn development(layout: &Layout, saved: &Saved, volume: &str) -> Report {
    let control_runs = member::find(saved, crate::dev::layout::CONTROL)
        .ok()
        .and_then(|control| control.process(layout))
        .is_some_and(|process| !process.is_stopped());
    let status = control_runs.then(|| Client::new(saved.control()).status().ok()).flatten();
    let known = saved.cluster.as_ref().and_then(|text| text.parse().ok());
    let cluster = status.as_ref().map(|status| status.cluster).or(known);
    let running = saved.nodes().filter(|name| {
        let process = member::find(saved, name).ok().and_then(|node| node.process(layout));
        process.is_some_and(|process| !process.is_stopped())
    });
    let addresses = running.map(|name| (name.to_owned(), saved.address(name).to_owned()));
    let answers =
        cluster.map(|cluster| ask_nodes(cluster, addresses.collect())).unwrap_or_default();
    let ailment = |name: &str| {
        let mut nodes = status.iter().flat_map(|status| &status.nodes);
        nodes.find(|node| node.name.as_str() == name).and_then(NodeInfo::ailment)
    };
    let processes = member::all(saved).map(|member| {
        let process = member.process(layout);
        ProcessLine {
            role: member.role.as_str().to_owned(),
            name: member.name.to_owned(),
            az: member.az().map(ToOwned::to_owned),
            pid: process.map(|process| process.pid),
            address: member.address(saved),
            state: match process {
                None => "down",
                Some(process) if process.is_stopped() => "stopped",
                Some(_) => ailment(member.name).unwrap_or("running"),
            }
            .to_owned(),
        }
    });
    let instances = local_instances(layout, saved, status.as_ref());
    assemble(status.as_ref(), &answers, volume, processes.collect(), instances)
}

/// The cluster's own instances as this machine shows them, and whoever else has said hello.
fn local_instances(
    layout: &Layout,
    saved: &Saved,
    status: Option<&ControlStatus>,
) -> Vec<Instance> {
    let told = status.map(|status| status.instances.as_slice()).unwrap_or_default();
    let mut lines = Vec::new();
    for own in member::all(saved).filter(|member| member.role == Role::Compute) {
        let heard = told.iter().find(|told| told.heartbeat.name == own.name);
        let mut line = heard.map(instance_line).unwrap_or_else(|| Instance {
            name: own.name.to_owned(),
            role: WRITER.to_owned(),
            endpoint: saved.endpoint(),
            data_dir: own.dir(layout, saved).join("pgdata").display().to_string(),
            ..Instance::default()
        });
        let daemon = own.process(layout);
        let told_by = line.daemon_pid;
        line.daemon_pid = daemon.map(|process| process.pid);
        line.pid = postmaster(Path::new(&line.data_dir)).map(|process| process.pid);
        line.state = match daemon {
            None => "down".to_owned(),
            Some(process) if process.is_stopped() => "stopped".to_owned(),
            Some(_) if status.is_none() && line.pid.is_some() => "running".to_owned(),
            // What was heard may be of the daemon before.
            Some(process) if told_by != Some(process.pid) => "opening".to_owned(),
            Some(_) => line.state,
        };
        lines.push(line);
    }
    let strangers = told.iter().filter(|told| lines.iter().all(|l| l.name != told.heartbeat.name));
    let strangers: Vec<Instance> = strangers.map(instance_line).collect();
    lines.extend(strangers);
    lines
}

/// The server that runs on a data directory of this machine, if one does.
fn postmaster(data_dir: &Path) -> Option<Process> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let process = Process::find(text.lines().next()?.trim().parse().ok()?)?;
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", process.pid)).ok()?;
    (cwd == data_dir.canonicalize().ok()?).then_some(process)
}

fn instance_line(info: &InstanceInfo) -> Instance {
    let beat = &info.heartbeat;
    let alive = info.seen_ms_ago < SILENT_MS;
    Instance {
        name: beat.name.clone(),
        role: match beat.role {
            registry::InstanceRole::Writer => "writer",
            registry::InstanceRole::Replica => "replica",
        }
        .to_owned(),
        endpoint: beat.endpoint.clone(),
        pid: beat.pid.filter(|_| alive),
        daemon_pid: Some(beat.daemon_pid).filter(|_| alive),
        data_dir: beat.data_dir.clone(),
        replay_lsn: beat.replay_lsn.map(|lsn| lsn.to_string()),
        lag_ms: beat.lag_ms,
        state: if alive { beat.state.clone() } else { "down".to_owned() },
        shipped_bytes_per_copy: beat.shipped_bytes_per_copy,
    }
}

/// Asks all nodes at once what they hold.
fn ask_nodes(cluster: ClusterId, addresses: BTreeMap<String, String>) -> Answers {
    std::thread::scope(|scope| {
        let asked: Vec<_> = addresses
            .into_iter()
            .map(|(name, address)| (name, scope.spawn(move || ask(cluster, &address))))
            .collect();
        let answered = asked.into_iter();
        answered.filter_map(|(name, asked)| Some((name, asked.join().ok().flatten()?))).collect()
    })
}

fn ask(cluster: ClusterId, address: &str) -> Option<Vec<(SegmentId, SegmentReport)>> {
    let party = Party { cluster, from: Speaker::Control, az: None, az_latency: Duration::ZERO };
    let mut node = Link::connect(address, &party, NODE_TIMEOUT).ok()?;
    match node.call(&Message::ListSegments).ok()? {
        Message::Segments(segments) => Some(segments),
        _ => None,
    }
}

fn assemble(
    status: Option<&ControlStatus>,
    answers: &Answers,
    name: &str,
    processes: Vec<ProcessLine>,
    instances: Vec<Instance>,
) -> Report {
    let info = status.and_then(|status| status.volumes.iter().find(|volume| volume.name == name));
    let groups = match info {
        Some(info) => groups_of(info, answers),
        None => groups_held(answers, &processes),
    };
    let volume = volume(status, info, answers, name, &groups, &instances);
    Report { volume, processes, groups, instances }
}

/// The groups as the control plane knows them, with what their members say.
fn groups_of(info: &VolumeInfo, answers: &Answers) -> Vec<Group> {
    let member = |group: u32, node: NodeId| {
        let held = answers.get(node.as_str());
        let report = held.and_then(|held| {
            held.iter().find(|(id, _)| id.volume == info.id && id.group.0 == group)
        });
        GroupMember {
            node: node.to_string(),
            scl: report.map(|(_, report)| report.scl.to_string()),
            state: match (held, report) {
                (None, _) => "down",
                (Some(_), None) => "missing",
                (_, Some((_, report))) => state_of(report),
            }
            .to_owned(),
        }
    };
    let groups = info.groups.iter().map(|group| Group {
        id: group.id,
        membership_epoch: group.membership_epoch,
        members: group.members.iter().map(|m| member(group.id, m.node)).collect(),
        joining: group.joining.iter().map(|j| member(group.id, j.member.node)).collect(),
    });
    groups.collect()
}

fn state_of(report: &SegmentReport) -> &'static str {
    if report.full { "healthy" } else { "hydrating" }
}

/// The volume that the nodes hold, when there is but one: without a control plane nobody knows which of
/// several has which name.
fn only_volume(answers: &Answers) -> Option<VolumeId> {
    let ids = || answers.values().flatten().map(|(id, _)| id.volume);
    ids().min().filter(|least| Some(*least) == ids().max())
}

/// The groups as the nodes tell them, when the control plane cannot be asked: nodes that do not
/// answer are listed as down, since they may well be members.
fn groups_held(answers: &Answers, processes: &[ProcessLine]) -> Vec<Group> {
    let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
    let Some(volume) = only_volume(answers) else { return Vec::new() };
    for (node, held) in answers {
        for (id, report) in held.iter().filter(|(id, _)| id.volume == volume) {
            let group = groups.entry(id.group.0).or_default();
            group.id = id.group.0;
            group.membership_epoch = group.membership_epoch.max(report.membership.0);
            group.members.push(GroupMember {
                node: node.clone(),
                scl: Some(report.scl.to_string()),
                state: state_of(report).to_owned(),
            });
        }
    }
    let silent = processes.iter().filter(|p| p.role == "node" && !answers.contains_key(&p.name));
    for node in silent {
        for group in groups.values_mut() {
            let (node, state) = (node.name.clone(), "down".to_owned());
            group.members.push(GroupMember { node, scl: None, state });
        }
    }
    for group in groups.values_mut() {
        group.members.sort_by(|a, b| a.node.cmp(&b.node));
    }
    groups.into_values().collect()
}

fn volume(
    status: Option<&ControlStatus>,
    info: Option<&VolumeInfo>,
    answers: &Answers,
    name: &str,
    groups: &[Group],
    instances: &[Instance],
) -> Volume {
    let id = info.map(|info| info.id).or_else(|| only_volume(answers));
    let held = answers.values().flatten().filter(|(of, _)| Some(of.volume) == id);
    let held = held.map(|(_, report)| report);
    let newest = held.clone().max_by_key(|report| report.vdl.end);
    // The writer knows best; the nodes know what it last told them.
    let writer = status.and_then(|status| {
        let current = |told: &&InstanceInfo| {
            let line = instances.iter().find(|line| line.name == told.heartbeat.name);
            line.is_some_and(|line| line.daemon_pid.is_some())
                && info.is_some_and(|info| {
                    (info.id, info.epoch) == (told.heartbeat.volume, told.heartbeat.epoch)
                })
        };
        status.instances.iter().find(current).map(|told| &told.heartbeat)
    });
    let text = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.to_string());
    // The last heartbeat may be older than what the nodes have been told since.
    let vdl = writer.and_then(|w| w.vdl).max(newest.map(|report| report.vdl.end));
    let writable = groups.iter().all(|group| {
        group.members.iter().filter(|m| m.state == "healthy").count() >= types::WRITE_QUORUM
    });
    Volume {
        id: info.map(|info| info.id.to_string()),
        name: name.to_owned(),
        epoch: info.map(|info| info.epoch).or(held.map(|report| report.sealed.0).max()),
        timeline: writer
            .map(|writer| writer.timeline)
            .or(info.map(|info| info.timeline))
            .or(newest.and_then(|r| r.history.entries().last()).map(|entry| entry.timeline.0)),
        vcl: text(writer.and_then(|w| w.vcl).max(vdl)),
        vdl: text(vdl),
        low_water_mark: text(
            writer.and_then(|w| w.low_water_mark).or(newest.map(|report| report.low_water)),
        ),
        state: match (status, info, writer) {
            (None, _, _) => "control plane down",
            (_, None, _) => "not created",
            (_, _, None) => "no writer",
            _ if writable => "writable",
            _ => "waiting for a write quorum",
        }
        .to_owned(),
    }
}
