//! The engine that storage nodes run: dispatch by key, and errors with record and page named.

use pgwal::effects::CatalogChange;
use pgwal::keys::{Fork, Key, Rel};
use pgwal::layout::op;
use types::{Engine, EngineError, PageKey, Span};

use crate::fault::{Fault, Res, ensure, fault};
use crate::page::{PAGE_SIZE, Page};
use crate::rm;
use crate::rm::{free_space, visibility};
use crate::slru;
use crate::state::State;
use crate::step::{BlockRef, Record, Step};

/// PostgreSQL 15's redo as an engine of a volume.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postgres;

impl Engine for Postgres {
    fn apply(
        &self,
        key: &PageKey,
        page: &mut Vec<u8>,
        span: Span,
        body: &[u8],
    ) -> Result<(), EngineError> {
        let error = |what: String| EngineError { key: self.describe(key), span, what };
        let record = parse(span, body).map_err(|fault| error(fault.0))?;
        match Key::decode(key) {
            Some(key) => self.apply_record(key, page, &record),
            None => Err(error("no page has this key".to_owned())),
        }
    }

    fn replaces(&self, key: &PageKey, body: &[u8]) -> bool {
        let Ok(record) = parse(Span::ZERO, body) else { return false };
        match Key::decode(key) {
            Some(Key::Block(rel, fork, block)) => reference(&record, rel, fork, block)
                .is_some_and(|block| block.will_init || restores(block)),
            Some(Key::Slru(area, number)) => {
                slru::zeroes(&record).is_ok_and(|zeroed| zeroed == Some((area, number)))
            }
            _ => false,
        }
    }

    fn describe(&self, key: &PageKey) -> String {
        match Key::decode(key) {
            Some(Key::Block(rel, fork, block)) => format!("{rel}{} block {block}", fork.suffix()),
            Some(Key::Slru(area, number)) => format!("{} page {number}", area.directory()),
            Some(Key::State) => "server state".to_owned(),
            Some(other) => format!("{other:?}"),
            None => format!("{:02x?}", key.0),
        }
    }
}

impl Postgres {
    /// Applies a record of a known kind that is taken apart already to the page of a key.
    ///
    /// # Errors
    /// As [`Engine::apply`].
    pub fn apply_record(
        &self,
        key: Key,
        page: &mut Vec<u8>,
        record: &Record<'_>,
    ) -> Result<(), EngineError> {
        apply(key, page, record).map_err(|fault| EngineError {
            key: self.describe(&key.encode()),
            span: record.span,
            what: format!("{} {:#04x}: {fault}", op::name(record.rmid), record.info),
        })
    }
}

fn parse(span: Span, body: &[u8]) -> Res<Record<'_>> {
    let record = Record::parse(span, body);
    let record = record.map_err(|error| Fault(error.to_string()))?;
    pgwal::effects::kind(&record).map_err(|error| Fault(error.to_string()))?;
    Ok(record)
}

/// Applies a parsed record to the page of a key.
fn apply(key: Key, page: &mut Vec<u8>, record: &Record<'_>) -> Res<()> {
    match key {
        Key::Block(rel, fork, block) => apply_to_block(record, (rel, fork, block), page),
        Key::Slru(area, number) => {
            if page.is_empty() {
                page.resize(PAGE_SIZE, 0);
            }
            slru::apply(record, area, number, page)
        }
        Key::State => {
            let mut state = State::decode(page)?;
            state.apply(record)?;
            *page = state.encode();
            Ok(())
        }
        _ => fault!("redo keeps no pages of this kind"),
    }
}

/// The record's reference to a block.
pub(crate) fn reference<'r, 'b>(
    record: &'r Record<'b>,
    rel: Rel,
    fork: Fork,
    block: u32,
) -> Option<&'r BlockRef<'b>> {
    record.blocks.iter().find(|b| b.block == block && b.fork == fork && b.rel == rel)
}

/// Whether recovery restores the block's image rather than redoing the record.
fn restores(block: &BlockRef<'_>) -> bool {
    block.image.as_ref().is_some_and(|image| image.apply)
}

/// Applies a record to a block: the bytes a [`Step`] changes, or what the record does without
/// naming the block.
pub(crate) fn apply_to_block(
    record: &Record<'_>,
    (rel, fork, block): (Rel, Fork, u32),
    page: &mut Vec<u8>,
) -> Res<()> {
    if page.is_empty() {
        page.resize(PAGE_SIZE, 0);
    }
    let mut page = Page::of(page)?;
    let Some(block_ref) = reference(record, rel, fork, block) else {
        return match fork {
            Fork::Vm => visibility::implicit(record, rel, block, &mut page),
            Fork::Fsm => truncate_free_space(record, rel, block, &mut page),
            Fork::Main | Fork::Init => fault!("the record does not name the block"),
        };
    };
    let step = Step { record, block: block_ref, lsn: record.span.end.0 };
    let in_block = |Fault(what)| Fault(format!("block reference {}: {what}", block_ref.id));
    match block_ref.image.as_ref().filter(|image| image.apply) {
        Some(image) => {
            image.restore(page.bytes_mut()).map_err(|error| in_block(Fault(error.to_string())))?;
            if !page.is_new() {
                page.set_lsn(step.lsn);
            }
            rm::after_image(&step, &mut page).map_err(in_block)
        }
        None => {
            if block_ref.will_init {
                // Whatever the operation then does, it does not depend on the page before (X9).
                page.bytes_mut().fill(0);
            }
            rm::redo(&step, &mut page).map_err(in_block)
        }
    }
}

fn truncate_free_space(record: &Record<'_>, rel: Rel, block: u32, page: &mut Page<'_>) -> Res<()> {
    let mut any = false;
    for change in slru::effects_of(record)?.catalog {
        if let CatalogChange::Truncated(cut) = change
            && cut.rel == rel
            && cut.fsm
        {
            free_space::truncate(cut.blocks, block, page)?;
            any = true;
        }
    }
    ensure!(any, "the record does not name the block");
    Ok(())
}
