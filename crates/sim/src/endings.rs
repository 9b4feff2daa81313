//! Ends of things: nodes that lose power and come back, instances that die, faults that stop, and
//! whether all copies are equal in the end.

use protocol::Rules;
use segstore::StoreError;
use types::SegmentId;

use crate::instance::Role;
use crate::oracle::Violation;
use crate::world::{Happening, VOLUME, World};

impl<R: Rules> World<R> {
    /// Power comes back to a node.
    ///
    /// # Errors
    /// When its store does not open whole.
    pub fn restart(&mut self, node: usize) -> Result<(), Violation> {
        let stays = self.held_down.contains(&node) || self.gone.contains(&node);
        if self.nodes[node].up || stays {
            return Ok(());
        }
        self.trace.note("restart", &[node as u64], || format!("{} restarts", self.names[node]));
        let hurt = self.is_hurt(node);
        let mut restarted = self.nodes[node].restart(&mut self.rng, hurt);
        if let Err(StoreError::Damaged { .. } | StoreError::Foreign(_)) = restarted
            && hurt
        {
            // Nothing of it can be told apart any more: it is taken for lost.
            self.nodes[node].wipe();
            self.hurt = None;
            restarted = self.nodes[node].restart(&mut self.rng, false);
        }
        if self.stored(node, restarted)?.is_some() {
            self.check_told_on(node)?;
            self.schedule_gossip(node);
        } else if self.nodes[node].up {
            // There is no room for what it is to hold besides: it tries again.
            self.crash(node, false, Some(50_000));
        }
        Ok(())
    }

    /// A node's process ends, mostly because its power is lost; for good if `back` is none.
    pub fn crash(&mut self, node: usize, wipe: bool, back: Option<u64>) {
        if !self.nodes[node].up {
            return;
        }
        self.trace.note("crash", &[node as u64, u64::from(wipe)], || {
            format!("{} crashes{}", self.names[node], if wipe { " and is wiped" } else { "" })
        });
        self.remember_promises(node);
        // What a disk loses without a word shows when its power is lost.
        let power = self.is_hurt(node) || self.rng.chance(600);
        self.nodes[node].crash(power, &mut self.rng);
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
    ///
    /// # Errors
    /// When a store does not open whole.
    pub fn heal(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.net.heal();
        self.heal_disks();
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
                self.restart(node)?;
            }
        }
        Ok(())
    }

    /// Which copy is not, durably, as far as the promised log; none when all are.
    #[must_use]
    pub fn behind(&self) -> Option<String> {
        if let Some(node) = self.unmended() {
            return Some(node);
        }
        for (group, _, members) in &self.geometry {
            let last = self.oracle.tail(*group);
            if members.holders().count() != types::COPIES {
                return Some(format!("group {group} has a joint place"));
            }
            for name in &members.present() {
                let Some(copy) = self.nodes[self.index(*name)].copies.get(group) else {
                    return Some(format!("{name} does not hold group {group}, or is down"));
                };
                let (scl, full) = (copy.segment.scl(), copy.segment.state().full);
                if scl != last || !full {
                    let full = if full { "full" } else { "not full" };
                    return Some(format!("{name}, group {group}: at {scl}, not {last}; {full}"));
                }
            }
        }
        None
    }

    /// Checks that every page, and every part that a log still holds, of every copy of every group is
    /// what the promised log makes it, and that every stored byte is sound.
    ///
    /// # Errors
    /// When one is not.
    pub fn equal(&self) -> Result<(), Violation> {
        for (group, _, members) in &self.geometry {
            let segment = SegmentId { volume: VOLUME, group: *group };
            for name in &members.present() {
                let Some(store) = self.nodes[self.index(*name)].store() else { continue };
                let checked = store.verify(segment).map_err(|error| Violation(error.to_string()));
                checked.and_then(|()| self.oracle.same(store, segment)).map_err(
                    |Violation(what)| Violation(format!("{name}, group {group}: {what}")),
                )?;
            }
        }
        Ok(())
    }
}
