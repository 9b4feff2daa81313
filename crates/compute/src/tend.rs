//! Everything that may be slow: heartbeats, growth of the volume and its limit, addresses, free space
//! maps, and the check that nothing was flushed behind the driver's back. Five threads, so that neither a control
//! plane that is making segments nor a server that does not answer silences the heartbeat.
//!
//! - R3: PostgreSQL's flush position is compared with what the driver has published; when it is
//!   ahead, some write went round the preload library, and the server is fenced.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;
use registry::{AddGroup, Client, GroupInfo, InstanceHeartbeat, InstanceRole};
use seam::{NoRoom, SharedBoard};
use types::{Lsn, Timeline};

use crate::config::ComputeConfig;
use crate::free_space::FreeSpace;
use crate::ship::Order;
use crate::supervise::ServerConfig;
use crate::volume_view::Shared;

const BEAT_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const GROW_AGAIN_AFTER: Duration = Duration::from_millis(250);
const FLUSH_CHECK_EVERY: Duration = Duration::from_secs(2);

/// What the supervisor tells about itself, for heartbeats.
#[derive(Debug, Clone)]
pub struct Account {
    /// `opening`, `starting`, `ready`, `fenced`, `stopping`, `stopped`.
    pub state: &'static str,
    /// The postmaster.
    pub pid: Option<u32>,
    /// Where metrics are.
    pub http: Option<String>,
}

/// The tending thread's parts.
pub struct Tender {
    /// The daemon's configuration.
    pub config: ComputeConfig,
    /// How to reach the server.
    pub server: ServerConfig,
    /// The control plane.
    pub control: Client,
    /// The volume as the driver moves it.
    pub shared: Arc<Shared>,
    /// The epoch's timeline.
    pub timeline: Timeline,
    /// The geometry known.
    pub geometry_epoch: AtomicU64,
    /// Number of the control plane's news that have been read.
    pub news: AtomicU64,
    /// The groups' membership epochs that the driver was told.
    pub memberships: Mutex<BTreeMap<u32, u64>>,
    /// To the driver's thread.
    pub orders: Sender<Order>,
    /// Wakes it.
    pub waker: Arc<Waker>,
    /// The supervisor's account.
    pub account: Arc<Mutex<Account>>,
    /// The board, to be fenced at once when a newer epoch is heard of.
    pub board: SharedBoard,
    /// Set when a newer epoch was heard of, with the reason.
    pub fenced: Arc<Mutex<Option<String>>>,
    /// Set when the daemon stops.
    pub stop: Arc<AtomicBool>,
    /// Set when PostgreSQL is about to be stopped; cleared when all is in the volume that should be.
    pub leave: Arc<AtomicBool>,
}

impl std::fmt::Debug for Tender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tender")
    }
}

impl Tender {
    /// Runs until the daemon stops.
    pub fn run(self, free_space: FreeSpace) {
        std::thread::scope(|scope| {
            scope.spawn(|| free_space.run(&self.stop, &self.leave));
            scope.spawn(|| self.every(LOOK_EVERY, || self.grow()));
            scope.spawn(|| self.bound());
            scope.spawn(|| self.watch_server());
            self.every(BEAT_EVERY, || self.heartbeat());
        });
        self.heartbeat();
    }

