//! Resource managers of PostgreSQL 15 and their record types (`rmgrlist.h` and the managers'
//! headers): the upper four bits of `info`.

/// First id that extensions may use.
pub const CUSTOM_FIRST: u8 = 128;

/// Resource manager ids, in PostgreSQL's order.
pub mod rm {
    #![allow(missing_docs, reason = "PostgreSQL's own names")]
    pub const XLOG: u8 = 0;
    pub const XACT: u8 = 1;
    pub const SMGR: u8 = 2;
    pub const CLOG: u8 = 3;
    pub const DBASE: u8 = 4;
    pub const TBLSPC: u8 = 5;
    pub const MULTIXACT: u8 = 6;
    pub const RELMAP: u8 = 7;
    pub const STANDBY: u8 = 8;
    pub const HEAP2: u8 = 9;
    pub const HEAP: u8 = 10;
    pub const BTREE: u8 = 11;
    pub const HASH: u8 = 12;
    pub const GIN: u8 = 13;
    pub const GIST: u8 = 14;
    pub const SEQ: u8 = 15;
    pub const SPGIST: u8 = 16;
    pub const BRIN: u8 = 17;
    pub const COMMIT_TS: u8 = 18;
    pub const REPLORIGIN: u8 = 19;
    pub const GENERIC: u8 = 20;
    pub const LOGICALMSG: u8 = 21;
}

/// Names of the managers by id, as `pg_waldump` prints them.
pub const NAMES: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// The manager's name, `?` when it is not built in.
#[must_use]
pub fn name(rmid: u8) -> &'static str {
    NAMES.get(usize::from(rmid)).copied().unwrap_or("?")
}

