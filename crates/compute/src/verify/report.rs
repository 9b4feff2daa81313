//! What a comparison found, as numbers and as a list. Field names are a contract: scripts read them.

use std::collections::BTreeMap;

use pgwal::keys::Key;
use serde::Serialize;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything that could be compared is the same.
    Same,
    /// Something is different.
    Different,
    /// Something differs, but the server never left it alone long enough to tell.
    Unsettled,
}

/// One thing that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `page`, `size`, `relation_map`, `database`, `tablespace`, `prepared_transaction`, `slru_page`,
    /// `settings`, `counters`.
    pub kind: &'static str,
    /// Which, in words.
    pub what: String,
    /// Tablespace, database and number of the relation, for pages and sizes.
    pub relation: Option<String>,
    /// Its fork: `main`, `vm`, `init`.
    pub fork: Option<&'static str>,
    /// Its block, or the page of an SLRU.
    pub block: Option<u32>,
    /// In which way.
    pub how: String,
    /// End of the last record that changed it in storage.
    pub version: Option<String>,
}

/// Pages of one fork kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pages {
    /// Forks.
    pub forks: u64,
    /// Compared with storage's.
    pub compared: u64,
    /// Not in the local cache: only the fork's size was compared.
    pub not_held: u64,
    /// In the file, but past the end that storage knows, and blank: grown and not yet logged.
    pub grown: u64,
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Databases' directories.
    pub databases: u64,
    /// Tablespaces.
    pub tablespaces: u64,
    /// Relation maps.
    pub relation_maps: u64,
    /// Prepared transactions.
    pub prepared_transactions: u64,
    /// Permanent relations.
    pub relations: u64,
    /// Lengths of forks.
    pub sizes: u64,
    /// Main forks.
    pub main: Pages,
    /// Visibility maps.
    pub vm: Pages,
    /// Init forks of unlogged relations.
    pub init: Pages,
    /// SLRU pages by directory.
    pub slru_pages: BTreeMap<&'static str, u64>,
    /// Pages of visibility maps whose bits a copied database has not logged: fewer in storage.
    pub fewer_visible: u64,
    /// Free space maps: hints, and the volume's may be older.
    pub fsm_forks_not_compared: u64,
    /// Unlogged relations, of which only the init fork is in the volume.
    pub unlogged_relations: u64,
    /// Files of temporary relations.
    pub temporary_files: u64,
    /// Databases' directories that are being copied.
    pub copies_under_way: u64,
}

/// See the module's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The volume's epoch.
    pub epoch: u64,
    /// The writer.
    pub writer: String,
    /// The last read point.
    pub read_point: String,
    /// Where the last checkpoint began.
    pub checkpoint: String,
    /// How often was looked, what differed the time before being looked at again.
    pub rounds: u32,
    /// What was looked at.
    pub counts: Counts,
    /// What is different.
    pub differences: Vec<Difference>,
    /// What differs and never stood still.
    pub unsettled: Vec<Difference>,
}

impl Counts {
    /// Pages of relations compared, all forks.
    #[must_use]
    pub fn pages_compared(&self) -> u64 {
        self.main.compared + self.vm.compared + self.init.compared
    }
}

/// A fork's name as the report has it.
#[must_use]
pub fn fork_name(fork: pgwal::keys::Fork) -> &'static str {
    match fork {
        pgwal::keys::Fork::Main => "main",
        pgwal::keys::Fork::Fsm => "fsm",
        pgwal::keys::Fork::Vm => "vm",
        pgwal::keys::Fork::Init => "init",
    }
}

impl Difference {
    /// A difference in what the key names.
    #[must_use]
    pub fn new(key: Key, how: String, version: Option<String>) -> Difference {
        let (mut relation, mut fork, mut block) = (None, None, None);
        let (kind, what) = match key {
            Key::Block(rel, of, number) => {
                (relation, fork) = (Some(rel.to_string()), Some(fork_name(of)));
                block = Some(number);
                ("page", format!("block {number} of {rel}{}", of.suffix()))
            }
            Key::RelSize(rel, of) => {
                (relation, fork) = (Some(rel.to_string()), Some(fork_name(of)));
                ("size", format!("length of {rel}{}", of.suffix()))
            }
            Key::Slru(slru, page) => {
                block = Some(page);
                ("slru_page", format!("page {page} of {}", slru.directory()))
            }
            Key::RelMap { tablespace, database } => {
                ("relation_map", format!("relation map of database {tablespace}/{database}"))
            }
            Key::Database { tablespace, database } => {
                ("database", format!("database {tablespace}/{database}"))
            }
            Key::Tablespace(oid) => ("tablespace", format!("tablespace {oid}")),
            Key::TwoPhase(xid) => ("prepared_transaction", format!("prepared transaction {xid}")),
            Key::State => ("counters", "the server's counters".to_owned()),
            Key::File(_) => ("settings", "postgresql.auto.conf".to_owned()),
            Key::Extent(..) | Key::Copying { .. } => ("entry", format!("{key:?}")),
        };
        Difference { kind, what, relation, fork, block, how, version }
    }
}
