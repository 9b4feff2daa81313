//! WAL page headers: taking them off a stream of bytes, and checking them.

use types::{Lsn, Timeline};

use crate::error::PageProblem;
use crate::layout::{self, page};

/// A WAL page's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// `xlp_magic`.
    pub magic: u16,
    /// `xlp_info`.
    pub info: u16,
    /// `xlp_tli`.
    pub timeline: Timeline,
    /// `xlp_pageaddr`.
    pub address: Lsn,
    /// `xlp_rem_len`.
    pub remaining: u32,
    /// `xlp_sysid` and `xlp_seg_size` and `xlp_xlog_blcksz`, on a segment's first page.
    pub long: Option<(u64, u32, u32)>,
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

impl PageHeader {
    /// Reads a header of 24 bytes, or 40 when it is that of a segment's first page.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> PageHeader {
        let u32_at = |at| u32::from_le_bytes(word(bytes, at));
        let u64_at = |at| u64::from_le_bytes(word(bytes, at));
        PageHeader {
            magic: u16::from_le_bytes(word(bytes, page::MAGIC)),
            info: u16::from_le_bytes(word(bytes, page::INFO)),
            timeline: Timeline(u32_at(page::TIMELINE)),
            address: Lsn(u64_at(page::ADDRESS)),
            remaining: u32_at(page::REMAINING),
            long: (bytes.len() >= page::LONG_SIZE).then(|| {
                (u64_at(page::SYSTEM_ID), u32_at(page::SEGMENT_SIZE), u32_at(page::PAGE_SIZE))
            }),
        }
    }

    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.magic.to_le_bytes());
        out.extend_from_slice(&self.info.to_le_bytes());
        out.extend_from_slice(&self.timeline.0.to_le_bytes());
        out.extend_from_slice(&self.address.0.to_le_bytes());
        out.extend_from_slice(&self.remaining.to_le_bytes());
        out.extend_from_slice(&[0; page::SHORT_SIZE - page::REMAINING - 4]);
        if let Some((system_id, segment_size, page_size)) = self.long {
            out.extend_from_slice(&system_id.to_le_bytes());
            out.extend_from_slice(&segment_size.to_le_bytes());
            out.extend_from_slice(&page_size.to_le_bytes());
        }
    }

    /// Whether nothing was written yet where the header belongs.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.magic == 0 && self.info == 0 && self.address == Lsn::ZERO
    }

    /// Whether the page begins with the rest of a record.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.info & page::FIRST_IS_CONTRECORD != 0
    }

    /// Whether the page abandons the record that was to continue on it.
    #[must_use]
    pub fn abandons(&self) -> bool {
        self.info & page::FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// Checks everything but what it says of the record before.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, at: Lsn, expected: &Expected) -> Result<(), PageProblem> {
        if self.magic != layout::PAGE_MAGIC {
            return Err(PageProblem::Magic(self.magic));
        }
        let is_long = self.info & page::LONG_HEADER != 0;
        if self.info & !page::ALL_FLAGS != 0 || is_long != self.long.is_some() {
            return Err(PageProblem::Flags(self.info));
        }
        if let Some((system_id, segment_size, page_size)) = self.long {
            match expected.system_id {
                Some(wanted) if wanted != system_id => {
                    return Err(PageProblem::SystemId { found: system_id, expected: wanted });
                }
                _ => {}
            }
            if segment_size != expected.segment_size {
                return Err(PageProblem::SegmentSize(segment_size));
            }
            if page_size as usize != layout::WAL_PAGE_SIZE {
                return Err(PageProblem::PageSize(page_size));
            }
        }
        if self.address != at {
            return Err(PageProblem::Address(self.address));
        }
        let found = self.timeline;
        match expected.timeline {
            Some(exact) if found != exact => {
                Err(PageProblem::Timeline { found: found.0, expected: exact.0 })
            }
            None if found < expected.timeline_seen => {
                Err(PageProblem::Timeline { found: found.0, expected: expected.timeline_seen.0 })
            }
            _ => Ok(()),
        }
    }
}

/// What every page of a stream must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The cluster, if known.
    pub system_id: Option<u64>,
    /// `wal_segment_size`.
    pub segment_size: u32,
    /// Exactly this timeline; otherwise it may only grow.
    pub timeline: Option<Timeline>,
    /// The timeline of the last page.
    pub timeline_seen: Timeline,
}
