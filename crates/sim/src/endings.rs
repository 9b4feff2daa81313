//! Ends of things: nodes that lose power and come back, instances that die, faults that stop, and
//! whether all copies are equal in the end.

use protocol::Rules;
use types::Lsn;

use crate::instance::Role;
use crate::world::{Happening, World};

impl<R: Rules> World<R> {
    /// Power comes back to a node.
    pub fn restart(&mut self, node: usize) {
        if self.nodes[node].up || self.held_down.contains(&node) {
            return;
        }
        self.trace.note("restart", &[node as u64], || format!("{} restarts", self.names[node]));
        self.nodes[node].restart();
        self.schedule_gossip(node);
    }

    /// Power is lost at a node, for good if `back` is none.
    pub fn crash(&mut self, node: usize, wipe: bool, back: Option<u64>) {
        if !self.nodes[node].up {
            return;
        }
        self.trace.note("crash", &[node as u64, u64::from(wipe)], || {
            format!("{} crashes{}", self.names[node], if wipe { " and is wiped" } else { "" })
        });
        self.nodes[node].crash(&mut self.rng);
        if wipe {
            self.nodes[node].wipe();
        }
        if let Some(delay) = back {
            self.schedule(delay, Happening::Restart { node });
        }
    }

    /// Kills the newest instance.
    pub fn kill_newest(&mut self) {
        if let Some(newest) = self.newest() {
            self.trace.note("kill", &[newest as u64], || "the newest instance is killed".into());
            self.instances[newest].role = Role::Dead;
        }
    }

    /// Ends all faults; nodes held down stay down, the others come back.
    pub fn heal(&mut self) {
        self.calm = true;
        self.net.heal();
        for node in &mut self.nodes {
            node.paused_until = node.paused_until.min(self.now);
        }
        for instance in &mut self.instances {
            instance.paused_until = instance.paused_until.min(self.now);
        }
        for node in 0..self.nodes.len() {
            if self.held_down.contains(&node) {
                self.crash(node, false, None);
            } else {
                self.restart(node);
            }
        }
    }

    /// Whether every copy of every group is, durably, exactly the promised log.
    #[must_use]
    pub fn differing(&self) -> Option<String> {
        for (group, _, members) in &self.geometry {
            let expected = self.oracle.expected(*group);
            let last = expected.last_key_value().map_or(Lsn::ZERO, |(end, _)| *end);
            for name in members {
                let node = &self.nodes[self.index(*name)];
                let Some(copy) = node.copies.get(group) else {
                    return Some(format!("{name} does not hold group {group}"));
                };
                let Some(segment) = &copy.segment else { return Some(format!("{name} is down")) };
                let report = segment.report();
                if report.scl != last || !report.full {
                    return Some(format!(
                        "{name}, group {group}: complete to {}, not {last}; {}",
                        report.scl,
                        if report.full { "full" } else { "not full" }
                    ));
                }
                let held = copy.disk.parts(&report.history);
                let held = held.iter().map(|(end, stored)| (end, (stored.epoch(), &stored.part)));
                if !held.eq(expected.iter().map(|(end, (epoch, part))| (end, (*epoch, part)))) {
                    return Some(format!(
                        "{name}, group {group}, held {:?}, expected {:?}",
                        copy.disk.parts(&report.history).keys(),
                        expected.keys()
                    ));
                }
            }
        }
        None
    }
}
