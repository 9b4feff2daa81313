//! Wishes carried out: decide, make durable, act, answer. Blocking; called from HTTP's worker threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use registry::{
    AddGroup, ControlStatus, CreateVolume, DeleteVolume, Duty, GroupAdded, HeartbeatAnswer,
    InstanceHeartbeat, InstanceInfo, LimitVolume, NodeInfo, NodeRegistered, NodeRegistration,
    OpenVolume, Problem, ProblemCode, Rescue, Rescued, Topology, VolumeInfo, VolumeUse,
    WriterReady,
};
use telemetry::Metrics;
use types::{ClusterId, GroupId, MembershipEpoch, NodeId, SegmentId, VolumeId};

use crate::accounts::{Accounts, Heard, VolumeGauges, live_bytes, milliseconds};
use crate::decide::{self, problem};
use crate::found::Findings;
use crate::nodes::{self, Nodes};
use crate::replace::{self, Health};
use crate::state::{Change, FormerRecord, GroupRecord, Loads, NodeRecord, State, VolumeRecord};
use crate::store::{Store, random_id};
use crate::volumes;

/// A node not heard for this long is placed last.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// Longest wait for a node that is to forget a copy.
const FORGET_TIMEOUT: Duration = Duration::from_secs(5);
/// How often unconfirmed segments are tried again.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// The control plane's operations.
pub struct Service {
    inner: Mutex<Inner>,
    nodes: Arc<dyn Nodes>,
    retries: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    gauges: Gauges,
}

/// How long nodes may be silent or slow before they are replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub replace_after: Duration,
    pub replace_slow_after: Duration,
}

struct Inner {
    store: Store,
    state: State,
    /// Moves with every change; begins where no other life of this process was.
    news: u64,
    /// When each node was last heard, in this life of the process.
    heard: BTreeMap<NodeId, Instant>,
    /// When this life began: nobody is silent for longer.
    began: Instant,
    replace_after: Duration,
    instances: BTreeMap<String, Heard>,
    accounts: Accounts,
    findings: Findings,
}

struct Gauges {
    nodes: Gauge,
    volumes: Gauge,
    unconfirmed: Gauge,
    joining: Gauge,
    suspect: Gauge,
    opens: Counter,
    replaced: Counter,
    groups_added: Counter,
    deletions: Counter,
    refusals: Counter,
    of_volumes: VolumeGauges,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

impl Inner {
    /// Makes changes durable, then believes them (rule C1).
    fn commit(&mut self, changes: Vec<Change>) -> Result<(), Problem> {
        if changes.is_empty() {
            return Ok(());
        }
        self.store.commit(&changes).map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "the store refuses changes");
            problem(ProblemCode::Internal, format!("the control plane's store failed: {error:#}"))
        })?;
        let news = changes.iter().any(|change| self.state.is_news(change));
        changes.into_iter().for_each(|change| self.state.apply(change));
        self.news = self.news.wrapping_add(u64::from(news));
        Ok(())
    }

    fn alive(&self) -> impl Fn(NodeId) -> bool + '_ {
        |node| self.heard.get(&node).is_some_and(|heard| heard.elapsed() < SILENT_AFTER)
    }

    /// Whom something new is best given to: those that are heard, and quick.
    fn fit(&self) -> impl Fn(NodeId) -> bool + '_ {
        let health = self.health();
        move |node| health(node) == Health::Alive
    }

    fn health(&self) -> impl Fn(NodeId) -> Health + '_ {
        let now = Instant::now();
        move |node| {
            let heard = self.heard.get(&node).copied();
            let silent = heard.unwrap_or(self.began).elapsed();
            if heard.is_some() && silent < SILENT_AFTER {
                let doubtful = self.findings.is_doubtful(node, now);
                if doubtful { Health::Doubtful } else { Health::Alive }
            } else if silent < self.replace_after || self.findings.is_vouched_for(node, now) {
                Health::Silent
            } else {
                Health::Lost
            }
        }
    }

    /// `present` and `joining`: places that each node has, and is to have.
    fn node_info(&self, node: &NodeRecord, present: &Loads, joining: &Loads) -> NodeInfo {
        let of = |loads: &Loads| loads.get(&node.name).copied().unwrap_or(0);
        NodeInfo {
            name: node.name,
            az: node.az,
            address: node.address.clone(),
            http: node.http.clone(),
            incarnation: node.incarnation,
            pid: node.pid,
            seen_ms_ago: self.heard.get(&node.name).map(|heard| milliseconds(heard.elapsed())),
            duty: node.duty,
            suspect_ms: self.findings.suspect(node.name, Instant::now()).map(milliseconds),
            segments: of(present),
            filling: of(joining),
            disk_full: self.findings.is_full(node.name),
        }
    }

    fn volume_info(&self, id: VolumeId) -> Result<VolumeInfo, Problem> {
        decide::find(&self.state, id).map(|volume| decide::volume_info(&self.state, volume))
    }

    fn node_infos(&self) -> Vec<NodeInfo> {
        let (mut present, mut joining) = (Loads::new(), Loads::new());
        for group in self.state.volumes.values().flat_map(VolumeRecord::all_groups) {
            let members = group.members.iter().map(|member| member.node);
            members.for_each(|node| *present.entry(node).or_default() += 1);
            let joins = group.joining.iter().map(|of| of.member.node);
            joins.for_each(|node| *joining.entry(node).or_default() += 1);
        }
        let nodes = self.state.nodes.values();
        nodes.map(|node| self.node_info(node, &present, &joining)).collect()
    }

    fn volume_use(&self, id: VolumeId) -> Result<VolumeUse, Problem> {
        let seen = |node| self.heard.get(&node).map(Instant::elapsed);
        if let Some(deleted) = self.state.deleted.get(&id) {
            let named = (id, deleted.name.clone(), true);
            return Ok(self.accounts.of(named, deleted.nodes.iter().copied(), None, seen));
        }
        let volume = decide::find(&self.state, id)?;
        let members = volume.all_groups().flat_map(GroupRecord::holders);
        let named = (id, volume.name.clone(), false);
        let live = live_bytes(volume, self.instances.values());
        Ok(self.accounts.of(named, members.map(|member| member.node), live, seen))
    }
}

