//! What the effects of all records add up to, against the files that the server left behind after
//! a clean shutdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pgwal::effects::{CatalogChange, Effects, XactKind};
use pgwal::keys::{Fork, Rel, Slru};
use pgwal::layout::{BLOCK_SIZE, op, op::rm};
use pgwal::{Record, slru, vm};

type Pages = BTreeMap<(Rel, u32), [u8; BLOCK_SIZE]>;

fn path(rel: Rel, fork: Fork) -> String {
    match rel.tablespace {
        1664 => format!("global/{}{}", rel.relation, fork.suffix()),
        1663 => format!("base/{}/{}{}", rel.database, rel.relation, fork.suffix()),
        other => format!(
            "pg_tblspc/{other}/PG_15_202209061/{}/{}{}",
            rel.database,
            rel.relation,
            fork.suffix()
        ),
    }
}

/// Visibility maps made from the records alone equal the server's, bit for bit. One exception, the
/// server's own: CREATE DATABASE with strategy wal_log logs map pages as if what lies between
/// `pd_lower` and `pd_upper` were a hole, so that replay (a standby's too) has fewer bits.
pub fn visibility_maps(log: &[(Record, Effects)], data: &Path) {
    let mut maps: Pages = BTreeMap::new();
    let (mut followed, mut copied) = (BTreeSet::new(), BTreeSet::new());
    for (record, effects) in log {
        for block in record.blocks.iter().filter(|block| block.fork == Fork::Vm) {
            if !followed.contains(&block.rel) {
                continue;
            }
            let page = maps.entry((block.rel, block.block)).or_insert([0; BLOCK_SIZE]);
            match &block.image {
                Some(image) if image.apply => image.restore(page).expect("a page"),
                _ => {
                    assert_eq!((record.rmid, record.op()), (rm::HEAP2, op::heap2::VISIBLE));
                    let heap = record.block(1).expect("the heap block").block;
                    let place = vm::place(heap);
                    assert_eq!(place.block, block.block);
                    page[place.byte] |= (record.main[4] & vm::ALL_BITS) << place.shift;
                }
            }
        }
        for clear in &effects.vm_clear {
            assert!(effects.implicit_blocks().contains(&(clear.rel, Fork::Vm, clear.vm_block())));
            if let Some(page) = maps.get_mut(&(clear.rel, clear.vm_block())) {
                vm::clear(page, clear.heap_block, clear.bits);
            }
        }
        for change in &effects.catalog {
            match change {
                CatalogChange::Created(rel, Fork::Main) => {
                    followed.insert(*rel);
                }
                CatalogChange::Dropped(rel) => {
                    followed.remove(rel);
                    maps.retain(|(other, _), _| other != rel);
                }
                CatalogChange::Truncated(cut) => {
                    if let Some(blocks) = cut.blocks_of(Fork::Vm) {
                        maps.retain(|(rel, block), _| *rel != cut.rel || *block < blocks);
                    }
                    for (fork, block) in cut.tails() {
                        if let (Fork::Vm, Some(page)) = (fork, maps.get_mut(&(cut.rel, block))) {
                            vm::truncate_page(page, cut.blocks);
                        }
                    }
                }
                CatalogChange::DatabaseCreated { database, .. } => {
                    copied.insert(*database);
                }
                CatalogChange::DatabaseDropped { tablespace, database } => maps.retain(|key, _| {
                    (key.0.tablespace, key.0.database) != (*tablespace, *database)
                }),
                _ => {}
            }
        }
    }
    let (mut pages, mut bits) = (0, 0);
    for ((rel, block), ours) in maps {
        let file = fs::read(data.join(path(rel, Fork::Vm))).expect("the map's file");
        let theirs = &file[block as usize * BLOCK_SIZE..][..BLOCK_SIZE];
        if copied.contains(&rel.database) {
            assert!(ours.iter().zip(theirs).skip(24).all(|(ours, theirs)| ours & !theirs == 0));
            continue;
        }
        assert!(ours[24..] == theirs[24..], "visibility map of {rel}, block {block}");
        pages += 1;
        bits += ours[24..].iter().map(|byte| byte.count_ones()).sum::<u32>();
    }
    eprintln!("{pages} visibility map pages with {bits} bits equal");
    assert!(pages >= 4 && bits > 700);
}

struct Area<'a> {
    data: &'a Path,
    slru: Slru,
}

impl Area<'_> {
    fn page(&self, page: u32) -> Option<Vec<u8>> {
        let name = format!("{:04X}", page / slru::PAGES_PER_SEGMENT);
        let file = fs::read(self.data.join(self.slru.directory()).join(name)).ok()?;
        let at = (page % slru::PAGES_PER_SEGMENT) as usize * BLOCK_SIZE;
        file.get(at..at + BLOCK_SIZE).map(<[u8]>::to_vec)
    }
}

