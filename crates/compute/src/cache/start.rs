//! The cache of one instance, put together and running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use anyhow::Context as _;
use link::Party;
use seam::{Instance, SharedBoard};

use crate::cache::server::Office;
use crate::cache::{
    CacheStats, Claimants, Evictor, Filler, Limits, Log, PageSource, Server, StorageReader,
    VolumeView,
};

/// What the cache is told.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// The instance.
    pub instance: Instance,
    /// Its board; what dead processes left claimed on it is undone at the start.
    pub board: SharedBoard,
    /// How to introduce ourselves to storage nodes.
    pub party: Party,
    /// How large the cache may be.
    pub limits: Limits,
    /// Test mode: let everything go that may go, all the time, compared with storage first.
    pub evict_everything: bool,
}

/// A running cache. Drop it after PostgreSQL has stopped.
#[derive(Debug)]
pub struct Cache {
    stats: Arc<CacheStats>,
    filler: Arc<Filler>,
    source: Arc<StorageReader>,
    server: Option<Server>,
    stop: Arc<AtomicBool>,
    evictor: Option<JoinHandle<()>>,
}

impl Cache {
    /// Starts the server and the evictor. `office` answers what is not about pages.
    ///
    /// # Errors
    /// When the socket or a thread cannot be had.
    pub fn start(
        config: CacheConfig,
        view: Arc<dyn VolumeView>,
        log: Arc<dyn Log>,
        office: Office,
    ) -> anyhow::Result<Cache> {
        let stats = Arc::new(CacheStats::default());
        let claimants = Claimants::new(config.board, config.instance);
        let source = Arc::new(StorageReader::new(config.party, view, Arc::clone(&stats)));
        let pages: Arc<dyn PageSource> = Arc::clone(&source) as Arc<dyn PageSource>;
        let filler = Filler::new(Arc::clone(&claimants), Arc::clone(&pages), Arc::clone(&stats));
        let evictor = Evictor::new(claimants, pages, log, Arc::clone(&stats), config.limits);
        let evictor = if config.evict_everything {
            tracing::warn!(
                "test mode: whatever may be evicted is evicted at once, and compared with storage"
            );
            evictor.of_everything()
        } else {
            evictor
        };
        let server = Server::start(config.instance, config.board, Arc::clone(&filler), office)
            .context("cannot serve PostgreSQL's processes")?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let evictor = Builder::new()
            .name("cache-evictor".to_owned())
            .spawn(move || evictor.run(&told))
            .context("cannot start the evictor")?;
        Ok(Cache { stats, filler, source, server: Some(server), stop, evictor: Some(evictor) })
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> &Arc<CacheStats> {
        &self.stats
    }

    /// Pages from storage, for others who need some.
    #[must_use]
    pub fn source(&self) -> &Arc<StorageReader> {
        &self.source
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.filler.stop();
        drop(self.server.take());
        if let Some(evictor) = self.evictor.take()
            && evictor.join().is_err()
        {
            tracing::error!("the cache's evictor had panicked");
        }
    }
}
