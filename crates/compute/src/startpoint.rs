//! Where a new writer's PostgreSQL starts: one synthesized shutdown checkpoint at the durable point.
//!
//! - D17: the checkpoint lies on the timeline of the last live epoch, right after the volume's last
//!   record; it is also the first record of the new epoch. PostgreSQL starts from it, finds the end
//!   of the log behind it, and goes on under the new epoch's timeline.
//! - D18: timelines of epochs that wrote nothing live are never reused: their history files are laid
//!   out too, so that PostgreSQL counts past them to exactly the new epoch's timeline.
//! - R6: next transaction id, multixact and oid are above every one in the log.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use pgwal::build::opening_segments;
use pgwal::control_file::DbState;
use pgwal::layout::{SEGMENT_SIZE_DEFAULT, record_start, segment_name};
use pgwal::slru::{FIRST_NORMAL_XID, xid_precedes};
use pgwal::{CheckPoint, ControlFile, Record};
use types::{History, Lsn, Span, Timeline};

/// Size of a shutdown checkpoint's record: header, one data header, the struct.
const CHECKPOINT_RECORD_BYTES: usize = 24 + 2 + CheckPoint::SIZE;
/// First position of unlogged relations' fake log.
const FIRST_UNLOGGED_LSN: Lsn = Lsn(1000);

/// History files of earlier timelines that are laid out: the server needs none of them, only standbys
/// that come from so far back do, and their sum grows with the square of the openings.
const HISTORIES_KEPT: usize = 32;

/// One switch from a timeline to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that ended.
    pub from: Timeline,
    /// Where it ended.
    pub at: Lsn,
}

/// The timelines of a volume, from its epoch history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branches {
    /// Ends of the live timelines before the current one, oldest first.
    pub switches: Vec<Switch>,
    /// The timeline on which the durable point lies.
    pub current: Timeline,
    /// The timeline of the newest epoch.
    pub next: Timeline,
}

/// Reads the timelines out of a history whose last entry is the epoch being opened.
#[must_use]
pub fn branches(history: &History, segment_size: u32) -> Branches {
    let entries = history.entries();
    let next = entries.last().map_or(Timeline(1), |entry| entry.timeline);
    let mut switches = Vec::new();
    let mut current: Option<Timeline> = None;
    for entry in entries.iter().take(entries.len().saturating_sub(1)) {
        // An epoch is live when its first record is: the checkpoint, or after a re-attachment
        // (same timeline as before) simply the record after.
        let first = record_start(entry.begins, segment_size);
        if !history.is_live(entry.epoch, first) || current == Some(entry.timeline) {
            continue;
        }
        if let Some(from) = current {
            switches.push(Switch { from, at: checkpoint_end(entry.begins, segment_size) });
        }
        current = Some(entry.timeline);
    }
    Branches { switches, current: current.unwrap_or(Timeline(1)), next }
}

/// End of the checkpoint synthesized at a durable point: where the timeline before switched.
#[must_use]
pub fn checkpoint_end(begins: Lsn, segment_size: u32) -> Lsn {
    let start = record_start(begins, segment_size);
    let page = pgwal::layout::page_of(start).plus(pgwal::layout::WAL_PAGE_SIZE as u64);
    let room = page.bytes_since(start);
    let length = CHECKPOINT_RECORD_BYTES as u64;
    if length <= room {
        return start.plus(length).aligned();
    }
    record_start(page, segment_size).plus(length - room).aligned()
}

/// The history files that PostgreSQL must find: name and content.
#[must_use]
pub fn history_files(branches: &Branches, begins: Lsn, segment_size: u32) -> Vec<(String, String)> {
    let lines = |switches: &[Switch]| {
        switches.iter().fold(String::new(), |mut text, switch| {
            writeln!(text, "{}\t{}\tvolume opened", switch.from.0, switch.at)
                .expect("writing to a String does not fail");
            text
        })
    };
    let name = |timeline: u32| format!("{timeline:08X}.history");
    let mut files = Vec::new();
    let forgotten = branches.switches.len().saturating_sub(HISTORIES_KEPT);
    for (index, switch) in branches.switches.iter().enumerate().skip(forgotten.max(1)) {
        let before = branches.switches.get(..index).unwrap_or_default();
        files.push((name(switch.from.0), lines(before)));
    }
    if branches.current.0 > 1 {
        files.push((name(branches.current.0), lines(&branches.switches)));
    }
    // Timelines that were announced and never used: PostgreSQL must count past them.
    let mut dead = branches.switches.clone();
    let at = checkpoint_end(begins, segment_size);
    dead.push(Switch { from: branches.current, at });
    for timeline in branches.current.0 + 1..branches.next.0 {
        files.push((name(timeline), lines(&dead)));
    }
    files
}

