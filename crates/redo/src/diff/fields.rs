//! Names of what lies on a page, by access method and kind of page: tables only, for messages.

use pgwal::layout::op::rm;

use crate::page::{HEADER_SIZE, PAGE_SIZE, Page};

/// How a field's value is printed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// A number of one to eight bytes.
    Number(usize),
    /// Flags of so many bytes, in hexadecimal.
    Bits(usize),
    /// A block and a line pointer.
    Position,
    /// A floating-point number.
    Float,
}
use Form::{Bits, Float, Number, Position};

/// Name, place within its structure, form.
pub(super) type Field = (&'static str, usize, Form);

impl Form {
    pub fn size(self) -> usize {
        match self {
            Number(size) | Bits(size) => size,
            Position => 6,
            Float => 8,
        }
    }
}

/// What lies between a page's header and its special space.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// Line pointers and items that begin with these fields; those of a heap know where data begins.
    Items(&'static [Field]),
    /// One structure.
    Struct(&'static [Field]),
    /// Equal entries from a place on: their name, size and fields.
    Entries(&'static str, usize, usize, &'static [Field]),
    /// Bytes that have a name together, from a place on, behind fields.
    Bytes(&'static [Field], &'static str, usize),
}

/// A kind of page: its name, its special space, its content.
pub(super) type Kind = (&'static str, &'static [Field], Content);

/// `PageHeaderData`, but for LSN and checksum, which no comparison looks at.
pub(super) const HEADER: &[Field] = &[
    ("pd_flags", 10, Bits(2)),
    ("pd_lower", 12, Number(2)),
    ("pd_upper", 14, Number(2)),
    ("pd_special", 16, Number(2)),
    ("pd_pagesize_version", 18, Bits(2)),
    ("pd_prune_xid", 20, Number(4)),
];
/// `HeapTupleHeaderData`.
pub(super) const HEAP_TUPLE: &[Field] = &[
    ("t_xmin", 0, Number(4)),
    ("t_xmax", 4, Number(4)),
    ("t_cid", 8, Number(4)),
    ("t_ctid", 12, Position),
    ("t_infomask2", 18, Bits(2)),
    ("t_infomask", 20, Bits(2)),
    ("t_hoff", 22, Number(1)),
];
const INDEX_TUPLE: &[Field] = &[("t_tid", 0, Position), ("t_info", 6, Bits(2))];
const SPGIST_TUPLE: &[Field] = &[("state and size", 0, Bits(4)), ("t_info or size", 4, Bits(2))];
const BRIN_TUPLE: &[Field] = &[("bt_blkno", 0, Number(4)), ("bt_info", 4, Bits(1))];

const BTREE_OPAQUE: &[Field] = &[
    ("btpo_prev", 0, Number(4)),
    ("btpo_next", 4, Number(4)),
    ("btpo_level", 8, Number(4)),
    ("btpo_flags", 12, Bits(2)),
    ("btpo_cycleid", 14, Number(2)),
];
const BTREE_META: &[Field] = &[
    ("btm_magic", 0, Bits(4)),
    ("btm_version", 4, Number(4)),
    ("btm_root", 8, Number(4)),
    ("btm_level", 12, Number(4)),
    ("btm_fastroot", 16, Number(4)),
    ("btm_fastlevel", 20, Number(4)),
    ("btm_last_cleanup_num_delpages", 24, Number(4)),
    ("btm_last_cleanup_num_heap_tuples", 32, Float),
    ("btm_allequalimage", 40, Number(1)),
];
const HASH_OPAQUE: &[Field] = &[
    ("hasho_prevblkno", 0, Number(4)),
    ("hasho_nextblkno", 4, Number(4)),
    ("hasho_bucket", 8, Number(4)),
    ("hasho_flag", 12, Bits(2)),
    ("hasho_page_id", 14, Bits(2)),
];
const HASH_META: &[Field] = &[
    ("hashm_magic", 0, Bits(4)),
    ("hashm_version", 4, Number(4)),
    ("hashm_ntuples", 8, Float),
    ("hashm_ffactor", 16, Number(2)),
    ("hashm_bsize", 18, Number(2)),
    ("hashm_bmsize", 20, Number(2)),
    ("hashm_bmshift", 22, Number(2)),
    ("hashm_maxbucket", 24, Number(4)),
    ("hashm_highmask", 28, Bits(4)),
    ("hashm_lowmask", 32, Bits(4)),
    ("hashm_ovflpoint", 36, Number(4)),
    ("hashm_firstfree", 40, Number(4)),
    ("hashm_nmaps", 44, Number(4)),
    ("hashm_procid", 48, Number(4)),
];
const GIN_OPAQUE: &[Field] =
    &[("rightlink", 0, Number(4)), ("maxoff", 4, Number(2)), ("flags", 6, Bits(2))];
const GIN_META: &[Field] = &[
    ("head", 0, Number(4)),
    ("tail", 4, Number(4)),
    ("tailFreeSize", 8, Number(4)),
    ("nPendingPages", 12, Number(4)),
    ("nPendingHeapTuples", 16, Number(8)),
    ("nTotalPages", 24, Number(4)),
    ("nEntryPages", 28, Number(4)),
    ("nDataPages", 32, Number(4)),
    ("nEntries", 40, Number(8)),
    ("ginVersion", 48, Number(4)),
];
const GIN_BOUND: &[Field] = &[("right bound", 0, Position)];
/// The child's block in two halves, then the key.
const GIN_POSTING_ITEM: &[Field] = &[("child", 0, Bits(4)), ("key", 4, Position)];
const GIST_OPAQUE: &[Field] = &[
    ("nsn", 0, Number(8)),
    ("rightlink", 8, Number(4)),
    ("flags", 12, Bits(2)),
    ("gist_page_id", 14, Bits(2)),
];
const SPGIST_OPAQUE: &[Field] = &[
    ("flags", 0, Bits(2)),
    ("nRedirection", 2, Number(2)),
    ("nPlaceholder", 4, Number(2)),
    ("spgist_page_id", 6, Bits(2)),
];
const SPGIST_META: &[Field] = &[("magicNumber", 0, Bits(4))];
const BRIN_SPECIAL: &[Field] = &[("flags", 4, Bits(2)), ("type", 6, Bits(2))];
const BRIN_META: &[Field] = &[
    ("brinMagic", 0, Bits(4)),
    ("brinVersion", 4, Number(4)),
    ("pagesPerRange", 8, Number(4)),
    ("lastRevmapPage", 12, Number(4)),
];
const SEQUENCE_SPECIAL: &[Field] = &[("magic", 0, Bits(4))];
/// `BloomPageOpaqueData`, the one user of generic records in the distribution.
const BLOOM_OPAQUE: &[Field] = &[
    ("maxoff", 0, Number(2)),
    ("flags", 2, Bits(2)),
    ("unused", 4, Number(2)),
    ("bloom_page_id", 6, Bits(2)),
];

/// What kind of page this is.
pub(super) fn kind(rmid: u8, page: &Page<'_>) -> Kind {
    use Content::{Bytes, Entries, Items, Struct};
    let special = page.special().min(PAGE_SIZE);
    let word = |at: usize| page.u16_at(special + at).unwrap_or(0);
    match rmid {
        rm::HEAP | rm::HEAP2 => ("heap page", &[], Items(HEAP_TUPLE)),
        rm::SEQ => ("sequence", SEQUENCE_SPECIAL, Items(HEAP_TUPLE)),
        rm::BTREE if word(12) & 8 != 0 => ("btree metapage", BTREE_OPAQUE, Struct(BTREE_META)),
        rm::BTREE => ("btree page", BTREE_OPAQUE, Items(INDEX_TUPLE)),
        rm::HASH if word(12) & 8 != 0 => ("hash metapage", HASH_OPAQUE, Struct(HASH_META)),
        rm::HASH if word(12) & 4 != 0 => {
            ("hash bitmap", HASH_OPAQUE, Bytes(&[], "bitmap", HEADER_SIZE))
        }
        rm::HASH => ("hash page", HASH_OPAQUE, Items(INDEX_TUPLE)),
        rm::GIN if word(6) & 8 != 0 => ("gin metapage", GIN_OPAQUE, Struct(GIN_META)),
        rm::GIN if word(6) & 3 == 3 => {
            ("gin posting leaf", GIN_OPAQUE, Bytes(GIN_BOUND, "posting segments", HEADER_SIZE + 8))
        }
        rm::GIN if word(6) & 1 != 0 => (
            "gin posting page",
            GIN_OPAQUE,
            Entries("posting item", HEADER_SIZE + 8, 10, GIN_POSTING_ITEM),
        ),
        rm::GIN => ("gin page", GIN_OPAQUE, Items(INDEX_TUPLE)),
        rm::GIST => ("gist page", GIST_OPAQUE, Items(INDEX_TUPLE)),
        rm::SPGIST if word(0) & 1 != 0 => ("spgist metapage", SPGIST_OPAQUE, Struct(SPGIST_META)),
        rm::SPGIST => ("spgist page", SPGIST_OPAQUE, Items(SPGIST_TUPLE)),
        rm::BRIN if word(6) == 0xf091 => ("brin metapage", BRIN_SPECIAL, Struct(BRIN_META)),
        rm::BRIN if word(6) == 0xf092 => (
            "brin revmap",
            BRIN_SPECIAL,
            Entries("revmap entry", HEADER_SIZE, 6, &[("tid", 0, Position)]),
        ),
        rm::BRIN => ("brin page", BRIN_SPECIAL, Items(BRIN_TUPLE)),
        rm::GENERIC if special + 8 == PAGE_SIZE && word(6) == 0xff83 => {
            ("bloom page", BLOOM_OPAQUE, Bytes(&[], "content", HEADER_SIZE))
        }
        _ => ("page", &[], Bytes(&[], "content", HEADER_SIZE)),
    }
}
