//! The server's counters and parameters as of a position in the log: the content of
//! [`Key::State`](pgwal::keys::Key::State).
//!
//! What a record does to them is what PostgreSQL's recovery does to its memory; whoever starts a
//! server from a volume makes a checkpoint record and `pg_control` of them. The encoding is our
//! own, versioned, of fixed size:
//!
//! ```text
//! 0       4     8                16             104        140
//! magic   1     last checkpoint  CheckPoint     parameters end
//! u32     u32   u64              88 bytes       36 bytes
//! ```

use pgwal::checkpoint::CheckPoint;
use pgwal::control_file::ControlFile;
use pgwal::effects::Effects;
use pgwal::layout::op::{clog, commit_ts, multixact, rm, xlog};
use pgwal::slru::{circular_precedes, xid_precedes};
use types::{Lsn, Timeline};

use crate::fault::{Fault, Res, ensure};
use crate::read::Reader;
use crate::slru::effects_of;
use crate::step::Record;

const MAGIC: u32 = 0x5358_5354;
const VERSION: u32 = 1;

/// Parameters that a server must not start with less of (`xl_parameter_change`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parameters {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: u32,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

/// The server's counters and parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Start of the last checkpoint's record.
    pub last_checkpoint: Lsn,
    /// The counters, as a checkpoint at this position would have them. `redo` and `time` are those
    /// of the last checkpoint record.
    pub checkpoint: CheckPoint,
    /// The parameters.
    pub parameters: Parameters,
}

impl State {
    /// Size of the encoding.
    pub const SIZE: usize = 16 + CheckPoint::SIZE + 36;

    /// The state in a cluster's `pg_control`, which must be that of a clean shutdown to be exact.
    #[must_use]
    pub fn of_control_file(file: &ControlFile) -> State {
        State {
            last_checkpoint: file.checkpoint,
            checkpoint: file.checkpoint_copy,
            parameters: Parameters {
                max_connections: file.max_connections,
                max_worker_processes: file.max_worker_processes,
                max_wal_senders: file.max_wal_senders,
                max_prepared_xacts: file.max_prepared_xacts,
                max_locks_per_xact: file.max_locks_per_xact,
                wal_level: file.wal_level,
                wal_log_hints: file.wal_log_hints,
                track_commit_timestamp: file.track_commit_timestamp,
            },
        }
    }

