//! The daemon's life: open the volume, lay out and start PostgreSQL (or re-attach to it), ship, stop.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use link::Party;
use pgwal::ControlFile;
use protocol::Timelines;
use registry::{Client, VolumeInfo, WriterReady};
use seam::{Board, Instance, Mode, SharedBoard};
use telemetry::{HttpServer, Metrics};
use types::{Epoch, GroupId, Timeline, VolumeId};
use wire::Speaker;

use crate::attach::Attachment;
use crate::bell::Bell;
use crate::catalog::{Catalog, file};
use crate::config::ComputeConfig;
use crate::create::Scratch;
use crate::import::import;
use crate::links::Links;
use crate::metrics::DriverMetrics;
use crate::open::{Volume, find_volume, open_volume};
use crate::pages::PageReader;
use crate::router::Router;
use crate::ship::Shipper;
use crate::skeleton::{Contents, Skeleton, make_directory, sparse_file};
use crate::startpoint::{StartPoint, last_checkpoint, start_point};
use crate::supervise::{Server, ServerConfig};
use crate::tend::{Account, Tender};
use crate::volume_log::{LogError, VolumeLog};
use crate::volume_view::Shared;
use crate::wal_tail::WalTail;
use crate::xids::Xids;
use crate::{settings, signals};

/// Longest time from PostgreSQL's start to its readiness.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Longest orderly shutdown.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Runs the daemon until it is asked to stop (SIGTERM, SIGINT) or cannot go on.
///
/// # Errors
/// One line that says why it ended, when it was not asked to.
pub fn run(config: &ComputeConfig) -> anyhow::Result<()> {
    signals::install();
    settings::configuration(&config.settings)?;
    for directory in [&config.dir, &config.dir.join("shm")] {
        make_directory(directory)?;
    }
    let _lock = lock(&config.dir)?;
    let metrics = Metrics::new("compute", config.name.as_str());
    let http = telemetry::serve_http(&config.http, &metrics, axum::Router::new())?;
    let daemon = Daemon::new(config, &metrics, &http)?;
    daemon.run()
}

/// One daemon an instance.
fn lock(dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = dir.join("daemon.lock");
    let file = std::fs::File::create(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).with_context(
        || format!("another daemon runs on {}; stop it first", dir.display()),
    )?;
    Ok(file)
}

struct Daemon<'a> {
    config: &'a ComputeConfig,
    server: ServerConfig,
    instance: Instance,
    control: Client,
    metrics: DriverMetrics,
    http: String,
}

/// A volume open, with its catalog, before anything runs on it.
struct Found {
    volume: Volume,
    catalog: Catalog,
    state: redo::State,
    template: ControlFile,
}

/// The threads beside the supervisor.
struct Running {
    driver: JoinHandle<Result<(), LogError>>,
    tender: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    account: Arc<Mutex<Account>>,
    fenced: Arc<Mutex<Option<String>>>,
    waker: Arc<mio::Waker>,
    board: SharedBoard,
}

