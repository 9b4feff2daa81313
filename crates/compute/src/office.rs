//! What PostgreSQL's processes ask of the daemon besides pages: to be let in, and to have kept what
//! the log does not say.
//!
//! - D23: the settings that `ALTER SYSTEM` writes are in the volume before the statement succeeds.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use seam::{Instance, Request, SharedBoard};

use crate::carrier::Carrier;
use crate::catalog::file;
use crate::copies::{Directory, forget_copy, keep_copy};
use crate::riders::Rider;
use crate::volume_view::Shared;

/// See the module's description.
#[derive(Debug)]
pub struct Office {
    /// The board.
    pub board: SharedBoard,
    /// The instance.
    pub instance: Instance,
    /// The volume as the driver moves it.
    pub shared: Arc<Shared>,
    /// Puts things into the volume.
    pub carrier: Arc<Carrier>,
}

impl Office {
    /// Answers a request: zero, or the errno that its process is to get.
    #[must_use]
    pub fn answer(&self, request: Request) -> i32 {
        let outcome = match request {
            Request::Hello { pid, postmaster } => return self.admit(pid, postmaster),
            Request::Settings => self.keep_settings(),
            Request::Directory { tablespace, database, pid } => {
                let directory = Directory { tablespace, database, pid };
                keep_copy(&self.instance, &self.shared, &self.carrier, directory)
            }
            Request::NewDirectory { tablespace, database } => {
                forget_copy(&self.shared, &self.carrier, tablespace, database)
            }
            other => Err(anyhow::anyhow!("{other:?} is not for this office")),
        };
        match outcome {
            Ok(()) => 0,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "cannot keep what PostgreSQL wants kept; it is told so");
                libc::EIO
            }
        }
    }

    /// Answers a server's hello (rule R3).
    fn admit(&self, pid: u32, postmaster: bool) -> i32 {
        if self.board.is_fenced() {
            return libc::EPERM;
        }
        if postmaster {
            self.board.set_postmaster_pid(pid);
        }
        0
    }

    fn keep_settings(&self) -> anyhow::Result<()> {
        let pgdata = self.instance.pgdata();
        let path = Path::new(pgdata.as_str()).join("postgresql.auto.conf.tmp");
        let content =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.carrier.carry(vec![Rider::File(file::AUTO_CONF, content.into())])
    }
}
