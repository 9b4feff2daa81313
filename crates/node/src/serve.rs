//! Answers to requests that only read: pages, versions, scans, chains, files.
//!
//! Runs on the reader loops, beside the log loop. What a segment may answer is decided by its
//! published account ([`Shared::may_read`]); the store answers from a consistent snapshot.

use std::collections::BTreeMap;
use std::time::Instant;

use segstore::{Chain, Export};
use types::{Lsn, PageKey, SegmentId};
use wire::{Message, PageAnswer, Refusal};

use crate::lines::LineId;
use crate::mail::ChainJob;
use crate::shared::Shared;

/// Bytes of pages in one answer; what is beyond fails and is asked for again.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Bytes of a file in one answer.
const CHUNK_BYTES_MAX: u32 = 8 << 20;

/// Files pinned for each connection that asked for a manifest.
pub(crate) type Exports = BTreeMap<(LineId, SegmentId), Export>;

/// Whether a request is answered by [`answer`].
pub(crate) fn is_read(message: &Message) -> bool {
    matches!(
        message,
        Message::ReadPages { .. }
            | Message::ReadVersions { .. }
            | Message::Scan { .. }
            | Message::AskManifest { .. }
            | Message::AskFile { .. }
    )
}

/// The answer to a reading request. `line` owns the files that it pins.
pub(crate) fn answer(
    shared: &Shared,
    exports: &mut Exports,
    line: LineId,
    message: Message,
) -> Message {
    let result = match message {
        Message::ReadPages { segment, read_point, complete_to, keys } => {
            read_pages(shared, segment, read_point, complete_to, &keys)
        }
        Message::ReadVersions { segment, read_point, complete_to, keys } => {
            read_versions(shared, segment, read_point, complete_to, &keys)
        }
        Message::Scan { segment, read_point, complete_to, from, to, bytes_max } => {
            shared.metrics.scans.inc();
            let bytes_max = (bytes_max as usize).min(ANSWER_BYTES_MAX);
            shared.may_read(segment, complete_to).and_then(|()| {
                let found = shared.store.scan(segment, &from, &to, read_point, bytes_max);
                let (entries, next) = found.map_err(|error| error.refusal(read_point))?;
                Ok(Message::Entries { entries, next })
            })
        }
        Message::AskManifest { segment } => manifest(shared, exports, line, segment),
        Message::AskFile { segment, file, offset, length } => match exports.get(&(line, segment)) {
            Some(export) => export
                .read(file, offset, length.min(CHUNK_BYTES_MAX))
                .map(Message::Chunk)
                .map_err(|error| error.refusal(Lsn::ZERO)),
            None => Err(Refusal::Malformed(format!(
                "files of segment {segment} are read on the connection that asked for its \
                     manifest"
            ))),
        },
        other => Err(Refusal::Malformed(format!("message kind {} is no question", other.kind()))),
    };
    result.unwrap_or_else(|refusal| {
        shared.metrics.refusals.inc();
        wake_for(shared, &refusal);
        Message::Refused(refusal)
    })
}

/// What a read found damaged is mended without waiting for the scrub.
fn wake_for(shared: &Shared, refusal: &Refusal) {
    if matches!(refusal, Refusal::Damaged(_)) {
        shared.damage_met();
    }
}

fn read_pages(
    shared: &Shared,
    segment: SegmentId,
    read_point: Lsn,
    complete_to: Lsn,
    keys: &[PageKey],
) -> Result<Message, Refusal> {
    let begin = Instant::now();
    shared.may_read(segment, complete_to)?;
    let mut pages = Vec::with_capacity(keys.len());
    let mut room = ANSWER_BYTES_MAX;
    for key in keys {
        let page = match room {
            0 => PageAnswer::Failed(Refusal::Malformed("too many pages in one request".into())),
            _ => shared.store.read_page(segment, key, read_point),
        };
        match &page {
            PageAnswer::Page { bytes, .. } => room = room.saturating_sub(bytes.len()),
            PageAnswer::Absent => {}
            PageAnswer::Failed(refusal) => {
                shared.metrics.page_failures.inc();
                wake_for(shared, refusal);
                tracing::warn!(%segment, %key, %read_point, %refusal, "page not served");
            }
        }
        pages.push(page);
    }
    shared.metrics.pages.inc_by(keys.len() as u64);
    shared.metrics.read_seconds.observe(begin.elapsed().as_secs_f64());
    Ok(Message::Pages(pages))
}

fn read_versions(
    shared: &Shared,
    segment: SegmentId,
    read_point: Lsn,
    complete_to: Lsn,
    keys: &[PageKey],
) -> Result<Message, Refusal> {
    shared.may_read(segment, complete_to)?;
    let version = |key| shared.store.read_version(segment, key, read_point);
    let versions: Result<Vec<_>, _> = keys.iter().map(version).collect();
    versions.map(Message::Versions).map_err(|error| error.refusal(read_point))
}

fn manifest(
    shared: &Shared,
    exports: &mut Exports,
    line: LineId,
    segment: SegmentId,
) -> Result<Message, Refusal> {
    let account = || shared.report(segment).ok_or(Refusal::NoSegment(segment));
    // The account first: the files may then hold more than it says, never less. Nor may they come
    // from a newer history than it names, so the history must still be the same afterwards.
    let report = account()?;
    if !report.full {
        return Err(Refusal::Hydrating(segment));
    }
    let export = shared.store.export(segment).map_err(|error| error.refusal(Lsn::ZERO))?;
    if account()?.history != report.history {
        return Err(Refusal::Hydrating(segment));
    }
    let manifest = export.manifest.clone();
    exports.insert((line, segment), export);
    Ok(Message::Manifest { segment, report, manifest })
}

/// A part of a segment's chain for a peer.
pub(crate) fn chain(shared: &Shared, job: ChainJob) -> Message {
    let ChainJob { segment, report, after, upto, bytes_max } = job;
    let bytes_max = (bytes_max as usize).min(ANSWER_BYTES_MAX);
    match shared.store.read_chain(segment, after, upto, bytes_max) {
        Ok(Chain::Batches(batches)) => Message::Fill { segment, report, batches },
        Ok(Chain::Forgotten(horizon)) => {
            Message::Refused(Refusal::Forgotten { horizon, asked: after })
        }
        Err(error) => {
            let refusal = error.refusal(after);
            wake_for(shared, &refusal);
            Message::Refused(refusal)
        }
    }
}
