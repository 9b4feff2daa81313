//! `make soak HOURS=2`: a cluster under load with a fault every half minute, and whether anything was lost.
//!
//! Loads: pgbench, the ledger (acknowledged numbers in two tables), and a bank whose sum must hold in
//! every snapshot. Faults hit one storage node at a time (kill, stop, slow, partition, wipe, lost for
//! good, bytes of its files flipped), or the writer; the report lists them. In the end every group must
//! have six healthy members, every promise be kept, amcheck and the volume compare be clean.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postgres::Client;
use serde_json::Value;
use tests::cluster::connect_to;
use tests::tools::{amcheck, pgbench};
use tests::{Cluster, Ledger, Moments, Network, NodeDisk, Options};

/// Between two faults.
const EVERY: Duration = Duration::from_secs(30);
/// What is corrupted is found before the next fault.
const SCRUB_SECONDS: &str = "10";
/// How long the cluster may take to be whole again at the end.
const WHOLE_WITHIN: Duration = Duration::from_secs(900);
/// Accounts of the bank, and what is in each at first.
const ACCOUNTS: i64 = 50;
const BALANCE: i64 = 1_000;
const NODES: [&str; 9] = ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "c3"];

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Killed, and started again some seconds later.
    Kill,
    /// Stopped for some seconds.
    Stop,
    /// Stopped nine tenths of the time for some seconds.
    Slow,
    /// Cut off from everybody for some seconds.
    Partition,
    /// Killed, its disk thrown away, started again.
    Wipe,
    /// Killed with its disk and left so until others have its segments.
    Lose,
    /// Bytes of one of its files flipped while it runs.
    Corrupt,
    /// The writer's host is lost with its disk.
    Writer,
}

const FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::Stop,
    Fault::Slow,
    Fault::Partition,
    Fault::Wipe,
    Fault::Lose,
    Fault::Corrupt,
    Fault::Writer,
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut hours, mut report) = (2.0, PathBuf::from("soak.md"));
    while let Some(argument) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--hours" => hours = value.parse().context("--hours takes a number")?,
            "--report" => report = PathBuf::from(value),
            _ => bail!("usage: soak [--hours NUMBER] [--report FILE]"),
        }
    }
    let limit = Duration::from_secs_f64(hours * 3600.0);
    let network = Network::new()?;
    let mut options = Options::with(&["--spares", "--replace-after", "20"]);
    options.environment.push(("SIXFOLD_SCRUB_INTERVAL".to_owned(), SCRUB_SECONDS.to_owned()));
    options.network = Some(network.clone());
    let cluster = Cluster::up(options)?;
    let mut client = cluster.connect()?;
    Ledger::create(&mut client)?;
    client.batch_execute(&format!(
        "create table bank(id int primary key, balance bigint not null);
         insert into bank select g, {BALANCE} from generate_series(1, {ACCOUNTS}) g"
    ))?;
    pgbench(&cluster, &["-i", "-q", "-s", "5"])?;
    let text = soak(&cluster, &network, limit)?;
    print!("{text}");
    std::fs::write(&report, text).with_context(|| format!("cannot write {}", report.display()))
}

/// What the loads did.
#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    /// Transfers between accounts.
    transfers: AtomicU64,
    /// Sums taken meanwhile.
    sums: AtomicU64,
    /// Runs of pgbench to their end, and those that a lost writer cut off.
    runs: AtomicU64,
    cut_off: AtomicU64,
    /// A sum that did not hold.
    wrong: AtomicU64,
}

impl Counts {
    fn going(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }
}

fn soak(cluster: &Cluster, network: &Network, limit: Duration) -> Result<String> {
    let ledger = Ledger::start(cluster.port(), 0, 4);
    let counts = Counts::default();
    let lines = std::thread::scope(|scope| {
        scope.spawn(|| transfer(cluster.port(), &counts));
        scope.spawn(|| sum_up(cluster.port(), &counts));
        scope.spawn(|| run_pgbench(cluster, &counts));
        let lines = faults(cluster, network, limit, &ledger);
        counts.stop.store(true, Ordering::SeqCst);
        lines
    })?;
    let whole = Instant::now();
    while let Some(lacking) = lacking(&cluster.status()?) {
        ensure!(whole.elapsed() < WHOLE_WITHIN, "not whole again: {lacking}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_secs(1));
    }
    let whole = whole.elapsed().as_secs();
    let mut client = cluster.connect_when_ready()?;
    let promises = ledger.stop();
    let checked = promises.verify(&mut client)?;
    let wrong = counts.wrong.load(Ordering::SeqCst);
    ensure!(wrong == 0, "{wrong} sums of the bank were wrong");
    ensure!(sum(&mut client)? == ACCOUNTS * BALANCE, "the bank's sum is wrong in the end");
    amcheck(cluster)?;
    let compared = cluster.verify_volume()?;
    let of = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let (hours, every) = (limit.as_secs_f64() / 3600.0, EVERY.as_secs());
    let mut out = format!(
        "# Soak: {hours:.2} hours, a fault every {every} s\n\n\
         - ledger: {checked} acknowledged transactions, none lost; {} statements ended in an error\n\
         - bank: {} transfers, {} sums meanwhile, each {}\n\
         - pgbench: {} runs of five seconds, {} more that ended in an error while a writer was away\n\
         - six healthy members in every group {whole} s after the last fault\n\
         - amcheck clean; volume compare: {}\n\n\
         | second | fault | whom | acknowledged meanwhile |\n|---|---|---|---|\n",
        promises.errors,
        of(&counts.transfers),
        of(&counts.sums),
        ACCOUNTS * BALANCE,
        of(&counts.runs),
        of(&counts.cut_off),
        compared["counts"],
    );
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out)
}

