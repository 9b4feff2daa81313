//! What processes say of themselves at `/metrics`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result};

use crate::Cluster;

/// One of the writer's metrics that has no labels of its own.
///
/// # Errors
/// When the writer does not answer, or has no such metric.
pub fn writer_metric(cluster: &Cluster, name: &str) -> Result<f64> {
    metric(cluster, "writer", name)
}

/// One of a process' metrics that has no labels of its own.
///
/// # Errors
/// When the process does not answer, or has no such metric.
pub fn metric(cluster: &Cluster, process: &str, name: &str) -> Result<f64> {
    let saved = std::fs::read_to_string(cluster.data_dir().join("dev.json"))?;
    let saved: serde_json::Value = serde_json::from_str(&saved)?;
    let address = saved["http"][process].as_str().context("the process' address")?;
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: sixfold\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.with_context(|| format!("no {name} in {text}"))?.parse().context("a number")
}