    /// Repeats `work` until the daemon stops, which is noticed soon.
    fn every(&self, pause: Duration, mut work: impl FnMut()) {
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            if Instant::now() >= due {
                work();
                due = Instant::now() + pause;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Compares PostgreSQL's flush position with ours, in a session of our own.
    fn watch_server(&self) {
        let mut session = None;
        self.every(FLUSH_CHECK_EVERY, || self.check_flush(&mut session));
    }

    fn account(&self) -> Account {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fence(&self, reason: String) {
        let mut fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        fenced.get_or_insert(reason);
        self.board.fence();
    }

    fn order(&self, order: Order) {
        // A driver's thread that is gone has ended the daemon already.
        if self.orders.send(order).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::warn!(%error, "cannot wake the driver's thread");
        }
    }

    fn heartbeat(&self) {
        let account = self.account();
        let positions = self.shared.positions();
        let beat = InstanceHeartbeat {
            name: self.config.name.to_string(),
            role: InstanceRole::Writer,
            az: self.config.az,
            volume: self.shared.volume(),
            epoch: self.shared.epoch().0,
            timeline: self.timeline.0,
            state: account.state.to_owned(),
            endpoint: format!("{}:{}", self.config.listen, self.config.port),
            http: account.http,
            pid: account.pid,
            daemon_pid: std::process::id(),
            data_dir: self.server.pgdata().to_string_lossy().into_owned(),
            vcl: Some(positions.vcl),
            vdl: Some(positions.vdl.end),
            low_water_mark: Some(positions.low_water),
            replay_lsn: None,
            lag_ms: None,
            shipped_bytes_per_copy: Some(self.shared.shipped()),
            live_bytes: Some(self.shared.live_bytes()),
            filled: self.shared.filled(),
            seen: self.shared.seen(),
        };
        match self.control.heartbeat(&beat) {
            Ok(answer) if answer.epoch > self.shared.epoch().0 => {
                self.fence(format!("the control plane says that epoch {} is open", answer.epoch));
            }
            Ok(answer) if answer.news != self.news.load(Ordering::SeqCst) => {
                if self.refresh(answer.geometry_epoch) {
                    self.news.store(answer.news, Ordering::SeqCst);
                }
            }
            Ok(_) => {}
            Err(error) if error.is_fenced() => self.fence(error.to_string()),
            Err(error) => tracing::debug!(%error, "no heartbeat"),
        }
    }

    /// Learns new groups, new members, and where nodes are now.
    fn refresh(&self, geometry_epoch: u64) -> bool {
        let info = match self.control.volume(self.shared.volume()) {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot refresh the volume's members");
                return false;
            }
        };
        self.shared.set_limit(info.limit_bytes);
        for member in info.groups.iter().flat_map(GroupInfo::holders) {
            if self.shared.set_address(member.node, &member.address) {
                self.order(Order::Address(member.node, member.address.clone()));
            }
        }
        if geometry_epoch > self.geometry_epoch.load(Ordering::SeqCst) {
            self.geometry_epoch.fetch_max(info.geometry_epoch, Ordering::SeqCst);
            for group in &info.groups {
                self.order(Order::AddGroup(group.clone()));
            }
        }
        // Only news are told; those that the driver began with it hears once again.
        let mut known = self.memberships.lock().unwrap_or_else(PoisonError::into_inner);
        for group in info.groups {
            let before = known.insert(group.id, group.membership_epoch);
            if before.unwrap_or(registry::first_members()) != group.membership_epoch {
                self.order(Order::Members(group));
            }
        }
        true
    }

    /// Keeps the volume within its limit: at it, PostgreSQL's own out-of-space error ends whatever
    /// would make a relation larger (D25).
    fn bound(&self) {
        let mut was_full = false;
        self.every(LOOK_EVERY, || {
            let (live, limit) = (self.shared.live_bytes(), self.shared.limit());
            let full = live >= limit;
            self.board.set_no_room(NoRoom::Volume, full);
            if full && !was_full {
                tracing::warn!(live, limit, "the volume is at its limit: relations may not grow");
            }
            was_full = full;
        });
    }

    /// Asks for the next group in good time.
    fn grow(&self) {
        if !self.shared.router().catalog.wants_group() {
            return;
        }
        let wish = AddGroup {
            epoch: self.shared.epoch().0,
            expected_geometry: self.geometry_epoch.load(Ordering::SeqCst),
        };
        match self.control.add_group(self.shared.volume(), &wish) {
            Ok(added) => {
                self.geometry_epoch.fetch_max(added.geometry_epoch, Ordering::SeqCst);
                let group = added.group.id;
                for member in &added.group.members {
                    self.shared.set_address(member.node, &member.address);
                }
                self.order(Order::AddGroup(added.group));
                // Until the driver has taken it in, the newest group still looks full.
                let known = |shared: &Shared| {
                    shared.router().catalog.filled().contains_key(&types::GroupId(group))
                };
                for _ in 0..40 {
                    if known(&self.shared) {
                        break;
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
            }
            Err(error) if error.is_fenced() => self.fence(error.to_string()),
            Err(error) => {
                tracing::warn!(%error, "cannot add a group yet");
                self.refresh(u64::MAX);
                std::thread::sleep(GROW_AGAIN_AFTER);
            }
        }
    }

    fn check_flush(&self, session: &mut Option<postgres::Client>) {
        if self.account().state != "ready" {
            return;
        }
        let sql = "SELECT pg_current_wal_flush_lsn()::text";
        let Some(flushed) = self.query(session, sql) else { return };
        let Ok(flushed) = flushed.parse::<Lsn>() else { return };
        let published = self.shared.published();
        if flushed > published {
            self.fence(format!(
                "PostgreSQL has flushed up to {flushed}, the driver only allowed {published}: \
                 something writes round the preload library (rule R3)"
            ));
        }
    }

    fn query(&self, session: &mut Option<postgres::Client>, sql: &str) -> Option<String> {
        if self.account().state != "ready" {
            return None;
        }
        if session.is_none() {
            *session = self.server.connect().ok();
        }
        match session.as_mut()?.query_one(sql, &[]) {
            Ok(row) => row.try_get(0).ok(),
            Err(error) => {
                tracing::debug!(%error, "the tending session ended");
                *session = None;
                None
            }
        }
    }
}
