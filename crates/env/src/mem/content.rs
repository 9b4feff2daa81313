//! One file of a disk in memory: what programs see, what the medium holds, and what is between.

use std::ops::Range;

use super::{Fate, SECTOR, Survive};

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
    /// What the medium does not give back.
    pub(super) unreadable: Vec<Range<u64>>,
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

    /// The write just made is durable, without those before it: they cannot come after it any more.
    pub(super) fn last_is_durable(&mut self) {
        let Some(Pending::Write { offset, bytes }) = self.pending.pop() else { return };
        put(&mut self.held, offset, &bytes);
        let end = offset + bytes.len();
        self.pending.retain(|pending| !matches!(pending, Pending::Length(length) if *length < end));
        for pending in &mut self.pending {
            let Pending::Write { offset: from, bytes: earlier } = pending else { continue };
            let (start, end) = (offset.max(*from), end.min(*from + earlier.len()));
            if start < end {
                earlier[start - *from..end - *from]
                    .copy_from_slice(&bytes[start - offset..end - offset]);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        self.held.clone_from(&self.seen);
        self.pending.clear();
    }

    /// How many files a loss of power can leave, at most.
    pub(super) fn outcomes(&self) -> u64 {
        let pieces: usize = self.pending.iter().map(Pending::pieces).sum();
        1_u64.checked_shl(u32::try_from(pieces).unwrap_or(u32::MAX)).unwrap_or(u64::MAX)
    }

    /// The file after a loss of power.
    pub(super) fn after(&self, fate: &mut Fate) -> Content {
        let mut held = self.held.clone();
        for pending in &self.pending {
            match (pending, fate.survive) {
                (Pending::Write { offset, bytes }, Survive::Prefix(count)) => {
                    put(&mut held, *offset, &bytes[..count.min(bytes.len())]);
                }
                (Pending::Write { offset, bytes }, _) => {
                    for (at, end) in sectors(*offset, bytes.len()) {
                        if fate.survives() {
                            put(&mut held, offset + at, &bytes[at..end]);
                        }
                    }
                }
                (Pending::Length(length), _) => {
                    if fate.survives() {
                        held.resize(*length, 0);
                    }
                }
            }
        }
        let unreadable = self.unreadable.clone();
        Content { seen: held.clone(), held, unreadable, pending: Vec::new() }
    }
}

impl Pending {
    /// What survives each on its own.
    fn pieces(&self) -> usize {
        match self {
            Pending::Write { offset, bytes } => sectors(*offset, bytes.len()).count(),
            Pending::Length(_) => 1,
        }
    }
}

/// A write's bytes by sectors of the file: from and to, counted from the write's first byte.
fn sectors(offset: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let end = length.min(at + SECTOR - (offset + at) % SECTOR);
        let sector = (at, end);
        (at < length).then(|| {
            at = end;
            sector
        })
    })
}
