//! `sixfold verify-redo` as its users see it: tables, page diffs, exit status. The log is made here;
//! that redo agrees with PostgreSQL's own log is tested in the crate `verify`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bytes::Bytes;
use pgwal::keys::{Fork, Rel};
use pgwal::layout::op::{generic, rm, xlog};
use pgwal::layout::segment_name;
use pgwal::record::{BlockImage, BlockRef};
use pgwal::{Draft, SegmentBuilder};
use types::{Lsn, Timeline};

const SEGMENT: u32 = 1 << 20;
type Page = [u8; 8192];

/// A page with a header and no items, and a byte of content before `pd_lower`.
fn page(content: u8) -> Page {
    let mut page = [0; 8192];
    page[12..14].copy_from_slice(&100u16.to_le_bytes());
    page[14..20].copy_from_slice(&[0, 0x20, 0, 0x20, 4, 0x20]);
    page[40] = content;
    page
}

fn block(block: u32, image: Option<BlockImage>, data: &[u8]) -> BlockRef {
    let rel = Rel { tablespace: 1663, database: 5, relation: 16384 };
    let data = Bytes::copy_from_slice(data);
    BlockRef { id: 0, rel, fork: Fork::Main, block, will_init: false, image, data }
}

/// An image of block 0, then records that set its byte to 1, 2, 3, with these images to compare; and
/// one for a block that the log never shows before.
fn log(dir: &Path, shown: [u8; 3]) {
    let mut builder = SegmentBuilder::new(Timeline(1), 9, SEGMENT, Lsn(0x10_0028));
    let mut prev = Lsn::ZERO;
    let mut push = |draft: Draft| prev = builder.push(&draft.encode(prev).expect("short")).start;
    let image = BlockImage::of_page(&page(0), true, true);
    let blocks = vec![block(0, Some(image), &[])];
    push(Draft { rmid: rm::XLOG, info: xlog::FPI, blocks, ..Draft::default() });
    for (number, shown) in (1..).zip(shown) {
        let image = BlockImage::of_page(&page(shown), true, false);
        let blocks = vec![block(0, Some(image), &[40, 0, 1, 0, number])];
        push(Draft { rmid: rm::GENERIC, info: generic::DELTA, blocks, ..Draft::default() });
    }
    let image = BlockImage::of_page(&page(7), true, false);
    let blocks = vec![block(1, Some(image), &[40, 0, 1, 0, 7])];
    push(Draft { rmid: rm::GENERIC, info: generic::DELTA, blocks, ..Draft::default() });
    for segment in builder.finish() {
        let name = segment_name(Timeline(1), segment.start.0 / u64::from(SEGMENT), SEGMENT);
        fs::write(dir.join(name), segment.bytes).expect("writable");
    }
}

fn sixfold(arguments: &[&str], dir: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sixfold"));
    let Output { status, stdout, stderr } =
        command.args(arguments).arg("--wal").arg(dir).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn equal_pages_are_counted_by_record_type_and_the_status_is_zero() {
    let dir = tempfile::tempdir().expect("a directory");
    log(dir.path(), [1, 2, 3]);
    let (status, out, err) = sixfold(&["verify-redo"], dir.path());
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    let line = |name: &str| -> Vec<String> {
        let line = out.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().map(str::to_owned).collect()
    };
    // seen, pages, compared, different, restored, confirmed, not known, other
    assert_eq!(line("XLOG/FPI ")[1..], ["1", "1", "-", "-", "1", "1", "-", "-"]);
    assert_eq!(line("Generic/Generic")[1..], ["4", "4", "3", "-", "-", "-", "1", "-"]);
    assert!(out.contains("1 pages were not known"), "{out}");
}

#[test]
fn a_difference_is_told_by_record_and_page_and_the_status_is_one() {
    let dir = tempfile::tempdir().expect("a directory");
    log(dir.path(), [1, 9, 3]);
    let (status, out, _) = sixfold(&["verify-redo"], dir.path());
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("Generic/Generic, 1663/5/16384 block 0 (block reference 0):"), "{out}");
    assert!(out.contains("content offset 16..17: 02 instead of 09"), "{out}");
    // Replay goes on from PostgreSQL's page: one mistake is told once.
    assert!(
        out.contains("3 pages and the counters of 0 checkpoints compared, 1 findings"),
        "{out}"
    );

    let (status, out, _) = sixfold(&["verify-redo", "--json"], dir.path());
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(status, Some(1));
    assert_eq!((&json["compared"], &json["different"]), (&3.into(), &1.into()), "{out}");
    let line = json["types"].as_array().expect("a list").iter().find(|t| t["type"] == "Generic");
    assert_eq!(line.expect("there")["seen"], 4);
    assert_eq!(json["findings"][0]["differences"][0], "content offset 16..17: 02 instead of 09");
}

#[test]
fn what_cannot_be_compared_says_why_and_the_status_is_two() {
    let dir = tempfile::tempdir().expect("a directory");
    let (status, _, err) = sixfold(&["verify-redo"], dir.path());
    assert!(status == Some(2) && err.contains("no WAL segments"), "{err}");
    log(dir.path(), [1, 2, 3]);
    let from = dir.path().join("nowhere");
    let from = from.to_str().expect("text");
    let (status, _, err) = sixfold(&["verify-redo", "--from", from], dir.path());
    assert!(status == Some(2) && err.contains("nowhere/global/pg_control"), "{err}");
    // A record of an extension's manager: its name and place, and nothing is skipped.
    let name = dir.path().join(segment_name(Timeline(1), 1, SEGMENT));
    let mut builder = SegmentBuilder::new(Timeline(1), 9, SEGMENT, Lsn(0x10_0028));
    let draft = Draft { rmid: 200, main: Bytes::from_static(b"x"), ..Draft::default() };
    builder.push(&draft.encode(Lsn::ZERO).expect("short"));
    fs::write(&name, &builder.finish()[0].bytes).expect("writable");
    let (status, _, err) = sixfold(&["verify-redo"], dir.path());
    assert!(status == Some(2) && err.contains("resource manager 200"), "{err}");
    assert!(err.contains("000000010000000000000001 at 0/100028"), "{err}");
    // What was found before the log could not be read on is told all the same.
    log(dir.path(), [1, 9, 3]);
    let broken = fs::read(&name).expect("there");
    let cut = broken.windows(4).rposition(|four| four != [0; 4]).expect("records") - 8;
    let mut broken = [&broken[..cut], &[0xff; 4], &broken[cut + 4..]].concat();
    let next = dir.path().join(segment_name(Timeline(1), 2, SEGMENT));
    fs::write(&name, &broken).expect("writable");
    broken[8..16].copy_from_slice(&0x20_0000u64.to_le_bytes());
    fs::write(&next, &broken).expect("writable");
    let (status, out, err) = sixfold(&["verify-redo", "--json"], dir.path());
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((status, &json["complete"]), (Some(1), &false.into()), "{out}");
    assert!(err.contains("WAL goes on after it"), "{err}");
    assert_eq!(json["findings_total"], 1);
    fs::remove_file(&next).expect("there");
    // Nothing to compare is no success.
    let mut builder = SegmentBuilder::new(Timeline(1), 9, SEGMENT, Lsn(0x10_0028));
    let draft = Draft { rmid: rm::XLOG, info: xlog::NOOP, ..Draft::default() };
    builder.push(&draft.encode(Lsn::ZERO).expect("short"));
    fs::write(&name, &builder.finish()[0].bytes).expect("writable");
    let (status, _, err) = sixfold(&["verify-redo"], dir.path());
    assert!(status == Some(2) && err.contains("wal_consistency_checking"), "{err}");
}