impl Inner {
    /// Begins and gives up replacements, as nodes are and are meant to be.
    fn tend_members(&mut self) -> Result<(), Problem> {
        let now = Instant::now();
        let found = |volume, node| self.findings.of(volume, node, now);
        let changes = {
            let health = self.health();
            replace::plan(&self.state, &replace::Nodes { health: &health, found: &found })
        };
        for change in &changes {
            if let Change::Volume(volume) = change {
                let joint = |group: &GroupRecord| {
                    let joins = group.joining.iter();
                    joins.map(|of| format!("{}/{}", group.id, of.member.node)).collect::<Vec<_>>()
                };
                let joint: Vec<String> = volume.groups.iter().flat_map(joint).collect();
                tracing::info!(volume = volume.name, ?joint, "places are handed over");
            }
        }
        self.commit(changes)
    }
}

impl Service {
    /// Loads the store.
    pub(crate) fn new(
        store: Store,
        nodes: Arc<dyn Nodes>,
        metrics: &Metrics,
        patience: Patience,
    ) -> anyhow::Result<Service> {
        let state = store.load()?;
        let gauges = Gauges {
            nodes: metrics.gauge("control_nodes", "Registered nodes"),
            volumes: metrics.gauge("control_volumes", "Volumes"),
            unconfirmed: metrics.gauge(
                "control_segments_unconfirmed",
                "Segments that their node has not confirmed in its present life",
            ),
            joining: metrics
                .gauge("control_places_joint", "Places being handed over to another node"),
            suspect: metrics.gauge(
                "control_nodes_suspect",
                "Nodes that a writer finds far slower than the others",
            ),
            opens: metrics.counter("control_opens", "Epochs given out"),
            replaced: metrics
                .counter("control_places_replaced", "Places handed over to another node"),
            groups_added: metrics.counter("control_groups_added", "Groups added"),
            deletions: metrics.counter("control_deletions", "Volumes deleted"),
            refusals: metrics.counter("control_refusals", "Requests refused"),
            of_volumes: VolumeGauges::new(metrics),
        };
        let inner = Inner {
            store,
            state,
            news: random_id()? as u64,
            heard: BTreeMap::new(),
            began: Instant::now(),
            replace_after: patience.replace_after,
            findings: Findings::new(patience.replace_slow_after, Instant::now()),
            instances: BTreeMap::new(),
            accounts: Accounts::new(),
        };
        let service =
            Service { inner: Mutex::new(inner), nodes, retries: Mutex::new(None), gauges };
        service.measure(&service.lock());
        Ok(service)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // State changes by whole records after they are durable, so it is whole even after a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measure(&self, inner: &Inner) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.gauges.nodes.set(count(inner.state.nodes.len()));
        self.gauges.volumes.set(count(inner.state.volumes.len()));
        self.gauges.unconfirmed.set(count(decide::unconfirmed(&inner.state).len()));
        let groups = inner.state.volumes.values().flat_map(|volume| &volume.groups);
        self.gauges.joining.set(count(groups.map(|group| group.joining.len()).sum()));
        let (now, nodes) = (Instant::now(), inner.state.nodes.keys());
        let suspect = nodes.filter(|node| inner.findings.suspect(**node, now).is_some());
        self.gauges.suspect.set(count(suspect.count()));
    }

