//! Reads the catalog from storage nodes, outside the page cache's path. Blocking, one node at a time,
//! the next one when it fails.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use link::{Client, Party};
use pgwal::keys::{Key, catalog_range};
use types::{Lsn, NodeId, SegmentId};
use wire::Message;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes asked for at once by a scan.
const SCAN_BYTES: u32 = 4 << 20;

/// Where and as of when to read.
#[derive(Debug, Clone)]
pub struct ReadAt {
    /// The segment.
    pub segment: SegmentId,
    /// Read point.
    pub read_point: Lsn,
    /// The group's last part at or below it.
    pub complete_to: Lsn,
    /// Members to ask, best first.
    pub readers: Vec<NodeId>,
}

/// See the module's description.
#[derive(Debug)]
pub struct PageReader {
    party: Party,
    addresses: BTreeMap<NodeId, String>,
    clients: BTreeMap<NodeId, Client>,
}

impl PageReader {
    /// A reader that knows where the nodes are.
    #[must_use]
    pub fn new(party: Party, addresses: BTreeMap<NodeId, String>) -> PageReader {
        PageReader { party, addresses, clients: BTreeMap::new() }
    }

    /// Asks the members in turn until one answers.
    fn ask(&mut self, readers: &[NodeId], message: &Message) -> anyhow::Result<Message> {
        let mut reasons = Vec::new();
        for node in readers {
            match self.ask_one(*node, message) {
                Ok(answer) => return Ok(answer),
                Err(error) => reasons.push(format!("{node}: {error:#}")),
            }
        }
        bail!("no storage node answers ({})", reasons.join("; "))
    }

    /// Asks one member. A refusal is an error, too.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn ask_one(&mut self, node: NodeId, message: &Message) -> anyhow::Result<Message> {
        if !self.clients.contains_key(&node) {
            let address = self.addresses.get(&node).context("its address is not known")?;
            self.clients.insert(node, Client::connect(address, &self.party, TIMEOUT)?);
        }
        let client = self.clients.get_mut(&node).context("just connected")?;
        let answer = client.call(message);
        if answer.is_err() {
            self.clients.remove(&node);
        }
        Ok(answer?)
    }

    /// Reads the whole catalog, entry by entry with its version, in key order.
    ///
    /// # Errors
    /// When no member can serve it, or `take` says so.
    pub fn scan_catalog(
        &mut self,
        at: &ReadAt,
        take: &mut dyn FnMut(Key, Lsn, Bytes) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (mut from, to) = catalog_range();
        loop {
            let message = Message::Scan {
                segment: at.segment,
                read_point: at.read_point,
                complete_to: at.complete_to,
                from,
                to,
                bytes_max: SCAN_BYTES,
            };
            let answer = self.ask(&at.readers, &message).context("cannot read the catalog")?;
            let Message::Entries { entries, next } = answer else {
                bail!("a scan was answered by something else");
            };
            for (key, version, content) in entries {
                let decoded = Key::decode(&key)
                    .with_context(|| format!("the catalog has an entry {key} of no known kind"))?;
                take(decoded, version, content)?;
            }
            match next {
                Some(next) if next > from => from = next,
                Some(next) => bail!("a scan from {from} wants to go on at {next}"),
                None => return Ok(()),
            }
        }
    }
}
