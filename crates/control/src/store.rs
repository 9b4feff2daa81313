//! The records, durable: one redb file. A change is on disk before anyone is told of it (rule C1).

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use env::{RealDisk, room};
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition,
};
use types::ClusterId;

use crate::state::{Change, DeletedRecord, NodeRecord, State, VolumeRecord};

/// Layout of the file; another one is refused by name.
const FORMAT: &str = "sixfold-control-1";
const FILE: &str = "control.redb";
/// Bytes that a new store takes at once, and as many to grow.
const ROOM: u64 = 8 << 20;

const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const NODES: TableDefinition<&str, &str> = TableDefinition::new("nodes");
const VOLUMES: TableDefinition<&str, &str> = TableDefinition::new("volumes");
const DELETED: TableDefinition<&str, &str> = TableDefinition::new("deleted");

/// The file, open in this process only.
pub(crate) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the store in `dir`, or makes one with a new cluster identity.
    pub fn open(dir: &Path) -> anyhow::Result<Store> {
        fs::create_dir_all(dir)
            .with_context(|| format!("cannot create the control directory {}", dir.display()))?;
        let path = dir.join(FILE);
        if !path.exists() {
            room::require(&RealDisk, dir, ROOM, "a control plane")?;
        }
        let database = match Database::create(&path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => bail!(
                "{} is in use by another control plane; stop that one or choose another --dir",
                path.display()
            ),
            Err(DatabaseError::Storage(StorageError::Io(error)))
                if error.kind() != ErrorKind::InvalidData =>
            {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "{} is not a control plane's store; choose another --dir",
                        path.display()
                    )
                });
            }
        };
        let store = Store { database, path };
        store.prepare().with_context(|| format!("cannot prepare {}", store.path.display()))?;
        Ok(store)
    }

    /// Writes format and cluster into an empty store; checks the format of another.
    fn prepare(&self) -> anyhow::Result<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            transaction.open_table(NODES)?;
            transaction.open_table(VOLUMES)?;
            transaction.open_table(DELETED)?;
            let format = meta.get("format")?.map(|found| found.value().to_owned());
            match format {
                Some(format) if format == FORMAT => {}
                Some(format) => bail!(
                    "its format is {format}, this version reads {FORMAT}; run the version that wrote \
                     it, or choose another --dir"
                ),
                None => {
                    let cluster = ClusterId(random_id()?).to_string();
                    meta.insert("format", FORMAT)?;
                    meta.insert("cluster", cluster.as_str())?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Reads everything.
    pub fn load(&self) -> anyhow::Result<State> {
        self.read().with_context(|| format!("cannot read {}", self.path.display()))
    }

    fn read(&self) -> anyhow::Result<State> {
        let transaction = self.database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let cluster = meta.get("cluster")?.context("it names no cluster")?.value().parse()?;
        let mut state = State { cluster, ..State::default() };
        for entry in transaction.open_table(NODES)?.iter()? {
            let record: NodeRecord = serde_json::from_str(entry?.1.value())?;
            state.apply(Change::Node(record));
        }
        for entry in transaction.open_table(VOLUMES)?.iter()? {
            let record: VolumeRecord = serde_json::from_str(entry?.1.value())?;
            state.apply(Change::Volume(record));
        }
        for entry in transaction.open_table(DELETED)?.iter()? {
            let record: DeletedRecord = serde_json::from_str(entry?.1.value())?;
            state.apply(Change::Deleted(record));
        }
        Ok(state)
    }

    /// Makes changes durable, all or none.
    pub fn commit(&self, changes: &[Change]) -> anyhow::Result<()> {
        self.write(changes).with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn write(&self, changes: &[Change]) -> anyhow::Result<()> {
        let transaction = self.database.begin_write()?;
        for change in changes {
            match change {
                Change::Node(node) => {
                    let json = serde_json::to_string(node)?;
                    transaction.open_table(NODES)?.insert(node.name.as_str(), json.as_str())?;
                }
                Change::Volume(volume) => {
                    let (id, json) = (volume.id.to_string(), serde_json::to_string(volume)?);
                    transaction.open_table(VOLUMES)?.insert(id.as_str(), json.as_str())?;
                }
                Change::Deleted(deleted) => {
                    let (id, json) = (deleted.id.to_string(), serde_json::to_string(deleted)?);
                    transaction.open_table(VOLUMES)?.remove(id.as_str())?;
                    transaction.open_table(DELETED)?.insert(id.as_str(), json.as_str())?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// 128 bits from the operating system.
pub(crate) fn random_id() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read random bytes from /dev/urandom")?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Change {
        Change::Node(NodeRecord {
            name: name.parse().expect("valid"),
            az: "a".parse().expect("valid"),
            address: "127.0.0.1:1".to_owned(),
            http: None,
            incarnation: types::Incarnation(5),
            pid: 1,
            log_life: 0,
            duty: registry::Duty::Serving,
        })
    }

    #[test]
    fn what_was_committed_is_there_after_reopening_and_the_cluster_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("new");
        store.commit(&[node("a1"), node("a2")]).expect("written");
        let before = store.load().expect("read");
        drop(store);
        let after = Store::open(dir.path()).and_then(|store| store.load()).expect("reopened");
        assert_eq!(after.nodes, before.nodes);
        assert_eq!(after.cluster, before.cluster);
        assert_eq!(after.nodes.len(), 2);
    }

    #[test]
    fn a_store_in_use_or_of_another_format_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("new");
        let error = Store::open(dir.path()).err().expect("in use");
        assert!(error.to_string().contains("in use"), "{error}");
        let write = store.database.begin_write().expect("begun");
        write.open_table(META).expect("there").insert("format", "other-9").expect("set");
        write.commit().expect("written");
        drop(store);
        let error = format!("{:#}", Store::open(dir.path()).err().expect("another format"));
        assert!(error.contains("other-9"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_store_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE), vec![7; 8192]).expect("written");
        assert!(Store::open(dir.path()).is_err());
    }
}
