//! What an opening is doing: told to the control plane from the daemon's first moment on, and to the
//! log at its end, phase by phase.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use registry::{Client, InstanceHeartbeat, InstanceRole, VolumeInfo};

use crate::threads::Host;

const BEAT_EVERY: Duration = Duration::from_secs(1);

/// An opening under way.
#[derive(Debug)]
pub struct Opening {
    begun: Instant,
    last: Instant,
    phases: String,
    beat: Arc<Beat>,
    thread: Option<Thread>,
}

#[derive(Debug, Default)]
struct Beat {
    over: AtomicBool,
    epoch: AtomicU64,
}

impl Opening {
    /// Begins, with what went before since `begun`. The control plane hears of it from now on.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn begin(host: &Host<'_>, volume: &VolumeInfo, begun: Instant) -> anyhow::Result<Opening> {
        let beat = Arc::new(Beat::default());
        let (told, control, first) = (Arc::clone(&beat), host.control.clone(), first(host, volume));
        let thread = std::thread::Builder::new()
            .name("opening".to_owned())
            .spawn(move || tell(&told, &control, first))?;
        let thread = Some(thread.thread().clone());
        let mut opening = Opening { begun, last: begun, phases: String::new(), beat, thread };
        opening.done_with("found");
        Ok(opening)
    }

    /// Notes the end of a phase.
    pub fn done_with(&mut self, phase: &str) {
        let now = Instant::now();
        let took = now.duration_since(std::mem::replace(&mut self.last, now)).as_millis();
        let comma = if self.phases.is_empty() { "" } else { ", " };
        write!(self.phases, "{comma}{phase} {took}").expect("writing to a String does not fail");
    }

    /// Notes the epoch in which it happens.
    pub fn in_epoch(&self, epoch: u64) {
        self.beat.epoch.store(epoch, Ordering::Relaxed);
    }

    /// From now on somebody else tells the control plane.
    pub fn hand_over(&mut self) {
        self.beat.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.unpark();
        }
    }

    /// Writes the log's line.
    pub fn report(&self) {
        tracing::info!("opened in {} ms: {}", self.begun.elapsed().as_millis(), self.phases);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// Nobody waits for this thread: a control plane that does not answer must not hold up anything.
fn tell(beat: &Beat, control: &Client, mut what: InstanceHeartbeat) {
    while !beat.over.load(Ordering::Relaxed) {
        what.epoch = beat.epoch.load(Ordering::Relaxed);
        if let Err(error) = control.heartbeat(&what) {
            tracing::debug!(%error, "no heartbeat");
        }
        std::thread::park_timeout(BEAT_EVERY);
    }
}

fn first(host: &Host<'_>, volume: &VolumeInfo) -> InstanceHeartbeat {
    let name = host.config.name.to_string();
    InstanceHeartbeat {
        az: host.config.az,
        endpoint: format!("{}:{}", host.config.listen, host.config.port),
        http: Some(host.http.clone()),
        daemon_pid: std::process::id(),
        data_dir: host.server.pgdata().to_string_lossy().into_owned(),
        ..InstanceHeartbeat::first(name, InstanceRole::Writer, volume.id)
    }
}
