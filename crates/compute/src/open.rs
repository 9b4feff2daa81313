//! Opens the volume: a new epoch from the control plane, recovery over the links, the catalog.
//!
//! Interrupted at any point, the next attempt simply takes a newer epoch; nothing here needs to be
//! undone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use link::Party;
use pgwal::keys::{Key, Slru};
use protocol::{Crippled, Opened, Timelines};
use registry::{Client, CreateVolume, CrippledGroup, GroupInfo, OpenVolume, Rescue, VolumeInfo};
use types::{Epoch, GroupId, Lsn, NodeId, SegmentId, Timeline};
use wire::Speaker;

use crate::catalog::Catalog;
use crate::links::Links;
use crate::opening::Opening;
use crate::pages::{PageReader, ReadAt};
use crate::recover::{Means, recover};
use crate::volume_view::{GroupView, Positions};

/// How often a wait is explained.
const EXPLAIN: Duration = Duration::from_secs(2);

/// Between two attempts at something that may yet succeed: twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// A volume that is ours to write.
#[derive(Debug)]
pub struct Volume {
    /// The control plane's account of it, with our epoch.
    pub info: VolumeInfo,
    /// What recovery found.
    pub opened: Opened,
    /// Connections to its nodes.
    pub links: Links,
}

/// Repeats a control-plane request while it may yet succeed.
///
/// # Errors
/// When it cannot, or `stop` says so.
pub fn patiently<T>(
    what: &str,
    stop: &dyn Fn() -> bool,
    mut ask: impl FnMut() -> Result<T, registry::Error>,
) -> anyhow::Result<T> {
    let mut told: Option<Instant> = None;
    let mut pause = PAUSE_MIN;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_temporary() => {
                if told.is_none_or(|at| at.elapsed() > EXPLAIN) {
                    tracing::warn!(%error, "cannot {what} yet");
                    told = Some(Instant::now());
                }
            }
            Err(error) => return Err(error).with_context(|| format!("cannot {what}")),
        }
        if stop() {
            bail!("asked to stop while trying to {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The volume of this name, made if there is none.
///
/// # Errors
/// When the control plane refuses.
pub fn find_volume(
    control: &Client,
    name: &str,
    group_bytes: Option<u64>,
    stop: &dyn Fn() -> bool,
) -> anyhow::Result<VolumeInfo> {
    let wish = CreateVolume { name: name.to_owned(), group_bytes, limit_bytes: None };
    patiently("find or make the volume", stop, || control.create_volume(&wish))
}

/// Raises the epoch and recovers the volume. `expected_epoch` makes it fail when somebody else has
/// opened it since.
///
/// # Errors
/// When fenced by a newer open, refused, or asked to stop.
pub fn open_volume(
    control: &Client,
    volume: &VolumeInfo,
    expected_epoch: Option<u64>,
    timelines: Timelines,
    party: &Party,
    opening: &mut Opening,
    stop: &dyn Fn() -> bool,
) -> anyhow::Result<Volume> {
    let Speaker::Instance { name: instance, .. } = party.from else {
        bail!("only an instance opens a volume");
    };
    let mut raise = |expected_epoch| {
        let wish = OpenVolume { instance: instance.to_string(), expected_epoch };
        let info = patiently("open the volume", stop, || control.open_volume(volume.id, &wish))?;
        opening.in_epoch(info.epoch);
        opening.done_with("epoch");
        Ok(info)
    };
    let mut rescue = |epoch: Epoch, crippled: Vec<Crippled>| {
        let groups = crippled.into_iter().map(crippled_group).collect();
        let wish = Rescue { epoch: epoch.0, groups };
        match control.rescue(volume.id, &wish) {
            Ok(rescued) => rescued.places,
            Err(error) => {
                tracing::warn!(%error, "no members in the place of silent ones");
                0
            }
        }
    };
    let means = Means { raise: &mut raise, rescue: &mut rescue, stop };
    let opened = recover(means, expected_epoch, timelines, party)?;
    opening.done_with("recovery");
    Ok(opened)
}

fn crippled_group(crippled: Crippled) -> CrippledGroup {
    CrippledGroup {
        group: crippled.group.0,
        membership_epoch: crippled.membership.0,
        survivors: crippled.survivors.iter().map(NodeId::to_string).collect(),
    }
}

impl Volume {
    /// Positions as the opening found them, for readers.
    #[must_use]
    pub fn positions(&self) -> Positions {
        let mut groups: BTreeMap<GroupId, GroupView> = BTreeMap::new();
        for setup in &self.opened.tails {
            let view = groups.entry(setup.group).or_default();
            view.tail = setup.tail;
            let held = |node: &NodeId| self.opened.reports.get(&(setup.group, *node));
            let present = setup.members.present();
            view.members =
                present.iter().filter_map(|node| Some((*node, held(node)?.scl))).collect();
        }
        let vdl = self.opened.vdl;
        Positions { vdl, vcl: vdl.end, low_water: self.opened.low_water, groups }
    }

    /// Where the nodes are.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        let members = self.info.groups.iter().flat_map(GroupInfo::holders);
        members.map(|member| (member.node, member.address.clone())).collect()
    }

    /// Reads the catalog at the durable point. SLRU pages go to `slru`, the server's counters come
    /// back beside the catalog; none when the volume holds no database yet.
    ///
    /// # Errors
    /// When no node can serve it, or an entry is damaged.
    pub fn catalog(
        &self,
        reader: &mut PageReader,
        slru: &mut dyn FnMut(Slru, u32, &Bytes) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Catalog, Option<redo::State>)> {
        let groups = self.opened.tails.iter().map(|setup| setup.group);
        let mut catalog = Catalog::new(self.info.group_bytes, groups);
        let mut state = None;
        let positions = self.positions();
        let view = positions.groups.get(&GroupId(0)).cloned().unwrap_or_default();
        if view.tail == Lsn::ZERO {
            return Ok((catalog, None)); // nothing was ever written
        }
        let mut readers = view.members.clone();
        readers.retain(|(_, scl)| *scl >= view.tail);
        let at = ReadAt {
            segment: SegmentId { volume: self.info.id, group: GroupId(0) },
            read_point: self.opened.vdl.end,
            complete_to: view.tail,
            readers: readers.into_iter().map(|(node, _)| node).collect(),
        };
        reader.scan_catalog(&at, &mut |key, _version, content| {
            match key {
                Key::State => {
                    let decoded = redo::State::decode(&content)
                        .map_err(|fault| anyhow::anyhow!("the server's counters: {fault}"))?;
                    state = Some(decoded);
                }
                Key::Slru(area, page) => slru(area, page, &content)?,
                _ => catalog.load(key, &content)?,
            }
            Ok(())
        })?;
        catalog.loaded();
        Ok((catalog, state))
    }

    /// The timeline of the new epoch.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        self.opened.timeline()
    }
}
