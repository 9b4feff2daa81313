//! What the writer's cache takes of the local disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Cluster;
use crate::cluster::PATIENCE;

/// Bytes that relation files take on the local disk.
///
/// # Errors
/// When the writer's directory cannot be read.
pub fn resident_bytes(cluster: &Cluster) -> Result<u64> {
    fn walk(dir: &Path, total: &mut u64) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            if meta.is_dir() {
                walk(&entry.path(), total)?;
            } else {
                *total += meta.blocks() * 512;
            }
        }
        Ok(())
    }
    let writer = cluster.writer()?;
    let data = Path::new(writer["data_dir"].as_str().context("data_dir")?).join("base");
    let mut total = 0;
    walk(&data, &mut total)?;
    Ok(total)
}

/// Waits until relation files take at most `limit` bytes of the local disk.
///
/// # Errors
/// When they do not for [`PATIENCE`].
pub fn wait_for_resident_below(cluster: &Cluster, limit: u64) -> Result<()> {
    let started = Instant::now();
    loop {
        let resident = resident_bytes(cluster)?;
        if resident <= limit {
            return Ok(());
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "{resident} bytes of relations stay on the local disk, the bound is {limit}\n{}",
            cluster.logs()
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}
