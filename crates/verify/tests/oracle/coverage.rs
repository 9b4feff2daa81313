//! Which types of record must have been seen, and of which pages must have been compared.

use pgwal::layout::op::*;
use verify::tally::{Kind, Place, Tallies, kind_name};

/// Types that the workload cannot make a server write, and why.
const NEVER: &[(Kind, &str)] = &[(
    (rm::XLOG, xlog::NOOP),
    "PostgreSQL 15 has the type and its recovery passes over it, but no code that writes it",
)];

/// Block references that these types may have and the workload cannot make, and why.
const NEVER_REFERENCED: &[(Kind, u8, &str)] = &[
    (
        (rm::HASH, hash::ADD_OVFL_PAGE),
        3,
        "a second bitmap page is begun after 32768 overflow pages, 256 MB of them",
    ),
    (
        (rm::BTREE, btree::UNLINK_PAGE_META),
        1,
        "the metapage changes when the leftmost page of a level goes, which has no left sibling",
    ),
    (
        (rm::HASH, hash::SQUEEZE_PAGE),
        4,
        "pages are freed from the end of a bucket's chain, so none follows",
    ),
];

/// Block references of types that have more than one, or none of number 0.
const REFERENCES: &[(Kind, &[u8])] = &[
    ((rm::HEAP, heap::UPDATE), &[0, 1]),
    ((rm::HEAP2, heap2::VISIBLE), &[0, 1]),
    ((rm::BTREE, btree::INSERT_UPPER), &[0, 1]),
    ((rm::BTREE, btree::INSERT_META), &[0, 1, 2]),
    ((rm::BTREE, btree::SPLIT_L), &[0, 1, 2, 3]),
    ((rm::BTREE, btree::SPLIT_R), &[0, 1, 2, 3]),
    ((rm::BTREE, btree::UNLINK_PAGE), &[0, 1, 2, 3]),
    ((rm::BTREE, btree::UNLINK_PAGE_META), &[0, 1, 2, 3, 4]),
    ((rm::BTREE, btree::NEWROOT), &[0, 1, 2]),
    ((rm::BTREE, btree::MARK_PAGE_HALFDEAD), &[0, 1]),
    ((rm::HASH, hash::INIT_BITMAP_PAGE), &[0, 1]),
    ((rm::HASH, hash::INSERT), &[0, 1]),
    ((rm::HASH, hash::ADD_OVFL_PAGE), &[0, 1, 2, 3, 4]),
    ((rm::HASH, hash::SPLIT_ALLOCATE_PAGE), &[0, 1, 2]),
    ((rm::HASH, hash::SPLIT_COMPLETE), &[0, 1]),
    ((rm::HASH, hash::MOVE_PAGE_CONTENTS), &[0, 1, 2]),
    ((rm::HASH, hash::SQUEEZE_PAGE), &[0, 1, 2, 3, 4, 5, 6]),
    ((rm::HASH, hash::DELETE), &[0, 1]),
    ((rm::HASH, hash::VACUUM_ONE_PAGE), &[0, 1]),
    ((rm::GIN, gin::INSERT), &[0, 1]),
    ((rm::GIN, gin::SPLIT), &[0, 1, 2, 3]),
    ((rm::GIN, gin::DELETE_PAGE), &[0, 1, 2]),
    ((rm::GIN, gin::UPDATE_META_PAGE), &[0, 1]),
    ((rm::GIN, gin::DELETE_LISTPAGE), &[0, 1, 2]),
    ((rm::GIST, gist::PAGE_UPDATE), &[0, 1]),
    ((rm::GIST, gist::PAGE_SPLIT), &[0, 1, 2]),
    ((rm::GIST, gist::PAGE_DELETE), &[0, 1]),
    ((rm::SPGIST, spgist::ADD_LEAF), &[0, 1]),
    ((rm::SPGIST, spgist::MOVE_LEAFS), &[0, 1, 2]),
    ((rm::SPGIST, spgist::ADD_NODE), &[0, 1, 2]),
    ((rm::SPGIST, spgist::SPLIT_TUPLE), &[0, 1]),
    ((rm::SPGIST, spgist::PICKSPLIT), &[0, 1, 2, 3]),
    ((rm::BRIN, brin::INSERT), &[0, 1]),
    ((rm::BRIN, brin::UPDATE), &[0, 1, 2]),
    ((rm::BRIN, brin::REVMAP_EXTEND), &[0, 1]),
    ((rm::BRIN, brin::DESUMMARIZE), &[0, 1]),
];

/// Types that change no page: of blocks, maps or SLRUs. What they do is the catalog's matter, or
/// nothing at all.
fn changes_no_page((rmid, kind): Kind) -> bool {
    match rmid {
        rm::XLOG => ![xlog::FPI, xlog::FPI_FOR_HINT].contains(&kind),
        rm::XACT => [xact::PREPARE, xact::ASSIGNMENT, xact::INVALIDATIONS].contains(&kind),
        rm::SMGR => kind == smgr::CREATE,
        rm::CLOG => kind == clog::TRUNCATE,
        rm::MULTIXACT => kind == multixact::TRUNCATE_ID,
        rm::COMMIT_TS => kind == commit_ts::TRUNCATE,
        rm::HEAP2 => [heap2::REWRITE, heap2::NEW_CID].contains(&kind),
        rm::HEAP => kind == heap::TRUNCATE,
        rm::BTREE => kind == btree::REUSE_PAGE,
        rm::GIST => [gist::PAGE_REUSE, gist::ASSIGN_LSN].contains(&kind),
        rm::DBASE | rm::TBLSPC | rm::RELMAP | rm::STANDBY | rm::REPLORIGIN | rm::LOGICALMSG => true,
        _ => false,
    }
}

/// What is missing, in words; empty when everything was covered.
pub fn gaps(tallies: &Tallies) -> Vec<String> {
    let mut gaps = Vec::new();
    for kind in kinds() {
        let name = kind_name(kind);
        let excused = NEVER.iter().any(|(never, _)| *never == kind);
        let (seen, pages) = (tallies.records.contains_key(&kind), tallies.of(kind));
        match (seen, excused) {
            (true, true) => gaps.push(format!("{name} is seen: it is no exception any more")),
            (false, false) => gaps.push(format!("{name} was never seen")),
            _ => {}
        }
        if changes_no_page(kind) != (pages.pages == 0) && seen {
            gaps.push(format!("{name} changed {} pages", pages.pages));
        }
        if pages.unknown + pages.ahead > 0 {
            gaps.push(format!("{name}: {} pages not known, {} newer", pages.unknown, pages.ahead));
        }
    }
    for ((kind, place), tally) in &tallies.pages {
        if tally.compared + tally.confirmed == 0 {
            gaps.push(format!("{} {place:?} was never compared: {tally:?}", kind_name(*kind)));
        }
    }
    gaps.extend(references(tallies));
    gaps
}

/// Block references that were never seen, or against the list of those that cannot be.
fn references(tallies: &Tallies) -> Vec<String> {
    let mut gaps = Vec::new();
    for (kind, ids) in REFERENCES {
        for id in *ids {
            let excused = NEVER_REFERENCED.iter().any(|(k, i, _)| k == kind && i == id);
            let seen = tallies.pages.contains_key(&(*kind, Place::Block(*id)));
            if seen == excused {
                let name = kind_name(*kind);
                gaps.push(format!("{name} block reference {id}: seen {seen}, excused {excused}"));
            }
        }
    }
    gaps
}
