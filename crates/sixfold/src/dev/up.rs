//! `sixfold dev up`: from a directory to a ready cluster, and to its end.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use super::layout::{Layout, Saved};
use super::member::{self, Role};
use super::supervisor::Supervisor;
use super::{ready, room};
use crate::cli::UpArgs;
use crate::privileges::{User, is_root};
use crate::processes::{signal_all, wait_gone};
use crate::say::say;
use crate::{postgres, signals};

/// Runs a cluster until it is asked to stop.
pub(crate) fn run(args: &UpArgs) -> anyhow::Result<()> {
    if args.replicas > 0 {
        bail!("read replicas are not available in this version; leave --replicas out");
    }
    for (name, value) in &args.tuning.set {
        compute::settings::check(name, value)?;
    }
    let layout = Layout::new(&args.dir.dir)?;
    let before = layout.load()?;
    postgres::programs(std::env::var_os("SIXFOLD_PG_BIN").as_deref().map(Path::new))?;
    postgres::shim(std::env::var_os("SIXFOLD_SHIM").as_deref().map(Path::new))?;
    let lock = lock(&layout)?;
    let saved = Saved::merge(&layout, before, args.port, &args.nodes, &args.tuning)?;
    end_strays(&layout, &saved)?;
    check_port(saved.port)?;
    room::check(&layout, &saved)?;
    signals::install()?;
    let mut supervisor = prepare(layout, saved)?;
    let outcome = bring_up(&mut supervisor).and_then(|ready| match ready {
        true => supervise(&mut supervisor),
        false => Ok(()),
    });
    supervisor.stop();
    drop(lock);
    outcome
}

/// Makes this the directory's only `dev up` (rule V2).
fn lock(layout: &Layout) -> anyhow::Result<File> {
    layout.create()?;
    let path = layout.run().join("dev.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "a `sixfold dev up` is already running on {}; stop it with Ctrl-C there, or choose \
             another --dir",
            layout.dir.display()
        );
    }
    Ok(file)
}

/// Ends what a killed `dev up` may have left behind. The lock is held: nobody else uses it.
fn end_strays(layout: &Layout, saved: &Saved) -> anyhow::Result<()> {
    let look = || member::all(saved).flat_map(|member| member.processes(layout, saved)).collect();
    let count = signal_all(Signal::KILL, look)?;
    if count > 0 {
        say(&format!("ended {count} processes left behind by an earlier run"));
        if !wait_gone(Duration::from_secs(10), look) {
            bail!("processes of an earlier run do not end; see `ps`, then try again");
        }
    }
    Ok(())
}

fn check_port(port: u16) -> anyhow::Result<()> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(error) => bail!(
            "port {port} cannot be used ({error}); stop what listens there, or choose another with \
             --port"
        ),
    }
}

fn prepare(layout: Layout, mut saved: Saved) -> anyhow::Result<Supervisor> {
    saved.assign_addresses()?;
    std::fs::create_dir_all(&saved.instances)
        .with_context(|| format!("cannot create {}", saved.instances.display()))?;
    if is_root() && !User::find("postgres")?.reaches(&saved.instances) {
        bail!(
            "user postgres cannot reach {}; let it pass (chmod o+x) on the way there, or choose \
             another --dir",
            saved.instances.display()
        );
    }
    layout.save(&saved)?;
    Supervisor::new(layout, saved)
}

/// Starts everything; false when asked to stop meanwhile.
fn bring_up(supervisor: &mut Supervisor) -> anyhow::Result<bool> {
    let (dir, logs) = (&supervisor.layout.dir, supervisor.layout.logs());
    say(&format!("cluster in {}, logs in {}", dir.display(), logs.display()));
    start(supervisor, Role::Control)?;
    if !ready::control(supervisor)? {
        return Ok(false);
    }
    start(supervisor, Role::Node)?;
    if !ready::nodes(supervisor)? {
        return Ok(false);
    }
    say("the storage nodes are up, opening the volume");
    start(supervisor, Role::Compute)?;
    if !ready::write(supervisor)? {
        return Ok(false);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready: postgres://postgres@{}/postgres", supervisor.saved.endpoint())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    Ok(true)
}

fn start(supervisor: &mut Supervisor, role: Role) -> anyhow::Result<()> {
    for member in member::all(&supervisor.saved).filter(|member| member.role == role) {
        supervisor.start(member)?;
    }
    Ok(())
}

fn supervise(supervisor: &mut Supervisor) -> anyhow::Result<()> {
    while signals::requests() == 0 {
        supervisor.turn()?;
    }
    Ok(())
}
