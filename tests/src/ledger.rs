//! Clients that write while things break, and remember exactly what was acknowledged to them.
//!
//! Every transaction puts the same number into two tables. Afterwards each acknowledged number must
//! be in both, and no number may be in only one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postgres::Client;

use crate::cluster::connect_to;

/// A running set of clients.
pub struct Ledger {
    stop: Arc<AtomicBool>,
    clients: Vec<LedgerClient>,
}

struct LedgerClient {
    number: i32,
    acknowledged: Arc<AtomicU64>,
    errors: Arc<AtomicU64>,
    thread: JoinHandle<Vec<i64>>,
}

/// What the clients were promised, by client.
pub struct Promises {
    acknowledged: Vec<(i32, Vec<i64>)>,
    /// Statements that ended in an error.
    pub errors: u64,
}

impl Ledger {
    /// Creates the tables.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub fn create(client: &mut Client) -> Result<()> {
        client
            .batch_execute(
                "create table ledger_a(client int, number bigint, primary key(client, number));
                 create table ledger_b(client int, number bigint, filler text);
                 create index on ledger_b(client, number)",
            )
            .context("create the ledger")
    }

    /// Starts `count` clients with numbers from `first` on; each writes until stopped, connecting
    /// again whenever its connection breaks.
    #[must_use]
    pub fn start(port: u16, first: i32, count: i32) -> Ledger {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (first..first + count)
            .map(|number| {
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
                let errors = Arc::new(AtomicU64::new(0));
                let (seen, failed) = (Arc::clone(&acknowledged), Arc::clone(&errors));
                let thread =
                    std::thread::spawn(move || write_on(port, number, &stop, &seen, &failed));
                LedgerClient { number, acknowledged, errors, thread }
            })
            .collect();
        Ledger { stop, clients }
    }

    /// Transactions acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.clients.iter().map(|client| client.acknowledged.load(Ordering::SeqCst)).sum()
    }

    /// Statements that ended in an error so far.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.clients.iter().map(|client| client.errors.load(Ordering::SeqCst)).sum()
    }

    /// Waits until at least `more` further transactions have been acknowledged.
    ///
    /// # Errors
    /// When that does not happen within `limit`.
    pub fn wait_for_progress(&self, more: u64, limit: Duration) -> Result<()> {
        let (started, before) = (std::time::Instant::now(), self.acknowledged());
        while self.acknowledged() < before + more {
            ensure!(
                started.elapsed() < limit,
                "only {} of {more} transactions in {limit:?}",
                self.acknowledged() - before
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks the clients to stop without waiting for them.
    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Stops the clients and gives what they were promised. A client in the middle of a statement
    /// is waited for, so the writer must be there or its connection broken.
    #[must_use]
    pub fn stop(self) -> Promises {
        self.ask_to_stop();
        let errors = self.errors();
        let acknowledged = self
            .clients
            .into_iter()
            .map(|client| (client.number, client.thread.join().expect("a ledger client")))
            .collect();
        Promises { acknowledged, errors }
    }
}

impl Promises {
    /// Checks the database against the promises; gives how many were checked.
    ///
    /// # Errors
    /// Naming the first numbers lost or halved.
    pub fn verify(&self, client: &mut Client) -> Result<u64> {
        let half: i64 = client
            .query_one(
                "select count(*) from ledger_a a full join ledger_b b
                 on a.client = b.client and a.number = b.number
                 where a.client is null or b.client is null",
                &[],
            )?
            .get(0);
        ensure!(half == 0, "{half} transactions are there by half");
        let mut checked = 0;
        for (number, promised) in &self.acknowledged {
            let rows = client.query(
                "select p from unnest($2::bigint[]) p
                 where not exists (select from ledger_a where client = $1 and number = p)",
                &[number, promised],
            )?;
            let lost: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            ensure!(
                lost.is_empty(),
                "client {number} was promised {} transactions; lost: {:?}",
                promised.len(),
                lost.iter().take(10).collect::<Vec<_>>()
            );
            checked += promised.len() as u64;
        }
        Ok(checked)
    }
}

fn write_on(
    port: u16,
    number: i32,
    stop: &AtomicBool,
    seen: &AtomicU64,
    failed: &AtomicU64,
) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    let mut next = 0i64;
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut client) = connect_to(port) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            next += 1;
            let sql = format!(
                "begin; insert into ledger_a values ({number}, {next});
                 insert into ledger_b values ({number}, {next}, repeat('x', {})); commit",
                20 + next % 400
            );
            if client.batch_execute(&sql).is_err() {
                failed.fetch_add(1, Ordering::SeqCst);
                break;
            }
            acknowledged.push(next);
            seen.fetch_add(1, Ordering::SeqCst);
        }
    }
    acknowledged
}
