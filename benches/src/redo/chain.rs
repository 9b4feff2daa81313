//! One page of an image and many records: what a read of a page costs a storage node's processor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use pgwal::keys::Key;
use redo::Postgres;
use serde_json::{Value, json};
use types::{Engine, Span};

use super::log::{each_record, start_of};
use super::volume::Volume;

/// Records on the page since its image.
const LENGTH: usize = 32;
/// Pages measured, and how often each.
const PAGES: usize = 64;
const TIMES: usize = 200;

/// Materialises pages from their state in the base and the first records that the log has for each.
///
/// # Errors
/// When no page has enough records.
pub fn measure(base: &Path, segments: &[PathBuf]) -> Result<Value> {
    let volume = Volume::load(base)?;
    let mut chains: BTreeMap<Key, Vec<(Span, Bytes)>> = BTreeMap::new();
    each_record(start_of(base)?, segments, |record| {
        for block in &record.blocks {
            let key = Key::Block(block.rel, block.fork, block.block);
            let chain = chains.entry(key).or_default();
            if chain.len() < LENGTH {
                chain.push((record.span, Bytes::copy_from_slice(record.bytes)));
            }
        }
        Ok(())
    })?;
    let mut nanoseconds = Vec::new();
    for (key, chain) in chains.iter().filter(|(_, chain)| chain.len() == LENGTH).take(PAGES) {
        let image = volume.page(key).unwrap_or_default();
        let encoded = key.encode();
        let mut best = u128::MAX;
        for _ in 0..TIMES {
            let started = Instant::now();
            let mut page = image.to_vec();
            for (span, body) in chain {
                Postgres.apply(&encoded, &mut page, *span, body)?;
            }
            std::hint::black_box(page);
            best = best.min(started.elapsed().as_nanos());
        }
        nanoseconds.push(best);
    }
    nanoseconds.sort_unstable();
    let median = nanoseconds.get(nanoseconds.len() / 2).context("no page has enough records")?;
    Ok(json!({
        "redo": "chain", "records": LENGTH, "pages": nanoseconds.len(),
        "median_ns": *median as u64, "slowest_ns": nanoseconds.last().map(|ns| *ns as u64),
    }))
}
