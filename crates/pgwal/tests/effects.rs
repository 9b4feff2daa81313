//! Effects of records that a short workload does not make.

use bytes::Bytes;
use pgwal::build::Draft;
use pgwal::effects::{CatalogChange, Effects, XactKind};
use pgwal::keys::Slru;
use pgwal::layout::op::{self, rm};
use pgwal::slru::SlruTruncate;
use pgwal::{Record, WalError, effects};
use types::{Lsn, Span};

fn record(rmid: u8, info: u8, xid: u32, words: &[u32]) -> Record {
    let main: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let draft = Draft { xid, rmid, info, main: Bytes::from(main), ..Draft::default() };
    Record::parse(Span::ZERO, draft.encode(Lsn(8)).expect("possible")).expect("well-formed")
}

fn of(rmid: u8, info: u8, words: &[u32]) -> Effects {
    effects(&record(rmid, info, 900, words)).expect("known")
}

#[test]
fn truncations_of_slru_areas_are_named_and_change_the_counters() {
    let clog = of(rm::CLOG, op::clog::TRUNCATE, &[70, 2_300_000, 5]);
    assert_eq!(clog.slru_truncate[..], [SlruTruncate::Before { slru: Slru::Xact, page: 70 }]);
    assert!(clog.state && clog.slru.is_empty());
    let times = of(rm::COMMIT_TS, op::commit_ts::TRUNCATE, &[64, 60_000]);
    assert_eq!(times.slru_truncate[..], [SlruTruncate::Before { slru: Slru::CommitTs, page: 64 }]);
    // Multixacts 1 to 4096, members 1 to 60 000; 4096 is the first of its page, so the page before
    // is kept.
    let multi = of(rm::MULTIXACT, op::multixact::TRUNCATE_ID, &[5, 1, 4096, 1, 60_000]);
    let members = SlruTruncate::Members { from_page: 0, to_page: 36 };
    let offsets = SlruTruncate::Before { slru: Slru::MultiOffsets, page: 1 };
    assert_eq!(multi.slru_truncate[..], [members, offsets]);
    assert!(multi.state);
}

#[test]
fn a_multixact_touches_the_pages_after_the_ones_it_begins_on() {
    // The last multixact of a page, and members that cross from the last page to the first.
    let last = u32::MAX - 2;
    let made = of(
        rm::MULTIXACT,
        op::multixact::CREATE_ID,
        &[2047, last, 5, 700, 0, 950, 1, 702, 1, 703, 1, 704, 1],
    );
    assert_eq!(
        made.slru[..],
        [
            (Slru::MultiOffsets, 0),
            (Slru::MultiOffsets, 1),
            (Slru::MultiMembers, last / 1636),
            (Slru::MultiMembers, 0),
        ]
    );
    assert_eq!(made.next_multi, Some((2048, 2)));
    assert_eq!(made.latest_xid, Some(950));
    // The last multixact of all is followed by the first.
    let made = of(rm::MULTIXACT, op::multixact::CREATE_ID, &[u32::MAX, 10, 1, 700, 0]);
    assert_eq!(made.slru[..2], [(Slru::MultiOffsets, u32::MAX / 2048), (Slru::MultiOffsets, 0)]);
    assert_eq!(made.next_multi, Some((1, 11)));
}

#[test]
fn subtransactions_on_another_page_are_marked_there_too() {
    let xinfo = op::xact_flags::HAS_SUBXACTS;
    let info = op::xact::ABORT | op::xact_flags::HAS_INFO;
    let abort = effects(&record(rm::XACT, info, 32767, &[0, 0, xinfo, 3, 32768, 32769, 65536]));
    let abort = abort.expect("known");
    assert_eq!(abort.slru[..], [(Slru::Xact, 0), (Slru::Xact, 1), (Slru::Xact, 2)]);
    let xact = abort.xact.expect("an end");
    assert_eq!((xact.kind, xact.xid), (XactKind::Abort, 32767));
    assert!(xact.commit_ts_pages().is_empty());
    assert_eq!(abort.latest_xid, Some(65536));
}

#[test]
fn a_dropped_database_leaves_every_tablespace() {
    let drop = of(rm::DBASE, op::dbase::DROP, &[77, 2, 1663, 16999]);
    let gone = |tablespace| CatalogChange::DatabaseDropped { tablespace, database: 77 };
    assert_eq!(drop.catalog, [gone(1663), gone(16999)]);
}

#[test]
fn counts_that_lie_are_malformed_and_cost_nothing() {
    let flags = op::xact_flags::HAS_INFO;
    for (rmid, info, words) in [
        (rm::XACT, flags, &[0, 0, 1 << 1, u32::MAX][..]),
        (rm::XACT, flags, &[0, 0, 1 << 2, u32::MAX, 1, 2, 3]),
        (rm::XACT, flags, &[0, 0, 1 << 3, u32::MAX]),
        (rm::XACT, op::xact::COMMIT_PREPARED, &[0, 0]),
        (rm::XACT, op::xact::PREPARE, &[1, 2, 3]),
        (rm::XACT, op::xact::ASSIGNMENT, &[1, u32::MAX]),
        (rm::MULTIXACT, op::multixact::CREATE_ID, &[1, 1, u32::MAX]),
        (rm::STANDBY, op::standby::RUNNING_XACTS, &[u32::MAX, u32::MAX, 0, 1, 1, 1]),
        (rm::STANDBY, op::standby::LOCK, &[u32::MAX]),
        (rm::DBASE, op::dbase::DROP, &[1, u32::MAX]),
        (rm::RELMAP, op::relmap::UPDATE, &[1, 2, 4]),
        (rm::SMGR, op::smgr::CREATE, &[1, 2, 3, 9]),
        (rm::SMGR, op::smgr::TRUNCATE, &[u32::MAX, 1, 2, 3, 7]),
        (rm::XLOG, op::xlog::CHECKPOINT_SHUTDOWN, &[0; 21]),
        (rm::HEAP, op::heap::INSERT, &[]),
    ] {
        let result = effects(&record(rmid, info, 900, words));
        assert!(matches!(result, Err(WalError::Malformed { .. })), "{rmid} {info:#x}: {result:?}");
    }
}

#[test]
fn what_is_not_known_is_an_error_that_names_it() {
    let unknown = effects(&record(rm::GIST, 0x40, 1, &[])).expect_err("not used any more");
    assert_eq!(
        unknown.to_string(),
        "WAL record at 0/0 has info 0x40, which resource manager 14 (Gist) of PostgreSQL 15 does \
         not know"
    );
    let custom = effects(&record(128, 0, 1, &[])).expect_err("an extension's");
    assert!(matches!(custom, WalError::CustomManager { rmid: 128, .. }), "{custom}");
    assert!(matches!(effects(&record(22, 0, 1, &[])), Err(WalError::Unknown { rmid: 22, .. })));
}
