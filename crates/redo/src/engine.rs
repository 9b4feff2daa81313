//! The engine that storage nodes run: dispatch by key, and errors with record and page named.

use bytes::Bytes;
use pgwal::effects::CatalogChange;
use pgwal::keys::{Fork, Key, Rel};
use pgwal::layout::op;
use pgwal::record::{BlockRef, Record};
use types::{Engine, EngineError, PageKey, Span};

use crate::fault::{Fault, Res, ensure, fault};
use crate::page::{PAGE_SIZE, Page};
use crate::rm;
use crate::rm::{free_space, visibility};
use crate::slru;
use crate::state::State;
use crate::step::Step;

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
        apply(key, page, &record).map_err(|fault| {
            let rmid = record.rmid;
            error(format!("{} {:#04x}: {fault}", op::name(rmid), record.info))
        })
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

fn parse(span: Span, body: &[u8]) -> Res<Record> {
    let record = Record::parse(span, Bytes::copy_from_slice(body));
    let record = record.map_err(|error| Fault(error.to_string()))?;
    pgwal::effects::kind(&record).map_err(|error| Fault(error.to_string()))?;
    Ok(record)
}

/// Applies a parsed record to the page of a key.
fn apply(key: &PageKey, page: &mut Vec<u8>, record: &Record) -> Res<()> {
    match Key::decode(key) {
        Some(Key::Block(rel, fork, block)) => apply_to_block(record, (rel, fork, block), page),
        Some(Key::Slru(area, number)) => {
            if page.is_empty() {
                page.resize(PAGE_SIZE, 0);
            }
            slru::apply(record, area, number, page)
        }
        Some(Key::State) => {
            let mut state = State::decode(page)?;
            state.apply(record)?;
            *page = state.encode();
            Ok(())
        }
        Some(_) => fault!("redo keeps no pages of this kind"),
        None => fault!("no page has this key"),
    }
}

/// The record's reference to a block.
fn reference(record: &Record, rel: Rel, fork: Fork, block: u32) -> Option<&BlockRef> {
    record.blocks.iter().find(|b| b.block == block && b.fork == fork && b.rel == rel)
}

/// Whether recovery restores the block's image rather than redoing the record.
fn restores(block: &BlockRef) -> bool {
    block.image.as_ref().is_some_and(|image| image.apply)
}

/// Applies a record to a block: the bytes a [`Step`] changes, or what the record does without
/// naming the block.
pub(crate) fn apply_to_block(
    record: &Record,
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
        None => rm::redo(&step, &mut page).map_err(in_block),
    }
}

fn truncate_free_space(record: &Record, rel: Rel, block: u32, page: &mut Page<'_>) -> Res<()> {
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
