//! The daemon's life: open the volume, lay out and start PostgreSQL (or re-attach to it), ship, stop.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use pgwal::ControlFile;
use protocol::Timelines;
use registry::{Client, ProblemCode, VolumeInfo, WriterReady};
use seam::{Board, Instance, Mode, SharedBoard};
use telemetry::{HttpServer, Metrics};
use types::{Epoch, Timeline, VolumeId};

use crate::attach::Attachment;
use crate::catalog::{Catalog, file};
use crate::config::ComputeConfig;
use crate::create::create_database;
use crate::directories;
use crate::metrics::DriverMetrics;
use crate::open::{Volume, find_volume, open_volume, patiently};
use crate::opening::Opening;
use crate::pages::PageReader;
use crate::router::Router;
use crate::signals::check_stop;
use crate::skeleton::{Contents, Skeleton, make_directory, sparse_file};
use crate::startpoint::{StartPoint, start_point};
use crate::supervise::{Server, ServerConfig};
use crate::threads::{Host, Threads};
use crate::wal_tail::WalTail;
use crate::xids::Xids;
use crate::{settings, signals};

/// Longest time from PostgreSQL's start to its readiness.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Bytes that an instance writes until it is ready: a log segment, small files, presence maps.
const ROOM_TO_OPEN: u64 = 40 << 20;
/// The same with a database to be made first, by `initdb`.
const ROOM_TO_CREATE: u64 = 120 << 20;
/// Longest orderly shutdown.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Runs the daemon until it is asked to stop (SIGTERM, SIGINT) or cannot go on.
///
/// # Errors
/// One line that says why it ended, when it was not asked to.
pub fn run(config: &ComputeConfig) -> anyhow::Result<()> {
    let begun = Instant::now();
    signals::install();
    settings::configuration(&config.settings)?;
    for directory in [&config.dir, &config.dir.join("shm")] {
        make_directory(directory)?;
    }
    let _lock = lock(&config.dir)?;
    let metrics = Metrics::new("compute", config.name.as_str());
    let http = telemetry::serve_http(&config.http, &metrics, axum::Router::new())?;
    let daemon = Daemon::new(config, &metrics, &http)?;
    daemon.run(begun)
}

/// One daemon an instance.
fn lock(dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = dir.join("daemon.lock");
    let file = std::fs::File::create(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another daemon runs on {}; stop it first", dir.display()))?;
    Ok(file)
}

struct Daemon<'a> {
    host: Host<'a>,
}