impl<'a> Daemon<'a> {
    fn new(
        config: &'a ComputeConfig,
        metrics: &Metrics,
        http: &HttpServer,
    ) -> anyhow::Result<Daemon<'a>> {
        let instance = Instance::new(config.dir.as_os_str().as_encoded_bytes(), None)
            .with_context(|| format!("the path {} is too long", config.dir.display()))?;
        let server = ServerConfig {
            pg_bin: config.pg_bin.clone(),
            shim: Some(config.shim.clone()),
            instance: config.dir.clone(),
            listen: config.listen.clone(),
            port: config.port,
        };
        Ok(Daemon {
            config,
            server,
            instance,
            control: Client::new(&config.control),
            metrics: DriverMetrics::new(metrics),
            http: http.address().to_string(),
        })
    }

    fn run(&self) -> anyhow::Result<()> {
        let stop = signals::asked_to_stop;
        let volume = find_volume(
            &self.control,
            &self.config.volume,
            self.config.group_bytes,
            &stop,
        )?;
        if let Some(server) = Server::running(&self.server)? {
            match self.reattach(&volume, server) {
                Ok(outcome) => return outcome,
                Err((error, server)) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        pid = server.pid(),
                        "cannot re-attach to the running PostgreSQL; it is ended"
                    );
                    self.end(server)?;
                }
            }
        }
        let found = self.open(&volume)?;
        self.serve_fresh(found)
    }

    fn end(&self, mut server: Server) -> anyhow::Result<()> {
        if let Ok(board) = Board::open(&self.instance) {
            board.fence();
        }
        server.kill();
        if !server.ended_within(Duration::from_secs(10)) {
            bail!("PostgreSQL (pid {}) does not end although it was killed", server.pid());
        }
        Ok(())
    }

    fn party(&self, volume: &VolumeInfo) -> Party {
        Party {
            cluster: volume.cluster,
            from: Speaker::Instance { name: self.config.name, volume: volume.id },
            az: self.config.az,
            az_latency: self.config.az_latency,
        }
    }

    /// Opens the volume with a new epoch and timeline, and fills it first if it is empty.
    fn open(&self, volume: &VolumeInfo) -> anyhow::Result<Found> {
        loop {
            let opened = self.open_once(volume, None, Timelines::NextAfterOr(Timeline(1)))?;
            let begun = Instant::now();
            let laid = Skeleton::begin(&self.config.dir)?;
            let cleared = begun.elapsed();
            let (catalog, state) = self.catalog(&opened, &mut |slru, page, content| {
                laid.slru_page(slru, page, content)
            })?;
            let read = begun.elapsed() - cleared;
            tracing::info!(?cleared, ?read, forks = catalog.forks().count(), "catalog read");
            match found(&catalog, state, &opened)? {
                Some((state, template)) => {
                    return Ok(Found { volume: opened, catalog, state, template });
                }
                None if volume.initialized => bail!(
                    "volume {} was in use, but holds no whole database at {}: restore it",
                    volume.id,
                    opened.opened.vdl.end
                ),
                None => self.create(opened)?,
            }
        }
    }

    fn open_once(
        &self,
        volume: &VolumeInfo,
        expected: Option<u64>,
        timelines: Timelines,
    ) -> anyhow::Result<Volume> {
        open_volume(
            &self.control,
            volume,
            self.config.name.as_str(),
            expected,
            timelines,
            Links::new(self.party(volume))?,
            &signals::asked_to_stop,
        )
    }

    fn catalog(
        &self,
        volume: &Volume,
        slru: &mut dyn FnMut(pgwal::keys::Slru, u32, &Bytes) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Catalog, Option<redo::State>)> {
        let mut reader = PageReader::new(self.party(&volume.info), volume.addresses());
        volume.catalog(&mut reader, slru)
    }

    /// Imports a fresh database; the volume is then opened again.
    fn create(&self, volume: Volume) -> anyhow::Result<()> {
        tracing::info!("the volume is empty: creating a database");
        let scratch = Scratch::initdb(&self.config.pg_bin, &self.config.dir)?;
        let (control, span, body) = last_checkpoint(scratch.path())?;
        let state = Bytes::from(redo::State::of_control_file(&control).encode());
        let groups: Vec<GroupId> =
            volume.opened.tails.iter().map(|setup| setup.group).collect();
        let mut catalog = Catalog::new(volume.info.group_bytes, groups.iter().copied());
        let router = Router::new(catalog.clone(), Xids::new(0), false);
        let positions = volume.positions();
        let shared = Arc::new(Shared::new(
            volume.info.id,
            Epoch(volume.info.epoch),
            router,
            positions,
        ));
        let vdl = volume.opened.vdl;
        let mut log = VolumeLog::new(
            volume.links,
            volume.opened,
            &volume.info.groups,
            shared,
            self.metrics.clone(),
        );
        log.writer().set_watermark(control.checkpoint_copy.next_xid);
        let mut in_flight = 0usize;
        let last = import(
            scratch.path(),
            &mut catalog,
            &groups,
            vdl,
            state,
            (span, body),
            &mut |record| {
                in_flight += 1;
                log.writer().submit(record);
                log.send();
                // Positions say little about the bytes of an import, so records are counted.
                while in_flight >= 16 {
                    log.turn(Duration::from_millis(50))?;
                    log.send();
                    in_flight = usize::try_from(
                        log.writer().submitted().end.bytes_since(log.vdl().end) / 8,
                    )
                    .unwrap_or(usize::MAX)
                    .min(in_flight);
                    check_stop()?;
                }
                Ok(())
            },
        )?;
        while log.vdl() != last {
            log.turn(Duration::from_millis(50))?;
            log.send();
            check_stop()?;
        }
        tracing::info!(vdl = %last.end, "the volume holds a database");
        Ok(())
    }

    /// Lays out the data directory, starts PostgreSQL on it and serves.
    fn serve_fresh(&self, found: Found) -> anyhow::Result<()> {
        let Found { volume, catalog, state, template } = found;
        let epoch = Epoch(volume.info.epoch);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let point = start_point(
            &template,
            &state.checkpoint,
            state.parameters.track_commit_timestamp,
            volume.opened.vdl,
            &volume.opened.history,
            volume.opened.watermark,
            now.cast_signed(),
        )?;
        let begun = Instant::now();
        let board = self.lay_out(&catalog, &point)?;
        tracing::info!(laid_out = ?begun.elapsed(), "data directory laid out");
        let next_xid = volume.opened.watermark.max(state.checkpoint.next_xid);
        let mut router = Router::new(catalog, Xids::new(next_xid), point.commit_timestamps);
        // The checkpoint is the epoch's first record (D17).
        let record = match router.route(&point.checkpoint)? {
            crate::router::Routed::Record(record) => record,
            crate::router::Routed::Copy(_) => bail!("a checkpoint copies no database"),
        };
        let attachment = Attachment {
            volume: volume.info.id,
            epoch,
            timeline: point.timeline,
            system_id: point.system_id,
            segment_size: point.segment_size,
        };
        let tail = WalTail::new(
            &self.server.pgdata(),
            point.timeline,
            point.segment_size,
            point.system_id,
            point.checkpoint.span.start,
            point.checkpoint.span.end,
        );
        let running = self.start_threads(volume, router, Some(record), tail, board, &attachment)?;
        attachment.save(&self.config.dir)?;
        let server = Server::start(&self.server)?;
        self.supervise(server, running, &attachment)
    }

    /// The skeleton, the shared memory and the bell.
    fn lay_out(&self, catalog: &Catalog, point: &StartPoint) -> anyhow::Result<SharedBoard> {
        let shm = self.config.dir.join("shm");
        std::fs::remove_dir_all(shm.join("maps")).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        make_directory(&shm.join("maps"))?;
        let board = Board::create(&self.instance, Mode::Write, point.segment_size.into())
            .map_err(|error| anyhow!("{error}"))?;
        let auto = catalog.file(file::AUTO_CONF).cloned().unwrap_or_default();
        let (auto, refused) = settings::accepted_auto_conf(&String::from_utf8_lossy(&auto));
        for reason in refused {
            tracing::warn!(%reason, "dropped from postgresql.auto.conf");
        }
        let contents = Contents {
            control: point.control.clone(),
            wal: point.wal.clone(),
            histories: point.histories.clone(),
            configuration: settings::configuration(&self.config.settings)?,
            auto_configuration: auto,
            authentication: settings::HBA.to_owned(),
        };
        // The directory was begun when the volume was opened: SLRU pages are in it already.
        Skeleton::resume(&self.config.dir).finish(catalog, &contents, &mut |path, name, blocks| {
            sparse_file(path, blocks)?;
            seam::Map::create_absent(&self.instance, name, blocks)
                .map_err(|errno| anyhow!(std::io::Error::from_raw_os_error(errno)))?;
            Ok(())
        })?;
        Ok(board)
    }

    /// Starts the driver's thread and the tending one.
    fn start_threads(
        &self,
        volume: Volume,
        router: Router,
        first: Option<protocol::Record>,
        tail: WalTail,
        board: SharedBoard,
        attachment: &Attachment,
    ) -> anyhow::Result<Running> {
        let bell = Bell::open(Path::new(self.instance.wake().as_str()))?;
        let positions = volume.positions();
        let addresses = volume.addresses();
        let party = self.party(&volume.info);
        let shared =
            Arc::new(Shared::new(volume.info.id, attachment.epoch, router, positions));
        for (node, address) in &addresses {
            shared.set_address(*node, address);
        }
        let geometry_epoch = volume.info.geometry_epoch;
        let mut log = VolumeLog::new(
            volume.links,
            volume.opened,
            &volume.info.groups,
            Arc::clone(&shared),
            self.metrics.clone(),
        );
        let next = shared.router().xids.next();
        log.writer().set_watermark(next);
        if let Some(record) = first {
            log.writer().submit(record);
        }
        self.metrics.epoch.set(attachment.epoch.0.cast_signed());
        let waker = log.links().waker();
        let stop = Arc::new(AtomicBool::new(false));
        let (orders, inbox) = channel();
        let account = Arc::new(Mutex::new(Account {
            state: "starting",
            pid: None,
            http: Some(self.http.clone()),
        }));
        let fenced = Arc::new(Mutex::new(None));
        let shipper = Shipper::new(
            board,
            bell,
            Arc::clone(&shared),
            log,
            tail,
            PageReader::new(party, addresses),
            inbox,
            Arc::clone(&stop),
            self.metrics.clone(),
        )?;
        let tender = Tender {
            config: self.config.clone(),
            server: self.server.clone(),
            control: self.control.clone(),
            shared,
            timeline: attachment.timeline,
            geometry_epoch,
            orders,
            waker: Arc::clone(&waker),
            account: Arc::clone(&account),
            fenced: Arc::clone(&fenced),
            stop: Arc::clone(&stop),
        };
        let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let driver = spawn("driver").spawn(move || shipper.run())?;
        let tender = spawn("tender").spawn(move || tender.run())?;
        Ok(Running { driver, tender, stop, account, fenced, waker, board })
    }

    /// The server that runs already goes on under a new epoch on its own timeline. The inner result
    /// is how it ended; the outer error gives the server back when it could not be adopted.
    fn reattach(
        &self,
        volume: &VolumeInfo,
        server: Server,
    ) -> Result<anyhow::Result<()>, (anyhow::Error, Server)> {
        match self.prepare_reattach(volume) {
            Ok((running, attachment)) => Ok(self.supervise(server, running, &attachment)),
            Err(error) => Err((error, server)),
        }
    }

    fn prepare_reattach(&self, volume: &VolumeInfo) -> anyhow::Result<(Running, Attachment)> {
        let before = Attachment::load(&self.config.dir)?;
        let board = Board::open(&self.instance).map_err(|error| anyhow!("{error}"))?;
        if board.is_fenced() {
            bail!("it was fenced");
        }
        if before.volume != volume.id {
            bail!("it runs on volume {}, not {}", before.volume, volume.id);
        }
        tracing::info!(epoch = %before.epoch, "PostgreSQL runs: re-attaching to it");
        // Only if nobody else has opened the volume meanwhile.
        let keep = Timelines::KeepOr(before.timeline);
        let opened = self.open_once(volume, Some(before.epoch.0), keep)?;
        if opened.timeline() != before.timeline {
            bail!("it writes timeline {}, the volume is on {}", before.timeline, opened.timeline());
        }
        let (catalog, state) = self.catalog(&opened, &mut |_, _, _| Ok(()))?;
        let state = state.context("the volume holds no database")?;
        let next_xid = opened.opened.watermark.max(state.checkpoint.next_xid);
        let commit_timestamps = state.parameters.track_commit_timestamp;
        let router = Router::new(catalog, Xids::reattached(next_xid), commit_timestamps);
        let vdl = opened.opened.vdl;
        let attachment = Attachment { epoch: Epoch(opened.info.epoch), ..before };
        let tail = WalTail::new(
            &self.server.pgdata(),
            attachment.timeline,
            attachment.segment_size,
            attachment.system_id,
            vdl.start,
            vdl.end,
        );
        attachment.save(&self.config.dir)?;
        board.take_over();
        let running = self.start_threads(opened, router, None, tail, board, &attachment)?;
        Ok((running, attachment))
    }

    /// Watches the server and the threads until something ends.
    fn supervise(
        &self,
        mut server: Server,
        running: Running,
        attachment: &Attachment,
    ) -> anyhow::Result<()> {
        running.set(|account| account.pid = Some(server.pid()));
        let outcome = self.watch(&mut server, &running, attachment);
        running.set(|account| account.state = "stopping");
        if outcome.is_err() {
            running.board.fence();
            server.kill();
            if !server.ended_within(Duration::from_secs(5)) {
                tracing::error!(pid = server.pid(), "PostgreSQL does not end");
            }
        }
        let ended = running.finish();
        outcome.and(ended)
    }

    fn watch(
        &self,
        server: &mut Server,
        running: &Running,
        attachment: &Attachment,
    ) -> anyhow::Result<()> {
        let pgdata = self.server.pgdata();
        server.wait_ready(READY_LIMIT, &mut || {
            running.check()?;
            check_stop()?;
            check_timeline(&pgdata, attachment.timeline)
        })?;
        let ready =
            WriterReady { epoch: attachment.epoch.0, timeline: attachment.timeline.0 };
        let volume: VolumeId = attachment.volume;
        crate::open::patiently("declare the writer ready", &signals::asked_to_stop, || {
            self.control.writer_ready(volume, &ready)
        })?;
        running.set(|account| account.state = "ready");
        tracing::info!(port = self.config.port, epoch = %attachment.epoch, "ready for writes");
        let mut stopping: Option<Instant> = None;
        loop {
            if server.ended_within(Duration::from_millis(50)) {
                let well = server.ended_well();
                return match (stopping, well) {
                    (Some(_), true) => Ok(()),
                    (Some(_), false) => bail!("PostgreSQL stopped badly: {}", server.verdict()),
                    (None, _) => {
                        running.check()?;
                        bail!("PostgreSQL ended by itself ({})", server.verdict())
                    }
                };
            }
            running.check()?;
            match stopping {
                None if signals::asked_to_stop() => {
                    tracing::info!("stopping PostgreSQL");
                    running.set(|account| account.state = "stopping");
                    server.stop_fast()?;
                    stopping = Some(Instant::now());
                }
                Some(since) if since.elapsed() > STOP_LIMIT => {
                    bail!("PostgreSQL did not stop within {STOP_LIMIT:?}; it was ended by force");
                }
                _ => {}
            }
        }
    }
}

