//! The roles as processes: command line in, the role's own crate run until it is asked to stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::cli::{ComputeArgs, ControlArgs, NodeArgs, Supervised};
use crate::privileges::{User, is_root};
use crate::{postgres, signals};

/// Storage and control outlive a killed supervisor by this much, so that the instance can stop.
const STORAGE_GRACE: Duration = Duration::from_secs(20);
/// How long an orderly stop may take when there is no supervisor any more to see to it.
const PATIENCE: Duration = Duration::from_secs(15);
/// Smallest files of a node's log.
const LOG_FILE_BYTES_MIN: u64 = 1 << 20;
/// Local bytes of pages to keep unless told otherwise.
const CACHE_BYTES_DEFAULT: u64 = 8 << 30;

fn begin(role: &str, name: &str) -> anyhow::Result<()> {
    telemetry::init_logging(role, name)?;
    telemetry::stop_on_panic();
    Ok(())
}

fn follow(supervised: &Supervised, grace: Duration) -> anyhow::Result<()> {
    supervised.supervisor.map_or(Ok(()), |pid| signals::follow(pid, grace, PATIENCE))
}

/// `sixfold control`.
pub(crate) fn control(args: ControlArgs) -> anyhow::Result<()> {
    begin("control", "control")?;
    signals::install()?;
    follow(&args.supervised, STORAGE_GRACE)?;
    let after = args.replace_after.map(Duration::from_secs);
    let replace_after = after.unwrap_or(control::REPLACE_AFTER_DEFAULT);
    let slow_after = args.replace_slow_after.map(Duration::from_secs);
    let replace_slow_after = slow_after.unwrap_or(control::REPLACE_SLOW_AFTER_DEFAULT);
    let (dir, listen) = (args.dir, args.listen);
    let config = control::ControlConfig { dir, listen, replace_after, replace_slow_after };
    control::run(&config, signals::wait)
}

/// `sixfold node`.
pub(crate) fn node(args: NodeArgs) -> anyhow::Result<()> {
    let (Some(name), Some(az), Some(listen), Some(control), Some(dir)) =
        (args.name, args.az, args.listen, args.control, args.dir)
    else {
        unreachable!("the command line requires them");
    };
    begin("node", name.as_str())?;
    follow(&args.supervised, STORAGE_GRACE)?;
    let mut config = node::NodeConfig::new(name, az, &listen, &control, dir);
    config.advertise = args.advertise;
    config.http_listen = Some(args.http);
    config.az_latency = Duration::from_millis(args.az_latency);
    config.hold_background = args.hold_background;
    if let Some(bytes) = args.log_retain {
        config.store.log_retain_bytes = bytes;
        // Kept and freed by whole files.
        let file = &mut config.store.log_file_bytes;
        *file = (bytes / 4).clamp(LOG_FILE_BYTES_MIN, *file);
    }
    if let Some(seconds) = args.scrub_interval {
        config.scrub_interval = Duration::from_secs(seconds);
    }
    config.store.log_file_bytes = args.log_file_size.unwrap_or(config.store.log_file_bytes);
    config.store.flush_bytes = args.flush_size.unwrap_or(config.store.flush_bytes);
    node::run(&config)
}

/// `sixfold compute`.
pub(crate) fn compute(args: ComputeArgs) -> anyhow::Result<()> {
    begin("compute", args.name.as_str())?;
    for (name, value) in &args.tuning.set {
        compute::settings::check(name, value)?;
    }
    let pg_bin = postgres::programs(args.pg_bin.as_deref())?;
    let shim = postgres::shim(args.shim.as_deref())?;
    let dir = std::path::absolute(&args.dir).context("cannot find the current directory")?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
    let shim = take_shim(&shim, &dir)?;
    if is_root() {
        let user = User::find(&args.user)?;
        hand_over(&user, &dir)?;
        user.become_for_good()?;
    }
    // Whatever runs for this instance is found by its working directory.
    std::env::set_current_dir(&dir).with_context(|| format!("cannot enter {}", dir.display()))?;
    follow(&args.supervised, Duration::ZERO)?;
    let cache_size = args.tuning.cache_size.unwrap_or(CACHE_BYTES_DEFAULT);
    let config = compute::ComputeConfig {
        name: args.name,
        dir,
        control: args.control,
        volume: args.volume,
        group_bytes: args.tuning.group_size,
        port: args.port,
        listen: args.listen,
        pg_bin,
        shim,
        cache_size,
        // A running transaction's pages stay however many they are; the disk is the limit then.
        cache_limit: args.tuning.cache_limit.unwrap_or(u64::MAX).max(cache_size),
        az: Some(args.az),
        az_latency: Duration::from_millis(args.tuning.az_latency.unwrap_or(0)),
        http: args.http,
        settings: args.tuning.set,
        evict_everything: args.evict_everything,
    };
    compute::run(&config)
}

/// Copies the preload library into the instance's directory: PostgreSQL's user can read it there,
/// and a rebuild does not change it under a running server. By renaming, because a server that
/// outlived its daemon still has the old file mapped; and only when it changed, because a full disk
/// must not keep the daemon from that server.
fn take_shim(shim: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let (copy, draft) = (dir.join("libsixfold_shim.so"), dir.join("libsixfold_shim.so.new"));
    if fs::read(&copy).ok().is_some_and(|old| fs::read(shim).is_ok_and(|new| old == new)) {
        return Ok(copy);
    }
    fs::copy(shim, &draft)
        .and_then(|_| fs::rename(&draft, &copy))
        .with_context(|| format!("cannot copy {} to {}", shim.display(), copy.display()))?;
    Ok(copy)
}

/// Gives the directory to PostgreSQL's user.
fn hand_over(user: &User, dir: &Path) -> anyhow::Result<()> {
    if !user.reaches(dir) {
        bail!(
            "user {} cannot reach {}; let it pass (chmod o+x) on the way there, or choose another \
             --dir",
            user.name,
            dir.display()
        );
    }
    user.own(dir)?;
    user.own_one(&dir.join("libsixfold_shim.so"))
}
