//! An input that is a record and a page.
//!
//! ```text
//! record length u16 | record | length of the page's front u16 | front | back
//! ```
//!
//! The page is its front, zeros, and its back at the end: nearly empty pages are short, and any 8 KiB
//! can be said. The record's own length field is made right, so that mutation changes what is behind
//! it. Whatever the bytes, there is a case.

use bytes::Bytes;
use pgwal::Record;
use types::{Lsn, Span};

/// Bytes in a page.
pub const PAGE: usize = 8192;
/// Above every LSN that a page in the corpus has, so that the record is not older than the page.
pub const SPAN: Span = Span { start: Lsn(1 << 62), end: Lsn((1 << 62) + 8) };

/// A record's bytes and a page.
pub struct Case {
    /// The record as a part's body has it.
    pub body: Vec<u8>,
    /// The page before the record.
    pub page: Vec<u8>,
}

fn counted(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return (&[], &[]) };
    rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))))
}

impl Case {
    /// The case that these bytes say.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Case {
        let (record, rest) = counted(bytes);
        let (front, back) = counted(rest);
        let mut body = record.to_vec();
        if let Some(length) = body.first_chunk_mut::<4>() {
            *length = (record.len() as u32).to_le_bytes();
        }
        let mut page = vec![0; PAGE];
        let front = &front[..front.len().min(PAGE)];
        let back = &back[..back.len().min(PAGE - front.len())];
        page[..front.len()].copy_from_slice(front);
        page[PAGE - back.len()..].copy_from_slice(back);
        Case { body, page }
    }

    /// The shortest bytes that say this case.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        // The longest run of zeros is left out.
        let (mut hole, mut at) = (0..0, 0);
        for run in self.page.split_inclusive(|byte| *byte != 0) {
            let zeros = run.len() - usize::from(run.last() != Some(&0));
            if zeros > hole.len() {
                hole = at..at + zeros;
            }
            at += run.len();
        }
        let counted = |bytes: &[u8]| [&(bytes.len() as u16).to_le_bytes(), bytes].concat();
        let front = counted(&self.page[..hole.start]);
        [counted(&self.body), front, self.page[hole.end..].to_vec()].concat()
    }

    /// The record, if it can be taken apart.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        Record::parse(SPAN, Bytes::copy_from_slice(&self.body)).ok()
    }
}
