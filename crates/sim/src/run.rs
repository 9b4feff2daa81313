//! One seed from beginning to end.

use std::fmt;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};

use protocol::Rules;

use crate::neighbour::Neighbour;
use crate::net::End;
use crate::options::Options;
use crate::oracle::Violation;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::World;

/// Simulated time within which four healthy nodes must make progress, and six must become equal.
const LIVENESS_MICROS: u64 = 12_000_000;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of everything that happened.
    pub hash: u64,
    /// How much of what happened.
    pub counts: Counts,
}

/// How much happened, in one run or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Happenings.
    pub happenings: u64,
    /// Records promised.
    pub promised: u64,
    /// Opens that completed.
    pub opens: u64,
    /// Pages served and compared.
    pub served: u64,
    /// Copies of files put in place.
    pub copies: u64,
    /// Disks that lost something without a word.
    pub hurts: u64,
    /// Segments mended with peers' pages.
    pub mends: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.happenings += other.happenings;
        self.promised += other.promised;
        self.opens += other.opens;
        self.served += other.served;
        self.copies += other.copies;
        self.hurts += other.hurts;
        self.mends += other.mends;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { happenings, promised, opens, served, copies, hurts, mends } = self;
        write!(
            f,
            "{happenings} happenings, {opens} opens, {promised} records promised, {served} pages served, \
             {copies} copies of files, {hurts} hurt disks, {mends} mends"
        )
    }
}

/// A run that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When, simulated microseconds.
    pub at: u64,
    /// What was broken.
    pub what: String,
    /// The settings that the seed gave.
    pub options: Options,
}

/// Runs one seed under the given rules.
///
/// # Errors
/// The first broken promise, or invariant.
pub fn run<R: Rules>(seed: u64, printing: bool) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let options = Options::of(&mut rng);
    guarded(seed, world::<R>(seed, rng, options, printing)?, phases)
}

/// Runs a seed in which the opening of the volume is cut off after its `step`-th answer, and so is
/// the one after it, each time with other nodes down; false when opening took fewer steps.
///
/// # Errors
/// The first broken promise, or invariant.
pub fn run_interrupted<R: Rules>(seed: u64, step: u64) -> Result<bool, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let options = Options::calm(&mut rng);
    let mut reached = false;
    let mut world: World<R> = world(seed, rng, options, false)?;
    // Other steps, the same beginning; other nodes down at each step.
    world.run(400_000, |_| false).map_err(|Violation(what)| failure(seed, &world, what))?;
    world.rng = Rng::new(seed ^ step << 32);
    guarded(seed, world, |world| {
        reached = interrupted(world, step)?;
        settle(world)
    })?;
    Ok(reached)
}

/// Runs a seed without other faults in which two of six nodes become a hundred times slower, a sync of
/// theirs two seconds: writing goes on as before with the other four, and so does an opening.
///
/// # Errors
/// The first broken promise, or invariant.
pub fn run_slow<R: Rules>(seed: u64) -> Result<Outcome, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let options = Options::calm(&mut rng);
    guarded(seed, world::<R>(seed, rng, options, false)?, |world| {
        slowed(world)?;
        settle(world)
    })
}

/// Runs a seed in whose world each node holds a segment of another volume, too, with all faults but disks that
/// lose something without a word; with what happened, how many of those volumes were deleted.
///
/// # Errors
/// The first broken promise, or invariant.
pub fn run_neighbours<R: Rules>(seed: u64) -> Result<(Outcome, u64), Box<Failure>> {
    let mut rng = Rng::new(seed);
    let options =
        Options { rot: 0, misdirections: 0, lost_writes: 0, images: 0, ..Options::of(&mut rng) };
    let mut deletions = 0;
    let mut world = world::<R>(seed, rng, options, false)?;
    world.nodes.iter_mut().for_each(|node| node.neighbour = Some(Neighbour::default()));
    let outcome = guarded(seed, world, |world| {
        phases(world)?;
        let neighbours = world.nodes.iter().filter_map(|node| node.neighbour.as_ref());
        deletions = neighbours.map(|neighbour| neighbour.deletions).sum();
        Ok(())
    })?;
    Ok((outcome, deletions))
}

/// Simulated time in which writing with and without slow nodes is compared.
const SLOW_MICROS: u64 = 500_000;

fn slowed<R: Rules>(world: &mut World<R>) -> Result<(), Violation> {
    world.run(SLOW_MICROS, |_| false)?;
    let quick = promised_in(world, SLOW_MICROS)?;
    let (one, more) = (world.rng.below(6), world.rng.between(1, 5));
    for node in [one, (one + more) % 6] {
        world.net.slow_down(End::Node(node as usize));
    }
    let slow = promised_in(world, SLOW_MICROS)?;
    if quick == 0 || slow * 2 < quick {
        let what = format!("two slow nodes: {slow} records are promised in the time of {quick}");
        return Err(Violation(what));
    }
    world.kill_newest();
    world.open();
    // No slow node has sealed anything by then.
    let writes = |world: &World<R>| {
        world.newest().and_then(|newest| world.instances[newest].vdl()).is_some()
    };
    match world.run(world.now + SLOW_MICROS, writes)? {
        true => Ok(()),
        false => Err(Violation("an opening waits for two slow nodes".to_owned())),
    }
}

