//! A volume's writer with a made-up log, over the daemon's own connections: pages put, commits waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use compute::catalog::Catalog;
use compute::metrics::DriverMetrics;
use compute::recover::{Means, recover};
use compute::router::Router;
use compute::volume_log::VolumeLog;
use compute::volume_view::Shared;
use compute::xids::Xids;
use link::Party;
use pgwal::keys::{Fork, Key, Rel};
use protocol::{Record, Timelines};
use registry::{Client, CreateVolume, OpenVolume, VolumeInfo};
use telemetry::Metrics;
use types::{Epoch, GroupId, Lsn, Span, Timeline};
use wire::{Change, Speaker};

/// Bytes of a page.
pub const PAGE: usize = 8192;

/// A writer.
pub struct Writer {
    log: VolumeLog,
    last: Span,
    page: Vec<u8>,
}

impl Writer {
    /// Makes and opens a volume of this name.
    ///
    /// # Errors
    /// When the control plane or the nodes refuse.
    pub fn open(control: &Client, name: &str) -> Result<Writer> {
        let wish = CreateVolume { name: name.to_owned(), group_bytes: None, limit_bytes: None };
        let volume = control.create_volume(&wish)?;
        let party = party(&volume, name)?;
        let mut raise = |expected_epoch: Option<u64>| {
            let wish = OpenVolume { instance: name.to_owned(), expected_epoch };
            Ok(control.open_volume(volume.id, &wish)?)
        };
        let timelines = Timelines::NextAfterOr(Timeline(1));
        let means = Means { raise: &mut raise, rescue: &mut |_, _| 0, stop: &|| false };
        let opened = recover(means, None, timelines, &party)?;
        let groups: Vec<GroupId> = opened.opened.tails.iter().map(|setup| setup.group).collect();
        let router = Router::new(Catalog::new(1 << 30, groups), Xids::new(3), false);
        let epoch = Epoch(opened.info.epoch);
        let shared = Arc::new(Shared::new(volume.id, epoch, router, opened.positions()));
        let last = opened.opened.vdl;
        let metrics = DriverMetrics::new(&Metrics::new("bench", name));
        let log = VolumeLog::new(opened.links, opened.opened, &opened.info.groups, shared, metrics);
        Ok(Writer { log, last, page: vec![0x5a; PAGE] })
    }

    /// Adds a record that gives a page its content.
    pub fn put(&mut self, page: u32, bytes: usize) {
        let start = self.last.end.max(Lsn(8)); // nothing starts at zero
        // Distinct content: nothing on the way can take it for a page that it has.
        self.page[..8].copy_from_slice(&start.0.to_le_bytes());
        let rel = Rel { tablespace: 1663, database: 5, relation: 16_384 };
        let key = Key::Block(rel, Fork::Main, page).encode();
        let content = Bytes::copy_from_slice(&self.page[..bytes.clamp(8, PAGE)]);
        let body = Bytes::copy_from_slice(&self.page[..8]);
        let span = Span { start, end: start.plus((bytes as u64).next_multiple_of(8)) };
        let parts = vec![(GroupId(0), vec![Change::Put(key, content)], body)];
        self.log.writer().submit(Record { span, prev: self.last.start, parts }, 3);
        self.last = span;
    }

    /// Bytes of log that are not yet durable.
    #[must_use]
    pub fn lead(&mut self) -> u64 {
        self.log.writer().lead_bytes()
    }

    /// Sends what there is and takes in what the nodes say, for at most so long.
    ///
    /// # Errors
    /// When fenced.
    pub fn turn(&mut self, timeout: Duration) -> Result<()> {
        self.log.send();
        let pause = self.log.idle().min(timeout);
        self.log.turn(pause)?;
        Ok(())
    }

    /// Waits until all of it is durable at four of six; returns how long that took.
    ///
    /// # Errors
    /// When fenced.
    pub fn commit(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.log.send();
        while self.log.vdl() != self.last {
            self.log.turn(Duration::from_millis(50))?;
        }
        let took = begun.elapsed();
        self.log.idle();
        Ok(took)
    }
}

fn party(volume: &VolumeInfo, name: &str) -> Result<Party> {
    let name = name.parse().context("an instance's name")?;
    Ok(Party {
        cluster: volume.cluster,
        from: Speaker::Instance { name, volume: volume.id },
        az: None,
        az_latency: Duration::ZERO,
    })
}