/// Everything that makes a data directory start where the volume is.
#[derive(Debug)]
pub struct StartPoint {
    /// `pg_control`.
    pub control: Vec<u8>,
    /// WAL segment files.
    pub wal: Vec<(String, Vec<u8>)>,
    /// Timeline history files.
    pub histories: Vec<(String, String)>,
    /// The checkpoint's record, to be submitted first.
    pub checkpoint: Record,
    /// Timeline that PostgreSQL must choose.
    pub timeline: Timeline,
    /// Identifies the cluster in its WAL.
    pub system_id: u64,
    /// `wal_segment_size`.
    pub segment_size: u32,
    /// `track_commit_timestamp` as the log last said.
    pub commit_timestamps: bool,
}

/// Makes the start point at `vdl`, the volume's last record.
///
/// `counters` is `Key::State` at the durable point, `template` the imported `pg_control`, `next_xid`
/// the watermark that survived, `now` the wall clock in seconds since 1970.
///
/// # Errors
/// When the template is not a `pg_control` of this version.
pub fn start_point(
    template: &ControlFile,
    counters: &CheckPoint,
    commit_timestamps: bool,
    vdl: Span,
    history: &History,
    next_xid: u64,
    now: i64,
) -> anyhow::Result<StartPoint> {
    let segment_size = template.wal_segment_size;
    let branches = branches(history, segment_size);
    if branches.next <= branches.current {
        bail!(
            "the new epoch's timeline {} is not above the volume's {}",
            branches.next,
            branches.current
        );
    }
    let next_xid = counters.next_xid.max(next_xid);
    let wanted = CheckPoint {
        next_xid,
        newest_commit_ts_xid: newest_stamped(counters, next_xid),
        full_page_writes: false,
        time: now,
        ..*counters
    };
    let (segments, span, checkpoint) = opening_segments(
        branches.current,
        template.system_id,
        segment_size,
        vdl.end,
        vdl.start,
        &wanted,
    );
    if span.end != checkpoint_end(vdl.end, segment_size) {
        bail!("the checkpoint at {span} is not where timelines are said to switch");
    }
    let bytes = pgwal::build::shutdown_checkpoint(&checkpoint, vdl.start);
    let record = Record::parse(span, bytes).context("the synthesized checkpoint")?;
    let control = ControlFile {
        state: DbState::ShutDown,
        time: now,
        checkpoint: span.start,
        checkpoint_copy: checkpoint,
        unlogged_lsn: FIRST_UNLOGGED_LSN,
        min_recovery_point: Lsn::ZERO,
        min_recovery_timeline: Timeline(0),
        backup_start_point: Lsn::ZERO,
        backup_end_point: Lsn::ZERO,
        backup_end_required: false,
        // The smallest possible, so that no setting of this host is too small to start with; the
        // server then logs its real ones.
        wal_level: 1,
        max_connections: 1,
        max_worker_processes: 0,
        max_wal_senders: 0,
        max_prepared_xacts: 0,
        max_locks_per_xact: 1,
        track_commit_timestamp: commit_timestamps,
        ..template.clone()
    };
    let wal = segments.into_iter().map(|segment| {
        let number = segment.start.0 / u64::from(segment_size);
        (segment_name(branches.current, number, segment_size), segment.bytes)
    });
    Ok(StartPoint {
        control: control.encode(),
        wal: wal.collect(),
        histories: history_files(&branches, vdl.end, segment_size),
        checkpoint: record,
        timeline: branches.next,
        system_id: template.system_id,
        segment_size,
        commit_timestamps,
    })
}

/// Newest transaction that may have a commit timestamp. Commit records do not go to the counters, so
/// those know only of the last checkpoint's, and the server gives no timestamp of a later one. An
/// upper bound does: what did not commit has none on its page.
fn newest_stamped(counters: &CheckPoint, next_xid: u64) -> u32 {
    let known = counters.newest_commit_ts_xid;
    let last = match (next_xid as u32).wrapping_sub(1) {
        special if special < FIRST_NORMAL_XID => u32::MAX,
        last => last,
    };
    let tracked = counters.oldest_commit_ts_xid >= FIRST_NORMAL_XID;
    if tracked && xid_precedes(known, last) { last } else { known }
}