/// Records promised within a simulated time.
fn promised_in<R: Rules>(world: &mut World<R>, micros: u64) -> Result<usize, Violation> {
    let before = world.oracle.promised();
    world.run(world.now + micros, |_| false)?;
    Ok(world.oracle.promised() - before)
}

fn world<R: Rules>(
    seed: u64,
    rng: Rng,
    options: Options,
    printing: bool,
) -> Result<World<R>, Box<Failure>> {
    let failed = Failure { seed, at: 0, what: String::new(), options: options.clone() };
    World::new(rng, options, Trace::new(printing))
        .map_err(|error| Box::new(Failure { what: error.to_string(), ..failed }))
}

fn interrupted<R: Rules>(world: &mut World<R>, step: u64) -> Result<bool, Violation> {
    let mut reached = true;
    for _ in 0..2 {
        world.kill_newest();
        for node in 0..world.nodes.len() {
            world.restart(node)?;
        }
        for _ in 0..world.rng.below(3) {
            let node = world.rng.below(world.nodes.len() as u64) as usize;
            world.crash(node, false, None);
        }
        world.open();
        world.kill_at_step = Some(step);
        let until = world.now + 1_000_000;
        world.run(until, |world| world.kill_at_step.is_none())?;
        reached &= world.kill_at_step.take().is_none();
    }
    Ok(reached)
}

fn failure<R: Rules>(seed: u64, world: &World<R>, what: String) -> Box<Failure> {
    Box::new(Failure { seed, at: world.now, what, options: world.options.clone() })
}

/// Runs a world; a panic is a failure like any other.
fn guarded<R: Rules>(
    seed: u64,
    mut world: World<R>,
    play: impl FnOnce(&mut World<R>) -> Result<(), Violation>,
) -> Result<Outcome, Box<Failure>> {
    let played = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    let played = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation(format!("invariant: {}", text.unwrap_or_default())))
    });
    match played {
        Ok(()) => Ok(Outcome {
            hash: world.trace.hash(),
            counts: Counts {
                happenings: world.trace.happenings,
                promised: world.oracle.promised() as u64,
                opens: world.oracle.opens,
                served: world.oracle.served,
                copies: world.copies,
                hurts: world.hurts,
                mends: world.mends,
            },
        }),
        Err(Violation(what)) => Err(failure(seed, &world, what)),
    }
}

fn phases<R: Rules>(world: &mut World<R>) -> Result<(), Violation> {
    let until = world.options.safety_micros;
    world.run(until, |_| false)?;
    settle(world)
}

/// The liveness phase: progress with four nodes, then six equal copies.
///
/// # Errors
/// When a promise is broken, or nothing gets better.
pub fn settle<R: Rules>(world: &mut World<R>) -> Result<(), Violation> {
    hold_two_down(world);
    world.heal()?;
    let before = world.oracle.promised();
    let enough = move |world: &World<R>| {
        let writes = world.newest().and_then(|newest| world.instances[newest].vdl()).is_some();
        writes && world.oracle.promised() >= before + 10
    };
    if !world.run(world.now + LIVENESS_MICROS, enough)? {
        let newest = world.newest().map(|newest| match &world.instances[newest].role {
            crate::instance::Role::Opening(recovery) => recovery.waiting_for(),
            crate::instance::Role::Writing(writer, _) => format!("writer at {}", writer.vdl()),
            crate::instance::Role::Dead => String::new(),
        });
        return Err(Violation(format!("no progress with four healthy nodes: {newest:?}")));
    }
    world.held_down.clear();
    world.heal()?;
    world.quiet = true;
    if !world.run(world.now + LIVENESS_MICROS, |world| world.behind().is_none())? {
        let what = world.behind().unwrap_or_default();
        return Err(Violation(format!("copies do not become equal: {what}")));
    }
    world.equal()
}

/// Six nodes: two stay down at first, such that three of the four others are full.
fn hold_two_down<R: Rules>(world: &mut World<R>) {
    if world.nodes.len() > 6 {
        return;
    }
    let mut order: Vec<usize> = (0..world.nodes.len()).collect();
    for at in (1..order.len()).rev() {
        let other = world.rng.below(at as u64 + 1) as usize;
        order.swap(at, other);
    }
    // Full nodes first; one blank node among the four is allowed, more would leave too few voters.
    order.sort_by_key(|node| world.nodes[*node].is_blank() || world.is_hurt(*node));
    let swap = world.rng.chance(500);
    if swap && order.len() == 6 {
        order.swap(3, 5);
    }
    world.held_down = order.split_off(4).into_iter().collect();
}
