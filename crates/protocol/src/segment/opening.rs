//! Opening a volume, seen from a segment: seal, tails, adoption of a history.

use types::{Epoch, History, Lsn, NodeId};
use wire::{Message, Refusal};

use super::{Asker, Output, Segment, Waiting};
use crate::rules::Rules;

/// A recovery that waits for this segment to hold its group up to `until`.
pub(super) struct Adoption {
    to: Asker,
    epoch: Epoch,
    until: Lsn,
    pub(super) peer: NodeId,
    /// The first report has left, and told less than `until`.
    owed: bool,
}

impl<R: Rules> Segment<R> {
    pub(super) fn on_seal(&mut self, from: Asker, epoch: Epoch, out: &mut Vec<Output>) {
        if !self.gossip.knows_peers() {
            return self.refuse(from, Refusal::Hydrating(self.id()), out);
        }
        if epoch > self.accepted.sealed {
            self.accepted.sealed = epoch;
            self.persist_state(out);
        }
        self.later(Waiting::Report { to: from, epoch: Some(epoch) }, out);
    }

    /// A report, unless the asker's epoch has been overtaken.
    pub(super) fn answer(&self, epoch: Option<Epoch>) -> Message {
        let current = self.durable.sealed;
        match epoch.filter(|asked| *asked < current) {
            Some(asked) => Message::Refused(Refusal::Fenced { asked, current }),
            None => Message::Report { segment: self.id(), report: self.report() },
        }
    }

    pub(super) fn tail(&self, epoch: Epoch, history: &History, after: Lsn) -> Message {
        let segment = self.id();
        let current = self.durable.sealed;
        if !self.durable.full {
            return Message::Refused(Refusal::Hydrating(segment));
        }
        if R::SEAL_BEFORE_SCL && epoch != current {
            return Message::Refused(if epoch < current {
                Refusal::Fenced { asked: epoch, current }
            } else {
                Refusal::NotAdopted { epoch }
            });
        }
        match self.chain.tail(history, after) {
            Ok(tail) => Message::Tail {
                segment,
                history: history.last_epoch(),
                after,
                base: tail.base,
                parts: tail.parts,
            },
            Err(horizon) => Message::Refused(Refusal::Forgotten { horizon, asked: after }),
        }
    }

    pub(super) fn on_adopt(
        &mut self,
        from: Asker,
        history: History,
        until: Lsn,
        peer: NodeId,
        out: &mut Vec<Output>,
    ) {
        let epoch = history.last_epoch();
        let current = self.accepted.sealed;
        if !self.gossip.knows_peers() {
            return self.refuse(from, Refusal::Hydrating(self.id()), out);
        }
        if epoch < current {
            return self.refuse(from, Refusal::Fenced { asked: epoch, current }, out);
        }
        if epoch > self.accepted.history.last_epoch() {
            if let Err(refusal) = self.may_follow(&history) {
                return self.refuse(from, refusal, out);
            }
            self.follow(history, out);
        }
        self.adoption = Some(Adoption { to: from, epoch, until, peer, owed: false });
        self.later(Waiting::Report { to: from, epoch: Some(epoch) }, out);
    }

    /// Whether a newer history leaves alone what is known durable here (rule V10).
    pub(super) fn may_follow(&self, history: &History) -> Result<(), Refusal> {
        let known = self.accepted.vdl.end;
        let begins = history.entries().last().map_or(Lsn::MAX, |entry| entry.begins);
        if begins < known {
            let what = format!(
                "epoch {} would void the log from {begins}, durable here to {known}",
                history.last_epoch()
            );
            return Err(Refusal::Malformed(what));
        }
        Ok(())
    }

    /// Follows a newer history from now on; its newest epoch is sealed with it.
    pub(super) fn follow(&mut self, history: History, out: &mut Vec<Output>) {
        self.accepted.sealed = self.accepted.sealed.max(history.last_epoch());
        self.accepted.history = history;
        self.persist_state(out);
    }

    /// Tells the recovery that waits for it when the segment has got far enough.
    pub(super) fn answer_adoption(&mut self, out: &mut Vec<Output>) {
        let Some(adoption) = &mut self.adoption else { return };
        if self.accepted.sealed > adoption.epoch {
            self.adoption = None;
            return;
        }
        if self.durable.history.last_epoch() != adoption.epoch {
            return;
        }
        if self.chain.scl() < adoption.until {
            if !adoption.owed {
                adoption.owed = true;
                self.gossip.pull_soon(adoption.peer, self.me);
            }
            return;
        }
        let (to, epoch, owed) = (adoption.to, adoption.epoch, adoption.owed);
        self.adoption = None;
        if owed {
            self.later(Waiting::Report { to, epoch: Some(epoch) }, out);
        }
    }
}
