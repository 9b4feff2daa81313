//! Which background work is worth doing: what to flush, what to merge. Pure; sizes in, a choice out.
//!
//! Deleting frees nothing by itself: a deletion has to reach a page file, and the files below it have to
//! be merged with it. Both are chosen by the bytes that this frees (S17).

use std::ops::Range;

#[cfg(test)]
use types::{Lsn, PageKey};

use crate::options::Options;
use crate::pages::FileMeta;

/// A flush writes at most so many times the bytes that its deletions free, unless it is due anyway.
const FLUSHED_PER_FREED: u64 = 16;
/// A range of the base is merged when a share of one in so many of its bytes is freed.
const SHARE_FREED: u64 = 8;
/// Uppers take at most a share of one in so many of the base's bytes before the base takes them in.
const SHARE_ABOVE: u64 = 3;
/// Merges of uppers write at most a share of one in so many of the base's bytes at once.
const SHARE_AT_ONCE: u64 = 8;
/// Base files that a segment has, about, once they are larger than the least.
const PIECES: u64 = 16;
/// Uppers of similar size that are merged together at least.
const RUN: usize = 4;
/// Uppers above which the newest are merged whatever their sizes.
pub(crate) const UPPERS_MAX: usize = 12;
/// A segment is not flushed for its size alone below so many bytes.
const FLUSH_BYTES_MIN: u64 = 4 << 20;

/// A segment's changes that page files do not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unflushed {
    /// Bytes of parts.
    pub(crate) bytes: u64,
    /// Bytes of those that may be flushed now.
    pub(crate) flushable: u64,
    /// Bytes in page files that deletions among these would free.
    pub(crate) frees: u64,
    /// Bytes of page files.
    pub(crate) files: u64,
}

impl Unflushed {
    /// Whether a good part of it may go.
    pub(crate) fn is_worth_a_file(&self) -> bool {
        self.flushable * 2 >= self.bytes
    }
}

/// Which segment to flush: the largest that is due; else the one whose deletions free most, when they
/// free enough.
pub(crate) fn flush(segments: &[Unflushed], options: &Options) -> Option<usize> {
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let due_at = |s: &Unflushed| match total >= options.flush_total_bytes {
        true => 1,
        // What is written at once is to be small beside what is there (S8).
        false => options.flush_bytes.min((s.files / PIECES * 2).max(FLUSH_BYTES_MIN)),
    };
    let numbered = || segments.iter().enumerate();
    let ripe = |(_, s): &(usize, &Unflushed)| s.bytes >= due_at(s) && s.is_worth_a_file();
    let due = numbered().filter(ripe).max_by_key(|(_, segment)| segment.bytes);
    let freeing = |(_, s): &(usize, &Unflushed)| {
        s.frees > 0 && s.frees.saturating_mul(FLUSHED_PER_FREED) >= s.flushable
    };
    let freeing = || numbered().filter(freeing).max_by_key(|(_, segment)| segment.frees);
    due.or_else(freeing).map(|(at, _)| at)
}

/// What to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// These uppers into one.
    Uppers(Range<usize>),
    /// These base files with all that uppers have for their keys; none of none where there is no base yet.
    Base(Range<usize>),
}

/// Bytes of a base file of a segment with a base of so many.
pub(crate) fn piece(base_bytes: u64, least: u64) -> u64 {
    (base_bytes / PIECES).max(least)
}

