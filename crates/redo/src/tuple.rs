//! Heap tuple headers and index tuples (`access/htup_details.h`, `access/itup.h`).

use crate::fault::{Res, ensure};
use crate::page::aligned;
use crate::read::{put, u16_at};

/// Bytes of a heap tuple before its null bitmap (`SizeofHeapTupleHeader`).
pub const HEAP_HEADER: usize = 23;

/// Bits of `t_infomask` and `t_infomask2`.
pub mod bits {
    /// `HEAP_XMAX_KEYSHR_LOCK`.
    pub const XMAX_KEYSHR_LOCK: u16 = 0x0010;
    /// `HEAP_COMBOCID`.
    pub const COMBOCID: u16 = 0x0020;
    /// `HEAP_XMAX_EXCL_LOCK`.
    pub const XMAX_EXCL_LOCK: u16 = 0x0040;
    /// `HEAP_XMAX_LOCK_ONLY`.
    pub const XMAX_LOCK_ONLY: u16 = 0x0080;
    /// `HEAP_XMIN_FROZEN`: both xmin hint bits.
    pub const XMIN_FROZEN: u16 = 0x0300;
    /// `HEAP_XMAX_COMMITTED`.
    pub const XMAX_COMMITTED: u16 = 0x0400;
    /// `HEAP_XMAX_INVALID`.
    pub const XMAX_INVALID: u16 = 0x0800;
    /// `HEAP_XMAX_IS_MULTI`.
    pub const XMAX_IS_MULTI: u16 = 0x1000;
    /// `HEAP_MOVED`.
    pub const MOVED: u16 = 0xc000;
    /// `HEAP_LOCK_MASK`.
    pub const LOCK_MASK: u16 = XMAX_EXCL_LOCK | XMAX_KEYSHR_LOCK;
    /// `HEAP_XMAX_BITS`.
    pub const XMAX_BITS: u16 =
        XMAX_COMMITTED | XMAX_INVALID | XMAX_IS_MULTI | LOCK_MASK | XMAX_LOCK_ONLY;
    /// `HEAP_XACT_MASK`.
    pub const XACT_MASK: u16 = 0xfff0;
    /// `HEAP_KEYS_UPDATED`, of `t_infomask2`.
    pub const KEYS_UPDATED: u16 = 0x2000;
    /// `HEAP_HOT_UPDATED`, of `t_infomask2`.
    pub const HOT_UPDATED: u16 = 0x4000;
}

/// A tuple's position: block and line pointer (`ItemPointerData`, six bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tid {
    /// The block.
    pub block: u32,
    /// The line pointer.
    pub item: u16,
}

impl Tid {
    /// Size on pages.
    pub const SIZE: usize = 6;

    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; 6] {
        let [high0, high1] = ((self.block >> 16) as u16).to_le_bytes();
        let [low0, low1] = (self.block as u16).to_le_bytes();
        let [item0, item1] = self.item.to_le_bytes();
        [high0, high1, low0, low1, item0, item1]
    }

    /// The position at `at`.
    pub fn at(bytes: &[u8], at: usize) -> Res<Tid> {
        let block = u32::from(u16_at(bytes, at)?) << 16 | u32::from(u16_at(bytes, at + 2)?);
        Ok(Tid { block, item: u16_at(bytes, at + 4)? })
    }
}

/// A heap tuple in place.
pub struct HeapTuple<'a>(&'a mut [u8]);

impl<'a> HeapTuple<'a> {
    /// The tuple in these bytes.
    pub fn of(bytes: &'a mut [u8]) -> Res<HeapTuple<'a>> {
        ensure!(bytes.len() >= HEAP_HEADER, "a tuple of {} bytes has no header", bytes.len());
        Ok(HeapTuple(bytes))
    }

    fn set(&mut self, at: usize, new: &[u8]) -> Res<()> {
        put(self.0, at, new)
    }

    /// Sets `t_xmin`.
    pub fn set_xmin(&mut self, xid: u32) -> Res<()> {
        self.set(0, &xid.to_le_bytes())
    }

    /// Sets `t_xmax`.
    pub fn set_xmax(&mut self, xid: u32) -> Res<()> {
        self.set(4, &xid.to_le_bytes())
    }

    /// Sets `t_cid`, which shares its place with `t_xvac`.
    pub fn set_field3(&mut self, value: u32) -> Res<()> {
        self.set(8, &value.to_le_bytes())
    }

    /// `t_ctid`.
    pub fn ctid(&self) -> Res<Tid> {
        Tid::at(self.0, 12)
    }

    /// Sets `t_ctid`.
    pub fn set_ctid(&mut self, tid: Tid) -> Res<()> {
        self.set(12, &tid.encode())
    }

    /// `t_infomask2`.
    pub fn infomask2(&self) -> Res<u16> {
        u16_at(self.0, 18)
    }

    /// Sets `t_infomask2`.
    pub fn set_infomask2(&mut self, mask: u16) -> Res<()> {
        self.set(18, &mask.to_le_bytes())
    }

    /// `t_infomask`.
    pub fn infomask(&self) -> Res<u16> {
        u16_at(self.0, 20)
    }

    /// Sets `t_infomask`.
    pub fn set_infomask(&mut self, mask: u16) -> Res<()> {
        self.set(20, &mask.to_le_bytes())
    }

    /// Sets the first command id, as recovery does for every cmin and cmax.
    pub fn set_first_command(&mut self) -> Res<()> {
        self.set_field3(0)?;
        self.set_infomask(self.infomask()? & !bits::COMBOCID)
    }
}

/// Header of a new heap tuple from the parts of it that records hold, with room for what follows.
pub fn heap_tuple(
    (infomask2, infomask, hoff): (u16, u16, u8),
    xid: u32,
    tid: Tid,
    room: usize,
) -> Vec<u8> {
    let mut tuple = Vec::with_capacity(HEAP_HEADER + room);
    tuple.resize(HEAP_HEADER, 0);
    tuple[0..4].copy_from_slice(&xid.to_le_bytes());
    tuple[12..18].copy_from_slice(&tid.encode());
    tuple[18..20].copy_from_slice(&infomask2.to_le_bytes());
    tuple[20..22].copy_from_slice(&(infomask & !bits::COMBOCID).to_le_bytes());
    tuple[22] = hoff;
    tuple
}

/// Length of the index tuple that begins here, as its header says (`IndexTupleSize`).
pub fn index_tuple_size(bytes: &[u8]) -> Res<usize> {
    let size = usize::from(u16_at(bytes, 6)? & 0x1fff);
    ensure!(size >= 8, "an index tuple of {size} bytes has no header");
    Ok(size)
}

/// The index tuples that follow each other in `bytes`, each padded to eight bytes.
pub fn index_tuples(bytes: &[u8]) -> Res<Vec<&[u8]>> {
    let mut tuples = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = aligned(index_tuple_size(rest)?);
        ensure!(size <= rest.len(), "an index tuple of {size} bytes ends after {}", rest.len());
        let (tuple, after) = rest.split_at(size);
        tuples.push(tuple);
        rest = after;
    }
    Ok(tuples)
}

/// Whether `left` is before `right` on the circle of transaction ids (`TransactionIdPrecedes`).
#[must_use]
pub fn xid_precedes(left: u32, right: u32) -> bool {
    if left < 3 || right < 3 { left < right } else { (left.wrapping_sub(right) as i32) < 0 }
}

/// The block number that a six-byte position at `at` holds, as index tuples use it for links.
pub fn link_at(bytes: &[u8], at: usize) -> Res<u32> {
    Ok(Tid::at(bytes, at)?.block)
}