macro_rules! ops {
    ($(#[$doc:meta])* $module:ident { $($name:ident = $value:expr),* $(,)? }) => {
        $(#[$doc])*
        pub mod $module {
            #![allow(missing_docs, reason = "PostgreSQL's own names")]
            $(pub const $name: u8 = $value;)*
            /// All record types.
            pub const ALL: &[u8] = &[$($name),*];
            pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
        }
    };
}

ops! {
    /// Record types of XLOG.
    xlog {
        CHECKPOINT_SHUTDOWN = 0x00, CHECKPOINT_ONLINE = 0x10, NOOP = 0x20, NEXTOID = 0x30,
        SWITCH = 0x40, BACKUP_END = 0x50, PARAMETER_CHANGE = 0x60, RESTORE_POINT = 0x70,
        FPW_CHANGE = 0x80, END_OF_RECOVERY = 0x90, FPI_FOR_HINT = 0xa0, FPI = 0xb0,
        OVERWRITE_CONTRECORD = 0xd0,
    }
}
ops! {
    /// Record types of Transaction, under [`xact_flags::OP_MASK`].
    xact {
        COMMIT = 0x00, PREPARE = 0x10, ABORT = 0x20, COMMIT_PREPARED = 0x30,
        ABORT_PREPARED = 0x40, ASSIGNMENT = 0x50, INVALIDATIONS = 0x60,
    }
}
/// Flags of transaction records.
pub mod xact_flags {
    #![allow(missing_docs, reason = "PostgreSQL's own names")]
    pub const OP_MASK: u8 = 0x70;
    pub const HAS_INFO: u8 = 0x80;
    pub const HAS_DBINFO: u32 = 1 << 0;
    pub const HAS_SUBXACTS: u32 = 1 << 1;
    pub const HAS_RELFILENODES: u32 = 1 << 2;
    pub const HAS_INVALS: u32 = 1 << 3;
    pub const HAS_TWOPHASE: u32 = 1 << 4;
    pub const HAS_ORIGIN: u32 = 1 << 5;
    pub const HAS_AE_LOCKS: u32 = 1 << 6;
    pub const HAS_GID: u32 = 1 << 7;
    pub const HAS_DROPPED_STATS: u32 = 1 << 8;
}
ops! {
    /// Record types of Storage.
    smgr { CREATE = 0x10, TRUNCATE = 0x20 }
}
/// Flags of `xl_smgr_truncate`.
pub mod smgr_flags {
    #![allow(missing_docs, reason = "PostgreSQL's own names")]
    pub const HEAP: u32 = 1;
    pub const VM: u32 = 2;
    pub const FSM: u32 = 4;
}
ops! {
    /// Record types of CLOG.
    clog { ZEROPAGE = 0x00, TRUNCATE = 0x10 }
}
ops! {
    /// Record types of Database.
    dbase { CREATE_FILE_COPY = 0x00, CREATE_WAL_LOG = 0x10, DROP = 0x20 }
}
ops! {
    /// Record types of Tablespace.
    tblspc { CREATE = 0x00, DROP = 0x10 }
}
ops! {
    /// Record types of MultiXact.
    multixact { ZERO_OFF_PAGE = 0x00, ZERO_MEM_PAGE = 0x10, CREATE_ID = 0x20, TRUNCATE_ID = 0x30 }
}
ops! {
    /// Record types of RelMap.
    relmap { UPDATE = 0x00 }
}
ops! {
    /// Record types of Standby.
    standby { LOCK = 0x00, RUNNING_XACTS = 0x10, INVALIDATIONS = 0x20 }
}
ops! {
    /// Record types of Heap2, under [`heap_flags::OP_MASK`].
    heap2 {
        REWRITE = 0x00, PRUNE = 0x10, VACUUM = 0x20, FREEZE_PAGE = 0x30, VISIBLE = 0x40,
        MULTI_INSERT = 0x50, LOCK_UPDATED = 0x60, NEW_CID = 0x70,
    }
}
ops! {
    /// Record types of Heap, under [`heap_flags::OP_MASK`].
    heap {
        INSERT = 0x00, DELETE = 0x10, UPDATE = 0x20, TRUNCATE = 0x30, HOT_UPDATE = 0x40,
        CONFIRM = 0x50, LOCK = 0x60, INPLACE = 0x70,
    }
}
/// Flags of heap records.
pub mod heap_flags {
    #![allow(missing_docs, reason = "PostgreSQL's own names")]
    pub const OP_MASK: u8 = 0x70;
    pub const INIT_PAGE: u8 = 0x80;
    pub const INSERT_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
    pub const INSERT_ALL_FROZEN_SET: u8 = 1 << 5;
    pub const UPDATE_OLD_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
    pub const UPDATE_NEW_ALL_VISIBLE_CLEARED: u8 = 1 << 1;
    pub const DELETE_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
    pub const LOCK_ALL_FROZEN_CLEARED: u8 = 1 << 0;
}
ops! {
    /// Record types of Btree.
    btree {
        INSERT_LEAF = 0x00, INSERT_UPPER = 0x10, INSERT_META = 0x20, SPLIT_L = 0x30,
        SPLIT_R = 0x40, INSERT_POST = 0x50, DEDUP = 0x60, DELETE = 0x70, UNLINK_PAGE = 0x80,
        UNLINK_PAGE_META = 0x90, NEWROOT = 0xa0, MARK_PAGE_HALFDEAD = 0xb0, VACUUM = 0xc0,
        REUSE_PAGE = 0xd0, META_CLEANUP = 0xe0,
    }
}
ops! {
    /// Record types of Hash.
    hash {
        INIT_META_PAGE = 0x00, INIT_BITMAP_PAGE = 0x10, INSERT = 0x20, ADD_OVFL_PAGE = 0x30,
        SPLIT_ALLOCATE_PAGE = 0x40, SPLIT_PAGE = 0x50, SPLIT_COMPLETE = 0x60,
        MOVE_PAGE_CONTENTS = 0x70, SQUEEZE_PAGE = 0x80, DELETE = 0x90, SPLIT_CLEANUP = 0xa0,
        UPDATE_META_PAGE = 0xb0, VACUUM_ONE_PAGE = 0xc0,
    }
}
ops! {
    /// Record types of Gin.
    gin {
        CREATE_PTREE = 0x10, INSERT = 0x20, SPLIT = 0x30, VACUUM_PAGE = 0x40, DELETE_PAGE = 0x50,
        UPDATE_META_PAGE = 0x60, INSERT_LISTPAGE = 0x70, DELETE_LISTPAGE = 0x80,
        VACUUM_DATA_LEAF_PAGE = 0x90,
    }
}
ops! {
    /// Record types of Gist.
    gist {
        PAGE_UPDATE = 0x00, DELETE = 0x10, PAGE_REUSE = 0x20, PAGE_SPLIT = 0x30,
        PAGE_DELETE = 0x60, ASSIGN_LSN = 0x70,
    }
}
ops! {
    /// Record types of Sequence.
    seq { LOG = 0x00 }
}
ops! {
    /// Record types of SPGist.
    spgist {
        ADD_LEAF = 0x10, MOVE_LEAFS = 0x20, ADD_NODE = 0x30, SPLIT_TUPLE = 0x40,
        PICKSPLIT = 0x50, VACUUM_LEAF = 0x60, VACUUM_ROOT = 0x70, VACUUM_REDIRECT = 0x80,
    }
}
ops! {
    /// Record types of BRIN, under [`brin_flags::OP_MASK`].
    brin {
        CREATE_INDEX = 0x00, INSERT = 0x10, UPDATE = 0x20, SAMEPAGE_UPDATE = 0x30,
        REVMAP_EXTEND = 0x40, DESUMMARIZE = 0x50,
    }
}
/// Flags of BRIN records.
pub mod brin_flags {
    #![allow(missing_docs, reason = "PostgreSQL's own names")]
    pub const OP_MASK: u8 = 0x70;
    pub const INIT_PAGE: u8 = 0x80;
}
ops! {
    /// Record types of CommitTs.
    commit_ts { ZEROPAGE = 0x00, TRUNCATE = 0x10 }
}
ops! {
    /// Record types of ReplicationOrigin.
    replorigin { SET = 0x00, DROP = 0x10 }
}
ops! {
    /// Record types of Generic.
    generic { DELTA = 0x00 }
}
ops! {
    /// Record types of LogicalMessage.
    logicalmsg { MESSAGE = 0x00 }
}

/// A manager's record types: the bits of `info` that are flags, the types, their names.
type Kinds = (u8, &'static [u8], &'static [&'static str]);

/// By manager.
const KINDS: [Kinds; 22] = [
    (0, xlog::ALL, xlog::NAMES),
    (xact_flags::HAS_INFO, xact::ALL, xact::NAMES),
    (0, smgr::ALL, smgr::NAMES),
    (0, clog::ALL, clog::NAMES),
    (0, dbase::ALL, dbase::NAMES),
    (0, tblspc::ALL, tblspc::NAMES),
    (0, multixact::ALL, multixact::NAMES),
    (0, relmap::ALL, relmap::NAMES),
    (0, standby::ALL, standby::NAMES),
    (heap_flags::INIT_PAGE, heap2::ALL, heap2::NAMES),
    (heap_flags::INIT_PAGE, heap::ALL, heap::NAMES),
    (0, btree::ALL, btree::NAMES),
    (0, hash::ALL, hash::NAMES),
    (0, gin::ALL, gin::NAMES),
    (0, gist::ALL, gist::NAMES),
    (0, seq::ALL, seq::NAMES),
    (0, spgist::ALL, spgist::NAMES),
    (brin_flags::INIT_PAGE, brin::ALL, brin::NAMES),
    (0, commit_ts::ALL, commit_ts::NAMES),
    (0, replorigin::ALL, replorigin::NAMES),
    (0, generic::ALL, generic::NAMES),
    (0, logicalmsg::ALL, logicalmsg::NAMES),
];

/// Every record type that PostgreSQL 15 knows, as manager and type.
pub fn kinds() -> impl Iterator<Item = (u8, u8)> {
    (0u8..).zip(&KINDS).flat_map(|(rmid, (_, all, _))| all.iter().map(move |kind| (rmid, *kind)))
}

/// Name of a record type, as `pg_waldump` prints it; `?` when there is none.
#[must_use]
pub fn kind_name(rmid: u8, kind: u8) -> &'static str {
    match (rmid, kind) {
        (rm::XACT, xact::INVALIDATIONS) => "INVALIDATION",
        (rm::HEAP, heap::CONFIRM) => "HEAP_CONFIRM",
        (rm::GENERIC, generic::DELTA) => "Generic",
        _ => {
            let known = KINDS.get(usize::from(rmid)).and_then(|(_, all, names)| {
                all.iter().zip(*names).find(|(known, _)| **known == kind)
            });
            known.map_or("?", |(_, name)| name)
        }
    }
}

/// The record type that `info` names, with the manager's flag bits taken off; `None` when the
/// manager is not built in or has no such type.
#[must_use]
pub fn identify(rmid: u8, info: u8) -> Option<u8> {
    let (flags, known) = KNOWN.get(usize::from(rmid))?;
    let kind = info & 0xf0 & !flags;
    (known >> (kind >> 4) & 1 != 0).then_some(kind)
}

/// Of each manager, its flag bits and its types: bit n for type n << 4. Every record is looked up here.
const KNOWN: [(u8, u16); KINDS.len()] = {
    let mut known = [(0, 0); KINDS.len()];
    let mut rmid = 0;
    while rmid < KINDS.len() {
        let (flags, all, _) = KINDS[rmid];
        known[rmid].0 = flags;
        let mut index = 0;
        while index < all.len() {
            known[rmid].1 |= 1 << (all[index] >> 4);
            index += 1;
        }
        rmid += 1;
    }
    known
};