/// Does one thing after another to the cluster; a line of the report each.
fn faults(
    cluster: &Cluster,
    network: &Network,
    limit: Duration,
    ledger: &Ledger,
) -> Result<Vec<String>> {
    let mut moments = Moments::default();
    let (begun, mut lines) = (Instant::now(), Vec::new());
    while begun.elapsed() < limit {
        let at = Instant::now();
        let fault = FAULTS[moments.below(FAULTS.len() as u64) as usize];
        let (seconds, before) = (begun.elapsed().as_secs(), ledger.acknowledged());
        let whom = inflict(cluster, network, fault, &mut moments)?;
        let meanwhile = ledger.acknowledged() - before;
        let line = format!("| {seconds} | {fault:?} | {whom} | {meanwhile} |");
        eprintln!("{line}");
        lines.push(line);
        std::thread::sleep(EVERY.saturating_sub(at.elapsed()));
    }
    for name in NODES {
        start_if_down(cluster, name)?;
    }
    Ok(lines)
}

fn inflict(
    cluster: &Cluster,
    network: &Network,
    fault: Fault,
    moments: &mut Moments,
) -> Result<String> {
    let mut name = NODES[moments.below(NODES.len() as u64) as usize];
    let some_seconds = Duration::from_millis(1_000 + moments.below(9_000));
    // One lost before is back by now: what others hold of it, it forgets.
    for other in NODES {
        start_if_down(cluster, other)?;
    }
    match fault {
        Fault::Kill => {
            cluster.kill(name, "KILL")?;
            std::thread::sleep(some_seconds);
            cluster.start(name)?;
        }
        Fault::Stop => {
            cluster.kill(name, "STOP")?;
            std::thread::sleep(some_seconds);
            cluster.kill(name, "CONT")?;
        }
        Fault::Slow => {
            let until = Instant::now() + some_seconds;
            while Instant::now() < until {
                cluster.kill(name, "STOP")?;
                std::thread::sleep(Duration::from_millis(90));
                cluster.kill(name, "CONT")?;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Fault::Partition => {
            network.cut(name);
            std::thread::sleep(some_seconds);
            network.join(name);
        }
        Fault::Wipe => {
            cluster.kill(name, "KILL")?;
            cluster.wipe(name)?;
            cluster.start(name)?;
        }
        Fault::Lose => {
            cluster.kill(name, "KILL")?;
            cluster.wipe(name)?;
        }
        Fault::Corrupt => {
            let spoilt = NodeDisk::of(cluster, name).spoil_any(moments);
            return Ok(format!("{name}: {}", spoilt.as_deref().unwrap_or("nothing there yet")));
        }
        Fault::Writer => {
            name = "writer";
            cluster.kill(name, "KILL")?;
            cluster.wipe(name)?;
            cluster.start(name)?;
            drop(cluster.connect_when_ready()?);
        }
    }
    Ok(name.to_owned())
}

fn start_if_down(cluster: &Cluster, name: &str) -> Result<()> {
    let status = cluster.status()?;
    let processes = status["processes"].as_array().context("processes are listed")?;
    let down =
        processes.iter().any(|process| process["name"] == name && process["state"] == "down");
    if down { cluster.start(name) } else { Ok(()) }
}

/// What a group lacks of six healthy members; none when no group lacks anything.
fn lacking(status: &Value) -> Option<String> {
    let groups = status["groups"].as_array()?;
    let group = groups.iter().find(|group| {
        let members = group["members"].as_array().cloned().unwrap_or_default();
        let healthy = members.iter().filter(|member| member["state"] == "healthy").count();
        healthy != 6 || group["joining"].as_array().is_some_and(|joining| !joining.is_empty())
    });
    group.map(ToString::to_string)
}

fn sum(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("select sum(balance)::bigint from bank", &[])?.get(0))
}

/// Moves money between two accounts at a time; a transfer that fails is undone as a whole.
fn transfer(port: u16, counts: &Counts) {
    let mut number = 0_i64;
    while counts.going() {
        let Ok(mut client) = connect_to(port) else {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        while counts.going() {
            number += 1;
            let (from, to) = (number % ACCOUNTS + 1, number * 7 % ACCOUNTS + 1);
            let moved = client.batch_execute(&format!(
                "begin; update bank set balance = balance - 1 where id = {from};
                 update bank set balance = balance + 1 where id = {to}; commit"
            ));
            match moved {
                Ok(()) => drop(counts.transfers.fetch_add(1, Ordering::SeqCst)),
                Err(_) => break,
            }
        }
    }
}

fn sum_up(port: u16, counts: &Counts) {
    while counts.going() {
        let found = connect_to(port).and_then(|mut client| sum(&mut client));
        match found {
            Ok(sum) if sum == ACCOUNTS * BALANCE => {
                counts.sums.fetch_add(1, Ordering::SeqCst);
            }
            Ok(sum) => {
                eprintln!("the bank has {sum}, not {}", ACCOUNTS * BALANCE);
                counts.wrong.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn run_pgbench(cluster: &Cluster, counts: &Counts) {
    while counts.going() {
        match pgbench(cluster, &["-n", "-c", "4", "-T", "5"]) {
            Ok(_) => counts.runs.fetch_add(1, Ordering::SeqCst),
            Err(_) => counts.cut_off.fetch_add(1, Ordering::SeqCst),
        };
    }
}
