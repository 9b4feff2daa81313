//! The hot loop: local WAL in, batches out, the durable point to PostgreSQL.
//!
//! One thread. A turn: note how many writes PostgreSQL has made to its log, read and route every
//! whole record, hand one batch a group to the sockets, take what the nodes say, publish the durable
//! point; sleep only when nothing is left to do.
//!
//! - D12: the count of writes is read before the log is, so what is published as flushed was seen.
//! - D13: a count is published only once the last whole record found under it is durable (R1).
//! - D14: whatever goes wrong here ends with the board fenced; there is no path to a success.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use registry::GroupInfo;
use seam::SharedBoard;
use types::{Lsn, NodeId, WRITER_LEAD_BYTES_MAX};

use crate::bell::Bell;
use crate::metrics::DriverMetrics;
use crate::volume_log::{LogError, VolumeLog};
use crate::volume_view::Shared;
use crate::wal_tail::WalTail;

/// Once everything is durable, the last two of six acknowledgements are not worth waking up for one
/// by one: for so long only PostgreSQL can wake the loop.
const STRAGGLERS: Duration = Duration::from_millis(2);

/// What other threads ask of the driver's.
#[derive(Debug)]
pub enum Order {
    /// The volume has one more group.
    AddGroup(GroupInfo),
    /// A group's member set has changed.
    Members(GroupInfo),
    /// A node is somewhere else now.
    Address(NodeId, String),
}

/// Writes to the local log whose records are on their way.
#[derive(Debug)]
struct Waiting {
    /// Count of the writes.
    writes: u64,
    /// End of the last whole record among them.
    position: Lsn,
    /// End of their bytes.
    end: Lsn,
}

/// The driver's thread.
#[derive(Debug)]
pub struct Shipper {
    board: SharedBoard,
    bell: Bell,
    shared: Arc<Shared>,
    log: VolumeLog,
    tail: WalTail,
    orders: Receiver<Order>,
    stop: Arc<AtomicBool>,
    metrics: DriverMetrics,
    /// Writes that wait for the durable point.
    waiting: VecDeque<Waiting>,
    /// Count of writes that have been read.
    handled: u64,
}

impl Shipper {
    /// A shipper that goes on after the last record that `tail` has passed.
    ///
    /// # Errors
    /// When the bell cannot be watched.
    #[expect(clippy::too_many_arguments, reason = "the loop's parts, each made by another module")]
    pub fn new(
        board: SharedBoard,
        bell: Bell,
        shared: Arc<Shared>,
        log: VolumeLog,
        tail: WalTail,
        orders: Receiver<Order>,
        stop: Arc<AtomicBool>,
        metrics: DriverMetrics,
    ) -> anyhow::Result<Shipper> {
        log.links().watch(bell.descriptor())?;
        Ok(Shipper {
            board,
            bell,
            shared,
            log,
            tail,
            orders,
            stop,
            metrics,
            waiting: VecDeque::new(),
            handled: 0,
        })
    }

    /// Runs until told to stop or until it cannot go on.
    ///
    /// # Errors
    /// Why it cannot; the board is fenced by then.
    pub fn run(mut self) -> Result<(), LogError> {
        let outcome = self.serve();
        if outcome.is_err() {
            self.board.fence();
        }
        outcome
    }

    fn serve(&mut self) -> Result<(), LogError> {
        while !self.stop.load(Ordering::Relaxed) {
            self.take_orders();
            let all_read = self.read_log()?;
            self.log.send();
            self.publish();
            let timeout = if !all_read {
                Duration::from_millis(5) // until acknowledgements make room
            } else if !self.board.prepare_sleep(self.handled) {
                Duration::ZERO
            } else if self.waiting.is_empty() && self.bell.rings_within(STRAGGLERS) {
                self.board.awake();
                self.bell.silence();
                continue; // the stragglers' acknowledgements are taken with the next batch's
            } else {
                self.board.beat(micros());
                self.log.idle()
            };
            let rang = self.log.turn(timeout)?;
            self.board.awake();
            if rang {
                self.bell.silence();
            }
            self.publish();
        }
        Ok(())
    }

