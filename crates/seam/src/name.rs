//! Which file a path below the data directory means: WAL segment, relation segment, one of a few
//! others that the driver must know of, or none of these.
//!
//! The layout is PostgreSQL's (`common/relpath.h`, `access/xlog_internal.h`). Temporary relations
//! (`t3_16384`) are neither: they live and die on the host.

use crate::PathText;

/// Tablespace oid of `base/`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// Tablespace oid of `global/`.
pub const GLOBAL_TABLESPACE: u32 = 1664;
/// Directory of a tablespace's files below `pg_tblspc/<oid>/` (PostgreSQL 15's catalog version).
pub const TABLESPACE_DIRECTORY: &str = "PG_15_202209061";

const FORK_SUFFIXES: [&[u8]; 4] = [b"", b"_fsm", b"_vm", b"_init"];

/// One file of one fork of a relation: at most 1 GiB. `fork` is PostgreSQL's number: main 0,
/// free space map 1, visibility map 2, init 3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SegmentName {
    /// Tablespace oid.
    pub tablespace: u32,
    /// Database oid, zero in `global`.
    pub database: u32,
    /// Relation file number.
    pub relation: u32,
    /// Fork number.
    pub fork: u32,
    /// Number of the 1 GiB file.
    pub segment: u32,
}

/// What a path means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// `pg_wal/<timeline><number>`.
    Wal {
        /// Timeline.
        timeline: u32,
        /// The name's middle eight digits.
        high: u32,
        /// The name's last eight digits.
        low: u32,
    },
    /// A relation segment file with a presence map.
    Relation(SegmentName),
    /// The server's lock file, whose creation is the start of a server (rule R3).
    LockFile,
    /// The file that will replace `postgresql.auto.conf`.
    Settings,
    /// The directory of a database in a tablespace.
    Database {
        /// Tablespace oid.
        tablespace: u32,
        /// Database oid.
        database: u32,
    },
    /// Anything else.
    Other,
}

/// Says what a path relative to the data directory means.
#[must_use]
pub fn classify(path: &[u8]) -> FileKind {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    if path == b"postmaster.pid" {
        return FileKind::LockFile;
    }
    if path == b"postgresql.auto.conf.tmp" {
        return FileKind::Settings;
    }
    let mut parts = path.split(|byte| *byte == b'/');
    let kind = match parts.next() {
        Some(b"pg_wal") => parts.next().and_then(wal_segment),
        Some(b"global") => parts.next().and_then(|file| relation(GLOBAL_TABLESPACE, 0, file)),
        Some(b"base") => {
            let database = parts.next().and_then(number);
            let file = parts.next();
            database.and_then(|oid| below_database(DEFAULT_TABLESPACE, oid, file))
        }
        Some(b"pg_tblspc") => {
            let tablespace = parts.next().and_then(number);
            let version = parts.next().filter(|part| part.starts_with(b"PG_"));
            let database = parts.next().and_then(number);
            let file = parts.next();
            match (tablespace, version, database) {
                (Some(tablespace), Some(_), Some(database)) => {
                    below_database(tablespace, database, file)
                }
                _ => None,
            }
        }
        _ => None,
    };
    // A deeper path is a file inside a directory that only looks like one of ours.
    if parts.next().is_some() { FileKind::Other } else { kind.unwrap_or(FileKind::Other) }
}

/// A decimal number as PostgreSQL writes oids: no sign, no leading zero.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || (text.len() > 1 && text.first() == Some(&b'0')) {
        return None;
    }
    text.iter().try_fold(0u32, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

fn hexadecimal(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0u32, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        Some(value << 4 | u32::from(digit))
    })
}

fn wal_segment(file: &[u8]) -> Option<FileKind> {
    if file.len() != 24 {
        return None;
    }
    let (timeline, rest) = file.split_at_checked(8)?;
    let (high, low) = rest.split_at_checked(8)?;
    Some(FileKind::Wal {
        timeline: hexadecimal(timeline)?,
        high: hexadecimal(high)?,
        low: hexadecimal(low)?,
    })
}

/// A database's directory, or a file in it.
fn below_database(tablespace: u32, database: u32, file: Option<&[u8]>) -> Option<FileKind> {
    match file {
        None | Some([]) => Some(FileKind::Database { tablespace, database }),
        Some(file) => relation(tablespace, database, file),
    }
}

fn relation(tablespace: u32, database: u32, file: &[u8]) -> Option<FileKind> {
    let mut halves = file.splitn(2, |byte| *byte == b'.');
    let stem = halves.next()?;
    let segment = match halves.next() {
        Some(text) => number(text).filter(|segment| *segment > 0)?,
        None => 0,
    };
    let (relation, fork) = match stem.iter().position(|byte| *byte == b'_') {
        Some(at) => {
            let (relation, suffix) = stem.split_at_checked(at)?;
            (
                relation,
                (1..4u32).zip(FORK_SUFFIXES.iter().skip(1)).find(|(_, name)| **name == suffix)?.0,
            )
        }
        None => (stem, 0),
    };
    let relation = number(relation).filter(|oid| *oid > 0)?;
    Some(FileKind::Relation(SegmentName { tablespace, database, relation, fork, segment }))
}

