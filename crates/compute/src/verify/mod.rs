//! `sixfold verify-volume`: what storage gives against the writer's own files (promise P4). Rules Q1..
//! are this directory's README's.
//!
//! Reading order: [`report`] (what comes out), [`held`] (the writer's files), [`stored`] (what storage
//! gives), [`judge`] (are two pages the same?), [`mod@counters`], [`look`] (one look at everything); here
//! the rounds of looks and what makes a difference certain.

pub mod counters;
pub mod held;
pub mod judge;
pub mod look;
pub mod report;
pub mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use pgwal::keys::Key;
use registry::{Client, InstanceHeartbeat, InstanceRole, VolumeInfo};
use types::Lsn;

use crate::supervise::ServerConfig;
use crate::verify::held::Files;
use crate::verify::look::{Finding, Look, Progress};
use crate::verify::report::{Counts, Difference, Outcome, Report};
use crate::verify::stored::Storage;

/// Looks at most; what differs after the last one has never stood still.
const ROUNDS: u32 = 12;
/// Pause before what differs is looked at again: twice as long each time, about a minute in all. A
/// vacuum, for one, changes the same page of a visibility map until it is through.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// How long a writer may take to say that it is ready: it tells once a second.
const WRITER_LIMIT: Duration = Duration::from_secs(10);
/// A writer not heard for longer is not there.
const SILENT_MS: u64 = 5_000;

/// Where PostgreSQL stood.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// Where its last checkpoint began: every change logged below is in its files.
    checkpoint: Lsn,
    /// Up to where its log was flushed after that.
    flushed: Lsn,
    /// Nobody held a transaction id or built an index.
    idle: bool,
}

