//! Who speaks, what each side checks of the other, and how far apart they are.

use std::time::Duration;

use types::{Az, ClusterId};
use wire::{Hello, PROTOCOL_VERSION, Refusal, Speaker, Welcome};

/// A zone as it travels: its letter, zero for none.
#[must_use]
pub fn letter(az: Option<Az>) -> u8 {
    az.and_then(|az| az.to_string().bytes().next()).unwrap_or(0)
}

/// The side that connects.
#[derive(Clone, Debug)]
pub struct Party {
    /// The installation it belongs to.
    pub cluster: ClusterId,
    /// Who it is.
    pub from: Speaker,
    /// Where it is.
    pub az: Option<Az>,
    /// Round trip added between zones; each side holds what it sends for half of it.
    pub az_latency: Duration,
}

/// The side that is connected to.
#[derive(Clone, Debug)]
pub struct Host {
    /// The installation it belongs to.
    pub cluster: ClusterId,
    /// Who it is and where.
    pub welcome: Welcome,
    /// Round trip added between zones.
    pub az_latency: Duration,
}

impl Party {
    /// The first frame of a connection.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            cluster: self.cluster,
            from: self.from.clone(),
            az: letter(self.az),
        }
    }

    /// How long to hold what is sent to a peer in zone `theirs`.
    #[must_use]
    pub fn delay_to(&self, theirs: u8) -> Duration {
        delay(letter(self.az), theirs, self.az_latency)
    }
}

impl Host {
    /// Whether the connecting side may speak here.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.version != PROTOCOL_VERSION {
            return Err(Refusal::Version { ours: PROTOCOL_VERSION, theirs: hello.version });
        }
        if hello.cluster != self.cluster {
            return Err(Refusal::Cluster { ours: self.cluster, theirs: hello.cluster });
        }
        Ok(())
    }

    /// How long to hold what is sent to a peer in zone `theirs`.
    #[must_use]
    pub fn delay_to(&self, theirs: u8) -> Duration {
        delay(self.welcome.az, theirs, self.az_latency)
    }
}

fn delay(ours: u8, theirs: u8, round_trip: Duration) -> Duration {
    if ours == theirs || ours == 0 || theirs == 0 { Duration::ZERO } else { round_trip / 2 }
}
