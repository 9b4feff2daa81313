//! `global/pg_control` (`ControlFileData`, version 1300): 296 bytes with a checksum at the end, in
//! a file of 8192.

use types::{Lsn, Timeline};

use crate::checkpoint::CheckPoint;

/// Size of the file.
pub const FILE_SIZE: usize = 8192;
/// `PG_CONTROL_VERSION` of PostgreSQL 15.
pub const CONTROL_VERSION: u32 = 1300;
/// Size of the struct with its checksum.
const SIZE: usize = 296;
const CRC_AT: usize = 288;

/// State of the server that wrote the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum DbState {
    /// Being started for the first time.
    Startup = 0,
    /// Shut down cleanly.
    ShutDown = 1,
    /// Shut down during recovery.
    ShutDownInRecovery = 2,
    /// Shutting down.
    ShuttingDown = 3,
    /// In crash recovery.
    InCrashRecovery = 4,
    /// In archive recovery, or a standby.
    InArchiveRecovery = 5,
    /// Running.
    InProduction = 6,
}

impl DbState {
    fn from_number(number: u32) -> Option<DbState> {
        use DbState as S;
        [
            S::Startup,
            S::ShutDown,
            S::ShutDownInRecovery,
            S::ShuttingDown,
            S::InCrashRecovery,
            S::InArchiveRecovery,
            S::InProduction,
        ]
        .into_iter()
        .find(|state| *state as u32 == number)
    }
}

/// A file that is not a `pg_control` of PostgreSQL 15.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// Too short.
    #[error("pg_control has {0} bytes; it needs at least 296")]
    Short(usize),
    /// Another version.
    #[error("pg_control has version {0}; PostgreSQL 15 writes 1300")]
    Version(u32),
    /// Damaged.
    #[error("pg_control is damaged: checksum {computed:#010x} computed, {stored:#010x} stored")]
    Checksum {
        /// Over the bytes at hand.
        computed: u32,
        /// In the file.
        stored: u32,
    },
    /// A server state that does not exist.
    #[error("pg_control has server state {0}, which does not exist")]
    State(u32),
}

