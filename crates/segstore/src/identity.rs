//! Whose disk this is, in `identity.json`: a disk under another node's name is refused, not used.

use std::path::Path;

use env::{Disk, recipes};
use types::{ClusterId, Incarnation, NodeId};

use crate::error::StoreError;

/// Version of everything a store writes.
pub const FORMAT: u32 = 4;

/// Whose disk this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The installation.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// This life of its disk.
    pub incarnation: Incarnation,
}

impl Identity {
    fn to_text(self) -> String {
        format!(
            "{{\n  \"format\": \"{FORMAT}\",\n  \"cluster\": \"{}\",\n  \"node\": \"{}\",\n  \
             \"incarnation\": \"{}\"\n}}\n",
            self.cluster, self.node, self.incarnation
        )
    }

    fn from_text(text: &str) -> Option<(u32, Identity)> {
        let field = |name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\": \""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let identity = Identity {
            cluster: field("cluster")?.parse().ok()?,
            node: field("node")?.parse().ok()?,
            incarnation: field("incarnation")?.parse().ok()?,
        };
        Some((field("format")?.parse().ok()?, identity))
    }

    /// Reads the identity of the store in `dir`; `None` when there is no store.
    ///
    /// # Errors
    /// When the file cannot be read, or is not one of ours.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, StoreError> {
        let path = dir.join("identity.json");
        let Some(content) = recipes::read_all(disk, &path)? else { return Ok(None) };
        let damaged = || StoreError::Damaged {
            what: path.display().to_string(),
            why: "not a store's identity; wipe the directory, and its peers rebuild what it held"
                .to_owned(),
        };
        let text = std::str::from_utf8(&content).map_err(|_| damaged())?;
        match Identity::from_text(text).ok_or_else(damaged)? {
            (FORMAT, identity) => Ok(Some(identity)),
            (other, _) => Err(StoreError::Foreign(format!(
                "{} has format {other}; this program writes format {FORMAT}",
                dir.display()
            ))),
        }
    }

    /// Whether what is stored in `dir` is this, to the byte.
    pub(crate) fn is_stored(self, disk: &dyn Disk, dir: &Path) -> Result<bool, StoreError> {
        let content = recipes::read_all(disk, &dir.join("identity.json"))?;
        Ok(content.is_some_and(|content| content == self.to_text().as_bytes()))
    }

    /// Writes the identity: the last step of creating a store.
    pub(crate) fn save(self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join("identity.json");
        Ok(recipes::replace(disk, &path, self.to_text().as_bytes())?)
    }
}
