//! Logs that end, break off, have gaps or change their timeline.

use std::fs;

use bytes::Bytes;
use pgwal::layout::op::{rm, xlog};
use pgwal::{Draft, SegmentBuilder};
use tempfile::TempDir;

use super::*;

const SIZE: u32 = 1 << 20;
const START: Lsn = Lsn(0x30_0028);

/// A directory with three segments full of records, of which the last ends early.
fn log() -> (TempDir, Vec<Lsn>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut builder = SegmentBuilder::new(Timeline(1), 77, SIZE, START);
    let (mut prev, mut ends) = (Lsn::ZERO, Vec::new());
    for number in 0..2500u32 {
        let main = Bytes::from(vec![number as u8; 1000]);
        let draft = Draft { rmid: rm::XLOG, info: xlog::NOOP, main, ..Draft::default() };
        let span = builder.push(&draft.encode(prev).expect("short"));
        prev = span.start;
        ends.push(span.end);
    }
    for segment in builder.finish() {
        let name = segment_name(Timeline(1), segment.start.0 / u64::from(SIZE), SIZE);
        fs::write(dir.path().join(name), segment.bytes).expect("writable");
    }
    (dir, ends)
}

fn file(dir: &TempDir, number: u64) -> PathBuf {
    dir.path().join(segment_name(Timeline(1), number, SIZE))
}

fn read(dir: &TempDir) -> Result<(usize, Lsn, String), VerifyError> {
    read_all(&WalDirectory::open(dir.path())?)
}

fn read_all(directory: &WalDirectory) -> Result<(usize, Lsn, String), VerifyError> {
    let mut wal = directory.records(None);
    let mut count = 0;
    while wal.next()?.is_some() {
        count += 1;
    }
    Ok((count, wal.position(), wal.end().to_owned()))
}

#[test]
fn a_whole_log_is_read_to_its_last_record() {
    let (dir, ends) = log();
    let (count, position, end) = read(&dir).expect("sound");
    assert_eq!((count, position), (ends.len(), ends[ends.len() - 1]));
    assert_eq!(end, "zeros follow");
}

#[test]
fn a_log_may_end_anywhere_in_its_last_file() {
    let (dir, ends) = log();
    let last = file(&dir, 5);
    let whole = fs::read(&last).expect("three segments");
    for length in [0, 1, 23, 24, 39, 40, 60, 8191, 8192, 8200, 8216, 9000, 100_001] {
        fs::write(&last, &whole[..length]).expect("writable");
        let (count, position, _) = read(&dir).expect("an end like any other");
        let end = Lsn(0x50_0000 + length as u64);
        let expected = ends.iter().filter(|at| **at <= end).count();
        assert!(count == expected || count + 1 == expected, "{length}: {count} of {expected}");
        assert_eq!(position, ends[count - 1], "{length}");
    }
}

#[test]
fn segments_prepared_for_later_are_no_part_of_the_log() {
    let (dir, ends) = log();
    fs::copy(file(&dir, 3), file(&dir, 6)).expect("writable");
    fs::write(file(&dir, 7), vec![0; SIZE as usize]).expect("writable");
    assert_eq!(read(&dir).expect("sound").0, ends.len());
}

#[test]
fn damage_with_log_behind_it_names_segment_and_position() {
    let (dir, ends) = log();
    let mut bytes = fs::read(file(&dir, 4)).expect("there");
    bytes[503_712] ^= 1;
    fs::write(file(&dir, 4), &bytes).expect("writable");
    let error = read(&dir).expect_err("damaged").to_string();
    let at = ends.iter().rev().find(|end| **end <= Lsn(0x40_0000 + 503_712)).expect("before");
    assert!(
        error.contains("000000010000000000000004") && error.contains(&at.to_string()),
        "{error}"
    );
    // The same at the very end is how logs end.
    fs::remove_file(file(&dir, 5)).expect("there");
    bytes.truncate(505_000);
    fs::write(file(&dir, 4), &bytes).expect("writable");
    assert_eq!(read(&dir).expect("an end").1, *at);
}

#[test]
fn a_missing_segment_is_named() {
    let (dir, _) = log();
    fs::remove_file(file(&dir, 4)).expect("there");
    let error = read(&dir).expect_err("a gap").to_string();
    assert!(error.contains("000000010000000000000004 is missing"), "{error}");
}

#[test]
fn a_new_timeline_is_followed_along_its_history_and_refused_without() {
    let (dir, ends) = log();
    // The second timeline begins within the second segment and holds it from its beginning.
    let switch = ends[1200];
    let mut begun = fs::read(file(&dir, 4)).expect("there");
    let after = (switch.0 % u64::from(SIZE)) as usize;
    let mut builder = SegmentBuilder::new(Timeline(2), 77, SIZE, switch);
    let draft = Draft { rmid: rm::XLOG, info: xlog::NOOP, ..Draft::default() };
    builder.push(&draft.encode(ends[1199]).expect("short"));
    let segment = builder.finish().remove(0);
    begun[after..].copy_from_slice(&segment.bytes[after..]);
    let name = segment_name(Timeline(2), 4, SIZE);
    fs::write(dir.path().join(name), begun).expect("writable");
    let error = read(&dir).expect_err("no history").to_string();
    assert!(error.contains("00000002.history") && error.contains("timeline 2"), "{error}");
    let history = format!("1\t{switch}\tno recovery target specified\n");
    fs::write(dir.path().join("00000002.history"), history).expect("writable");
    let directory = WalDirectory::open(dir.path()).expect("sound");
    assert_eq!(directory.file_of(switch), dir.path().join(segment_name(Timeline(2), 4, SIZE)));
    assert_eq!(directory.file_of(START), file(&dir, 3));
    // Segments of the old timeline beyond the switch do not count.
    let (count, position, _) = read_all(&directory).expect("sound");
    assert_eq!((count, position > switch), (1202, true));
}

#[test]
fn a_directory_without_segments_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = read(&dir).expect_err("nothing there").to_string();
    assert!(error.contains("no WAL segments"), "{error}");
    fs::write(dir.path().join("000000010000000000000001"), [7; 100]).expect("writable");
    let error = read(&dir).expect_err("garbage").to_string();
    assert!(error.contains("000000010000000000000001 is not a WAL segment"), "{error}");
}