/// Which files to merge (`layers`). `frees` are the bytes in each base file that deletions at or below the
/// low-water mark cover, `least` is the size that base files have at least.
///
/// A range of the base is merged when that frees enough of it; the range that is furthest behind, when
/// uppers take too much beside the base (so that all files stay below twice the live data, with what is being
/// written); else the newest uppers of similar size (so that a read meets few files).
pub(crate) fn merge(
    uppers: &[FileMeta],
    base: &[FileMeta],
    frees: &[u64],
    least: u64,
) -> Option<Merge> {
    let bytes = |files: &[FileMeta]| files.iter().map(|file| file.bytes).sum::<u64>();
    let (above, below) = (bytes(uppers), bytes(base));
    let whole = |first: usize| {
        // Small neighbours become one.
        let mut range = first..first + 1;
        let limit = piece(below, least);
        while let Some(next) = base.get(range.end)
            && bytes(&base[range.clone()]) + next.bytes <= limit
        {
            range.end += 1;
        }
        Merge::Base(range)
    };
    let freed = base.iter().zip(frees).enumerate();
    let freed = freed.filter(|(_, (file, frees))| {
        **frees > 0 && frees.saturating_mul(SHARE_FREED) >= file.bytes
    });
    if let Some((at, _)) = freed.max_by_key(|(_, (_, frees))| **frees) {
        return Some(whole(at));
    }
    let newest = uppers.first()?;
    if above.saturating_mul(SHARE_ABOVE) > below {
        let behind = base.iter().enumerate().min_by_key(|(_, file)| file.high);
        return match behind {
            None => Some(Merge::Base(0..0)),
            Some((at, file)) if file.high < newest.high => Some(whole(at)),
            Some(_) => None,
        };
    }
    let mut count = 0;
    let mut sum = 0;
    for file in uppers {
        if count > 0 && (file.bytes > sum || (sum + file.bytes) * SHARE_AT_ONCE > below) {
            break;
        }
        sum += file.bytes;
        count += 1;
    }
    if count >= RUN {
        return Some(Merge::Uppers(0..count));
    }
    (uppers.len() > UPPERS_MAX).then(|| Merge::Uppers(0..(uppers.len() - UPPERS_MAX + RUN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_flushed_first_then_what_frees_most() {
        let options = Options { flush_bytes: 100, flush_total_bytes: 300, ..Options::default() };
        let one = |bytes, flushable, frees| Unflushed { bytes, flushable, frees, files: 0 };
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

    #[test]
    fn a_small_segment_is_flushed_in_small_portions() {
        let options = Options::default();
        let due = |bytes: u64, files: u64| {
            let one = Unflushed { bytes, flushable: bytes, frees: 0, files };
            flush(&[one], &options).is_some()
        };
        assert!(due(5 << 20, 0) && !due(3 << 20, 0));
        assert!(due(26 << 20, 200 << 20) && !due(24 << 20, 200 << 20));
        assert!(due(49 << 20, 1 << 40) && !due(47 << 20, 1 << 40));
    }

    /// Uppers of these bytes, newest first, above 500 of the log.
    fn uppers(bytes: &[u64]) -> Vec<FileMeta> {
        let high = |at: usize| Lsn(500 + 10 * (bytes.len() - at) as u64);
        let file = |(at, bytes): (usize, &u64)| FileMeta {
            bytes: *bytes,
            low: Lsn(high(at).0 - 10),
            high: high(at),
            ..FileMeta::default()
        };
        bytes.iter().enumerate().map(file).collect()
    }

    /// Base files of these bytes, which have everything up to there.
    fn base(files: &[(u64, u64)]) -> Vec<FileMeta> {
        let file = |(bytes, high): &(u64, u64)| FileMeta {
            bytes: *bytes,
            high: Lsn(*high),
            from: Some(PageKey::MIN),
            ..FileMeta::default()
        };
        files.iter().map(file).collect()
    }

    #[test]
    fn files_are_merged_for_what_is_freed_for_space_or_so_that_reads_meet_few() {
        let (base_of, upper_of) =
            (|range| Some(Merge::Base(range)), |range| Some(Merge::Uppers(range)));
        let even = [(40, 500), (40, 490), (40, 480), (40, 500)];
        let small = [(40, 500), (4, 480), (3, 500), (2, 490), (40, 500)];
        for (above, below, frees, chosen) in [
            (&[][..], &[][..], &[][..], None),
            (&[], &even, &[0; 4], None),
            (&[1], &[], &[], base_of(0..0)),
            // As much above as a third of what is below; the range that is furthest behind.
            (&[53], &even, &[0; 4], None),
            (&[54], &even, &[0; 4], base_of(2..3)),
            (&[30, 24], &even, &[0; 4], base_of(2..3)),
            (&[54], &[(40, 510), (40, 510)], &[0; 2], None),
            // An eighth of a base file is freed.
            (&[1], &even, &[4, 4, 0, 4], None),
            (&[1], &even, &[0, 5, 0, 6], base_of(3..4)),
            (&[], &even, &[40, 0, 0, 0], base_of(0..1)),
            // Small neighbours become one.
            (&[54], &small, &[0; 5], base_of(1..4)),
            // Few files.
            (&[1, 1, 1, 1], &even, &[0; 4], upper_of(0..4)),
            (&[1, 1, 1], &even, &[0; 4], None),
            (&[1, 2, 1, 1], &even, &[0; 4], None),
            (&[9, 9, 9, 9], &even, &[0; 4], None),
            (&[1, 2, 4, 2, 4, 2, 4, 2, 4, 2, 4, 2, 4], &even, &[0; 4], upper_of(0..5)),
        ] {
            let chosen_now = merge(&uppers(above), &base(below), frees, 9);
            assert_eq!(chosen_now, chosen, "{above:?} {below:?} {frees:?}");
        }
    }
}
