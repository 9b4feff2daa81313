//! `dev kill` and `dev wipe`: what goes wrong in a data centre, on order.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::layout::{CONTROL, Layout};
use super::member::{Member, Role, find};
use crate::cli::SignalName;
use crate::processes::{signal_all, wait_gone};

/// A killed process is gone at once, unless the disk holds it up.
const KILLED_WITHIN: Duration = Duration::from_secs(20);
/// An orderly stop writes a checkpoint.
const STOPPED_WITHIN: Duration = Duration::from_secs(90);

/// `sixfold dev kill NAME`.
pub(crate) fn kill(layout: &Layout, name: &str, signal: SignalName) -> anyhow::Result<()> {
    let saved = layout.require()?;
    let member = find(&saved, name)?;
    let look = || member.processes(layout, &saved);
    if look().is_empty() {
        bail!("{name} is not running; start it with `sixfold dev start {name}`");
    }
    let (limit, count) = match signal {
        SignalName::Kill => (Some(KILLED_WITHIN), signal_all(Signal::KILL, look)?),
        SignalName::Stop => (None, signal_all(Signal::STOP, look)?),
        SignalName::Cont => (None, signal_all(Signal::CONT, look)?),
        SignalName::Term => (Some(STOPPED_WITHIN), terminate(member, layout, &saved)?),
    };
    println!("sent {} to {name} ({count} processes)", format!("{signal:?}").to_uppercase());
    if let Some(limit) = limit
        && !wait_gone(limit, look)
    {
        bail!(
            "{name} has not ended within {} s; see {}, or `sixfold dev kill {name}`",
            limit.as_secs(),
            layout.log(name).display()
        );
    }
    Ok(())
}

/// An orderly stop: the daemon is asked, which stops its PostgreSQL. Without a daemon nothing can
/// stop in order, so what is left is killed.
fn terminate(
    member: Member,
    layout: &Layout,
    saved: &super::layout::Saved,
) -> anyhow::Result<usize> {
    match member.process(layout) {
        Some(process) => {
            process.signal(Signal::TERM)?;
            Ok(1)
        }
        None => signal_all(Signal::KILL, || member.processes(layout, saved)),
    }
}

/// `sixfold dev wipe NAME`.
pub(crate) fn wipe(layout: &Layout, name: &str) -> anyhow::Result<()> {
    let saved = layout.require()?;
    let member = find(&saved, name)?;
    if member.role == Role::Control {
        bail!(
            "{CONTROL}'s store is the only record of epochs and members, without it the volume \
             cannot be opened; to start over, stop the cluster and remove {}",
            layout.dir.display()
        );
    }
    if !member.processes(layout, &saved).is_empty() {
        bail!("{name} is running; stop it first with `sixfold dev kill {name}`");
    }
    let dir = member.dir(layout, &saved);
    match fs::remove_dir_all(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
        }
    }
    println!("wiped {name} ({})", dir.display());
    Ok(())
}