/// The last record of a stopped data directory: its shutdown checkpoint.
///
/// # Errors
/// When the directory was not shut down, or its WAL does not hold the record.
pub fn last_checkpoint(directory: &std::path::Path) -> anyhow::Result<(ControlFile, Span, Bytes)> {
    let path = directory.join("global/pg_control");
    let file = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let control = ControlFile::decode(&file)
        .with_context(|| format!("{} is not PostgreSQL 15's", path.display()))?;
    if control.state != DbState::ShutDown {
        bail!("{} was not shut down cleanly ({:?})", directory.display(), control.state);
    }
    let size = control.wal_segment_size;
    let number = control.checkpoint.0 / u64::from(size);
    let name = segment_name(control.checkpoint_copy.timeline, number, size);
    let path = directory.join("pg_wal").join(name);
    let wal = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let offset = usize::try_from(control.checkpoint.0 % u64::from(size)).unwrap_or(usize::MAX);
    let mut decoder =
        pgwal::Decoder::new(control.checkpoint, None, size, Some(control.system_id), None);
    let bytes = wal.get(offset..).context("the checkpoint lies outside its segment")?;
    decoder.feed(control.checkpoint, bytes)?;
    let record = decoder.next()?.context("the checkpoint's record is not whole")?;
    Ok((control, record.span, record.bytes))
}

/// `wal_segment_size` of volumes made here.
pub const SEGMENT_SIZE: u32 = SEGMENT_SIZE_DEFAULT;

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Epoch, EpochStart};

    fn history(entries: &[(u64, u64, u32)]) -> History {
        let entries = entries.iter().map(|(epoch, begins, timeline)| EpochStart {
            epoch: Epoch(*epoch),
            begins: Lsn(*begins),
            timeline: Timeline(*timeline),
        });
        History::new(entries.collect()).expect("ordered")
    }

    #[test]
    fn the_checkpoint_ends_where_it_is_laid_out_wherever_it_starts() {
        for at in
            [0x100_0000u64, 0x100_0028, 0x100_2000, 0x100_2018, 0x100_3f88, 0x100_3f90, 0x1ff_fff8]
        {
            let counters = CheckPoint::default();
            let (_, span, _) =
                opening_segments(Timeline(1), 7, SEGMENT_SIZE, Lsn(at), Lsn(8), &counters);
            assert_eq!(span.end, checkpoint_end(Lsn(at), SEGMENT_SIZE), "from {at:#x}");
            assert_eq!(span.start, record_start(Lsn(at), SEGMENT_SIZE));
        }
    }

    #[test]
    fn an_epoch_that_wrote_nothing_live_leaves_a_timeline_to_count_past() {
        let history =
            history(&[(1, 0, 1), (2, 0x10_0028, 2), (3, 0x20_0028, 3), (4, 0x20_0028, 4)]);
        let branches = branches(&history, SEGMENT_SIZE);
        assert_eq!(branches.current, Timeline(2));
        assert_eq!(branches.next, Timeline(4));
        let end = |at| checkpoint_end(Lsn(at), SEGMENT_SIZE);
        assert_eq!(branches.switches, [Switch { from: Timeline(1), at: end(0x10_0028) }]);
        let files = history_files(&branches, Lsn(0x20_0028), SEGMENT_SIZE);
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["00000002.history", "00000003.history"]);
        let (first, second) = (&files[0].1, &files[1].1);
        assert_eq!(*first, format!("1\t{}\tvolume opened\n", end(0x10_0028)));
        assert_eq!(*second, format!("{first}2\t{}\tvolume opened\n", end(0x20_0028)));
    }

    #[test]
    fn timestamps_of_commits_since_the_last_checkpoint_are_not_too_new_to_be_asked_for() {
        let since = |oldest, newest| CheckPoint {
            oldest_commit_ts_xid: oldest,
            newest_commit_ts_xid: newest,
            ..CheckPoint::default()
        };
        assert_eq!(newest_stamped(&since(700, 700), 900), 899);
        assert_eq!(newest_stamped(&since(700, 700), 700), 700, "nothing has committed");
        assert_eq!(newest_stamped(&since(0, 0), 900), 0, "nothing is tracked");
        let end = u32::MAX - 5;
        assert_eq!(newest_stamped(&since(end, end), (1 << 32) + 3), u32::MAX);
        assert_eq!(newest_stamped(&since(end, end), (1 << 32) + 10), 9, "in the next epoch");
    }

    #[test]
    fn a_reattached_epoch_stays_on_its_timeline() {
        let history =
            history(&[(1, 0, 1), (2, 0x10_0028, 2), (3, 0x20_0028, 2), (4, 0x30_0028, 3)]);
        let branches = branches(&history, SEGMENT_SIZE);
        assert_eq!((branches.current, branches.next), (Timeline(2), Timeline(3)));
        assert_eq!(branches.switches.len(), 1);
    }
}
