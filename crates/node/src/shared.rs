//! What the threads of a node share: the store, each segment's account, who we are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::Thread;

use link::{Host, Party};
use registry::SegmentUse;
use segstore::{Store, Usage};
use types::{Lsn, SegmentId};
use wire::{Refusal, SegmentReport};

use crate::metrics::NodeMetrics;

type Accounts = BTreeMap<SegmentId, Arc<Mutex<SegmentReport>>>;

/// Shared by all threads of one node.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) host: Host,
    pub(crate) party: Party,
    pub(crate) metrics: NodeMetrics,
    accounts: RwLock<Accounts>,
    /// Segments that nobody speaks for any more, to be dropped by the background thread.
    dropping: Mutex<Vec<SegmentId>>,
    /// Whether the last list of assigned segments is to be told again.
    assign_again: AtomicBool,
    scrubber: OnceLock<Thread>,
    stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn new(store: Store, host: Host, party: Party, metrics: NodeMetrics) -> Shared {
        let (accounts, dropping) = (RwLock::default(), Mutex::default());
        let (scrubber, assign_again, stopping) = Default::default();
        Shared { store, host, party, metrics, accounts, dropping, assign_again, scrubber, stopping }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// The thread to wake when damage is met.
    pub(crate) fn scrubber_is(&self, thread: Thread) {
        self.scrubber.get_or_init(|| thread);
    }

    /// A read met damage, which its file remembers: it is mended at once.
    pub(crate) fn damage_met(&self) {
        self.scrubber.get().inspect(|thread| thread.unpark());
    }

    /// Remembers whether every assigned segment is held now: a full disk may have prevented it.
    pub(crate) fn note_assigned(&self, met: bool) {
        self.assign_again.store(!met, Ordering::Release);
    }

    /// Whether to tell the log loop again what is assigned.
    pub(crate) fn is_to_be_assigned_again(&self) -> bool {
        self.assign_again.load(Ordering::Acquire)
    }

    /// Makes known what a segment holds. Called by the log loop before any acknowledgement of it
    /// leaves, so that a reader which saw the acknowledgement is served.
    pub(crate) fn publish(&self, segment: SegmentId, report: SegmentReport) {
        // Whole values are replaced, so a panic elsewhere leaves nothing half-written.
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(&segment) {
            *account.lock().unwrap_or_else(PoisonError::into_inner) = report;
            return;
        }
        drop(accounts);
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.insert(segment, Arc::new(Mutex::new(report)));
    }

    pub(crate) fn withdraw(&self, segment: SegmentId) {
        self.accounts.write().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    /// Has the background thread free what a segment takes. The log loop has let go of it.
    pub(crate) fn drop_later(&self, segment: SegmentId) {
        self.dropping.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    pub(crate) fn next_to_drop(&self) -> Option<SegmentId> {
        self.dropping.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// What every segment takes on the disk, as the control plane is told.
    pub(crate) fn holds(&self) -> Vec<SegmentUse> {
        let told = |usage: Usage| SegmentUse {
            volume: usage.segment.volume,
            group: usage.segment.group.0,
            file_bytes: usage.file_bytes,
            log_bytes: usage.log_bytes,
        };
        self.store.usage().into_iter().map(told).collect()
    }

    pub(crate) fn report(&self, segment: SegmentId) -> Option<SegmentReport> {
        self.look(segment, SegmentReport::clone)
    }

    fn look<T>(&self, segment: SegmentId, look: impl FnOnce(&SegmentReport) -> T) -> Option<T> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.get(&segment)?;
        let report = account.lock().unwrap_or_else(PoisonError::into_inner);
        Some(look(&report))
    }

    /// Whether a read may be answered here that needs the group complete to `complete_to`.
    pub(crate) fn may_read(&self, segment: SegmentId, complete_to: Lsn) -> Result<(), Refusal> {
        let found = self.look(segment, |report| (report.full, report.scl));
        match found {
            None => Err(Refusal::NoSegment(segment)),
            Some((false, _)) => Err(Refusal::Hydrating(segment)),
            Some((true, scl)) if scl < complete_to => {
                Err(Refusal::Behind { scl, asked: complete_to })
            }
            Some((true, _)) => Ok(()),
        }
    }
}
