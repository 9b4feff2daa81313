//! Effects of transaction records: status pages, dropped relations, two-phase state.

use bytes::{BufMut, Bytes, BytesMut};
use types::Lsn;

use super::catalog::rel;
use super::{CatalogChange, Effects, Xact, XactKind};
use crate::cursor::Cursor;
use crate::keys::Slru;
use crate::layout::op::{xact as op, xact_flags as flag};
use crate::record::{Record, Source};
use crate::slru;

pub(super) fn read(record: &Record<impl Source>, op: u8, effects: &mut Effects) -> Option<()> {
    match op {
        op::COMMIT => end(record, XactKind::Commit, effects),
        op::ABORT => end(record, XactKind::Abort, effects),
        op::COMMIT_PREPARED => end(record, XactKind::CommitPrepared, effects),
        op::ABORT_PREPARED => end(record, XactKind::AbortPrepared, effects),
        op::PREPARE => prepare(record, effects),
        op::ASSIGNMENT => {
            let mut main = Cursor::new(&record.main);
            effects.saw_xid(main.u32()?);
            let count = main.u32()?;
            let subxacts = main.words(count)?;
            effects.saw_xids(&subxacts);
            Some(())
        }
        // INVALIDATIONS are for logical decoding.
        _ => Some(()),
    }
}

/// Time, then what `xinfo` says, in this order: database, subtransactions, relations, statistics,
/// invalidations (commit only), prepared transaction, its name, origin.
fn end(record: &Record<impl Source>, kind: XactKind, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    let time = main.i64()?;
    let xinfo = if record.info & flag::HAS_INFO != 0 { main.u32()? } else { 0 };
    let has = |flag: u32| xinfo & flag != 0;
    if has(flag::HAS_DBINFO) {
        main.skip(8)?;
    }
    let mut subxacts = Vec::new();
    if has(flag::HAS_SUBXACTS) {
        let count = main.u32()?;
        subxacts = main.words(count)?;
    }
    let mut dropped = Vec::new();
    if has(flag::HAS_RELFILENODES) {
        for _ in 0..main.u32()? {
            // A lie about the count ends here before it costs anything.
            dropped.push(CatalogChange::Dropped(rel(&mut main)?));
        }
    }
    if has(flag::HAS_DROPPED_STATS) {
        let count = main.u32()? as usize;
        main.skip(count.checked_mul(12)?)?;
    }
    if kind.is_commit() && has(flag::HAS_INVALS) {
        let count = main.u32()? as usize;
        main.skip(count.checked_mul(16)?)?;
    }
    let mut xid = record.xid;
    let mut gid = None;
    if has(flag::HAS_TWOPHASE) {
        let prepared = main.u32()?;
        if has(flag::HAS_GID) {
            gid = Some(main.c_string()?.into_shared());
        }
        if matches!(kind, XactKind::CommitPrepared | XactKind::AbortPrepared) {
            xid = prepared;
        }
    } else if matches!(kind, XactKind::CommitPrepared | XactKind::AbortPrepared) {
        return None;
    }
    let mut commit_time = time;
    let origin = record.origin.unwrap_or(0);
    if has(flag::HAS_ORIGIN) {
        let remote = Some(Lsn(main.u64()?));
        commit_time = main.i64()?;
        effects.catalog.push(CatalogChange::Origin { node: origin, remote, backwards: false });
    }
    if xid < slru::FIRST_NORMAL_XID {
        return None;
    }
    effects.saw_xid(xid);
    effects.saw_xids(&subxacts);
    let pages = slru::pages_of(xid, &subxacts, slru::xact_page);
    effects.slru.extend(pages.into_iter().map(|page| (Slru::Xact, page)));
    effects.catalog.append(&mut dropped);
    if matches!(kind, XactKind::CommitPrepared | XactKind::AbortPrepared) {
        effects.catalog.push(CatalogChange::PreparedEnded(xid));
    }
    let xact = Xact { kind, xid, subxacts, time, commit_time, origin, gid };
    effects.xact = Some(Box::new(xact));
    Some(())
}

/// Magic u32, length u32, xid u32, database u32, time i64, owner u32, six counts u32 (the first:
/// subtransactions), flag u8, padding, gid length u16, padding, origin's position and time; then
/// the gid and the subtransactions, each padded to eight.
fn prepare(record: &Record<impl Source>, effects: &mut Effects) -> Option<()> {
    let mut main = Cursor::new(&record.main);
    main.skip(8)?;
    let xid = main.u32()?;
    main.skip(4)?;
    let time = main.i64()?;
    main.skip(4)?;
    let subxact_count = main.u32()?;
    main.skip(5 * 4 + 2)?;
    let gid_length = usize::from(main.u16()?);
    main.align8()?;
    main.skip(16)?;
    let gid = main.take(gid_length)?.into_shared();
    main.align8()?;
    let subxacts = main.words(subxact_count)?;
    if xid < slru::FIRST_NORMAL_XID {
        return None;
    }
    effects.saw_xid(xid);
    effects.saw_xids(&subxacts);
    effects.catalog.push(CatalogChange::Prepared { xid, file: two_phase_file(&record.main) });
    // The stored length counts the final zero byte.
    let gid = Some(gid.slice(..gid.len().saturating_sub(1)));
    let origin = record.origin.unwrap_or(0);
    let kind = XactKind::Prepare;
    let xact = Xact { kind, xid, subxacts, time, commit_time: time, origin, gid };
    effects.xact = Some(Box::new(xact));
    Some(())
}

/// Content of the file in `pg_twophase` that belongs to a PREPARE record's data: the data and its
/// checksum.
fn two_phase_file(main: &[u8]) -> Bytes {
    let mut file = BytesMut::with_capacity(main.len() + 4);
    file.extend_from_slice(main);
    file.put_u32_le(crc32c::crc32c(main));
    file.freeze()
}
