//! Which background work is worth doing: what to flush, what to merge. Pure; sizes in, a choice out.
//!
//! Deleting frees nothing by itself: a deletion has to reach a page file, and the files below it have to
//! be merged with it. Both are chosen by the bytes that this frees (S17).

use std::ops::Range;

use types::Lsn;

use crate::options::Options;
use crate::pages::FileMeta;

/// A flush writes at most so many times the bytes that its deletions free, unless it is due anyway.
const FLUSHED_PER_FREED: u64 = 16;
/// A merge of everything is worth it when a share of one in so many of what it reads is freed.
const SHARE_FREED: u64 = 4;
/// Files of similar size that are merged together at least.
const RUN: usize = 4;
/// Files above which the newest are merged whatever their sizes.
const FILES_MAX: usize = 12;

/// A segment's changes that page files do not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unflushed {
    /// Bytes of parts.
    pub(crate) bytes: u64,
    /// Bytes of those that may be flushed now.
    pub(crate) flushable: u64,
    /// Bytes in page files that deletions among these would free.
    pub(crate) frees: u64,
}

/// Which segment to flush: the largest that is due; else the one whose deletions free most, when they
/// free enough.
pub(crate) fn flush(segments: &[Unflushed], options: &Options) -> Option<usize> {
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let threshold = if total >= options.flush_total_bytes { 1 } else { options.flush_bytes };
    let numbered = || segments.iter().enumerate();
    // Worth a file only when a good part of it may go.
    let ripe = |(_, s): &(usize, &Unflushed)| s.bytes >= threshold && s.flushable * 2 >= s.bytes;
    let due = numbered().filter(ripe).max_by_key(|(_, segment)| segment.bytes);
    let freeing = |(_, s): &(usize, &Unflushed)| {
        s.frees > 0 && s.frees.saturating_mul(FLUSHED_PER_FREED) >= s.flushable
    };
    let freeing = || numbered().filter(freeing).max_by_key(|(_, segment)| segment.frees);
    due.or_else(freeing).map(|(at, _)| at)
}

/// Which files to merge: a range of the list, newest first. `frees` are the bytes in them that their
/// deletions at or below the low-water mark cover.
///
/// Everything is merged when what lies above the oldest file is as large as it (so that space stays
/// within about twice the live data), or when that frees enough; else the newest files of similar
/// size (so that a read meets few files).
pub(crate) fn merge(files: &[FileMeta], low_water: Lsn, frees: u64) -> Option<Range<usize>> {
    let (oldest, newer) = files.split_last()?;
    let above: u64 = newer.iter().map(|file| file.bytes).sum();
    if newer.is_empty() {
        return (oldest.deletes > 0 && oldest.high <= low_water).then_some(0..1);
    }
    let worth = frees > 0 && frees.saturating_mul(SHARE_FREED) >= above + oldest.bytes;
    if above >= oldest.bytes || worth {
        return Some(0..files.len());
    }
    let mut count = 0;
    let mut sum = 0;
    for file in newer {
        if count > 0 && file.bytes > sum {
            break;
        }
        sum += file.bytes;
        count += 1;
    }
    if count >= RUN {
        return Some(0..count);
    }
    (files.len() > FILES_MAX).then(|| 0..(files.len() - FILES_MAX + RUN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_flushed_first_then_what_frees_most() {
        let options = Options { flush_bytes: 100, flush_total_bytes: 300, ..Options::default() };
        let one = |bytes, flushable, frees| Unflushed { bytes, flushable, frees };
        for (segments, chosen) in [
            (&[][..], None),
            (&[one(0, 0, 0), one(99, 99, 0)], None),
            (&[one(100, 50, 0), one(120, 120, 0)], Some(1)),
            (&[one(100, 49, 0)], None),
            // Together they are too much.
            (&[one(90, 90, 0), one(95, 95, 0), one(99, 10, 0), one(20, 20, 0)], Some(1)),
            // A deletion is not kept waiting for other changes, unless it frees next to nothing.
            (&[one(3, 3, 0), one(2, 2, 1)], Some(1)),
            (&[one(64, 64, 4), one(16, 16, 5)], Some(1)),
            (&[one(64, 64, 4)], Some(0)),
            (&[one(65, 65, 4)], None),
            (&[one(10, 10, 500), one(110, 110, 0)], Some(1)),
        ] {
            assert_eq!(flush(segments, &options), chosen, "{segments:?}");
        }
    }

    /// Files of these bytes, newest first.
    fn files(bytes: &[u64]) -> Vec<FileMeta> {
        let high = |at: usize| Lsn(10 * (bytes.len() - at) as u64);
        let file = |(at, bytes): (usize, &u64)| FileMeta {
            bytes: *bytes,
            low: Lsn(high(at).0 - 10),
            high: high(at),
            ..FileMeta::default()
        };
        bytes.iter().enumerate().map(file).collect()
    }

    #[test]
    fn files_are_merged_for_the_bytes_that_it_frees_or_so_that_reads_meet_few() {
        for (bytes, frees, chosen) in [
            (&[][..], 0, None),
            (&[100][..], 0, None),
            (&[10, 100], 0, None),
            (&[60, 40, 100], 0, Some(0..3)),
            (&[10, 90], 24, None),
            (&[10, 90], 25, Some(0..2)),
            (&[1, 1, 1, 1, 100], 0, Some(0..4)),
            (&[5, 1, 1, 1, 100], 0, Some(0..4)),
            (&[1, 2, 1, 1, 100], 0, None),
            (&[1, 2, 5, 11, 23, 47, 95, 191, 383, 767, 1535, 3071, 9000], 0, Some(0..5)),
        ] {
            assert_eq!(merge(&files(bytes), Lsn(1000), frees), chosen, "{bytes:?} {frees}");
        }
    }

    #[test]
    fn a_deletion_left_alone_goes_when_nobody_can_ask_for_what_it_hides() {
        let alone = FileMeta { deletes: 1, ..files(&[100])[0] };
        assert_eq!(merge(&[alone], alone.high, 0), Some(0..1));
        assert_eq!(merge(&[alone], Lsn(alone.high.0 - 1), 0), None);
    }
}
