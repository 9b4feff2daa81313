//! One cluster for the tests of a file: started by the first that asks, used by one at a time, stopped
//! when the test program ends.
//!
//! The tests of a file keep out of each other's way by the names of their tables. Each leaves the
//! writer running; after one that did not, or that panicked, the next gets a new cluster.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::Result;

use crate::{Cluster, Options};

static STARTED: Mutex<Vec<&'static Shared>> = Mutex::new(Vec::new());
static AT_EXIT: Once = Once::new();

/// See the module's description.
pub struct Shared {
    options: fn() -> Result<Options>,
    cluster: Mutex<Option<Cluster>>,
}

impl Shared {
    /// A cluster that will be started with these options.
    #[must_use]
    pub const fn new(options: fn() -> Result<Options>) -> Shared {
        Shared { options, cluster: Mutex::new(None) }
    }

    /// The cluster, for this test alone until the guard is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn take(&'static self) -> Result<Taken> {
        let mut guard = self.cluster.lock().unwrap_or_else(|poisoned| {
            self.cluster.clear_poison();
            let mut guard = poisoned.into_inner();
            *guard = None;
            guard
        });
        if guard.as_ref().is_some_and(|cluster| cluster.connect().is_err()) {
            *guard = None;
        }
        if guard.is_none() {
            *guard = Some(Cluster::up((self.options)()?)?);
            STARTED.lock().unwrap_or_else(PoisonError::into_inner).push(self);
            // SAFETY: the handler is a plain function; it allocates, locks and waits, all of which a
            // process that ends by returning from `main` may still do.
            AT_EXIT.call_once(|| unsafe {
                libc::atexit(stop_all);
            });
        }
        Ok(Taken(guard))
    }
}

/// A shared cluster in one test's hands.
pub struct Taken(MutexGuard<'static, Option<Cluster>>);

impl Deref for Taken {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().expect("`take` leaves a cluster here")
    }
}

impl std::ops::DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut Cluster {
        self.0.as_mut().expect("`take` leaves a cluster here")
    }
}

extern "C" fn stop_all() {
    let started = std::mem::take(&mut *STARTED.lock().unwrap_or_else(PoisonError::into_inner));
    for shared in started {
        drop(shared.cluster.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
