//! Lays out a data directory from the catalog: everything PostgreSQL expects to find, with relation
//! files that have their sizes and none of their blocks.
//!
//! - D7: the directory is a cache. It is removed and laid out afresh at every open, except when the
//!   daemon re-attaches to a living server. A crash at any point leaves nothing that matters.
//! - D8: tablespaces lie below the instance's directory, wherever they were created: a volume must
//!   open on any host.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use pgwal::keys::{Fork, Rel, Slru};
use seam::name::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE, TABLESPACE_DIRECTORY};
use seam::{BLOCKS_PER_SEGMENT, SegmentName};

use crate::catalog::{BLOCK_BYTES, Catalog, file};
use crate::directories;

/// Directories of every data directory.
const DIRECTORIES: &[&str] = &[
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
];

/// Pages of an SLRU segment file.
const SLRU_SEGMENT_PAGES: u32 = 32;

/// A data directory being laid out.
#[derive(Debug)]
pub struct Skeleton {
    instance: PathBuf,
    pgdata: PathBuf,
}

/// What the parts that are not in the catalog mirror contain.
#[derive(Debug)]
pub struct Contents {
    /// `global/pg_control`.
    pub control: Vec<u8>,
    /// Name and content of WAL segment files.
    pub wal: Vec<(String, Vec<u8>)>,
    /// Name and content of timeline history files.
    pub histories: Vec<(String, String)>,
    /// `postgresql.conf`.
    pub configuration: String,
    /// `postgresql.auto.conf`.
    pub auto_configuration: String,
    /// `pg_hba.conf`.
    pub authentication: String,
}