/// Every transaction's status, time and origin, and every multixact, are on the pages that the
/// effects name.
pub fn slru_pages(log: &[(Record, Effects)], data: &Path) {
    let read = |slru| {
        let mut held = BTreeMap::new();
        move |page: u32| {
            let area = Area { data, slru };
            held.entry(page).or_insert_with(|| area.page(page)).clone()
        }
    };
    let (mut status, mut times) = (read(Slru::Xact), read(Slru::CommitTs));
    let (mut offsets, mut members) = (read(Slru::MultiOffsets), read(Slru::MultiMembers));
    let (mut ended, mut timed, mut multis, mut tracking) = (0, 0, 0, false);
    for (record, effects) in log {
        if (record.rmid, record.op()) == (rm::XLOG, op::xlog::PARAMETER_CHANGE) {
            tracking = record.main[25] != 0;
        }
        let named = |slru, page| effects.slru.contains(&(slru, page));
        if let Some(xact) = effects.xact.as_ref().filter(|xact| xact.kind.is_end()) {
            let expected = if xact.kind.is_commit() { 1 } else { 2 };
            for xid in xact.subxacts.iter().chain([&xact.xid]) {
                let page = slru::xact_page(*xid);
                assert!(named(Slru::Xact, page));
                let within = xid % slru::XACTS_PER_PAGE;
                let byte = status(page).expect("the page")[within as usize / 4];
                assert_eq!(byte >> (within % 4 * 2) & 3, expected, "transaction {xid}");
                ended += 1;
                if tracking && xact.kind.is_commit() {
                    let page = slru::commit_ts_page(*xid);
                    assert!(xact.commit_ts_pages().contains(&page));
                    let at = (xid % slru::COMMIT_TS_PER_PAGE) as usize * 10;
                    let entry = &times(page).expect("the page")[at..at + 10];
                    assert_eq!(entry[..8], xact.commit_time.to_le_bytes(), "transaction {xid}");
                    assert_eq!(entry[8..], xact.origin.to_le_bytes(), "transaction {xid}");
                    timed += 1;
                }
            }
        }
        if (record.rmid, record.op()) == (rm::MULTIXACT, op::multixact::CREATE_ID) {
            let word = |at: usize| {
                u32::from_le_bytes(record.main[at..at + 4].try_into().expect("four bytes"))
            };
            let (multi, offset, count) = (word(0), word(4), word(8));
            for (multi, begins) in [(multi, offset), (slru::next_multi(multi), offset + count)] {
                let page = slru::multi_offset_page(multi);
                assert!(named(Slru::MultiOffsets, page));
                let at = (multi % slru::OFFSETS_PER_PAGE) as usize * 4;
                let entry = &offsets(page).expect("the page")[at..at + 4];
                assert_eq!(entry, begins.to_le_bytes());
            }
            for member in 0..count {
                let page = slru::multi_member_page(offset + member);
                assert!(named(Slru::MultiMembers, page));
                let within = (offset + member) % slru::MEMBERS_PER_PAGE;
                let at = (within / 4 * 20 + 4 + within % 4 * 4) as usize;
                let entry = &members(page).expect("the page")[at..at + 4];
                assert_eq!(entry, word(12 + member as usize * 8).to_le_bytes());
            }
            assert_eq!(effects.next_multi, Some((multi + 1, offset + count)));
            multis += 1;
        }
    }
    eprintln!("{ended} ended transactions, {timed} commit times, {multis} multixacts in place");
    assert!(ended > 10_000 && timed > 10_000 && multis > 2_048);
}

/// Files exist that were created and not dropped, and no others; relation maps and prepared
/// transactions have the content that the log says.
pub fn files(log: &[(Record, Effects)], data: &Path) {
    let (mut exist, mut gone) = (BTreeSet::new(), BTreeSet::new());
    let (mut relmaps, mut prepared) = (BTreeMap::new(), BTreeMap::new());
    for change in log.iter().flat_map(|(_, effects)| &effects.catalog) {
        match change.clone() {
            CatalogChange::Created(rel, fork) => {
                gone.remove(&rel);
                exist.insert((rel, fork));
            }
            CatalogChange::Dropped(rel) => {
                exist.retain(|(other, _)| *other != rel);
                gone.insert(rel);
            }
            CatalogChange::DatabaseDropped { tablespace, database } => {
                exist.retain(|(rel, _)| (rel.tablespace, rel.database) != (tablespace, database));
                relmaps.remove(&(tablespace, database));
            }
            CatalogChange::RelMap { tablespace, database, file } => {
                relmaps.insert((tablespace, database), file);
            }
            CatalogChange::Prepared { xid, file } => {
                prepared.insert(xid, file);
            }
            CatalogChange::PreparedEnded(xid) => {
                assert!(prepared.remove(&xid).is_some(), "{xid} was prepared");
            }
            _ => {}
        }
    }
    for (rel, fork) in &exist {
        assert!(data.join(path(*rel, *fork)).exists(), "{rel} {fork:?} was created");
    }
    for rel in &gone {
        assert!(!data.join(path(*rel, Fork::Main)).exists(), "{rel} was dropped");
    }
    for ((tablespace, database), ours) in &relmaps {
        let directory =
            if *tablespace == 1664 { "global".to_owned() } else { format!("base/{database}") };
        let theirs = fs::read(data.join(directory).join("pg_filenode.map")).expect("a map");
        assert!(theirs == *ours, "relation map of database {database}");
    }
    for (xid, ours) in &prepared {
        let theirs = fs::read(data.join(format!("pg_twophase/{xid:08X}"))).expect("a state file");
        assert!(theirs == *ours, "prepared transaction {xid}");
    }
    let counts = (exist.len(), gone.len(), relmaps.len(), prepared.len());
    eprintln!("files exist, are gone, relation maps, prepared: {counts:?}");
    assert!(counts.0 > 300 && counts.1 > 20 && counts.2 >= 3 && counts.3 == 1);
    let kinds = log.iter().filter_map(|(_, effects)| effects.xact.as_ref()).map(|xact| xact.kind);
    assert_eq!(kinds.filter(|kind| *kind == XactKind::Prepare).count(), 3);
}