    /// Reads what PostgreSQL has written; false when something was left unread.
    fn read_log(&mut self) -> Result<bool, LogError> {
        let writes = self.board.wal_writes();
        if writes == self.handled {
            return Ok(true);
        }
        let (end, _timeline) = self.board.wal_end();
        let mut failed = None;
        let mut held_back = false;
        {
            let mut router = self.shared.router_mut();
            let writer = self.log.writer();
            let mut records = 0;
            self.tail
                .read(Lsn(end), &mut |record| {
                    match router.route(&record).map_err(anyhow::Error::from) {
                        Ok(record) => match check_length(&record) {
                            Ok(()) => writer.submit(record, router.xids.next()),
                            Err(error) => failed = Some(error),
                        },
                        Err(error) => failed = Some(error),
                    }
                    records += 1;
                    held_back = writer.lead_bytes() >= WRITER_LEAD_BYTES_MAX;
                    !held_back && failed.is_none()
                })
                .context("cannot read PostgreSQL's log")?;
            self.metrics.records.inc_by(records);
            self.metrics.free_space_seen.set(router.signs.vacuum.cast_signed());
            self.shared.set_running(self.tail.position(), router.xids.oldest_running());
        }
        if let Some(error) = failed {
            let what = "PostgreSQL wrote a record that the volume cannot hold (rule D4)";
            return Err(error.context(what).into());
        }
        if held_back {
            return Ok(false);
        }
        self.handled = writes;
        let position = self.tail.position();
        let new = Waiting { writes, position, end: Lsn(end) };
        match self.waiting.back_mut() {
            Some(last) if last.position == position => *last = new,
            _ => self.waiting.push_back(new),
        }
        Ok(true)
    }

    /// Tells PostgreSQL how far its log is durable.
    fn publish(&mut self) {
        let durable = self.log.vdl().end;
        let mut reached = None;
        while self.waiting.front().is_some_and(|waiting| waiting.position <= durable) {
            reached = self.waiting.pop_front();
        }
        if let Some(Waiting { writes, end, .. }) = reached {
            self.shared.set_published(end); // before PostgreSQL can know
            self.board.set_flushed(writes);
        }
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Address(node, address) => self.log.set_address(node, &address),
                Order::AddGroup(info) => self.log.add_group(&info),
                Order::Members(info) => self.log.set_members(&info),
            }
        }
    }
}

/// The wall clock in microseconds since 1970.
fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// A record's part travels in one batch, and nodes refuse a longer one than they would store.
fn check_length(record: &protocol::Record) -> anyhow::Result<()> {
    /// Room for what a batch says beside a part's bytes.
    const ROOM: usize = 1 << 20;
    let longest = record.parts.iter().map(|(_, _, body)| body.len()).max().unwrap_or(0);
    anyhow::ensure!(
        longest + ROOM <= types::BATCH_BYTES_MAX,
        "record {} has {longest} bytes; the longest that storage takes has {}",
        record.span,
        types::BATCH_BYTES_MAX - ROOM
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use types::{GroupId, Span};

    use super::*;

    #[test]
    fn a_record_that_no_batch_can_carry_is_named_instead_of_sent_for_ever() {
        let record = |length: usize| protocol::Record {
            span: Span { start: Lsn(8), end: Lsn(16) },
            prev: Lsn(0),
            parts: vec![(GroupId(0), vec![], Bytes::from(vec![0; length]))],
        };
        assert!(check_length(&record(32 << 20)).is_ok());
        let error = check_length(&record(64 << 20)).expect_err("too long").to_string();
        assert!(error.contains("[0/8, 0/10)"), "{error}");
    }
}
