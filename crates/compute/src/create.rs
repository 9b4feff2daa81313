//! Fills an empty volume: stock `initdb` in a scratch directory, imported as images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use types::{Epoch, GroupId};

use crate::catalog::Catalog;
use crate::import::import;
use crate::metrics::DriverMetrics;
use crate::open::Volume;
use crate::router::Router;
use crate::signals::check_stop;
use crate::startpoint::last_checkpoint;
use crate::volume_log::VolumeLog;
use crate::volume_view::Shared;
use crate::xids::Xids;

/// A data directory that is removed when it is no longer needed.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Runs `initdb` in `<instance>/initdb`.
    ///
    /// # Errors
    /// When it fails; its output is in the message.
    pub fn initdb(pg_bin: &Path, instance: &Path) -> anyhow::Result<Scratch> {
        let path = instance.join("initdb");
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot clear {}", path.display()))?;
        }
        let scratch = Scratch { path };
        let program = pg_bin.join("initdb");
        let output = Command::new(&program)
            .arg("-D")
            .arg(&scratch.path)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"])
            .args(["--no-sync", "--no-instructions"])
            .env_remove("LD_PRELOAD")
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        if !output.status.success() {
            bail!(
                "{} failed ({}): {}",
                program.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(scratch)
    }

    /// The data directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the scratch directory");
        }
    }
}

/// Fills the volume with a fresh database; it is then to be opened again, like any other.
///
/// # Errors
/// When `initdb` fails, the writer is fenced, or the daemon is asked to stop. The next attempt
/// starts over (D16).
pub fn create_database(
    volume: Volume,
    pg_bin: &Path,
    instance: &Path,
    metrics: &DriverMetrics,
) -> anyhow::Result<()> {
    tracing::info!("the volume is empty: creating a database");
    let scratch = Scratch::initdb(pg_bin, instance)?;
    let (control, span, body) = last_checkpoint(scratch.path())?;
    let state = Bytes::from(redo::State::of_control_file(&control).encode());
    let groups: Vec<GroupId> = volume.opened.tails.iter().map(|setup| setup.group).collect();
    let mut catalog = Catalog::new(volume.info.group_bytes, groups.iter().copied());
    let router = Router::new(catalog.clone(), Xids::new(0), false);
    let positions = volume.positions();
    let shared = Arc::new(Shared::new(volume.info.id, Epoch(volume.info.epoch), router, positions));
    let vdl = volume.opened.vdl;
    let mut log =
        VolumeLog::new(volume.links, volume.opened, &volume.info.groups, shared, metrics.clone());
    let mut in_flight = 0usize;
    let last =
        import(scratch.path(), &mut catalog, &groups, vdl, state, (span, body), &mut |record| {
            in_flight += 1;
            log.writer().submit(record, control.checkpoint_copy.next_xid);
            log.send();
            // Positions say little about the bytes of an import, so records are counted.
            while in_flight >= 16 {
                log.turn(Duration::from_millis(50))?;
                log.send();
                in_flight =
                    usize::try_from(log.writer().submitted().end.bytes_since(log.vdl().end) / 8)
                        .unwrap_or(usize::MAX)
                        .min(in_flight);
                check_stop()?;
            }
            Ok(())
        })?;
    while log.vdl() != last {
        log.turn(Duration::from_millis(50))?;
        log.send();
        check_stop()?;
    }
    tracing::info!(vdl = %last.end, "the volume holds a database");
    Ok(())
}