/// Compares the volume of this name with its writer's files.
///
/// # Errors
/// When it cannot be done: no writer, not on its host, too few nodes, a newer writer meanwhile.
pub fn run(control: &Client, volume: &str, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    tell("looking for the writer");
    let (info, writer) = find(control, volume)?;
    let files = Files::new(Path::new(&writer.data_dir))?;
    let mut server = connect(&writer)?;
    let mut rounds = Rounds::default();
    let mut pause = PAUSE_MIN;
    let (moment, read_point) = loop {
        // Afresh each time: the volume may have grown by a group.
        let mut storage = Storage::new(same_epoch(control, &info)?)?;
        tell("checkpoint");
        let moment = checkpoint(&mut server)?;
        storage.move_to(moment.flushed)?;
        tell("reading the catalog");
        let again: BTreeSet<Key> = rounds.suspects.keys().copied().collect();
        let mut look = Look {
            files: &files,
            storage: &mut storage,
            checkpoint: moment.checkpoint,
            only: (rounds.count > 0).then_some(&again),
            newer: &mut || flushed(&mut server),
            tell: &mut teller(rounds.count, tell),
            counts: Counts::default(),
            found: Vec::new(),
            evicted: Vec::new(),
            progress: Progress::default(),
        };
        look.run()?;
        let Look { found, evicted, counts, .. } = look;
        rounds.take(found, &evicted, counts, moment);
        if rounds.suspects.is_empty() || rounds.count == ROUNDS {
            break (moment, storage.read_point());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    };
    tell("counters");
    let found = counters(&mut Storage::new(same_epoch(control, &info)?)?, &files, &mut server)?;
    rounds.differences.extend(found.map(|how| Difference::new(Key::State, how, None)));
    same_epoch(control, &info)?;
    Ok(rounds.report(&info, writer.name, read_point, moment))
}

/// Rule Q6. What differs twice is different: VACUUM logs that old ids are gone just before it counts
/// them as gone, so a checkpoint may come in between.
fn counters(
    storage: &mut Storage,
    files: &Files,
    server: &mut postgres::Client,
) -> anyhow::Result<Option<String>> {
    let mut found = None;
    for _ in 0..2 {
        let before = files.counters()?;
        storage.move_to(flushed(server)?)?;
        let stored = storage.counters()?;
        checkpoint(server)?;
        found = counters::difference(&before, &stored, &files.counters()?);
        if found.is_none() {
            break;
        }
    }
    Ok(found)
}

/// What the looks so far have found.
#[derive(Debug, Default)]
struct Rounds {
    count: u32,
    counts: Counts,
    /// What differed the last time, and whether nobody held a transaction id then.
    suspects: BTreeMap<Key, (Finding, bool)>,
    differences: Vec<Difference>,
    unsettled: Vec<Difference>,
}

impl Rounds {
    fn take(&mut self, found: Vec<Finding>, evicted: &[Key], counts: Counts, moment: Moment) {
        if self.count == 0 {
            self.counts = counts;
        }
        self.count += 1;
        let before = std::mem::take(&mut self.suspects);
        // What was on the move has gone on its way.
        let evicted = evicted.iter().filter_map(|key| before.get(key));
        for (finding, _) in evicted.filter(|(finding, _)| !finding.moving) {
            let and = "; evicted before it could be looked at again";
            self.unsettled.push(difference(finding, and));
        }
        for finding in found {
            if is_certain(before.get(&finding.key), &finding, moment) {
                self.differences.push(difference(&finding, ""));
            } else {
                self.suspects.insert(finding.key, (finding, moment.idle));
            }
        }
    }

    fn report(self, info: &VolumeInfo, writer: String, read_point: Lsn, moment: Moment) -> Report {
        let mut unsettled = self.unsettled;
        unsettled.extend(self.suspects.values().map(|(finding, _)| difference(finding, "")));
        Report {
            outcome: match (self.differences.is_empty(), unsettled.is_empty()) {
                (false, _) => Outcome::Different,
                (true, false) => Outcome::Unsettled,
                (true, true) => Outcome::Same,
            },
            epoch: info.epoch,
            writer,
            read_point: read_point.to_string(),
            checkpoint: moment.checkpoint.to_string(),
            rounds: self.count,
            counts: self.counts,
            differences: self.differences,
            unsettled,
        }
    }
}

/// The volume as the control plane knows it now, unless somebody else has opened it.
fn same_epoch(control: &Client, info: &VolumeInfo) -> anyhow::Result<VolumeInfo> {
    let now = control.volume(info.id).context("cannot ask the control plane")?;
    if now.epoch != info.epoch {
        bail!("the volume was opened again meanwhile (epoch {}, now {})", info.epoch, now.epoch);
    }
    Ok(now)
}

/// Rule Q3. A difference is certain when it is there a second time with the same local bytes, and
/// storage's state is not newer than the checkpoint in between. The local copy then holds every
/// change up to that checkpoint, because it was written by it or before, and none after it, because
/// it did not change; and so does storage's.
///
/// Rule Q4. Of what storage has none there is no such version. It may be something that a running
/// transaction builds and will log at its end, so nobody may have held a transaction id or built an
/// index (which CREATE INDEX CONCURRENTLY does without one) either time.
fn is_certain(before: Option<&(Finding, bool)>, now: &Finding, moment: Moment) -> bool {
    let Some((before, was_idle)) = before else { return false };
    before.local == now.local
        && match (before.version, now.version) {
            (_, Some(version)) => version <= moment.checkpoint,
            (None, None) => *was_idle && moment.idle,
            (Some(_), None) => false,
        }
}

fn difference(finding: &Finding, and: &str) -> Difference {
    let version = finding.version.map(|version| version.to_string());
    Difference::new(finding.key, format!("{}{and}", finding.how), version)
}

/// The volume, and its writer once it is ready.
fn find(control: &Client, name: &str) -> anyhow::Result<(VolumeInfo, InstanceHeartbeat)> {
    let begun = Instant::now();
    loop {
        let status = control.status().context("cannot ask the control plane")?;
        let info = status.volumes.into_iter().find(|volume| volume.name == name);
        let info = info.with_context(|| format!("there is no volume `{name}`"))?;
        let writer = status.instances.into_iter().find(|told| {
            let beat = &told.heartbeat;
            (beat.role, beat.volume, beat.epoch) == (InstanceRole::Writer, info.id, info.epoch)
                && told.seen_ms_ago < SILENT_MS
        });
        match writer.map(|told| told.heartbeat) {
            Some(writer) if writer.state == "ready" => return Ok((info, writer)),
            _ if begun.elapsed() < WRITER_LIMIT => std::thread::sleep(PAUSE_MIN),
            Some(writer) => bail!("the writer {} is not ready but {}", writer.name, writer.state),
            None => bail!("volume `{name}` has no writer; start one (`sixfold dev start writer`)"),
        }
    }
}

fn connect(writer: &InstanceHeartbeat) -> anyhow::Result<postgres::Client> {
    let port = writer.endpoint.rsplit(':').next().and_then(|port| port.parse().ok());
    let config = ServerConfig {
        pg_bin: Default::default(),
        shim: None,
        instance: Path::new(&writer.data_dir).parent().map(Into::into).unwrap_or_default(),
        listen: String::new(),
        port: port.with_context(|| format!("`{}` has no port", writer.endpoint))?,
    };
    let mut server = config.connect().with_context(|| {
        format!("cannot connect to {}'s PostgreSQL; does it run? (`sixfold status`)", writer.name)
    })?;
    server.batch_execute("set statement_timeout = 0").context("PostgreSQL does not answer")?;
    Ok(server)
}

fn checkpoint(server: &mut postgres::Client) -> anyhow::Result<Moment> {
    server.batch_execute("checkpoint").context("PostgreSQL makes no checkpoint")?;
    let row = server
        .query_one(
            "select (select redo_lsn from pg_control_checkpoint())::text,
                    pg_current_wal_flush_lsn()::text,
                    not exists (select from pg_stat_activity where backend_xid is not null)
                    and not exists (select from pg_stat_progress_create_index)",
            &[],
        )
        .context("PostgreSQL does not say where it stands")?;
    let (checkpoint, flushed): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Moment { checkpoint: checkpoint.parse()?, flushed: flushed.parse()?, idle: row.try_get(2)? })
}