impl SegmentName {
    /// The file's path relative to the data directory.
    #[must_use]
    pub fn data_path(&self) -> PathText {
        let mut path = PathText::new();
        match self.tablespace {
            GLOBAL_TABLESPACE => path.push(b"global/"),
            DEFAULT_TABLESPACE => {
                path.push(b"base/").push_number(u64::from(self.database)).push(b"/")
            }
            tablespace => path
                .push(b"pg_tblspc/")
                .push_number(u64::from(tablespace))
                .push(b"/")
                .push(TABLESPACE_DIRECTORY.as_bytes())
                .push(b"/")
                .push_number(u64::from(self.database))
                .push(b"/"),
        };
        path.push_number(u64::from(self.relation));
        path.push(FORK_SUFFIXES.get(self.fork as usize).copied().unwrap_or(b"_unknown"));
        if self.segment > 0 {
            path.push(b".").push_number(u64::from(self.segment));
        }
        path
    }

    /// The presence map's file name: the five numbers with dots.
    #[must_use]
    pub fn map_name(&self) -> PathText {
        let mut name = PathText::new();
        let numbers = [self.tablespace, self.database, self.relation, self.fork, self.segment];
        for (index, number) in numbers.into_iter().enumerate() {
            if index > 0 {
                name.push(b".");
            }
            name.push_number(u64::from(number));
        }
        name
    }

    /// The segment that a presence map's file name means.
    #[must_use]
    pub fn from_map_name(name: &[u8]) -> Option<SegmentName> {
        let mut numbers = name.split(|byte| *byte == b'.').map(number);
        let mut next = || numbers.next().flatten();
        let parsed = SegmentName {
            tablespace: next()?,
            database: next()?,
            relation: next()?,
            fork: next().filter(|fork| *fork < 4)?,
            segment: next()?,
        };
        numbers.next().is_none().then_some(parsed)
    }

    /// Number in the whole fork of this file's first block.
    #[must_use]
    pub fn first_block(&self) -> u32 {
        self.segment.wrapping_mul(crate::BLOCKS_PER_SEGMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rel(tablespace: u32, database: u32, relation: u32, fork: u32, segment: u32) -> FileKind {
        FileKind::Relation(SegmentName { tablespace, database, relation, fork, segment })
    }

    #[test]
    fn relation_paths_are_told_from_their_neighbours() {
        for (path, kind) in [
            ("base/5/16384", rel(1663, 5, 16384, 0, 0)),
            ("./base/5/16384.12", rel(1663, 5, 16384, 0, 12)),
            ("base/5/16384_vm", rel(1663, 5, 16384, 2, 0)),
            ("base/5/16384_init", rel(1663, 5, 16384, 3, 0)),
            ("global/1262_fsm", rel(1664, 0, 1262, 1, 0)),
            ("pg_tblspc/16400/PG_15_202209061/5/16401_fsm.1", rel(16400, 5, 16401, 1, 1)),
        ] {
            assert_eq!(classify(path.as_bytes()), kind, "{path}");
            if let FileKind::Relation(name) = kind {
                assert_eq!(name.data_path().as_bytes(), path.trim_start_matches("./").as_bytes());
                assert_eq!(SegmentName::from_map_name(name.map_name().as_bytes()), Some(name));
            }
        }
        for other in [
            "base/5/t3_16384",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/16384.0",
            "base/5/16384_bad",
            "base/5/16384/x",
            "global/pg_control",
            "pg_xact/0000",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "base/5/4294967296",
            "pg_wal/xlogtemp.12",
            "pg_wal/00000002.history",
            "pg_wal/archive_status/000000010000000000000001.done",
            "",
            "base/5/016384",
            "pg_wal/00000001000000000000000a",
        ] {
            assert_eq!(classify(other.as_bytes()), FileKind::Other, "{other}");
        }
    }

    #[test]
    fn directories_of_databases_and_the_settings_to_be_are_known() {
        let database = |tablespace| FileKind::Database { tablespace, database: 5 };
        assert_eq!(classify(b"base/5"), database(1663));
        assert_eq!(classify(b"base/5/"), database(1663));
        assert_eq!(classify(b"pg_tblspc/16400/PG_15_202209061/5"), database(16400));
        assert_eq!(classify(b"postgresql.auto.conf.tmp"), FileKind::Settings);
        for other in ["base", "base/pgsql_tmp", "pg_tblspc/16400", "postgresql.auto.conf"] {
            assert_eq!(classify(other.as_bytes()), FileKind::Other, "{other}");
        }
    }

    #[test]
    fn wal_names_give_timeline_and_number() {
        assert_eq!(
            classify(b"pg_wal/0000000A00000002000000FF"),
            FileKind::Wal { timeline: 10, high: 2, low: 255 }
        );
    }
}
