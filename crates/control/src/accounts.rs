//! What nodes and writers last told of the volumes: bytes, and who has one open. In memory only: after
//! a start nothing is known until they have spoken again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use registry::{Holder, InstanceHeartbeat, SegmentUse, VolumeUse};
use telemetry::Metrics;
use types::{NodeId, VolumeId};

use crate::state::{State, VolumeRecord};
use crate::volumes::OpenBy;

/// A writer not heard for this long has not got its volume open; its heartbeats come every second.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// When an instance was heard, and what it said.
pub(crate) type Heard = (InstanceHeartbeat, Instant);

/// The accounts of all volumes.
pub(crate) struct Accounts {
    started: Instant,
    held: BTreeMap<NodeId, Vec<SegmentUse>>,
    /// When each volume was last opened: its writer's first heartbeat may still be on its way.
    opened: BTreeMap<VolumeId, (String, Instant)>,
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Accounts {
    pub(crate) fn new() -> Accounts {
        Accounts { started: Instant::now(), held: BTreeMap::new(), opened: BTreeMap::new() }
    }

    /// How long until a writer that runs has certainly been heard.
    pub(crate) fn until_heard(&self) -> Duration {
        SILENT_AFTER.saturating_sub(self.started.elapsed())
    }

    pub(crate) fn note_held(&mut self, node: NodeId, holds: &[SegmentUse]) {
        self.held.insert(node, holds.to_vec());
    }

    pub(crate) fn note_opened(&mut self, volume: VolumeId, instance: &str) {
        self.opened.insert(volume, (instance.to_owned(), Instant::now()));
    }

    /// The writer that has the volume open, as far as is known here.
    pub(crate) fn open_by<'a>(
        &self,
        volume: VolumeId,
        instances: impl Iterator<Item = &'a Heard>,
    ) -> Option<OpenBy> {
        let told = instances.filter(|(beat, _)| beat.volume == volume);
        let works = |beat: &InstanceHeartbeat| beat.state != "fenced" && beat.state != "stopped";
        let told: Vec<_> = told.map(|(beat, at)| (&beat.name, at, works(beat))).collect();
        // What it says later counts more than that it opened the volume.
        let silent = |(name, at): &&(String, Instant)| {
            told.iter().all(|(told, since, _)| *told != name || *since < at)
        };
        let opened = self.opened.get(&volume).filter(silent);
        let opened = opened.map(|(name, at)| (name, at, true));
        let working = told.iter().copied().chain(opened).filter(|(_, _, works)| *works);
        let open = working.min_by_key(|(_, at, _)| at.elapsed())?;
        let elapsed = open.1.elapsed();
        let seen_ms_ago = milliseconds(elapsed);
        (elapsed < SILENT_AFTER).then(|| OpenBy { instance: open.0.clone(), seen_ms_ago })
    }

    /// What a volume takes. `holders` are those that the records name.
    pub(crate) fn of(
        &self,
        (volume, name, deleted): (VolumeId, String, bool),
        holders: impl Iterator<Item = NodeId>,
        live_bytes: Option<u64>,
        seen: impl Fn(NodeId) -> Option<Duration>,
    ) -> VolumeUse {
        let telling =
            self.held.iter().filter(|(_, held)| held.iter().any(|one| one.volume == volume));
        let mut nodes: Vec<NodeId> = holders.chain(telling.map(|(node, _)| *node)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let holder = |node: NodeId| Holder {
            node,
            seen_ms_ago: seen(node).map(milliseconds),
            segments: self
                .held
                .get(&node)
                .map(|held| held.iter().filter(|one| one.volume == volume).cloned().collect()),
        };
        let holders = nodes.into_iter().map(holder).collect();
        VolumeUse { volume, name, deleted, live_bytes, holders }
    }
}

/// Bytes of pages of a volume, as its current writer last told.
pub(crate) fn live_bytes<'a>(
    volume: &VolumeRecord,
    instances: impl Iterator<Item = &'a Heard>,
) -> Option<u64> {
    let told = instances.filter(|(beat, _)| beat.volume == volume.id);
    let newest = told.max_by_key(|(beat, at)| (beat.epoch, *at));
    newest.and_then(|(beat, _)| beat.live_bytes)
}

type Labels = [(&'static str, String); 1];

/// Gauges by volume.
pub(crate) struct VolumeGauges {
    live: Family<Labels, Gauge>,
    limit: Family<Labels, Gauge>,
    files: Family<Labels, Gauge>,
    log: Family<Labels, Gauge>,
}

impl VolumeGauges {
    pub(crate) fn new(metrics: &Metrics) -> VolumeGauges {
        let family = |name: &str, help: &str| {
            let family = Family::<Labels, Gauge>::default();
            metrics.register(|registry| registry.register(name, help, family.clone()));
            family
        };
        VolumeGauges {
            live: family("control_volume_live_bytes", "Pages of a volume, as its writer told"),
            limit: family("control_volume_limit_bytes", "Pages beyond which it may not grow"),
            files: family("control_volume_file_bytes", "Page files of a volume, all copies"),
            log: family("control_volume_log_bytes", "Hot log of a volume, all copies"),
        }
    }

    /// Shows what is known; a volume that is gone is shown no more.
    pub(crate) fn show<'a>(
        &self,
        state: &State,
        accounts: &Accounts,
        instances: impl Iterator<Item = &'a Heard> + Clone,
    ) {
        let mut sums: BTreeMap<VolumeId, (u64, u64)> = BTreeMap::new();
        for one in accounts.held.values().flatten() {
            let (files, log) = sums.entry(one.volume).or_default();
            *files += one.file_bytes;
            *log += one.log_bytes;
        }
        self.live.clear();
        self.limit.clear();
        self.files.clear();
        self.log.clear();
        for volume in state.volumes.values() {
            let labels = [("volume", volume.name.clone())];
            let (files, log) = sums.get(&volume.id).copied().unwrap_or_default();
            self.files.get_or_create(&labels).set(files.cast_signed());
            self.log.get_or_create(&labels).set(log.cast_signed());
            if let Some(limit) = volume.limit_bytes {
                self.limit.get_or_create(&labels).set(limit.cast_signed());
            }
            if let Some(live) = live_bytes(volume, instances.clone()) {
                self.live.get_or_create(&labels).set(live.cast_signed());
            }
        }
    }
}