fn flushed(server: &mut postgres::Client) -> anyhow::Result<Lsn> {
    let row = server.query_one("select pg_current_wal_flush_lsn()::text", &[])?;
    Ok(row.try_get::<_, String>(0)?.parse()?)
}

/// Puts a look's progress into words: at once, then every second.
fn teller<'a>(round: u32, tell: &'a mut dyn FnMut(&str)) -> impl FnMut(&Progress) + use<'a> {
    let mut told: Option<Instant> = None;
    move |progress: &Progress| {
        if told.is_none_or(|told| told.elapsed() >= Duration::from_secs(1)) {
            told = Some(Instant::now());
            let Progress { blocks, blocks_total, differing } = progress;
            let again = if round > 0 { format!("look {}, ", round + 1) } else { String::new() };
            tell(&format!("{again}{blocks} of {blocks_total} blocks, {differing} differ so far"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(version: Option<u64>, local: u32) -> Finding {
        let (key, how, moving) = (Key::State, String::new(), false);
        Finding { key, how, version: version.map(Lsn), local, moving }
    }

    fn certain(
        before: Option<(Option<u64>, u32, bool)>,
        now: (Option<u64>, u32, bool),
        checkpoint: u64,
    ) -> bool {
        let before = before.map(|(version, local, idle)| (finding(version, local), idle));
        let moment =
            Moment { checkpoint: Lsn(checkpoint), flushed: Lsn(checkpoint + 8), idle: now.2 };
        is_certain(before.as_ref(), &finding(now.0, now.1), moment)
    }

    #[test]
    fn a_difference_is_certain_only_when_nothing_moved_between_two_looks() {
        let seen = Some((Some(90), 1, false));
        assert!(certain(seen, (Some(90), 1, false), 100));
        assert!(!certain(None, (Some(90), 1, false), 100), "seen for the first time");
        assert!(!certain(seen, (Some(90), 2, false), 100), "the local copy changed");
        assert!(!certain(seen, (Some(101), 1, false), 100), "changed since the checkpoint");
        assert!(certain(Some((None, 1, true)), (None, 1, true), 100));
        assert!(!certain(Some((None, 1, false)), (None, 1, true), 100), "perhaps being built");
        assert!(!certain(Some((None, 1, true)), (None, 1, false), 100), "perhaps being built");
        assert!(!certain(seen, (None, 1, true), 100), "dropped meanwhile");
    }
}
