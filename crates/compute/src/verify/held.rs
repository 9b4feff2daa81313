//! The writer's own files, as they are: what exists, how long it is, and the blocks that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use pgwal::ControlFile;
use pgwal::keys::{Fork, Key, Rel, Slru};
use redo::State;
use seam::name::{DEFAULT_TABLESPACE, FileKind, GLOBAL_TABLESPACE, classify};
use seam::{BLOCK_BYTES, BLOCKS_PER_SEGMENT, Instance, Map, SegmentName};

use crate::cache::fork_of;
use crate::cache::local::BLOCK;
use crate::catalog::file;
use crate::verify::judge::Page;

/// Pages of an SLRU segment file.
const SLRU_SEGMENT_PAGES: u32 = 32;
/// How often a block that somebody is writing is looked at again, and the pause between.
const LOOKS: u32 = 200;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What there is, by kind.
#[derive(Debug, Default)]
pub struct Listing {
    /// Length of each fork of a permanent or unlogged relation, in blocks.
    pub forks: BTreeMap<(Rel, Fork), u32>,
    /// Relations with an init fork: of these only that fork is logged.
    pub unlogged: BTreeSet<Rel>,
    /// Files of temporary relations.
    pub temporary_files: u64,
    /// Small things, as the catalog would have them: databases, tablespaces, relation maps, prepared
    /// transactions, settings, SLRU pages that are not all zeros.
    pub entries: BTreeMap<Key, Vec<u8>>,
    /// Databases' directories in tablespaces, which PostgreSQL makes when it needs them and does not
    /// log: storage need not know them.
    pub on_demand: BTreeSet<Key>,
}

/// A block as it is locally.
#[derive(Debug)]
pub enum Held {
    /// Not in the cache.
    Absent,
    /// The file ends before it.
    Beyond,
    /// Somebody has been writing it all the time.
    Busy,
    /// Its bytes.
    Page(Box<Page>),
}

/// One instance's files.
#[derive(Debug)]
pub struct Files {
    instance: Instance,
    pgdata: PathBuf,
}

impl Files {
    /// The files of the instance whose data directory this is.
    ///
    /// # Errors
    /// When it is not here.
    pub fn new(pgdata: &Path) -> anyhow::Result<Files> {
        let directory = pgdata.parent().context("a data directory lies in its instance's")?;
        let shown = pgdata.display();
        anyhow::ensure!(
            pgdata.join("PG_VERSION").is_file(),
            "the writer's files are not in {shown}; run this on its host, as its user or root"
        );
        let instance = Instance::new(directory.as_os_str().as_encoded_bytes(), None)
            .with_context(|| format!("the path {shown} is too long"))?;
        Ok(Files { instance, pgdata: pgdata.to_owned() })
    }

    /// Everything there is.
    ///
    /// # Errors
    /// When a directory or a file cannot be read.
    pub fn list(&self) -> anyhow::Result<Listing> {
        let mut found = Listing::default();
        self.database(&mut found, "global", (GLOBAL_TABLESPACE, 0))?;
        for name in self.names("base")? {
            if let Ok(database) = name.parse() {
                self.database(&mut found, &format!("base/{name}"), (DEFAULT_TABLESPACE, database))?;
            }
        }
        for name in self.names("pg_tblspc")? {
            let Ok(tablespace) = name.parse() else { continue };
            found.entries.insert(Key::Tablespace(tablespace), Vec::new());
            let place = format!("pg_tblspc/{name}/{}", seam::name::TABLESPACE_DIRECTORY);
            for name in self.names(&place)? {
                let Ok(database) = name.parse() else { continue };
                found.on_demand.insert(Key::Database { tablespace, database });
                self.database(&mut found, &format!("{place}/{name}"), (tablespace, database))?;
            }
        }
        for name in self.names("pg_twophase")? {
            if let Ok(xid) = u32::from_str_radix(&name, 16) {
                self.take(&mut found, Key::TwoPhase(xid), &format!("pg_twophase/{name}"))?;
            }
        }
        for slru in Slru::ALL {
            self.slru(&mut found, slru)?;
        }
        self.take(&mut found, Key::File(file::AUTO_CONF), "postgresql.auto.conf")?;
        Ok(found)
    }

    /// The server's counters and parameters as of its last checkpoint.
    ///
    /// # Errors
    /// When `pg_control` cannot be read, or is damaged however often it is looked at.
    pub fn counters(&self) -> anyhow::Result<State> {
        let path = self.pgdata.join("global/pg_control");
        let cannot = || format!("cannot read {}", path.display());
        let mut looks = 0;
        loop {
            match ControlFile::decode(&fs::read(&path).with_context(cannot)?) {
                Ok(file) => return Ok(State::of_control_file(&file)),
                // It is being written.
                Err(_) if looks < LOOKS => std::thread::sleep(LOOK_AGAIN),
                Err(error) => return Err(error).with_context(cannot),
            }
            looks += 1;
        }
    }

