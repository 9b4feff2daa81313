//! One file of a disk in memory: what programs see, what the medium holds, and what is between.

use super::{SECTOR, Survive, next_random};

#[derive(Clone, Debug)]
enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

/// A file's content.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) seen: Vec<u8>,
    pub(super) held: Vec<u8>,
    pending: Vec<Pending>,
}

pub(super) fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Content {
    /// Programs see the write; the medium may have begun.
    pub(super) fn write(&mut self, offset: usize, bytes: Vec<u8>) {
        put(&mut self.seen, offset, &bytes);
        self.pending.push(Pending::Write { offset, bytes });
    }

    pub(super) fn set_len(&mut self, length: usize) {
        self.seen.resize(length, 0);
        self.pending.push(Pending::Length(length));
    }

    /// The write just made is durable, without those before it.
    pub(super) fn last_is_durable(&mut self) {
        if let Some(Pending::Write { offset, bytes }) = self.pending.pop() {
            put(&mut self.held, offset, &bytes);
        }
    }

    pub(super) fn sync(&mut self) {
        self.held.clone_from(&self.seen);
        self.pending.clear();
    }

    /// The file after a loss of power.
    pub(super) fn after(&self, survive: Survive, seed: &mut u64) -> Content {
        let mut held = self.held.clone();
        for pending in &self.pending {
            match (pending, survive) {
                (_, Survive::Nothing) | (Pending::Length(_), Survive::Prefix(_)) => {}
                (Pending::Length(length), Survive::Everything) => held.resize(*length, 0),
                (Pending::Length(length), Survive::Random(_)) => {
                    if next_random(seed) & 1 == 0 {
                        held.resize(*length, 0);
                    }
                }
                (Pending::Write { offset, bytes }, Survive::Everything) => {
                    put(&mut held, *offset, bytes);
                }
                (Pending::Write { offset, bytes }, Survive::Prefix(count)) => {
                    put(&mut held, *offset, &bytes[..count.min(bytes.len())]);
                }
                (Pending::Write { offset, bytes }, Survive::Random(_)) => {
                    put_some(&mut held, *offset, bytes, |_| next_random(seed) & 1 == 0);
                }
                (Pending::Write { offset, bytes }, Survive::Sectors(mask)) => {
                    put_some(&mut held, *offset, bytes, |sector| mask >> sector & 1 == 1);
                }
                (Pending::Length(length), Survive::Sectors(mask)) => {
                    if mask & 1 == 1 {
                        held.resize(*length, 0);
                    }
                }
            }
        }
        Content { seen: held.clone(), held, pending: Vec::new() }
    }
}

/// Puts the sectors that `chosen` names by their number in the write.
fn put_some(
    held: &mut Vec<u8>,
    offset: usize,
    bytes: &[u8],
    mut chosen: impl FnMut(usize) -> bool,
) {
    let (mut at, mut sector) = (0, 0);
    while at < bytes.len() {
        let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
        if chosen(sector) {
            put(held, offset + at, &bytes[at..end]);
        }
        (at, sector) = (end, sector + 1);
    }
}