/// A volume open, with its catalog, before anything runs on it.
struct Found {
    volume: Volume,
    catalog: Catalog,
    state: redo::State,
    template: ControlFile,
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
        let host = Host {
            config,
            server,
            instance,
            control: Client::new(&config.control),
            metrics: DriverMetrics::new(metrics),
            http: http.address().to_string(),
        };
        Ok(Daemon { host })
    }

    fn run(&self, begun: Instant) -> anyhow::Result<()> {
        let stop = signals::asked_to_stop;
        self.check_not_deleted(&stop)?;
        let volume = find_volume(
            &self.host.control,
            &self.host.config.volume,
            self.host.config.group_bytes,
            &stop,
        )?;
        let mut opening = Opening::begin(&self.host, &volume, begun)?;
        if let Some(server) = Server::running(&self.host.server)? {
            match self.reattach(&volume, &mut opening) {
                Ok((threads, attachment)) => {
                    return self.supervise(server, threads, &attachment, opening);
                }
                Err(error) => {
                    let pid = server.pid();
                    let error = format!("{error:#}");
                    tracing::warn!(error, pid, "cannot re-attach to PostgreSQL; it is ended");
                    self.end(server)?;
                }
            }
        }
        let found = self.open(&volume, &mut opening)?;
        self.serve_fresh(found, opening)
    }

    /// An instance whose volume was deleted does not make another of the same name by being started
    /// again: that somebody must want (D24).
    fn check_not_deleted(&self, stop: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let dir = &self.host.config.dir;
        let Ok(before) = Attachment::load(dir) else { return Ok(()) };
        let is = |error: &registry::Error, code| error.code() == Some(code);
        let looked = patiently("look for the volume", stop, || {
            match self.host.control.volume(before.volume) {
                Err(error) if is(&error, ProblemCode::Deleted) => Ok(Some(error)),
                Err(error) if is(&error, ProblemCode::NotFound) => Ok(None),
                other => other.map(|_| None),
            }
        });
        let Some(deleted) = looked? else { return Ok(()) };
        if let Some(server) = Server::running(&self.host.server)? {
            self.end(server)?;
        }
        bail!("{deleted}; {} is a cache of it: remove it to begin anew", dir.display())
    }

    fn end(&self, mut server: Server) -> anyhow::Result<()> {
        if let Ok(board) = Board::open(&self.host.instance) {
            board.fence();
        }
        server.kill();
        if !server.ended_within(Duration::from_secs(10)) {
            bail!("PostgreSQL (pid {}) does not end although it was killed", server.pid());
        }
        Ok(())
    }

    /// Opens the volume with a new epoch and timeline, and fills it first if it is empty.
    fn open(&self, volume: &VolumeInfo, opening: &mut Opening) -> anyhow::Result<Found> {
        // Before the epoch rises: whoever writes now goes on when there is no room here.
        let needed = if volume.initialized { ROOM_TO_OPEN } else { ROOM_TO_CREATE };
        directories::make_room(&self.host.config.dir, needed)?;
        loop {
            let timelines = Timelines::NextAfterOr(Timeline(1));
            let opened = self.open_once(volume, None, timelines, opening)?;
            let laid = Skeleton::begin(&self.host.config.dir)?;
            opening.done_with("clearing");
            let (catalog, state) = self
                .catalog(&opened, &mut |slru, page, content| laid.slru_page(slru, page, content))?;
            opening.done_with("catalog");
            match found(&catalog, state, &opened)? {
                Some((state, template)) => {
                    return Ok(Found { volume: opened, catalog, state, template });
                }
                None if volume.initialized => bail!(
                    "volume {} was in use, but holds no whole database at {}: restore it",
                    volume.id,
                    opened.opened.vdl.end
                ),
                None => {
                    let config = self.host.config;
                    create_database(opened, &config.pg_bin, &config.dir, &self.host.metrics)?;
                    opening.done_with("creation");
                }
            }
        }
    }

    fn open_once(
        &self,
        volume: &VolumeInfo,
        expected: Option<u64>,
        timelines: Timelines,
        opening: &mut Opening,
    ) -> anyhow::Result<Volume> {
        open_volume(
            &self.host.control,
            volume,
            expected,
            timelines,
            &self.host.party(volume),
            opening,
            &signals::asked_to_stop,
        )
    }

    fn catalog(
        &self,
        volume: &Volume,
        slru: &mut dyn FnMut(pgwal::keys::Slru, u32, &Bytes) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Catalog, Option<redo::State>)> {
        let mut reader = PageReader::new(self.host.party(&volume.info), volume.addresses());
        volume.catalog(&mut reader, slru)
    }

    /// Lays out the data directory, starts PostgreSQL on it and serves.
    fn serve_fresh(&self, found: Found, mut opening: Opening) -> anyhow::Result<()> {
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
        let next_xid = volume.opened.watermark.max(state.checkpoint.next_xid);
        let mut router = Router::new(catalog, Xids::new(next_xid), point.commit_timestamps);
        // The checkpoint is the epoch's first record (D17). It comes before the layout, because it
        // clears away what a crash has left in the catalog.
        let record = router.route(&point.checkpoint)?;
        let files = router.catalog.forks().count();
        let board = self.lay_out(&router.catalog, &point)?;
        opening.done_with(&format!("layout of {files} relation forks"));
        let attachment = Attachment {
            volume: volume.info.id,
            epoch,
            timeline: point.timeline,
            system_id: point.system_id,
            segment_size: point.segment_size,
        };
        let tail = WalTail::new(
            &self.host.server.pgdata(),
            point.timeline,
            point.segment_size,
            point.system_id,
            point.checkpoint.span.start,
            point.checkpoint.span.end,
        );
        let threads =
            Threads::start(&self.host, volume, router, Some(record), tail, board, &attachment)?;
        attachment.save(&self.host.config.dir)?;
        opening.hand_over();
        let server = Server::start(&self.host.server)?;
        opening.done_with("threads");
        self.supervise(server, threads, &attachment, opening)
    }

    /// The skeleton, the shared memory and the bell.
    fn lay_out(&self, catalog: &Catalog, point: &StartPoint) -> anyhow::Result<SharedBoard> {
        directories::move_aside(&self.host.config.dir, &["shm/maps"])?;
        directories::make_afresh(&self.host.config.dir, "shm/maps")?;
        let board = Board::create(&self.host.instance, Mode::Write, point.segment_size.into())
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
            configuration: settings::configuration(&self.host.config.settings)?,
            auto_configuration: auto,
            authentication: settings::HBA.to_owned(),
        };
        // The directory was begun when the volume was opened: SLRU pages are in it already.
        Skeleton::resume(&self.host.config.dir).finish(
            catalog,
            &contents,
            &mut |path, name, blocks| {
                sparse_file(path, blocks)?;
                // Empty files have a map too: without one they could grow and never be evicted.
                seam::Map::create_absent(&self.host.instance, name, blocks)
                    .map_err(|errno| anyhow!(std::io::Error::from_raw_os_error(errno)))?;
                Ok(())
            },
        )?;
        Ok(board)
    }

    /// The server that runs already goes on under a new epoch on its own timeline.
    fn reattach(
        &self,
        volume: &VolumeInfo,
        opening: &mut Opening,
    ) -> anyhow::Result<(Threads, Attachment)> {
        let before = Attachment::load(&self.host.config.dir)?;
        let board = Board::open(&self.host.instance).map_err(|error| anyhow!("{error}"))?;
        if board.is_fenced() {
            bail!("it was fenced");
        }
        if before.volume != volume.id {
            bail!("it runs on volume {}, not {}", before.volume, volume.id);
        }
        tracing::info!(epoch = %before.epoch, "PostgreSQL runs: re-attaching to it");
        // Only if nobody else has opened the volume meanwhile.
        let keep = Timelines::KeepOr(before.timeline);
        let opened = self.open_once(volume, Some(before.epoch.0), keep, opening)?;
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
            &self.host.server.pgdata(),
            attachment.timeline,
            attachment.segment_size,
            attachment.system_id,
            vdl.start,
            vdl.end,
        );
        attachment.save(&self.host.config.dir)?;
        opening.done_with("catalog");
        opening.hand_over();
        board.take_over();
        let threads = Threads::start(&self.host, opened, router, None, tail, board, &attachment)?;
        Ok((threads, attachment))
    }

    /// Watches the server and the threads until something ends.
    fn supervise(
        &self,
        mut server: Server,
        threads: Threads,
        attachment: &Attachment,
        opening: Opening,
    ) -> anyhow::Result<()> {
        threads.set(|account| account.pid = Some(server.pid()));
        let outcome = self.watch(&mut server, &threads, attachment, opening);
        threads.set(|account| account.state = "stopping");
        if outcome.is_err() {
            threads.board.fence();
            server.kill();
            if !server.ended_within(Duration::from_secs(5)) {
                tracing::error!(pid = server.pid(), "PostgreSQL does not end");
            }
        }
        let ended = threads.finish();
        ended.and(outcome) // the driver's own reason first, if it had one
    }

    fn watch(
        &self,
        server: &mut Server,
        threads: &Threads,
        attachment: &Attachment,
        mut opening: Opening,
    ) -> anyhow::Result<()> {
        let pgdata = self.host.server.pgdata();
        server.wait_ready(READY_LIMIT, &mut || {
            threads.check()?;
            check_stop()?;
            check_timeline(&pgdata, attachment.timeline)
        })?;
        opening.done_with("postgres");
        let ready = WriterReady { epoch: attachment.epoch.0, timeline: attachment.timeline.0 };
        let volume: VolumeId = attachment.volume;
        let give_up = || signals::asked_to_stop() || threads.check().is_err();
        patiently("declare the writer ready", &give_up, || {
            self.host.control.writer_ready(volume, &ready)
        })?;
        threads.set(|account| account.state = "ready");
        tracing::info!(port = self.host.config.port, epoch = %attachment.epoch, "ready for writes");
        opening.done_with("declared");
        opening.report();
        drop(opening);
        directories::sweep_later(&self.host.config.dir)?;
        let mut stopping: Option<Instant> = None;
        loop {
            if server.ended_within(Duration::from_millis(50)) {
                let well = server.ended_well();
                return match (stopping, well) {
                    (Some(_), true) => Ok(()),
                    (Some(_), false) => bail!("PostgreSQL stopped badly: {}", server.verdict()),
                    (None, _) => {
                        threads.check()?;
                        bail!("PostgreSQL ended by itself ({})", server.verdict())
                    }
                };
            }
            threads.check()?;
            self.host.metrics.show(threads.cache.stats());
            match stopping {
                None if signals::asked_to_stop() => {
                    tracing::info!("stopping PostgreSQL");
                    threads.set(|account| account.state = "stopping");
                    threads.settle();
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

/// PostgreSQL may not go past the epoch's timeline.
fn check_timeline(pgdata: &Path, timeline: Timeline) -> anyhow::Result<()> {
    let next = pgdata.join("pg_wal").join(format!("{:08X}.history", timeline.0 + 1));
    if next.exists() {
        bail!("PostgreSQL chose a timeline above {timeline}, which is this epoch's");
    }
    Ok(())
}
