//! Sizes that the operator or a test may set. Values only; components are passed beside them.

/// Sizes of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of one hot log file.
    pub log_file_bytes: u64,
    /// Hot log kept beyond what is flushed, bytes, so that peers that were away catch up from it.
    pub log_retain_bytes: u64,
    /// A segment's unflushed bytes at which its parts move to a page file.
    pub flush_bytes: u64,
    /// Unflushed bytes of all segments together at which the largest is flushed.
    pub flush_total_bytes: u64,
    /// Parts on a page above which a chain is folded into an image.
    pub fold_parts: usize,
    /// Bytes of one block of a page file, about.
    pub block_bytes: usize,
    /// Bytes of a base file at least, about; of a large segment they are a sixteenth of it.
    pub base_bytes_min: u64,
    /// Bytes that one unit of background merging reads, about.
    pub merge_step_bytes: u64,
    /// Free bytes below which no merge starts.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            log_file_bytes: 32 << 20,
            log_retain_bytes: 128 << 20,
            flush_bytes: 48 << 20,
            flush_total_bytes: 128 << 20,
            fold_parts: 16,
            block_bytes: 16 << 10,
            base_bytes_min: 4 << 20,
            merge_step_bytes: 4 << 20,
            reserve_bytes: 256 << 20,
        }
    }
}