impl Running {
    fn set(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.account.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether the threads are well.
    fn check(&self) -> anyhow::Result<()> {
        let fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reason) = fenced {
            bail!("fenced: {reason}");
        }
        if self.driver.is_finished() {
            bail!("the driver's thread ended"); // its own reason is joined and comes first
        }
        Ok(())
    }

    /// Ends the threads; the driver's reason if it had one.
    fn finish(self) -> anyhow::Result<()> {
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

/// The counters and the control file, when the volume holds a whole database (D15).
fn found(
    catalog: &Catalog,
    state: Option<redo::State>,
    volume: &Volume,
) -> anyhow::Result<Option<(redo::State, ControlFile)>> {
    let Some((state, template)) = state.zip(catalog.file(file::CONTROL_TEMPLATE)) else {
        return Ok(None);
    };
    let template = ControlFile::decode(template).context("the imported pg_control")?;
    let whole = volume.opened.vdl.start >= template.checkpoint;
    Ok(whole.then_some((state, template)))
}

fn check_stop() -> anyhow::Result<()> {
    if signals::asked_to_stop() {
        bail!("asked to stop");
    }
    Ok(())
}

/// PostgreSQL may not go past the epoch's timeline.
fn check_timeline(pgdata: &Path, timeline: Timeline) -> anyhow::Result<()> {
    let next = pgdata.join("pg_wal").join(format!("{:08X}.history", timeline.0 + 1));
    if next.exists() {
        bail!("PostgreSQL chose a timeline above {timeline}, which is this epoch's");
    }
    Ok(())
}
