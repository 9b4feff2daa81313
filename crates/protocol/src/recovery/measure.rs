//! How far the log is whole: the volume chain walked over the groups' tails.

use std::collections::{BTreeMap, BTreeSet};

use types::{Epoch, GroupId, History, Lsn, NodeId, Span};
use wire::PartMeta;

use super::RecoveryError;
use crate::rules::Rules;

/// A group's parts above the known durable point, from its candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Last epoch of the history asked with.
    pub history: Epoch,
    /// The bound asked with.
    pub after: Lsn,
    /// End of the last live part at or below the bound.
    pub base: Lsn,
    /// Live parts above it, ascending.
    pub parts: Vec<PartMeta>,
}

/// Where the walk ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// The last record found whole, or the known durable one.
    pub vdl: Span,
    /// End of each group's last part at or below it.
    pub tails: BTreeMap<GroupId, Lsn>,
}

/// Lowest beginning among the epochs that `newer` adds after what both histories share. Parts that a
/// follower of `older` holds were written in shared epochs (no other of its epochs can have opened,
/// or `newer` would contain it), so they are void under `newer` exactly if they start there or above.
pub(super) fn added_begin(older: &History, newer: &History) -> Lsn {
    let shared = older.entries().iter().zip(newer.entries()).take_while(|(a, b)| a == b).count();
    newer.entries().iter().skip(shared).map(|entry| entry.begins).min().unwrap_or(Lsn::MAX)
}

/// Follows the volume chain from the known durable record to the first break: a record follows if it
/// names the one before, and every group that shares it holds its part (rule V9).
pub(super) fn walk<R: Rules>(
    known: Span,
    tails: &BTreeMap<GroupId, (NodeId, Tail)>,
) -> Result<Walked, RecoveryError> {
    let mut ends: BTreeMap<GroupId, Lsn> =
        tails.iter().map(|(group, (_, tail))| (*group, tail.base)).collect();
    let mut rest: BTreeMap<GroupId, &[PartMeta]> =
        tails.iter().map(|(group, (_, tail))| (*group, tail.parts.as_slice())).collect();
    let mut heads: BTreeSet<(Lsn, GroupId)> = rest
        .iter()
        .filter_map(|(group, parts)| Some((parts.first()?.span.start, *group)))
        .collect();
    let mut vdl = known;
    while let Some((_, group)) = heads.first().copied() {
        let Some(record) = rest.get(&group).and_then(|parts| parts.first()) else { break };
        if record.prev != vdl.start || record.span.start < vdl.end {
            break;
        }
        let mut whole = true;
        for sharer in record.shared.iter().copied() {
            let Some(parts) = rest.get(&sharer) else {
                return Err(RecoveryError::UnknownGroup { record: record.span, group: sharer });
            };
            whole &= parts.first().is_some_and(|part| part.span == record.span);
        }
        if R::SHARERS_TOGETHER && !whole {
            break;
        }
        for sharer in record.shared.iter().copied().chain([group]) {
            let Some(parts) = rest.get_mut(&sharer) else { continue };
            let Some((part, after)) = parts.split_first() else { continue };
            if part.span != record.span {
                continue;
            }
            heads.remove(&(part.span.start, sharer));
            heads.extend(after.first().map(|next| (next.span.start, sharer)));
            ends.insert(sharer, part.span.end);
            *parts = after;
        }
        vdl = record.span;
    }
    Ok(Walked { vdl, tails: ends })
}
