//! The simulated network: cuts, losses, copies and delays, all one way at a time.

use std::collections::BTreeSet;

use crate::options::Options;
use crate::rng::Rng;

/// An end of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A storage node.
    Node(usize),
    /// A database instance.
    Instance(usize),
}

/// Which ways are cut, and what happens to a message on an open one.
#[derive(Default)]
pub struct Net {
    cuts: BTreeSet<(End, End)>,
    /// Ends whose messages take long, to them and from them.
    slow: BTreeSet<End>,
    /// No faults any more: every open way delivers once, soon.
    calm: bool,
}

impl Net {
    /// Cuts one way.
    pub fn cut(&mut self, from: End, to: End) {
        self.cuts.insert((from, to));
    }

    /// Makes an end a hundred times slower.
    pub fn slow_down(&mut self, end: End) {
        self.slow.insert(end);
    }

    /// Whether an end is slow.
    #[must_use]
    pub fn is_slow(&self, end: End) -> bool {
        self.slow.contains(&end)
    }

    /// Opens a random half of the cut ways.
    pub fn mend_some(&mut self, rng: &mut Rng) {
        self.cuts.retain(|_| rng.chance(500));
    }

    /// Opens all cut ways.
    pub fn mend(&mut self) {
        self.cuts.clear();
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.slow.clear();
        self.calm = true;
    }

    /// Whether the way is open.
    #[must_use]
    pub fn open(&self, from: End, to: End) -> bool {
        !self.cuts.contains(&(from, to))
    }

    /// Delays of the copies of a message that arrive: none when it is lost.
    pub fn fate(&self, from: End, to: End, options: &Options, rng: &mut Rng) -> Vec<u64> {
        if self.calm {
            return vec![rng.between(50, options.delay_micros.min(1_000))];
        }
        if !self.open(from, to) || rng.chance(options.loss) {
            return Vec::new();
        }
        let copies = if rng.chance(options.duplication) { 2 } else { 1 };
        let mut delay = || {
            let times = if self.is_slow(from) || self.is_slow(to) { 100 } else { 1 };
            let delay = times * rng.between(50, options.delay_micros);
            if rng.chance(options.stragglers) { delay * 10 } else { delay }
        };
        (0..copies).map(|_| delay()).collect()
    }
}