impl Skeleton {
    /// Moves what is left of an earlier directory aside and makes an empty one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn begin(instance: &Path) -> anyhow::Result<Skeleton> {
        let pgdata = instance.join("pgdata");
        directories::move_aside(instance, &["pgdata", "tablespaces"])?;
        directories::make_afresh(instance, "tablespaces")?;
        directories::make_afresh(instance, "pgdata")?;
        for name in DIRECTORIES {
            make_directory(&pgdata.join(name))?;
        }
        Ok(Skeleton { instance: instance.to_owned(), pgdata })
    }

    /// A directory that was begun before, in the same life of this process.
    #[must_use]
    pub fn resume(instance: &Path) -> Skeleton {
        Skeleton { instance: instance.to_owned(), pgdata: instance.join("pgdata") }
    }

    /// The data directory.
    #[must_use]
    pub fn pgdata(&self) -> &Path {
        &self.pgdata
    }

    /// Puts one SLRU page into its file. Pages may come in any order; those that never come are
    /// zero where a later one makes the file reach over them.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn slru_page(&self, slru: Slru, page: u32, content: &[u8]) -> anyhow::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let name = format!("{:04X}", page / SLRU_SEGMENT_PAGES);
        let path = self.pgdata.join(slru.directory()).join(name);
        let offset = u64::from(page % SLRU_SEGMENT_PAGES) * BLOCK_BYTES;
        open_for_writing(&path)
            .and_then(|file| file.write_all_at(content, offset))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Lays out everything else. `relation` makes one relation file of so many blocks (sparse, with
    /// its presence map).
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(
        &self,
        catalog: &Catalog,
        contents: &Contents,
        relation: &mut dyn FnMut(&Path, &SegmentName, u32) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for oid in catalog.tablespaces().keys() {
            self.tablespace(*oid)?;
        }
        for ((tablespace, database), version) in catalog.databases() {
            let directory = self.database(*tablespace, *database);
            make_directory(&directory)?;
            if *tablespace != GLOBAL_TABLESPACE {
                write_file(&directory.join("PG_VERSION"), version)?;
            }
        }
        for ((tablespace, database), map) in catalog.maps() {
            let directory = self.database(*tablespace, *database);
            make_directory(&directory)?;
            write_file(&directory.join("pg_filenode.map"), map)?;
        }
        let mut place = None;
        for (rel, fork, blocks) in catalog.forks() {
            if place != Some((rel.tablespace, rel.database)) {
                place = Some((rel.tablespace, rel.database));
                self.place(rel)?;
            }
            self.fork(rel, fork, blocks, relation)?;
        }
        for (xid, state) in catalog.prepared() {
            write_file(&self.pgdata.join("pg_twophase").join(format!("{xid:08X}")), state)?;
        }
        let version =
            catalog.file(file::PG_VERSION).cloned().unwrap_or(Bytes::from_static(b"15\n"));
        self.write("PG_VERSION", &version)?;
        self.write("global/pg_control", &contents.control)?;
        for (name, content) in &contents.wal {
            self.write(&format!("pg_wal/{name}"), content)?;
        }
        for (name, content) in &contents.histories {
            self.write(&format!("pg_wal/{name}"), content.as_bytes())?;
        }
        self.write("postgresql.conf", contents.configuration.as_bytes())?;
        self.write("postgresql.auto.conf", contents.auto_configuration.as_bytes())?;
        self.write("pg_hba.conf", contents.authentication.as_bytes())?;
        self.write("pg_ident.conf", b"")?;
        self.write("recovery.signal", b"")
    }

    fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        write_file(&self.pgdata.join(name), content)
    }

    /// Directory of one database in one tablespace.
    fn database(&self, tablespace: u32, database: u32) -> PathBuf {
        match tablespace {
            GLOBAL_TABLESPACE => self.pgdata.join("global"),
            DEFAULT_TABLESPACE => self.pgdata.join("base").join(database.to_string()),
            oid => self.location(oid).join(TABLESPACE_DIRECTORY).join(database.to_string()),
        }
    }

    fn location(&self, tablespace: u32) -> PathBuf {
        self.instance.join("tablespaces").join(tablespace.to_string())
    }

    fn tablespace(&self, oid: u32) -> anyhow::Result<()> {
        let location = self.location(oid);
        make_directory(&location.join(TABLESPACE_DIRECTORY))?;
        let link = self.pgdata.join("pg_tblspc").join(oid.to_string());
        if fs::symlink_metadata(&link).is_ok() {
            return Ok(());
        }
        symlink(&location, &link).with_context(|| format!("cannot link {}", link.display()))
    }

    /// Makes the directory that a relation's files lie in.
    fn place(&self, rel: Rel) -> anyhow::Result<()> {
        if !matches!(rel.tablespace, GLOBAL_TABLESPACE | DEFAULT_TABLESPACE) {
            self.tablespace(rel.tablespace)?;
        }
        make_directory(&self.database(rel.tablespace, rel.database))
    }

    fn fork(
        &self,
        rel: Rel,
        fork: Fork,
        blocks: u32,
        relation: &mut dyn FnMut(&Path, &SegmentName, u32) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        // A fork whose length is a multiple of the file size ends in an empty file only when it is
        // empty altogether, as PostgreSQL leaves it.
        let files = blocks.div_ceil(BLOCKS_PER_SEGMENT).max(1);
        for segment in 0..files {
            let name = SegmentName {
                tablespace: rel.tablespace,
                database: rel.database,
                relation: rel.relation,
                fork: fork as u32,
                segment,
            };
            let here = (blocks - segment * BLOCKS_PER_SEGMENT).min(BLOCKS_PER_SEGMENT);
            let path = self.pgdata.join(name.data_path().as_str());
            relation(&path, &name, here)
                .with_context(|| format!("cannot lay out {}", path.display()))?;
        }
        Ok(())
    }
}

/// Makes a directory and those above it, for the owner only.
///
/// # Errors
/// When the file system refuses.
pub fn make_directory(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot create the directory {}", path.display()))
}

fn open_for_writing(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Writes a whole file, for the owner only.
///
/// # Errors
/// When the file system refuses.
pub fn write_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    open_for_writing(path)
        .and_then(|mut file| file.set_len(0).and_then(|()| file.write_all(content)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a relation file of so many blocks without giving it any.
///
/// # Errors
/// When the file system refuses.
pub fn sparse_file(path: &Path, blocks: u32) -> io::Result<()> {
    open_for_writing(path)?.set_len(u64::from(blocks) * BLOCK_BYTES)
}