    pub(crate) fn refused(&self) {
        self.gauges.refusals.inc();
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.lock().state.cluster
    }

    pub(crate) fn register(&self, node: &NodeRegistration) -> Result<NodeRegistered, Problem> {
        let mut inner = self.lock();
        let changes = decide::register(&inner.state, node)?;
        let changed = !changes.is_empty();
        if changed {
            tracing::info!(node = %node.name, az = %node.az, address = node.address, incarnation = %node.incarnation, "node registered");
        }
        inner.commit(changes)?;
        inner.heard.insert(node.name, Instant::now());
        inner.findings.note_room(node);
        if changed {
            self.measure(&inner);
        }
        let (cluster, news) = (inner.state.cluster, inner.news);
        let segments = || decide::segments(&inner.state, node.name);
        let segments = (node.news != Some(news)).then(segments);
        let holds = node.holds.as_deref().unwrap_or_default();
        let deleted = volumes::to_drop(&inner.state, holds);
        if node.holds.is_some() {
            inner.accounts.note_held(node.name, holds);
        }
        Ok(NodeRegistered { cluster, news, segments, deleted })
    }

    pub(crate) fn topology(&self) -> Topology {
        let inner = self.lock();
        Topology { cluster: inner.state.cluster, nodes: inner.node_infos() }
    }

