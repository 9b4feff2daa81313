//! Effects of records that make, move or remove files: relations, databases, tablespaces, relation
//! maps, and the progress of replication origins.

use types::Lsn;

use super::{CatalogChange, Effects, Truncated};
use crate::cursor::Cursor;
use crate::keys::{Fork, Rel};
use crate::layout::op::{
    dbase as dbase_op, replorigin as origin_op, smgr as smgr_op, smgr_flags, tblspc as tblspc_op,
};
use crate::record::{Record, Source};

/// Size of `pg_filenode.map` (`RelMapFile`).
pub const RELMAP_SIZE: usize = 512;

pub(super) fn rel(main: &mut Cursor<'_, impl Source>) -> Option<Rel> {
    Some(Rel { tablespace: main.u32()?, database: main.u32()?, relation: main.u32()? })
}

pub(super) fn smgr(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    if op == smgr_op::CREATE {
        let rel = rel(&mut main)?;
        let fork = Fork::from_number(u8::try_from(main.u32()?).ok()?)?;
        effects.catalog.push(CatalogChange::Created(rel, fork));
        return Some(());
    }
    let blocks = main.u32()?;
    let rel = rel(&mut main)?;
    let flags = main.u32()?;
    if blocks == u32::MAX || flags & !(smgr_flags::HEAP | smgr_flags::VM | smgr_flags::FSM) != 0 {
        return None;
    }
    effects.catalog.push(CatalogChange::Truncated(Truncated {
        rel,
        blocks,
        heap: flags & smgr_flags::HEAP != 0,
        vm: flags & smgr_flags::VM != 0,
        fsm: flags & smgr_flags::FSM != 0,
    }));
    Some(())
}

pub(super) fn dbase(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    let database = main.u32()?;
    match op {
        dbase_op::CREATE_FILE_COPY => {
            let tablespace = main.u32()?;
            let (from_database, from_tablespace) = (main.u32()?, main.u32()?);
            effects.catalog.push(CatalogChange::DatabaseCopied {
                tablespace,
                database,
                from_tablespace,
                from_database,
            });
        }
        dbase_op::CREATE_WAL_LOG => {
            let tablespace = main.u32()?;
            effects.catalog.push(CatalogChange::DatabaseCreated { tablespace, database });
        }
        _ => {
            let count = main.u32()?;
            for tablespace in main.words(count)? {
                effects.catalog.push(CatalogChange::DatabaseDropped { tablespace, database });
            }
        }
    }
    Some(())
}

pub(super) fn tblspc(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    let tablespace = main.u32()?;
    effects.catalog.push(if op == tblspc_op::CREATE {
        CatalogChange::TablespaceCreated { tablespace, path: main.c_string()?.into_shared() }
    } else {
        CatalogChange::TablespaceDropped(tablespace)
    });
    Some(())
}

/// Database, tablespace, size, then the file with its checksum already in it.
pub(super) fn relmap(record: &Record<impl Source>, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    let (database, tablespace, size) = (main.u32()?, main.u32()?, main.u32()?);
    if size as usize != RELMAP_SIZE {
        return None;
    }
    let file = main.take(RELMAP_SIZE)?.into_shared();
    effects.catalog.push(CatalogChange::RelMap { tablespace, database, file });
    Some(())
}

pub(super) fn replorigin(
    record: &Record<impl Source>,
    op: u8,
    effects: &mut Effects,
) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    effects.catalog.push(if op == origin_op::SET {
        let remote = Some(Lsn(main.u64()?));
        let node = main.u16()?;
        CatalogChange::Origin { node, remote, backwards: main.u8()? != 0 }
    } else {
        CatalogChange::Origin { node: main.u16()?, remote: None, backwards: false }
    });
    Some(())
}
