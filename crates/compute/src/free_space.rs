//! Keeps free space maps in the volume, so that a new host does not let tables grow while there is
//! room in them. PostgreSQL logs nothing of these maps.
//!
//! - D21: a page of a map that PostgreSQL has written to its file is put into the volume. PostgreSQL
//!   writes them at checkpoints, so one is asked for after a VACUUM, and before an orderly stop.
//! - D22: maps are hints. A stale page costs a look at a page without room, or misses one with room,
//!   until the next VACUUM; it may be as stale as the last checkpoint, and never harms.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use pgwal::keys::{Fork, Rel};
use prometheus_client::metrics::gauge::Gauge;
use seam::{Instance, SegmentName};

use crate::cache::fork_of;
use crate::cache::local::{BLOCK, Local};
use crate::carrier::Carrier;
use crate::riders::Rider;
use crate::supervise::ServerConfig;
use crate::volume_view::Shared;

/// How often the log is asked for news.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How soon a call is heard.
const NAP: Duration = Duration::from_millis(20);
/// A VACUUM that goes on for longer is not waited for.
const LONGEST_VACUUM: Duration = Duration::from_secs(10);
/// Least time between two checkpoints that are asked for, and in terms of what the last one took.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_FACTOR: u32 = 50;
/// Files changed so shortly before a look may have changed again in the same tick of their clock.
const CLOCK_SLACK: Duration = Duration::from_secs(2);
/// Bytes put into the volume at once.
const AT_ONCE: usize = 8 << 20;

/// What the log has shown that matters to free space maps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    /// Records that VACUUM leaves.
    pub vacuum: u64,
    /// Checkpoints.
    pub checkpoints: u64,
}

/// See the module's description.
#[derive(Debug)]
pub struct FreeSpace {
    instance: Instance,
    server: ServerConfig,
    shared: Arc<Shared>,
    carrier: Arc<Carrier>,
    /// Shows [`Signs::vacuum`] as far as it has been acted on.
    kept: Gauge,
    /// Signs at the last look, since when VACUUM has been at work, and what has been acted on.
    seen: Signs,
    vacuum_since: Option<Instant>,
    done: Signs,
    /// No checkpoint is asked for before.
    rest_until: Instant,
    /// Files unchanged since then have nothing new; `None`: nothing is known (re-attached).
    looked_at: Option<SystemTime>,
    /// Pages that could not be carried yet.
    left: BTreeMap<(Rel, u32), Bytes>,
}

impl FreeSpace {
    /// A keeper for a server just started, or (`reattached`) for one that has run before.
    #[must_use]
    pub fn new(
        instance: Instance,
        server: ServerConfig,
        shared: Arc<Shared>,
        carrier: Arc<Carrier>,
        kept: Gauge,
        reattached: bool,
    ) -> FreeSpace {
        let looked_at = (!reattached).then_some(SystemTime::UNIX_EPOCH);
        FreeSpace {
            instance,
            server,
            shared,
            carrier,
            kept,
            seen: Signs::default(),
            vacuum_since: None,
            done: Signs::default(),
            rest_until: Instant::now(),
            looked_at,
            left: BTreeMap::new(),
        }
    }

    /// Works until `stop`; a last time when `leave` is set, and then clears it.
    pub fn run(mut self, stop: &AtomicBool, leave: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let leaving = leave.load(Ordering::SeqCst);
            if let Err(error) = self.turn(leaving) {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "free space maps are not yet in the volume"
                );
            }
            if leaving {
                leave.store(false, Ordering::SeqCst);
            }
            let next = Instant::now() + LOOK_EVERY;
            let called = || stop.load(Ordering::Relaxed) || leave.load(Ordering::SeqCst);
            while Instant::now() < next && !called() {
                std::thread::sleep(NAP);
            }
        }
    }

    fn turn(&mut self, leaving: bool) -> anyhow::Result<()> {
        let now = self.shared.router().signs;
        let quiet = now.vacuum == self.seen.vacuum;
        self.seen = now;
        if now.vacuum == self.done.vacuum {
            self.vacuum_since = None;
        } else {
            let since = *self.vacuum_since.get_or_insert_with(Instant::now);
            let due = quiet || since.elapsed() > LONGEST_VACUUM;
            if due && Instant::now() >= self.rest_until {
                self.checkpoint()?;
                self.done.vacuum = now.vacuum;
                self.vacuum_since = None;
            }
        }
        if leaving {
            self.checkpoint()?;
        }
        let checkpoints = self.shared.router().signs.checkpoints;
        if checkpoints != self.done.checkpoints || !self.left.is_empty() {
            self.keep()?;
            self.done.checkpoints = checkpoints;
        }
        self.kept.set(self.done.vacuum.cast_signed());
        Ok(())
    }

    /// Has PostgreSQL write its buffers, those of the maps among them, to its files.
    fn checkpoint(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut client = self.server.connect().context("cannot connect to PostgreSQL")?;
        client.batch_execute("CHECKPOINT").context("cannot make a checkpoint")?;
        self.rest_until = Instant::now() + (begun.elapsed() * REST_FACTOR).max(REST_MIN);
        Ok(())
    }

    /// Puts what PostgreSQL has written to its maps' files since the last time into the volume.
    fn keep(&mut self) -> anyhow::Result<()> {
        let before = self.looked_at;
        let now = SystemTime::now();
        let maps = self.instance.maps();
        let maps = Path::new(maps.as_str());
        let entries = fs::read_dir(maps).with_context(|| format!("{}", maps.display()))?;
        let mut bytes = self.left.len() * BLOCK;
        for entry in entries {
            let entry = entry.with_context(|| format!("{}", maps.display()))?;
            let name = SegmentName::from_map_name(entry.file_name().as_encoded_bytes());
            let Some(name) = name.filter(|name| name.fork == Fork::Fsm as u32) else { continue };
            bytes += self.collect(&name, before)?;
            if bytes >= AT_ONCE {
                self.carry()?;
                bytes = 0;
            }
        }
        self.looked_at = now.checked_sub(CLOCK_SLACK);
        self.carry()
    }

    /// Notes the pages of one file that PostgreSQL has written; how many bytes they have.
    fn collect(&mut self, name: &SegmentName, since: Option<SystemTime>) -> anyhow::Result<usize> {
        let data = self.instance.data(name);
        let path = Path::new(data.as_str());
        // A file that is gone has no free space.
        let Ok(metadata) = fs::metadata(path) else { return Ok(0) };
        let changed = metadata.modified().with_context(|| format!("{}", path.display()))?;
        if since.is_some_and(|since| changed < since) {
            return Ok(0);
        }
        let context = || format!("cannot read {}", path.display());
        let Some(local) = Local::open(&self.instance, name).with_context(context)? else {
            return Ok(0);
        };
        let (rel, _) = fork_of(name);
        let mut bytes = 0;
        for block in 0..local.blocks().with_context(context)? {
            // The mark first: a write from now on sets it again, for the next time.
            let state = local.map.clear_written(block);
            if state.is_absent() || !(state.is_written() || since.is_none()) {
                continue;
            }
            let mut page = vec![0; BLOCK];
            if local.read(block, &mut page).is_err() {
                break; // cut off meanwhile
            }
            self.left.insert((rel, name.first_block() + block), page.into());
            bytes += BLOCK;
        }
        Ok(bytes)
    }

    fn carry(&mut self) -> anyhow::Result<()> {
        let riders = self.left.iter();
        let riders =
            riders.map(|((rel, block), page)| Rider::FreeSpace(*rel, *block, page.clone()));
        self.carrier.carry(riders.collect())?;
        self.left.clear();
        Ok(())
    }
}
