//! What the storage nodes of a cluster say of themselves, and what lies on their disks, at one moment.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sixfold::Sixfold;

/// One node at one moment. Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Parts received.
    pub parts: u64,
    /// Written to the log.
    pub log_written: u64,
    /// Page files written by flushes.
    pub flushed: u64,
    /// Page files written by merges.
    pub merged: u64,
    /// Page files on the disk, unfinished and forgotten ones included.
    pub files: u64,
    /// Log in use.
    pub log: u64,
    /// Most parts from page files that one read has applied.
    pub cold_parts_max: u64,
}

/// The nodes of a cluster.
pub struct Nodes {
    /// Where each serves its metrics, and its page files.
    nodes: Vec<(String, PathBuf)>,
}

impl Nodes {
    /// Finds the nodes of a cluster that is up.
    ///
    /// # Errors
    /// When its file does not say where they are.
    pub fn of(cluster: &Sixfold) -> Result<Nodes> {
        let dir = cluster.cluster_dir();
        let saved: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("dev.json"))?)?;
        let http = saved["http"].as_object().context("dev.json names no addresses")?;
        let node = |(name, address): (&String, &Value)| {
            let segments = dir.join("nodes").join(name).join("seg");
            segments.exists().then_some((address.as_str()?.to_owned(), segments))
        };
        Ok(Nodes { nodes: http.iter().filter_map(node).collect() })
    }

    /// Looks at every node.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn sample(&self) -> Result<Vec<Sample>> {
        self.nodes.iter().map(|(address, segments)| sample(address, segments)).collect()
    }
}

fn sample(address: &str, segments: &Path) -> Result<Sample> {
    let metrics = metrics(address)?;
    let metric = |name: &str| {
        let value = metrics.get(name).with_context(|| format!("{address} has no metric {name}"))?;
        anyhow::Ok(*value as u64)
    };
    Ok(Sample {
        parts: metric("sixfold_node_batch_bytes_total")?,
        log_written: metric("sixfold_node_log_written_bytes")?,
        flushed: metric("sixfold_node_flushed_bytes")?,
        merged: metric("sixfold_node_merged_bytes")?,
        files: page_files(segments),
        log: metric("sixfold_node_log_bytes")?,
        cold_parts_max: metric("sixfold_node_cold_parts_max")?,
    })
}

/// A process's metrics by name, labels left out.
fn metrics(address: &str) -> Result<BTreeMap<String, f64>> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.split('{').next()?.to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter_map(value).collect())
}

/// Bytes of all page files. They come and go while one looks.
fn page_files(segments: &Path) -> u64 {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries(segments).flat_map(|segment| entries(&segment.path()).collect::<Vec<_>>());
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}
