//! Copies of a peer's files: begun, and put in place whole or not at all.

use protocol::{Input, Rules};
use segstore::StoreError;
use types::{GroupId, History};

use crate::net::End;
use crate::oracle::Violation;
use crate::world::{Happening, World};

/// A copy of a group's files from one life of a peer to one life of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyOf {
    pub(crate) group: GroupId,
    pub(crate) node: usize,
    pub(crate) life: u64,
    pub(crate) peer: usize,
    pub(crate) peer_life: u64,
}

impl<R: Rules> World<R> {
    fn reaches(&self, copy: CopyOf) -> bool {
        let CopyOf { node, peer, peer_life, .. } = copy;
        self.alive(peer, peer_life) && self.net.open(End::Node(peer), End::Node(node))
    }

    /// A peer pins its files and gives out its manifest; what both do meanwhile is not waited for.
    pub(crate) fn given(&mut self, copy: CopyOf, history: &History) -> Result<(), Violation> {
        let CopyOf { group, node, life, peer, .. } = copy;
        if !self.alive(node, life) {
            return Ok(());
        }
        let reached = self.reaches(copy);
        if let Some(given) = self.nodes[peer].give(group, history).filter(|_| reached) {
            let begun = self.nodes[node].begin_copy(group, self.names[peer], given);
            if self.stored(node, begun)?.is_some() {
                let delay = self.rng.between(500, 30_000);
                let hurt = self.is_hurt(peer);
                self.schedule(delay, Happening::Copied { copy, hurt });
                return Ok(());
            }
        }
        let mut effects = Vec::new();
        let refused = Input::NotHydrated { peer: self.names[peer] };
        self.nodes[node].input(group, refused, &mut effects);
        self.carry_out(node, effects)
    }

    /// A copy of files is put in place whole, or not at all.
    pub(crate) fn copied(&mut self, copy: CopyOf, hurt: bool) -> Result<(), Violation> {
        let CopyOf { group, node, life, peer, .. } = copy;
        if !self.alive(node, life) {
            return Ok(());
        }
        let whole = self.reaches(copy);
        let ended = self.nodes[node].end_copy(group, whole);
        // What is copied may be damaged at its source.
        let spoilt = Input::NotHydrated { peer: self.names[peer] };
        let input = match ended {
            Err(StoreError::Damaged { .. }) if hurt || self.is_hurt(peer) => spoilt,
            ended => match self.stored(node, ended)? {
                Some(Some(input)) => input,
                Some(None) => return Ok(()),
                None => spoilt,
            },
        };
        self.copies += u64::from(matches!(input, Input::Hydrated { .. }));
        self.trace.note("copied", &[node as u64, peer as u64], || {
            format!("{} copies from {}: {input:?}", self.names[node], self.names[peer])
        });
        let mut effects = Vec::new();
        self.nodes[node].input(group, input, &mut effects);
        self.carry_out(node, effects)
    }
}
