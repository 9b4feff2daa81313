//! `sixfold volume`: what an operator does with whole volumes.
//!
//! Reading order: [`args`] (the command line), [`report`] (what is printed; field names are a
//! contract), here (asking the control plane).

pub(crate) mod args;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use registry::{Client, CreateVolume, DeleteVolume, LimitVolume, VolumeInfo, VolumeUse};
use serde::Serialize;
use serde_json::json;

use crate::say::say;
use crate::status::{control_of_place, put_out};
use args::{CreateArgs, DeleteArgs, LimitArgs, ListArgs, NameArgs, VolumeCommand};
use report::{Deleted, Volume};

/// A node not heard for longer is away: its part of a deletion is not waited for.
const AWAY_MS: u64 = 5_000;
/// Between two looks at how far a deletion is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two lines about it.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the nodes that answer.
const FREED_WITHIN: Duration = Duration::from_secs(60);

/// Does what was asked.
pub(crate) fn run(command: VolumeCommand) -> anyhow::Result<()> {
    match command {
        VolumeCommand::List(args) => list(&args),
        VolumeCommand::Show(args) => show(&args),
        VolumeCommand::Create(args) => create(&args),
        VolumeCommand::Delete(args) => delete(&args),
        VolumeCommand::Limit(args) => limit(&args),
    }
}

fn client(args: &ListArgs) -> anyhow::Result<Client> {
    Ok(Client::new(&control_of_place(&args.place)?))
}

fn print<T: Serialize>(
    args: &ListArgs,
    value: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match args.json {
        true => put_out(&serde_json::to_string_pretty(value).context("plain values")?),
        false => put_out(&text()),
    }
}

/// The volumes as they are now, or the one of this name.
fn volumes(client: &Client, name: Option<&str>) -> anyhow::Result<Vec<Volume>> {
    let status = client.status()?;
    let mut found = Vec::new();
    for info in status.volumes.iter().filter(|info| name.is_none_or(|name| info.name == name)) {
        let used = client.volume_use(info.id)?;
        if !used.deleted {
            found.push(Volume::new(&status, info, &used));
        }
    }
    Ok(found)
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let volumes = volumes(&client(args)?, None)?;
    print(args, &json!({ "volumes": volumes }), || report::list(&volumes))
}

fn show(args: &NameArgs) -> anyhow::Result<()> {
    print_one(&client(&args.to)?, &args.to, &args.name)
}

fn print_one(client: &Client, args: &ListArgs, name: &str) -> anyhow::Result<()> {
    let found = volumes(client, Some(name))?.pop();
    let volume = found.with_context(|| no_such(name))?;
    print(args, &json!({ "volume": volume }), || report::show(&volume))
}

fn no_such(name: &str) -> String {
    format!("there is no volume {name}; `sixfold volume list` lists those there are")
}

fn find(client: &Client, name: &str) -> anyhow::Result<Option<VolumeInfo>> {
    Ok(client.volumes()?.into_iter().find(|volume| volume.name == name))
}

fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let client = client(&args.to)?;
    let name = &args.name;
    // One that an earlier try has left half made is taken up.
    if find(&client, name)?.is_some_and(|volume| !volume.groups.is_empty()) {
        bail!("there is a volume {name} already; choose another name, or delete it first");
    }
    client.create_volume(&CreateVolume {
        name: name.clone(),
        group_bytes: args.group_size,
        limit_bytes: args.limit,
    })?;
    print_one(&client, &args.to, name)
}

fn limit(args: &LimitArgs) -> anyhow::Result<()> {
    let client = client(&args.to)?;
    let volume = find(&client, &args.name)?.with_context(|| no_such(&args.name))?;
    client.limit_volume(volume.id, &LimitVolume { limit_bytes: args.limit.0 })?;
    print_one(&client, &args.to, &args.name)
}

fn delete(args: &DeleteArgs) -> anyhow::Result<()> {
    let client = client(&args.to)?;
    let volume = find(&client, &args.name)?.with_context(|| no_such(&args.name))?;
    let mut used = client.delete_volume(volume.id, &DeleteVolume { force: args.force })?;
    let begun = Instant::now();
    let mut told = begun;
    while waited_for(&used) && begun.elapsed() < FREED_WITHIN {
        if told.elapsed() >= TELL_EVERY {
            say(&report::deleted(&Deleted::new(&used)));
            told = Instant::now();
        }
        std::thread::sleep(LOOK_EVERY);
        used = client.volume_use(volume.id)?;
    }
    let deleted = Deleted::new(&used);
    print(&args.to, &json!({ "deleted": deleted }), || report::deleted(&deleted))
}

/// Whether a node that answers holds something still.
fn waited_for(used: &VolumeUse) -> bool {
    let here = |ms: Option<u64>| ms.is_some_and(|ms| ms < AWAY_MS);
    let holds = |segments: &Vec<_>| !segments.is_empty();
    let mut holders = used.holders.iter();
    holders.any(|holder| here(holder.seen_ms_ago) && holder.segments.as_ref().is_none_or(holds))
}
