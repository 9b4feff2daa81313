//! Copies a segment's files from a peer, in a thread of its own, one segment at a time.
//!
//! A crash at any moment leaves the segment blank as before: the store puts the files in place in
//! one step at the end, after it verified every block.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use link::Client;
use types::{History, Lsn, MembershipEpoch, NodeId, SegmentId};
use wire::{Message, SegmentReport};

use crate::mail::{LOG_LOOP, Mail, Post};
use crate::shared::Shared;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Segments waiting to be copied at once; more are asked for again by their segments.
pub(crate) const ORDERS_MAX: usize = 1024;

/// A segment to copy.
pub(crate) struct Order {
    pub(crate) segment: SegmentId,
    /// Which copy of it.
    pub(crate) since: MembershipEpoch,
    pub(crate) peer: NodeId,
    /// Where the peer is.
    pub(crate) address: String,
    /// The history that the segment follows: a copy under a newer one is of no use to it.
    pub(crate) history: History,
}

/// Copies what is ordered until the orders end.
pub(crate) fn run(shared: &Arc<Shared>, post: &Post, orders: &Receiver<Order>) {
    while let Ok(Order { segment, since, peer, address, history }) = orders.recv() {
        if shared.stopping() {
            return;
        }
        let begin = Instant::now();
        let mail = match copy(shared, segment, &address, &history) {
            Ok((report, flushed, bytes)) => {
                shared.metrics.hydrations.inc();
                tracing::info!(%segment, address, bytes, %flushed, seconds = begin.elapsed().as_secs_f64(), "segment copied from peer");
                Mail::Hydrated { segment, since, report, flushed }
            }
            Err(error) => {
                tracing::warn!(%segment, address, error = format!("{error:#}"), "segment not copied; will try again");
                Mail::NotHydrated { segment, peer }
            }
        };
        if !post.post(LOG_LOOP, mail) {
            tracing::warn!(%segment, "the log loop did not take the news of a copied segment");
        }
    }
}

fn copy(
    shared: &Arc<Shared>,
    segment: SegmentId,
    address: &str,
    history: &History,
) -> anyhow::Result<(SegmentReport, Lsn, u64)> {
    let mut peer = Client::connect(address, &shared.party, TIMEOUT)?;
    let answer = peer.call(&Message::AskManifest { segment })?;
    let Message::Manifest { segment: named, report, manifest } = answer else {
        bail!("{address} answered with message kind {} to AskManifest", answer.kind());
    };
    if named != segment {
        bail!("{address} sent the manifest of segment {named}");
    }
    if report.history.last_epoch() > history.last_epoch() {
        bail!("{address} follows a newer history; gossip brings it first");
    }
    let mut install = shared.store.begin_install(segment, &manifest).context("begin to install")?;
    let mut copied = 0;
    while let Some(want) = install.want() {
        if shared.stopping() {
            bail!("the node is stopping");
        }
        let (file, offset, length) = (want.file, want.offset, want.length);
        let answer = peer.call(&Message::AskFile { segment, file, offset, length })?;
        let Message::Chunk(bytes) = answer else {
            bail!("{address} answered with message kind {} to AskFile", answer.kind());
        };
        copied += bytes.len() as u64;
        install.supply(&bytes).with_context(|| format!("file {file} at {offset}"))?;
    }
    let flushed = shared.store.finish_install(install).context("put the copied files in place")?;
    Ok((report, flushed, copied))
}