    /// The bytes of the page.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let p = &self.parameters;
        let mut bytes = Vec::with_capacity(State::SIZE);
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.last_checkpoint.0.to_le_bytes());
        bytes.extend_from_slice(&self.checkpoint.encode());
        for number in [
            p.max_connections,
            p.max_worker_processes,
            p.max_wal_senders,
            p.max_prepared_xacts,
            p.max_locks_per_xact,
            p.wal_level,
            u32::from(p.wal_log_hints),
            u32::from(p.track_commit_timestamp),
            0,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The state in these bytes.
    ///
    /// # Errors
    /// When they are not a state of this version.
    pub fn decode(bytes: &[u8]) -> Result<State, Fault> {
        let mut reader = Reader::new("server state", bytes);
        let (magic, version) = (reader.u32()?, reader.u32()?);
        ensure!(
            magic == MAGIC && version == VERSION && bytes.len() == State::SIZE,
            "{} bytes with magic {magic:#x} and version {version} are not a server state",
            bytes.len()
        );
        let last_checkpoint = Lsn(reader.u64()?);
        let checkpoint = checkpoint(reader.take(CheckPoint::SIZE)?)?;
        let parameters = Parameters {
            max_connections: reader.u32()?,
            max_worker_processes: reader.u32()?,
            max_wal_senders: reader.u32()?,
            max_prepared_xacts: reader.u32()?,
            max_locks_per_xact: reader.u32()?,
            wal_level: reader.u32()?,
            wal_log_hints: reader.u32()? != 0,
            track_commit_timestamp: reader.u32()? != 0,
        };
        Ok(State { last_checkpoint, checkpoint, parameters })
    }

    /// Does what the record does to the counters.
    pub(crate) fn apply(&mut self, record: &Record<'_>) -> Res<()> {
        let effects = effects_of(record)?;
        match record.rmid {
            rm::XLOG => self.apply_xlog(record)?,
            rm::CLOG if record.op() == clog::TRUNCATE => self.truncate_clog(record)?,
            rm::MULTIXACT if record.op() == multixact::TRUNCATE_ID => {
                let mut main = Reader::new("main data", record.main);
                let database = main.u32()?;
                main.skip(4)?;
                self.advance_oldest_multi(main.u32()?, database);
            }
            rm::COMMIT_TS if record.op() == commit_ts::TRUNCATE => {
                let mut main = Reader::new("main data", record.main);
                main.skip(4)?;
                let (oldest, current) = (main.u32()?, &mut self.checkpoint.oldest_commit_ts_xid);
                if *current != 0 && xid_precedes(*current, oldest) {
                    *current = oldest;
                }
            }
            _ => {}
        }
        self.advance(&effects);
        Ok(())
    }

    /// Counters that are at least what a record shows of them.
    fn advance(&mut self, effects: &Effects) {
        if let Some(xid) = effects.latest_xid {
            self.advance_next_xid(xid);
        }
        if let Some(running) = &effects.running {
            self.advance_next_xid(running.next_xid.wrapping_sub(1));
        }
        if let Some((multi, offset)) = effects.next_multi
            && !effects.is_shutdown_checkpoint()
        {
            self.advance_next_multi(multi, offset);
        }
        if let Some(xact) = &effects.xact
            && xact.kind.is_commit()
            && self.parameters.track_commit_timestamp
        {
            let newest = xact.subxacts.last().copied().unwrap_or(xact.xid);
            let current = &mut self.checkpoint.newest_commit_ts_xid;
            if xid_precedes(*current, newest) {
                *current = newest;
            }
        }
    }

    fn advance_next_xid(&mut self, xid: u32) {
        let next = self.checkpoint.next_xid as u32;
        if xid < 3 || xid_precedes(xid, next) {
            return;
        }
        let after = xid.wrapping_add(1).max(3);
        let epoch = (self.checkpoint.next_xid >> 32) + u64::from(after < next);
        self.checkpoint.next_xid = epoch << 32 | u64::from(after);
    }

    fn advance_next_multi(&mut self, multi: u32, offset: u32) {
        let own = &mut self.checkpoint;
        if circular_precedes(own.next_multi, multi) {
            own.next_multi = multi;
        }
        if circular_precedes(own.next_multi_offset, offset) {
            own.next_multi_offset = offset;
        }
    }

    fn advance_oldest_multi(&mut self, multi: u32, database: u32) {
        if circular_precedes(self.checkpoint.oldest_multi, multi) {
            self.checkpoint.oldest_multi = multi;
            self.checkpoint.oldest_multi_database = database;
        }
    }

    fn advance_oldest_xid(&mut self, xid: u32, database: u32) {
        if xid_precedes(self.checkpoint.oldest_xid, xid) {
            self.checkpoint.oldest_xid = xid;
            self.checkpoint.oldest_xid_database = database;
        }
    }

    /// The status of older transactions is gone: no database can need it any more.
    fn truncate_clog(&mut self, record: &Record<'_>) -> Res<()> {
        let mut main = Reader::new("main data", record.main);
        main.skip(4)?;
        let (oldest, database) = (main.u32()?, main.u32()?);
        self.advance_oldest_xid(oldest, database);
        Ok(())
    }

    fn apply_xlog(&mut self, record: &Record<'_>) -> Res<()> {
        let mut main = Reader::new("main data", record.main);
        match record.op() {
            xlog::CHECKPOINT_SHUTDOWN => {
                self.last_checkpoint = record.span.start;
                let new = checkpoint(record.main)?;
                // Of all counters only this one is not believed when it goes back.
                self.advance_oldest_multi(new.oldest_multi, new.oldest_multi_database);
                let CheckPoint { oldest_multi, oldest_multi_database, .. } = self.checkpoint;
                self.checkpoint = CheckPoint { oldest_multi, oldest_multi_database, ..new };
            }
            xlog::CHECKPOINT_ONLINE => self.online_checkpoint(record)?,
            xlog::NEXTOID => self.checkpoint.next_oid = main.u32()?,
            xlog::FPW_CHANGE => self.checkpoint.full_page_writes = main.bool()?,
            xlog::END_OF_RECOVERY => {
                main.skip(8)?;
                self.checkpoint.timeline = Timeline(main.u32()?);
                self.checkpoint.prev_timeline = Timeline(main.u32()?);
            }
            xlog::PARAMETER_CHANGE => self.change_parameters(main)?,
            _ => {}
        }
        Ok(())
    }

    /// An online checkpoint's counters are minima, and its oid counter is older than the log's.
    fn online_checkpoint(&mut self, record: &Record<'_>) -> Res<()> {
        let new = checkpoint(record.main)?;
        self.last_checkpoint = record.span.start;
        self.advance_oldest_multi(new.oldest_multi, new.oldest_multi_database);
        self.advance_oldest_xid(new.oldest_xid, new.oldest_xid_database);
        let own = &mut self.checkpoint;
        own.next_xid = own.next_xid.max(new.next_xid);
        own.redo = new.redo;
        own.timeline = new.timeline;
        own.prev_timeline = new.prev_timeline;
        own.full_page_writes = new.full_page_writes;
        own.time = new.time;
        own.oldest_active_xid = new.oldest_active_xid;
        // Taken when the checkpoint began; commits and truncations since have moved them on.
        for (own, new) in [
            (&mut own.oldest_commit_ts_xid, new.oldest_commit_ts_xid),
            (&mut own.newest_commit_ts_xid, new.newest_commit_ts_xid),
        ] {
            if xid_precedes(*own, new) {
                *own = new;
            }
        }
        Ok(())
    }

    /// Turning commit timestamps on begins their history at the next transaction, off forgets it.
    fn change_parameters(&mut self, mut main: Reader<'_>) -> Res<()> {
        let new = Parameters {
            max_connections: main.u32()?,
            max_worker_processes: main.u32()?,
            max_wal_senders: main.u32()?,
            max_prepared_xacts: main.u32()?,
            max_locks_per_xact: main.u32()?,
            wal_level: main.u32()?,
            wal_log_hints: main.bool()?,
            track_commit_timestamp: main.bool()?,
        };
        let own = &mut self.checkpoint;
        if !new.track_commit_timestamp {
            own.oldest_commit_ts_xid = 0;
            own.newest_commit_ts_xid = 0;
        } else if own.oldest_commit_ts_xid == 0 {
            own.oldest_commit_ts_xid = own.next_xid as u32;
            own.newest_commit_ts_xid = own.next_xid as u32;
        }
        self.parameters = new;
        Ok(())
    }
}

fn checkpoint(bytes: &[u8]) -> Res<CheckPoint> {
    CheckPoint::decode(bytes).ok_or_else(|| {
        Fault(format!("a checkpoint of {} bytes is shorter than {}", bytes.len(), CheckPoint::SIZE))
    })
}
