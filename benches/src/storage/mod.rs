//! Storage without PostgreSQL: control plane and six nodes as processes, and writers that make up their
//! log. What is measured is the way from a writer to four of six disks and back, and nothing else.

pub mod nodes;
pub mod writer;