    pub(crate) fn volumes(&self) -> Vec<VolumeInfo> {
        let inner = self.lock();
        let volumes = inner.state.volumes.values();
        let mut infos: Vec<_> =
            volumes.map(|volume| decide::volume_info(&inner.state, volume)).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    pub(crate) fn volume(&self, id: VolumeId) -> Result<VolumeInfo, Problem> {
        self.lock().volume_info(id)
    }

    pub(crate) fn create_volume(&self, wish: &CreateVolume) -> Result<VolumeInfo, Problem> {
        let random =
            random_id().map_err(|error| problem(ProblemCode::Internal, format!("{error:#}")))?;
        let id = {
            let mut inner = self.lock();
            let decided = decide::create(&inner.state, wish, VolumeId(random), inner.fit());
            let (id, change) = decided?;
            inner.commit(change.into_iter().collect())?;
            id
        };
        self.create_segments(id);
        let mut inner = self.lock();
        if decide::find(&inner.state, id)?.groups.is_empty() {
            let change = decide::join_group(&inner.state, id, None)?;
            inner.commit(change.into_iter().collect())?;
            tracing::info!(volume = wish.name, %id, "volume created");
        }
        self.measure(&inner);
        inner.volume_info(id)
    }

    pub(crate) fn open(&self, id: VolumeId, wish: &OpenVolume) -> Result<VolumeInfo, Problem> {
        let mut inner = self.lock();
        let change = decide::open(&inner.state, id, wish)?;
        inner.commit(vec![change])?;
        self.gauges.opens.inc();
        inner.accounts.note_opened(id, &wish.instance);
        let info = inner.volume_info(id)?;
        tracing::info!(
            volume = info.name,
            epoch = info.epoch,
            instance = wish.instance,
            "volume opened"
        );
        Ok(info)
    }

    pub(crate) fn ready(
        &self,
        id: VolumeId,
        report: &WriterReady,
        initialized: bool,
    ) -> Result<VolumeInfo, Problem> {
        let mut inner = self.lock();
        let change = decide::ready(&inner.state, id, report, initialized)?;
        inner.commit(vec![change])?;
        inner.volume_info(id)
    }

    pub(crate) fn add_group(&self, id: VolumeId, wish: &AddGroup) -> Result<GroupAdded, Problem> {
        {
            let mut inner = self.lock();
            let change = decide::assign_group(&inner.state, id, wish, inner.fit())?;
            inner.commit(change.into_iter().collect())?;
        }
        self.create_segments(id);
        let mut inner = self.lock();
        let change = decide::join_group(&inner.state, id, Some(wish))?;
        inner.commit(change.into_iter().collect())?;
        self.gauges.groups_added.inc();
        self.measure(&inner);
        let info = inner.volume_info(id)?;
        let group = info.groups.last().cloned();
        let group =
            group.ok_or_else(|| problem(ProblemCode::Internal, "the group has vanished"))?;
        tracing::info!(
            volume = info.name,
            group = group.id,
            geometry = info.geometry_epoch,
            "group added"
        );
        Ok(GroupAdded { geometry_epoch: info.geometry_epoch, group })
    }

    /// Asks the members of a volume's pending group to hold it; returns when four do, or none is
    /// left to wait for. What they confirmed is noted; what is missing is tried again later.
    fn create_segments(&self, id: VolumeId) {
        let (cluster, orders) = {
            let inner = self.lock();
            let volume = inner.state.volumes.get(&id);
            let Some(group) = volume.and_then(|volume| volume.pending.as_ref()) else { return };
            (inner.state.cluster, nodes::orders(&inner.state, id, group))
        };
        let confirmed = nodes::create_at_quorum(&self.nodes, cluster, orders);
        self.note(id, confirmed);
    }

    fn note(&self, id: VolumeId, confirmed: Vec<nodes::Confirmed>) {
        let mut inner = self.lock();
        for one in confirmed {
            let noted =
                decide::confirm(&inner.state, id, one.group, &[(one.node, one.incarnation)])
                    .and_then(|change| inner.commit(change.into_iter().collect()));
            if let Err(problem) = noted {
                // The node holds it all the same; the retry asks again, which changes nothing there.
                tracing::warn!(volume = %id, group = one.group, node = %one.node, problem = problem.message, "confirmation not noted");
            }
        }
    }

    pub(crate) fn volume_use(&self, id: VolumeId) -> Result<VolumeUse, Problem> {
        self.lock().volume_use(id)
    }

    pub(crate) fn limit(&self, id: VolumeId, wish: &LimitVolume) -> Result<VolumeInfo, Problem> {
        let mut inner = self.lock();
        let changes = volumes::limit(&inner.state, id, wish.limit_bytes)?;
        inner.commit(changes)?;
        inner.volume_info(id)
    }

    pub(crate) fn delete(&self, id: VolumeId, wish: &DeleteVolume) -> Result<VolumeUse, Problem> {
        if !wish.force {
            // Whoever has it open must have had time to say so.
            let wait = self.lock().accounts.until_heard();
            std::thread::sleep(wait);
        }
        let mut inner = self.lock();
        let open = inner.accounts.open_by(id, inner.instances.values());
        let changes = volumes::delete(&inner.state, id, open, wish.force)?;
        if !changes.is_empty() {
            inner.commit(changes)?;
            self.gauges.deletions.inc();
            tracing::info!(volume = %id, forced = wish.force, "volume deleted");
        }
        self.measure(&inner);
        inner.volume_use(id)
    }

    pub(crate) fn heartbeat(&self, beat: InstanceHeartbeat) -> Result<HeartbeatAnswer, Problem> {
        let mut inner = self.lock();
        let volume = decide::find(&inner.state, beat.volume)?;
        let (epoch, geometry_epoch) = (volume.epoch, volume.geometry_epoch);
        let answer = HeartbeatAnswer { epoch, geometry_epoch, news: inner.news };
        if beat.epoch == answer.epoch {
            inner.findings.note(&beat, Instant::now());
        }
        let (change, took) = replace::finish(&inner.state, beat.volume, beat.epoch, &beat.filled)?;
        inner.commit(change.into_iter().collect())?;
        self.gauges.replaced.inc_by(took.len() as u64);
        for one in took {
            tracing::info!(volume = %beat.volume, group = one.group, node = %one.node, "the node is whole and has the place");
        }
        inner.instances.insert(beat.name.clone(), (beat, Instant::now()));
        Ok(answer)
    }

    pub(crate) fn set_duty(&self, name: &str, duty: Duty) -> Result<NodeInfo, Problem> {
        let invalid = |error: types::NameError| problem(ProblemCode::Invalid, error.to_string());
        let name: NodeId = name.parse().map_err(invalid)?;
        let mut inner = self.lock();
        let change = replace::set_duty(&inner.state, name, duty, &inner.health())?;
        inner.commit(change.into_iter().collect())?;
        tracing::info!(node = %name, ?duty, "duty set");
        inner.tend_members()?;
        let node = inner.node_infos().into_iter().find(|node| node.name == name);
        node.ok_or_else(|| problem(ProblemCode::Internal, "the node has vanished"))
    }

    pub(crate) fn rescue(&self, id: VolumeId, wish: &Rescue) -> Result<Rescued, Problem> {
        let mut inner = self.lock();
        let (change, places) = replace::rescue(&inner.state, id, wish, &inner.health())?;
        inner.commit(change.into_iter().collect())?;
        if places > 0 {
            self.gauges.replaced.inc_by(places as u64);
            tracing::warn!(volume = %id, epoch = wish.epoch, places, "places of lost members are given to new nodes");
        }
        Ok(Rescued { places })
    }

    pub(crate) fn status(&self) -> ControlStatus {
        let volumes = self.volumes();
        let inner = self.lock();
        let instances = inner.instances.values().map(|(heartbeat, heard)| InstanceInfo {
            heartbeat: heartbeat.clone(),
            seen_ms_ago: milliseconds(heard.elapsed()),
        });
        ControlStatus {
            cluster: inner.state.cluster,
            pid: std::process::id(),
            nodes: inner.node_infos(),
            volumes,
            instances: instances.collect(),
        }
    }

    /// Starts the thread that tries unconfirmed segments again.
    pub(crate) fn start_retries(self: &Arc<Service>) -> anyhow::Result<()> {
        let (stop, stopped) = mpsc::channel();
        let service = Arc::downgrade(self);
        let thread = std::thread::Builder::new()
            .name("retry".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(RETRY_EVERY) == Err(RecvTimeoutError::Timeout) {
                    let Some(service) = service.upgrade() else { return };
                    service.retry_once();
                }
            })
            .context("cannot start the retry thread")?;
        *self.retries.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, thread));
        Ok(())
    }

    /// Ends that thread.
    pub(crate) fn stop(&self) {
        let running = self.retries.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = running {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("the retry thread had panicked");
            }
        }
    }

    fn retry_once(&self) {
        let (cluster, orders) = {
            let mut inner = self.lock();
            if let Err(problem) = inner.tend_members() {
                tracing::warn!(problem = problem.message, "members not tended to");
            }
            self.measure(&inner);
            let instances = inner.instances.values();
            self.gauges.of_volumes.show(&inner.state, &inner.accounts, instances);
            let alive = inner.alive();
            let missing = decide::unconfirmed(&inner.state).into_iter();
            let orders = missing.filter(|(_, _, node)| alive(*node));
            (inner.state.cluster, nodes::orders_for(&inner.state, orders))
        };
        // One that does not answer is asked for nothing more this time: others are waiting.
        let mut dumb = BTreeSet::new();
        for order in orders {
            let volume = order.place.volume;
            if dumb.contains(&order.node) {
                continue;
            }
            match nodes::create(&*self.nodes, cluster, &order) {
                Ok(confirmed) => self.note(volume, vec![confirmed]),
                Err(reason) => {
                    tracing::debug!(%volume, group = order.place.group, node = %order.node, reason, "segment not created yet");
                    dumb.insert(order.node);
                }
            }
        }
        self.forget_once(cluster, dumb);
    }

    /// Asks nodes to forget the copies whose places others have.
    fn forget_once(&self, cluster: ClusterId, mut dumb: BTreeSet<NodeId>) {
        let orders: Vec<_> = {
            let inner = self.lock();
            let alive = inner.alive();
            let order = |(volume, group, former): (VolumeId, u32, FormerRecord)| {
                let node = inner.state.nodes.get(&former.node).filter(|node| alive(node.name))?;
                Some((volume, group, former, node.address.clone()))
            };
            replace::forgets(&inner.state).into_iter().filter_map(order).collect()
        };
        for (volume, group, former, address) in orders {
            if dumb.contains(&former.node) {
                continue;
            }
            let segment = SegmentId { volume, group: GroupId(group) };
            let by = MembershipEpoch(former.by);
            match self.nodes.forget(cluster, &address, FORGET_TIMEOUT, segment, by) {
                Ok(()) => {
                    let mut inner = self.lock();
                    let change = replace::forgotten(&inner.state, volume, group, &former);
                    if let Err(problem) = inner.commit(change.into_iter().collect()) {
                        tracing::warn!(problem = problem.message, "not noted");
                    }
                }
                Err(reason) => {
                    tracing::debug!(%segment, node = %former.node, reason, "copy not forgotten yet");
                    dumb.insert(former.node);
                }
            }
        }
    }
}
