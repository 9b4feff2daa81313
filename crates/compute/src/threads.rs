//! The threads beside the supervisor: the driver's, the tending one, the cache's.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::bail;
use link::Party;
use registry::{Client, VolumeInfo};
use seam::{Instance, SharedBoard};
use wire::Speaker;

use crate::attach::Attachment;
use crate::bell::Bell;
use crate::cache::{Cache, CacheConfig, Limits, VolumeView, WriterLog};
use crate::carrier::Carrier;
use crate::config::ComputeConfig;
use crate::free_space::FreeSpace;
use crate::metrics::DriverMetrics;
use crate::office::Office;
use crate::open::Volume;
use crate::router::Router;
use crate::ship::Shipper;
use crate::supervise::ServerConfig;
use crate::tend::{Account, Tender};
use crate::volume_log::{LogError, VolumeLog};
use crate::volume_view::Shared;
use crate::wal_tail::WalTail;

/// Longest time that an orderly stop waits for what is still to be put into the volume.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// What every part of the daemon on this host has in common.
pub struct Host<'a> {
    /// The daemon's configuration.
    pub config: &'a ComputeConfig,
    /// How to start and reach PostgreSQL.
    pub server: ServerConfig,
    /// Where the instance's files are.
    pub instance: Instance,
    /// The control plane.
    pub control: Client,
    /// Metrics.
    pub metrics: DriverMetrics,
    /// Where metrics are served.
    pub http: String,
}

impl std::fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host of {}", self.config.name)
    }
}

impl Host<'_> {
    /// How this instance introduces itself to a volume's nodes.
    #[must_use]
    pub fn party(&self, volume: &VolumeInfo) -> Party {
        Party {
            cluster: volume.cluster,
            from: Speaker::Instance { name: self.config.name, volume: volume.id },
            az: self.config.az,
            az_latency: self.config.az_latency,
        }
    }
}

/// Running threads.
#[derive(Debug)]
pub struct Threads {
    driver: JoinHandle<Result<(), LogError>>,
    tender: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    account: Arc<Mutex<Account>>,
    fenced: Arc<Mutex<Option<String>>>,
    waker: Arc<mio::Waker>,
    leave: Arc<AtomicBool>,
    /// The board that the driver publishes on.
    pub board: SharedBoard,
    /// Dropped last, after PostgreSQL has ended.
    pub cache: Cache,
}

impl Threads {
    /// Starts the cache, the driver's thread and the tending one.
    ///
    /// # Errors
    /// When a socket or a thread cannot be had.
    pub fn start(
        host: &Host<'_>,
        volume: Volume,
        router: Router,
        first: Option<protocol::Record>,
        tail: WalTail,
        board: SharedBoard,
        attachment: &Attachment,
    ) -> anyhow::Result<Threads> {
        let bell = Bell::open(Path::new(host.instance.wake().as_str()))?;
        let positions = volume.positions();
        let addresses = volume.addresses();
        let party = host.party(&volume.info);
        let shared = Arc::new(Shared::new(volume.info.id, attachment.epoch, router, positions));
        shared.set_limit(volume.info.limit_bytes);
        for (node, address) in &addresses {
            shared.set_address(*node, address);
        }
        let geometry_epoch = volume.info.geometry_epoch;
        let mut log = VolumeLog::new(
            volume.links,
            volume.opened,
            &volume.info.groups,
            Arc::clone(&shared),
            host.metrics.clone(),
        );
        let reattached = first.is_none();
        if let Some(record) = first {
            log.writer().submit(record, shared.router().xids.next());
        }
        host.metrics.epoch.set(attachment.epoch.0.cast_signed());
        let waker = log.links().waker();
        let stop = Arc::new(AtomicBool::new(false));
        let (orders, inbox) = channel();
        let account = Arc::new(Mutex::new(Account {
            state: "starting",
            pid: None,
            http: Some(host.http.clone()),
        }));
        let fenced = Arc::new(Mutex::new(None));
        let leave = Arc::new(AtomicBool::new(false));
        let carrier = Arc::new(Carrier::new(Arc::clone(&shared), host.server.clone()));
        let office = Office {
            board,
            carrier: Arc::clone(&carrier),
            instance: host.instance,
            shared: Arc::clone(&shared),
        };
        let cache = Cache::start(
            CacheConfig {
                instance: host.instance,
                board,
                party,
                limits: Limits {
                    cache_size: host.config.cache_size,
                    cache_limit: host.config.cache_limit,
                },
                evict_everything: host.config.evict_everything,
            },
            Arc::clone(&shared) as Arc<dyn VolumeView>,
            Arc::new(WriterLog::new(Arc::clone(&shared), host.server.clone())),
            Box::new(move |request| office.answer(request)),
        )?;
        let shipper = Shipper::new(
            board,
            bell,
            Arc::clone(&shared),
            log,
            tail,
            inbox,
            Arc::clone(&stop),
            host.metrics.clone(),
        )?;
        let free_space = FreeSpace::new(
            host.instance,
            host.server.clone(),
            Arc::clone(&shared),
            carrier,
            host.metrics.free_space_kept.clone(),
            reattached,
        );
        let tender = Tender {
            config: host.config.clone(),
            server: host.server.clone(),
            control: host.control.clone(),
            shared,
            timeline: attachment.timeline,
            geometry_epoch: geometry_epoch.into(),
            news: AtomicU64::new(0),
            memberships: Mutex::default(),
            orders,
            waker: Arc::clone(&waker),
            account: Arc::clone(&account),
            board,
            fenced: Arc::clone(&fenced),
            stop: Arc::clone(&stop),
            leave: Arc::clone(&leave),
        };
        let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let driver = spawn("driver").spawn(move || shipper.run())?;
        let tender = spawn("tender").spawn(move || tender.run(free_space))?;
        Ok(Threads { driver, tender, stop, account, fenced, waker, leave, board, cache })
    }

    /// Changes what heartbeats tell.
    pub fn set(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.account.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether the threads are well.
    ///
    /// # Errors
    /// Why the daemon must stop.
    pub fn check(&self) -> anyhow::Result<()> {
        let fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reason) = fenced {
            bail!("fenced: {reason}");
        }
        if self.driver.is_finished() {
            bail!("the driver's thread ended"); // its own reason is joined and comes first
        }
        Ok(())
    }

    /// Before an orderly stop: has what is still missing from the volume put there, and waits for
    /// that, within reason.
    pub fn settle(&self) {
        let until = Instant::now() + SETTLE_LIMIT;
        self.leave.store(true, Ordering::SeqCst);
        while self.leave.load(Ordering::SeqCst) && self.check().is_ok() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the threads; the driver's reason if it had one.
    ///
    /// # Errors
    /// The driver's reason to have stopped.
    pub fn finish(self) -> anyhow::Result<()> {
        self.set(|account| account.state = "stopped");
        self.stop.store(true, Ordering::Relaxed);
        if let Err(error) = self.waker.wake() {
            tracing::debug!(%error, "the driver's thread cannot be woken");
        }
        if self.tender.join().is_err() {
            tracing::error!("the tending thread panicked");
        }
        match self.driver.join() {
            Ok(outcome) => Ok(outcome?),
            Err(_) => bail!("the driver's thread panicked"),
        }
    }
}
