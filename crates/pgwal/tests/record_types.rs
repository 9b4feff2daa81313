//! The list of record types is PostgreSQL's: `pg_waldump` counts a record of every manager with every
//! type that fits, and names those that it knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use pgwal::layout::op;
use pgwal::layout::segment_name;
use pgwal::{Draft, SegmentBuilder};
use types::{Lsn, Timeline};

const SEGMENT: u32 = 1 << 20;

#[test]
fn record_types_and_their_names_are_those_of_postgres() {
    let bin = std::env::var("PGWAL_TEST_BIN").unwrap_or("/usr/lib/postgresql/15/bin".to_owned());
    let waldump = Path::new(&bin).join("pg_waldump");
    if !waldump.exists() {
        eprintln!("skipped: no PostgreSQL 15 in {bin}");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let name = segment_name(Timeline(1), 3, SEGMENT);
    fs::write(dir.path().join(&name), segment_of_all_types()).expect("writable");
    let output = Command::new(waldump)
        .args(["--stats=record", "-p"])
        .arg(dir.path())
        .arg(&name)
        .output()
        .expect("pg_waldump can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    let theirs: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| word.contains('/') && !word.contains("UNKNOWN"))
        // A flag beside the type makes it another name of the same type.
        .map(|word| word.trim_end_matches("+INIT").to_owned())
        .collect();
    let ours: BTreeSet<String> = op::kinds()
        .map(|(rmid, kind)| format!("{}/{}", op::name(rmid), op::kind_name(rmid, kind)))
        .collect();
    assert!(text.contains("UNKNOWN"), "types that nobody has are named so: {text}");
    assert_eq!(ours, theirs);
}

/// One record of every manager and every value of the upper bits of `info`, XLOG_SWITCH last: what
/// follows it in a segment is not read.
fn segment_of_all_types() -> Vec<u8> {
    let switch = (op::rm::XLOG, op::xlog::SWITCH);
    let all = (0..op::NAMES.len() as u8).flat_map(|rmid| (0..16u8).map(move |op| (rmid, op << 4)));
    let mut builder = SegmentBuilder::new(Timeline(1), 1, SEGMENT, Lsn(0x30_0028));
    let mut prev = Lsn::ZERO;
    for (rmid, info) in all.filter(|kind| *kind != switch).chain([switch]) {
        let main = if (rmid, info) == switch { Bytes::new() } else { Bytes::from(vec![0; 256]) };
        let draft = Draft { rmid, info, main, ..Draft::default() };
        prev = builder.push(&draft.encode(prev).expect("short")).start;
    }
    builder.finish().remove(0).bytes
}
