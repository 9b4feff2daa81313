//! What a resource manager is given: one record and the one block of it that is to be changed.

use pgwal::layout::op::{rm, xlog};

use crate::fault::{Res, fault};
use crate::page::Page;
use crate::read::Reader;

/// A record whose bytes are the caller's.
pub type Record<'a> = pgwal::record::Record<&'a [u8]>;
/// One of its block references.
pub(crate) type BlockRef<'a> = pgwal::record::BlockRef<&'a [u8]>;

/// A record seen from one of its blocks.
pub(crate) struct Step<'a> {
    /// The record.
    pub record: &'a Record<'a>,
    /// The reference to the block being changed.
    pub block: &'a BlockRef<'a>,
    /// Position just past the record: what pages are stamped with.
    pub lsn: u64,
}

impl<'a> Step<'a> {
    /// A reader of the record's main data.
    pub fn main(&self) -> Reader<'a> {
        Reader::new("main data", self.record.main)
    }

    /// A reader of the data that belongs to the block.
    pub fn data(&self) -> Reader<'a> {
        Reader::new("block data", self.block.data)
    }

    /// The record's resource manager bits of `info`.
    pub fn op(&self) -> u8 {
        self.record.op()
    }

    /// Number of the block under this reference id, which the record must have.
    pub fn block_number(&self, id: u8) -> Res<u32> {
        match self.record.block(id) {
            Some(block) => Ok(block.block),
            None => fault!("block reference {id} is missing"),
        }
    }

    /// The error for a block reference that this operation does not have.
    pub fn no_such_block<T>(&self) -> Res<T> {
        fault!("the operation does not change block reference {}", self.block.id)
    }

    /// The error for an operation that the resource manager does not have.
    pub fn unknown_op<T>(&self) -> Res<T> {
        fault!("unknown operation {:#04x}", self.op())
    }

    /// Whether the record is an image for the sake of a hint, which may be missing.
    pub fn is_hint(&self) -> bool {
        self.record.rmid == rm::XLOG && self.op() == xlog::FPI_FOR_HINT
    }

    /// Stamps the page with the record's position.
    pub fn stamp(&self, page: &mut Page<'_>) -> Res<()> {
        page.set_lsn(self.lsn);
        Ok(())
    }
}