macro_rules! control_file {
    ($($(#[$doc:meta])* $name:ident: $kind:ident @ $at:expr,)*) => {
        /// Content of `pg_control`.
        #[derive(Clone, PartialEq, Debug)]
        pub struct ControlFile {
            $($(#[$doc])* pub $name: control_file!(@type $kind),)*
        }

        impl ControlFile {
            fn read(bytes: &[u8; SIZE]) -> Result<ControlFile, ControlFileError> {
                Ok(ControlFile { $($name: control_file!(@read $kind, bytes, $at),)* })
            }

            fn write(&self, bytes: &mut [u8; SIZE]) {
                $(control_file!(@write $kind, bytes, $at, self.$name);)*
            }
        }
    };
    (@type u64) => { u64 };
    (@type i64) => { i64 };
    (@type u32) => { u32 };
    (@type bool) => { bool };
    (@type lsn) => { Lsn };
    (@type timeline) => { Timeline };
    (@type state) => { DbState };
    (@type float) => { f64 };
    (@type checkpoint) => { CheckPoint };
    (@type nonce) => { [u8; 32] };
    (@read u64, $b:expr, $at:expr) => { u64::from_le_bytes(array($b, $at)) };
    (@read i64, $b:expr, $at:expr) => { i64::from_le_bytes(array($b, $at)) };
    (@read u32, $b:expr, $at:expr) => { u32::from_le_bytes(array($b, $at)) };
    (@read bool, $b:expr, $at:expr) => { $b[$at] != 0 };
    (@read lsn, $b:expr, $at:expr) => { Lsn(u64::from_le_bytes(array($b, $at))) };
    (@read timeline, $b:expr, $at:expr) => { Timeline(u32::from_le_bytes(array($b, $at))) };
    (@read state, $b:expr, $at:expr) => {{
        let number = u32::from_le_bytes(array($b, $at));
        DbState::from_number(number).ok_or(ControlFileError::State(number))?
    }};
    (@read float, $b:expr, $at:expr) => { f64::from_le_bytes(array($b, $at)) };
    (@read checkpoint, $b:expr, $at:expr) => {
        CheckPoint::decode(&$b[$at..]).expect("the struct lies within the file's")
    };
    (@read nonce, $b:expr, $at:expr) => { array($b, $at) };
    (@write bool, $b:expr, $at:expr, $v:expr) => { $b[$at] = u8::from($v) };
    (@write lsn, $b:expr, $at:expr, $v:expr) => { put($b, $at, &$v.0.to_le_bytes()) };
    (@write timeline, $b:expr, $at:expr, $v:expr) => { put($b, $at, &$v.0.to_le_bytes()) };
    (@write state, $b:expr, $at:expr, $v:expr) => { put($b, $at, &($v as u32).to_le_bytes()) };
    (@write checkpoint, $b:expr, $at:expr, $v:expr) => { put($b, $at, &$v.encode()) };
    (@write nonce, $b:expr, $at:expr, $v:expr) => { put($b, $at, &$v) };
    (@write $kind:ident, $b:expr, $at:expr, $v:expr) => { put($b, $at, &$v.to_le_bytes()) };
}

control_file! {
    /// Identifies the cluster; on the first page of each WAL segment too.
    system_id: u64 @ 0,
    /// [`CONTROL_VERSION`].
    control_version: u32 @ 8,
    /// Version of the system catalogs (202209061 in PostgreSQL 15).
    catalog_version: u32 @ 12,
    /// State of the server.
    state: state @ 16,
    /// Wall-clock time of the last change, in seconds since 1970.
    time: i64 @ 24,
    /// Start of the last checkpoint's record.
    checkpoint: lsn @ 32,
    /// Copy of that checkpoint.
    checkpoint_copy: checkpoint @ 40,
    /// Next fake position for unlogged relations.
    unlogged_lsn: lsn @ 128,
    /// A recovery must reach this before it may serve; zero outside archive recovery.
    min_recovery_point: lsn @ 136,
    /// Timeline of that.
    min_recovery_timeline: timeline @ 144,
    /// Start of the base backup that is being recovered, else zero.
    backup_start_point: lsn @ 152,
    /// End of the base backup taken from a standby, else zero.
    backup_end_point: lsn @ 160,
    /// The end of the backup must be seen in the WAL.
    backup_end_required: bool @ 168,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    wal_level: u32 @ 172,
    /// `wal_log_hints`.
    wal_log_hints: bool @ 176,
    /// `max_connections`.
    max_connections: u32 @ 180,
    /// `max_worker_processes`.
    max_worker_processes: u32 @ 184,
    /// `max_wal_senders`.
    max_wal_senders: u32 @ 188,
    /// `max_prepared_transactions`.
    max_prepared_xacts: u32 @ 192,
    /// `max_locks_per_transaction`.
    max_locks_per_xact: u32 @ 196,
    /// `track_commit_timestamp`.
    track_commit_timestamp: bool @ 200,
    /// Alignment of tuples: 8.
    max_align: u32 @ 204,
    /// 1234567.0, to see that floating point is as expected.
    float_format: float @ 208,
    /// 8192.
    block_size: u32 @ 216,
    /// Blocks of a file of a relation: 131072.
    relation_segment_blocks: u32 @ 220,
    /// 8192.
    wal_page_size: u32 @ 224,
    /// `wal_segment_size`.
    wal_segment_size: u32 @ 228,
    /// 64.
    name_length: u32 @ 232,
    /// 32.
    index_keys_max: u32 @ 236,
    /// 1996.
    toast_chunk_size_max: u32 @ 240,
    /// 2048.
    large_object_block_size: u32 @ 244,
    /// True on 64-bit machines.
    float8_by_value: bool @ 248,
    /// 1 when data pages have checksums, else 0.
    data_checksum_version: u32 @ 252,
    /// For authentication of users that do not exist.
    mock_authentication_nonce: nonce @ 256,
}

fn array<const N: usize>(bytes: &[u8; SIZE], at: usize) -> [u8; N] {
    bytes[at..].first_chunk().copied().expect("every field lies within the struct")
}

fn put(bytes: &mut [u8; SIZE], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

impl ControlFile {
    /// The content of a file with these bytes.
    ///
    /// # Errors
    /// [`ControlFileError`]: too short, another version, damaged.
    pub fn decode(file: &[u8]) -> Result<ControlFile, ControlFileError> {
        let bytes = file.first_chunk::<SIZE>().ok_or(ControlFileError::Short(file.len()))?;
        let version = u32::from_le_bytes(array(bytes, 8));
        if version != CONTROL_VERSION {
            return Err(ControlFileError::Version(version));
        }
        let stored = u32::from_le_bytes(array(bytes, CRC_AT));
        let computed = crc32c::crc32c(&bytes[..CRC_AT]);
        if stored != computed {
            return Err(ControlFileError::Checksum { computed, stored });
        }
        ControlFile::read(bytes)
    }

    /// The file: 8192 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [0; SIZE];
        self.write(&mut bytes);
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        put(&mut bytes, CRC_AT, &crc.to_le_bytes());
        let mut file = bytes.to_vec();
        file.resize(FILE_SIZE, 0);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_is_refused() {
        assert_eq!(ControlFile::decode(&[0; 100]), Err(ControlFileError::Short(100)));
        assert_eq!(ControlFile::decode(&[0; 8192]), Err(ControlFileError::Version(0)));
        let mut file = [0u8; 8192];
        file[8..12].copy_from_slice(&CONTROL_VERSION.to_le_bytes());
        assert!(matches!(ControlFile::decode(&file), Err(ControlFileError::Checksum { .. })));
    }

    #[test]
    fn a_file_survives_encoding() {
        let mut file = [0u8; 8192];
        for (at, byte) in file[..CRC_AT].iter_mut().enumerate() {
            *byte = at as u8;
        }
        file[8..12].copy_from_slice(&CONTROL_VERSION.to_le_bytes());
        file[16..20].copy_from_slice(&6u32.to_le_bytes());
        let crc = crc32c::crc32c(&file[..CRC_AT]);
        file[CRC_AT..SIZE - 4].copy_from_slice(&crc.to_le_bytes());
        let control = ControlFile::decode(&file).expect("valid");
        assert_eq!(control.state, DbState::InProduction);
        assert_eq!(ControlFile::decode(&control.encode()), Ok(control));
    }
}
