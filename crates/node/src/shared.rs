//! What the threads of a node share: the store, each segment's account, who we are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use link::{Host, Party};
use segstore::Store;
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
    stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn new(store: Store, host: Host, party: Party, metrics: NodeMetrics) -> Shared {
        let (accounts, stopping) = (RwLock::default(), AtomicBool::new(false));
        Shared { store, host, party, metrics, accounts, stopping }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
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
