//! Harness of the end-to-end suites: a real cluster of real processes on this machine, driven
//! through the commands an operator has, and clients that remember what they were promised.
//!
//! Reading order: [`cluster`], [`instance`], [`ledger`], [`moments`], [`metrics`], [`resident`], [`tools`], [`node_disk`],
//! [`small_disk`], [`hold`], [`failing`], [`network`], [`stock`]; for the hard cases [`shared`], [`hard`], [`aged`]; [`suites`] are
//! PostgreSQL's own tests.

pub mod aged;
pub mod cluster;
pub mod failing;
pub mod hard;
pub mod hold;
pub mod instance;
pub mod ledger;
pub mod metrics;
pub mod moments;
pub mod network;
pub mod node_disk;
pub mod resident;
pub mod shared;
pub mod small_disk;
pub mod stock;
pub mod suites;
pub mod tools;

pub use cluster::{Cluster, Options};
pub use instance::Instance;
pub use ledger::Ledger;
pub use moments::Moments;
pub use network::Network;
pub use node_disk::NodeDisk;
pub use shared::Shared;
pub use small_disk::SmallDisk;
pub use stock::Stock;