    /// Names in a directory; none when there is none.
    fn names(&self, directory: &str) -> anyhow::Result<Vec<String>> {
        let path = self.pgdata.join(directory);
        let read = || -> io::Result<Vec<String>> {
            let entries = fs::read_dir(&path)?;
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names.with_context(|| format!("cannot list {}", path.display())),
        }
    }

    /// Puts a small file's content into the listing, unless it has gone meanwhile.
    fn take(&self, found: &mut Listing, key: Key, name: &str) -> anyhow::Result<()> {
        let path = self.pgdata.join(name);
        match fs::read(&path) {
            Ok(content) => found.entries.insert(key, content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(())
    }

    fn database(
        &self,
        found: &mut Listing,
        directory: &str,
        (tablespace, database): (u32, u32),
    ) -> anyhow::Result<()> {
        let key = Key::Database { tablespace, database };
        found.entries.insert(key, Vec::new());
        for name in self.names(directory)? {
            let path = format!("{directory}/{name}");
            match (name.as_str(), classify(path.as_bytes())) {
                ("PG_VERSION", _) => self.take(found, key, &path)?,
                ("pg_filenode.map", _) => {
                    self.take(found, Key::RelMap { tablespace, database }, &path)?;
                }
                (_, FileKind::Relation(segment)) => {
                    let metadata = match fs::metadata(self.pgdata.join(&path)) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        metadata => metadata.with_context(|| format!("cannot look at {path}"))?,
                    };
                    let blocks = u32::try_from(metadata.len() / BLOCK_BYTES).unwrap_or(u32::MAX);
                    let (rel, fork) = fork_of(&segment);
                    let length = found.forks.entry((rel, fork)).or_default();
                    *length = length.saturating_add(blocks);
                    if fork == Fork::Init {
                        found.unlogged.insert(rel);
                    }
                }
                // `t3_16384`: of backend 3.
                (name, _) if name.starts_with('t') && name.contains('_') => {
                    found.temporary_files += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn slru(&self, found: &mut Listing, slru: Slru) -> anyhow::Result<()> {
        for name in self.names(slru.directory())? {
            // As PostgreSQL names them: four to six digits.
            let segment = u32::from_str_radix(&name, 16).ok().filter(|_| name.len() <= 6);
            let Some(segment) = segment else { continue };
            let path = self.pgdata.join(slru.directory()).join(&name);
            let content = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // cut off
                content => content.with_context(|| format!("cannot read {}", path.display()))?,
            };
            // A page that ends early stays as short as it is, and differs.
            for (index, page) in (0..).zip(content.chunks(BLOCK)) {
                if page.iter().any(|byte| *byte != 0) {
                    let key = Key::Slru(slru, segment * SLRU_SEGMENT_PAGES + index);
                    found.entries.insert(key, page.to_vec());
                }
            }
        }
        Ok(())
    }

    /// Opens a fork for reading blocks.
    #[must_use]
    pub fn fork(&self, rel: Rel, fork: Fork) -> OpenFork<'_> {
        OpenFork { files: self, rel, fork, open: None }
    }
}

/// A fork whose blocks are read in order.
#[derive(Debug)]
pub struct OpenFork<'a> {
    files: &'a Files,
    rel: Rel,
    fork: Fork,
    open: Option<(u32, Option<File>, Option<Map>)>,
}

impl OpenFork<'_> {
    /// A block as it is: what was read is the block's only if it was present and not being written
    /// before and after.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&mut self, block: u32) -> anyhow::Result<Held> {
        let (segment, within) = (block / BLOCKS_PER_SEGMENT, block % BLOCKS_PER_SEGMENT);
        if self.open.as_ref().is_none_or(|(number, ..)| *number != segment) {
            self.open = Some(self.open_segment(segment)?);
        }
        let Some((_, Some(file), map)) = &self.open else { return Ok(Held::Beyond) };
        let mut page = Box::new([0; BLOCK]);
        for _ in 0..LOOKS {
            let before = map.as_ref().map(|map| map.state(within)).unwrap_or_default();
            if before.is_absent() {
                return Ok(Held::Absent);
            }
            match file.read_exact_at(&mut *page, u64::from(within) * BLOCK_BYTES) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Held::Beyond);
                }
                Err(error) => {
                    let (rel, suffix) = (self.rel, self.fork.suffix());
                    return Err(error)
                        .with_context(|| format!("cannot read block {block} of {rel}{suffix}"));
                }
            }
            let after = map.as_ref().map(|map| map.state(within)).unwrap_or_default();
            if before.held_until(after) && !before.is_claimed() && !after.is_claimed() {
                return Ok(Held::Page(page));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(Held::Busy)
    }

    fn open_segment(&self, segment: u32) -> anyhow::Result<(u32, Option<File>, Option<Map>)> {
        let Rel { tablespace, database, relation } = self.rel;
        let name = SegmentName { tablespace, database, relation, fork: self.fork as u32, segment };
        let path = self.files.pgdata.join(name.data_path().as_str());
        let cannot = || format!("cannot open {} or its presence map", path.display());
        let map = Map::open(&self.files.instance, &name)
            .map_err(io::Error::from_raw_os_error)
            .with_context(cannot)?;
        match File::open(&path) {
            Ok(file) => Ok((segment, Some(file), map)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((segment, None, map)),
            Err(error) => Err(error).with_context(cannot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let pgdata = dir.path().join("pgdata");
        for place in ["global", "base/5", "pg_xact", "pg_tblspc/16400/PG_15_202209061/5"] {
            fs::create_dir_all(pgdata.join(place)).expect("made");
        }
        fs::create_dir_all(dir.path().join("shm/maps")).expect("made");
        for (name, content) in [
            ("PG_VERSION", vec![]),
            ("base/5/PG_VERSION", b"15\n".to_vec()),
            ("base/5/pg_filenode.map", vec![7]),
            ("base/5/16384", vec![1; 2 * BLOCK]),
            ("base/5/16384_vm", vec![0; BLOCK]),
            ("base/5/16390", vec![0; BLOCK]),
            ("base/5/16390_init", vec![0; BLOCK]),
            ("base/5/t3_16399", vec![0; BLOCK]),
            ("pg_xact/0001", [vec![0; BLOCK], vec![3; BLOCK], vec![4; 9]].concat()),
            ("pg_xact/FEDCBA98", vec![5; BLOCK]),
            ("postgresql.auto.conf", b"work_mem = '1MB'\n".to_vec()),
        ] {
            fs::write(pgdata.join(name), content).expect("written");
        }
        (dir, pgdata)
    }

    #[test]
    fn a_listing_tells_kinds_apart_and_leaves_temporary_files_out() {
        let (_dir, pgdata) = instance();
        let found = Files::new(&pgdata).expect("here").list().expect("listed");
        let rel = |relation| Rel { tablespace: 1663, database: 5, relation };
        assert_eq!(found.forks.get(&(rel(16384), Fork::Main)), Some(&2));
        assert_eq!(found.forks.get(&(rel(16384), Fork::Vm)), Some(&1));
        assert_eq!(found.unlogged.into_iter().collect::<Vec<_>>(), [rel(16390)]);
        assert_eq!((found.temporary_files, found.forks.len()), (1, 4));
        let entry = |key| found.entries.get(&key).map(Vec::len);
        assert_eq!(entry(Key::Database { tablespace: 1663, database: 5 }), Some(3));
        assert_eq!(entry(Key::RelMap { tablespace: 1663, database: 5 }), Some(1));
        assert_eq!(entry(Key::Tablespace(16400)), Some(0));
        assert_eq!(entry(Key::Slru(Slru::Xact, 32)), None, "zeros");
        assert_eq!(entry(Key::Slru(Slru::Xact, 33)), Some(BLOCK));
        assert_eq!(entry(Key::Slru(Slru::Xact, 34)), Some(9), "a page that ends early");
        assert_eq!(entry(Key::File(file::AUTO_CONF)), Some(17));
        assert_eq!(found.on_demand.len(), 1);
    }

    #[test]
    fn a_block_is_read_only_where_the_map_says_that_it_is_there() {
        let (dir, pgdata) = instance();
        let files = Files::new(&pgdata).expect("here");
        let rel = Rel { tablespace: 1663, database: 5, relation: 16384 };
        let read = |block| files.fork(rel, Fork::Main).read(block).expect("readable");
        assert!(matches!(read(1), Held::Page(page) if page[0] == 1), "no map: all is there");
        assert!(matches!(read(2), Held::Beyond));
        let instance = Instance::new(dir.path().as_os_str().as_encoded_bytes(), None);
        let name =
            SegmentName { tablespace: 1663, database: 5, relation: 16384, fork: 0, segment: 0 };
        Map::create_absent(&instance.expect("short"), &name, 1).expect("made");
        assert!(matches!(read(0), Held::Absent));
        assert!(matches!(read(1), Held::Page(_)));
    }
}
