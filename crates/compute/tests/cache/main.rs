//! The local cache: what is filled, what may be evicted, where pages come from, and all of it under
//! stock PostgreSQL.

#[path = "../../../shim/tests/common/mod.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod common;
mod evict;
mod fill;
mod postgres;
mod storage;
mod world;
