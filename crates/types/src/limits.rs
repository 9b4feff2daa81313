//! Limits that hold across crates. Quorum sizes are enumerated, not computed (rule Q1).

/// Copies of every group.
pub const COPIES: usize = 6;
/// Copies that must hold a record before it is durable.
pub const WRITE_QUORUM: usize = 4;
/// Copies that recovery must hear before it decides.
pub const READ_QUORUM: usize = 3;
/// Availability zones of a cluster; two copies in each.
pub const ZONES: usize = 3;

const _: () = assert!(WRITE_QUORUM + READ_QUORUM > COPIES, "reads must meet every write");
const _: () = assert!(2 * WRITE_QUORUM > COPIES, "two writes must meet");

/// Largest page of any engine, bytes.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Largest batch on the wire and in a hot log, bytes: bounds what a peer can make us allocate.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Largest frame that is not a batch, bytes.
pub const FRAME_BYTES_MAX: usize = 72 << 20;
/// Bytes of a group's pages at which the next group is opened, by default.
pub const GROUP_BYTES_DEFAULT: u64 = 10 << 30;
/// Smallest such number: below it a group could not hold what a new database begins with.
pub const GROUP_BYTES_MIN: u64 = 1 << 20;
/// Bytes that the writer may run ahead of the durable point before it waits (back-pressure).
pub const WRITER_LEAD_BYTES_MAX: u64 = 64 << 20;
