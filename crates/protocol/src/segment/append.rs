//! The log: a writer's batches are checked, persisted, and acknowledged with the SCL.
//!
//! A well-formed batch of the epoch in force is never refused (DESIGN 5): a batch beyond a gap is
//! kept, one held already is acknowledged again.

use types::Epoch;
use wire::{Batch, Refusal};

use super::{Asker, LogEntry, Output, Segment, Waiting};
use crate::rules::Rules;

impl<R: Rules> Segment<R> {
    pub(super) fn on_append(&mut self, from: Asker, batch: Batch, out: &mut Vec<Output>) {
        if let Err(refusal) = self.admit(&batch) {
            return self.refuse(from, refusal, out);
        }
        let header = &batch.header;
        let epoch = header.epoch;
        if epoch == self.accepted.history.last_epoch() {
            if batch.parts.is_empty() {
                self.gossip.hear_announcement(epoch, header.base);
            }
            self.hear(header.vdl, header.low_water, header.watermark, out);
        }
        for run in self.missing(batch) {
            self.persist(LogEntry::Batch(run), out);
        }
        self.later(Waiting::Ack { to: from, epoch }, out);
    }

    /// The runs of a batch that are to be persisted.
    pub(super) fn missing(&self, batch: Batch) -> Vec<Batch> {
        let trusted = self.durable.history == self.accepted.history;
        self.chain.missing(batch, &self.accepted.history, trusted)
    }

    fn admit(&self, batch: &Batch) -> Result<(), Refusal> {
        let header = &batch.header;
        if header.segment != self.id() {
            return Err(Refusal::NoSegment(header.segment));
        }
        if !self.gossip.knows_peers() {
            return Err(Refusal::Hydrating(self.id()));
        }
        if R::CHECK_EPOCH {
            self.admit_epoch(header.epoch)?;
        }
        check_links(batch).map_err(|what| Refusal::Malformed(format!("batch {header:?}: {what}")))
    }

    /// Only the writer of the epoch that is sealed *and* adopted here may append (rule V3).
    fn admit_epoch(&self, epoch: Epoch) -> Result<(), Refusal> {
        let current = self.accepted.sealed;
        if epoch < current {
            return Err(Refusal::Fenced { asked: epoch, current });
        }
        if epoch > current || self.accepted.history.last_epoch() != epoch {
            return Err(Refusal::NotAdopted { epoch });
        }
        Ok(())
    }
}

/// Whether a batch's parts ascend from its base to its last.
pub(super) fn check_links(batch: &Batch) -> Result<(), &'static str> {
    let mut at = batch.header.base;
    for part in &batch.parts {
        let span = part.meta.span;
        if span.start < at || span.end <= span.start {
            return Err("parts do not ascend");
        }
        at = span.end;
    }
    if at == batch.header.last { Ok(()) } else { Err("the last part does not end it") }
}
