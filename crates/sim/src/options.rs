//! What a run is like: derived from its seed, so that a seed alone reproduces the run.
//!
//! Seeds are swarmed: each turns a random subset of the fault classes on, some none at all (calm and
//! long) and some all of them.

use crate::rng::Rng;

/// Settings of one run. Rates are in thousandths: of messages, or of nemesis turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Groups at the start.
    pub groups: u32,
    /// Nodes; each group has six of them.
    pub nodes: usize,
    /// Simulated microseconds of the safety phase.
    pub safety_micros: u64,
    /// Messages lost.
    pub loss: u64,
    /// Messages delivered twice.
    pub duplication: u64,
    /// Longest ordinary delay of a message, microseconds (the spread reorders).
    pub delay_micros: u64,
    /// Messages delayed ten times longer.
    pub stragglers: u64,
    /// Longest time a disk takes to sync, microseconds.
    pub sync_micros: u64,
    /// Time between nemesis turns, microseconds.
    pub turn_micros: u64,
    /// Cuts between two endpoints, one way or both.
    pub partitions: u64,
    /// Node crashes.
    pub crashes: u64,
    /// Crashes that lose the node's disk.
    pub wipes: u64,
    /// Power cuts that crash several nodes at once, up to all.
    pub blackouts: u64,
    /// Three nodes and the writer cut off from the rest, and then struck: one of them is wiped, two
    /// stay down for long, and a new writer opens the volume with what is left.
    pub disasters: u64,
    /// Nodes or writers stopped for a while and then going on.
    pub pauses: u64,
    /// New writers opening the volume, the old one left to itself.
    pub failovers: u64,
    /// Writers killed.
    pub kills: u64,
    /// Logs trimmed into files, so that a peer has to be copied.
    pub flushes: u64,
    /// New groups added.
    pub growth: u64,
    /// Places handed over to another node, or that given up.
    pub replacements: u64,
    /// Nodes lost for good, up to three at once.
    pub losses: u64,
    /// Time between gossip turns, microseconds.
    pub gossip_micros: u64,
    /// Records submitted a writer's turn, at most.
    pub records: u64,
    /// Records that share groups.
    pub shared: u64,
    /// Disks that are slow for a while.
    pub slow_disks: u64,
    /// Disks that are full, or fail, for a while.
    pub stopped_disks: u64,
    /// Stored bytes that change.
    pub rot: u64,
    /// Writes that go elsewhere.
    pub misdirections: u64,
    /// Writes that are said to be durable and are gone after a loss of power.
    pub lost_writes: u64,
    /// Earlier images of a disk that are put back.
    pub images: u64,
    /// Turns of a writer in which it reads pages.
    pub reads: u64,
    /// Bytes of log below the durable point at whose ends pages may still be read.
    pub versions: u64,
    /// Writes and gossip turns after which a node does a unit of background work.
    pub background: u64,
    /// Sizes of the stores, small enough that files are flushed, merged and recycled all the time.
    pub store: segstore::Options,
}

fn store(rng: &mut Rng) -> segstore::Options {
    let log_file_bytes = 1024 << rng.below(4);
    segstore::Options {
        log_file_bytes,
        log_retain_bytes: log_file_bytes * rng.below(8),
        flush_bytes: rng.between(200, 6_000),
        flush_total_bytes: rng.between(1_000, 12_000),
        fold_parts: rng.between(1, 8) as usize,
        block_bytes: rng.between(100, 1_000) as usize,
        base_bytes_min: log_file_bytes / 4,
        merge_step_bytes: rng.between(200, 4_000),
        reserve_bytes: 0,
    }
}

impl Options {
    /// The settings of a seed.
    #[must_use]
    pub fn of(rng: &mut Rng) -> Options {
        let calm = rng.chance(60);
        let brutal = rng.chance(150);
        let mut class = |high: u64| {
            let on = brutal || rng.chance(550);
            let rate = rng.between(1, high);
            if calm || !on { 0 } else { rate }
        };
        let (loss, duplication, stragglers) = (class(120), class(300), class(80));
        let (partitions, crashes, wipes) = (class(300), class(300), class(120));
        let (pauses, failovers, kills) = (class(200), class(200), class(120));
        let (flushes, growth) = (class(300), class(60));
        let (blackouts, disasters) = (class(100), class(100));
        let (replacements, losses) = (class(200), class(60));
        let (slow_disks, stopped_disks) = (class(100), class(60));
        let (rot, misdirections) = (class(150), class(100));
        let (lost_writes, images) = (class(100), class(150));
        Options {
            groups: rng.between(1, 3) as u32,
            nodes: rng.between(6, 9) as usize,
            safety_micros: rng.between(600_000, if calm { 6_000_000 } else { 3_000_000 }),
            loss,
            duplication,
            delay_micros: rng.between(200, 8_000),
            stragglers,
            sync_micros: rng.between(100, 12_000),
            turn_micros: rng.between(15_000, 60_000),
            partitions,
            crashes,
            wipes,
            blackouts,
            disasters,
            pauses,
            failovers,
            kills,
            flushes,
            growth,
            replacements,
            losses,
            gossip_micros: rng.between(20_000, 200_000),
            records: rng.between(1, 6),
            shared: rng.between(0, 500),
            slow_disks,
            stopped_disks,
            rot,
            misdirections,
            lost_writes,
            images,
            reads: rng.between(0, 1000),
            versions: rng.between(0, 2_000),
            background: if rng.chance(100) { 0 } else { rng.between(50, 1000) },
            store: store(rng),
        }
    }

    /// Settings without any fault, for scenarios that make their own.
    #[must_use]
    pub fn calm(rng: &mut Rng) -> Options {
        let off = Options { nodes: 6, ..Options::of(rng) };
        Options {
            loss: 0,
            duplication: 0,
            stragglers: 0,
            partitions: 0,
            crashes: 0,
            wipes: 0,
            blackouts: 0,
            disasters: 0,
            pauses: 0,
            failovers: 0,
            kills: 0,
            growth: 0,
            replacements: 0,
            losses: 0,
            slow_disks: 0,
            stopped_disks: 0,
            rot: 0,
            misdirections: 0,
            lost_writes: 0,
            images: 0,
            turn_micros: 20_000,
            ..off
        }
    }
}
