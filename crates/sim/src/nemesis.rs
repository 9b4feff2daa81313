//! The nemesis: what a seed's options do to the world, turn by turn. It never takes more than can be
//! recovered from: four full members of each group outlive a wipe, three what is lost for good.

use protocol::Rules;

use crate::instance::Role;
use crate::net::End;
use crate::options::Options;
use crate::oracle::Violation;
use crate::world::{Happening, World};

impl<R: Rules> World<R> {
    pub(crate) fn nemesis(&mut self) -> Result<(), Violation> {
        let delay = self.rng.between(self.options.turn_micros / 2, self.options.turn_micros);
        self.schedule(delay, Happening::Nemesis);
        if self.newest().is_none() {
            self.open();
        }
        self.replace_gone();
        if self.calm {
            return Ok(());
        }
        let options = self.options.clone();
        if self.rng.chance(300) {
            self.net.mend_some(&mut self.rng);
        }
        if self.rng.chance(options.partitions) {
            self.partition();
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        if self.rng.chance(options.wipes) && self.may_wipe(node) {
            let back = self.rng.between(5_000, 400_000);
            self.crash(node, true, Some(back));
        } else if self.rng.chance(options.crashes) {
            let back = self.rng.between(5_000, 700_000);
            self.crash(node, false, Some(back));
        } else if self.rng.chance(options.pauses) {
            self.nodes[node].paused_until = self.now + self.rng.between(5_000, 400_000);
        }
        if self.rng.chance(options.flushes) {
            let flushed = self.nodes[node].flush();
            self.stored(node, flushed)?;
        }
        self.trouble_disks(node);
        if self.rng.chance(options.blackouts) {
            let share = self.rng.between(300, 1000);
            for node in 0..self.nodes.len() {
                if self.rng.chance(share) {
                    let back = self.rng.between(5_000, 300_000);
                    self.crash(node, false, Some(back));
                }
            }
        }
        if self.rng.chance(options.disasters) {
            self.split();
        }
        if self.rng.chance(options.replacements) {
            self.replace_some();
        }
        if self.rng.chance(options.losses) {
            self.lose_for_good();
        }
        self.trouble_instances(&options);
        if self.rng.chance(options.growth) && self.geometry.len() < 5 {
            self.grow()?;
        }
        Ok(())
    }

    fn trouble_instances(&mut self, options: &Options) {
        let Some(newest) = self.newest() else { return };
        if self.rng.chance(options.pauses) {
            self.instances[newest].paused_until = self.now + self.rng.between(5_000, 600_000);
        }
        if self.rng.chance(options.kills) {
            self.kill_newest();
        }
        if self.rng.chance(options.failovers) {
            self.open();
        }
    }

    /// Never more copies are lost than three full ones of each group outlive.
    fn may_wipe(&self, node: usize) -> bool {
        let bearable = self.full_without(&[node]) >= types::WRITE_QUORUM;
        self.nodes[node].up && self.hurt.is_none() && bearable
    }

    fn partition(&mut self) {
        let ends: Vec<End> = (0..self.nodes.len())
            .map(End::Node)
            .chain((0..self.instances.len()).rev().take(2).map(End::Instance))
            .collect();
        let Some(one) = self.rng.pick(&ends).copied() else { return };
        let (whole, both) = (self.rng.chance(300), self.rng.chance(500));
        for other in ends {
            if other != one && (whole || self.rng.chance(400)) {
                self.net.cut(one, other);
                if both {
                    self.net.cut(other, one);
                }
            }
        }
    }

    /// Cuts three nodes and the newest instance off from all others, and strikes them soon.
    fn split(&mut self) {
        let first = self.rng.below(self.nodes.len() as u64) as usize;
        let struck: Vec<usize> = (0..3).map(|step| (first + 2 * step) % self.nodes.len()).collect();
        let mut inside: Vec<End> = struck.iter().map(|node| End::Node(*node)).collect();
        inside.extend(self.newest().map(End::Instance));
        let outside: Vec<End> = (0..self.nodes.len())
            .map(End::Node)
            .chain((0..self.instances.len()).map(End::Instance))
            .filter(|end| !inside.contains(end))
            .collect();
        for one in &inside {
            for other in &outside {
                self.net.cut(*one, *other);
                self.net.cut(*other, *one);
            }
        }
        let delay = self.rng.between(10_000, 150_000);
        self.schedule(delay, Happening::Strike { nodes: struck });
    }

    /// One of three nodes is wiped, two go down for long; the rest is connected and opens.
    pub(crate) fn strike(&mut self, struck: &[usize]) {
        if self.calm {
            return;
        }
        self.net.mend();
        for (place, node) in struck.iter().enumerate() {
            let wiped = place == 0 && self.may_wipe(*node);
            let back = if wiped {
                self.rng.between(5_000, 50_000)
            } else {
                self.rng.between(400_000, 1_500_000)
            };
            self.crash(*node, wiped, Some(back));
        }
        self.open();
    }

    /// The current writer adds a group: four members at once, the others when they hear of it.
    fn grow(&mut self) -> Result<(), Violation> {
        let Some(newest) = self.newest() else { return Ok(()) };
        let instance = &self.instances[newest];
        let sleeps = instance.paused_until > self.now;
        if sleeps || instance.epoch != self.epoch || !matches!(instance.role, Role::Writing(..)) {
            return Ok(());
        }
        let (setup, specs) = self.plan_group();
        self.trace
            .note("grow", &[setup.group.0.into()], || format!("group {} is added", setup.group));
        for (place, (node, spec)) in specs.into_iter().enumerate() {
            if place < 4 {
                self.tell(node, spec)?;
            } else {
                let delay = self.rng.between(1_000, 300_000);
                self.schedule(delay, Happening::Create { node, spec });
            }
        }
        self.instances[newest].grow(setup);
        Ok(())
    }
}
