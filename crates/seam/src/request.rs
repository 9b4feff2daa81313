//! Messages on the driver's socket: fixed size, little-endian, one answer per request that wants one.
//!
//! ```text
//! request, 48 bytes: magic u32, kind u32, pid u32, postmaster u32, name 5 x u32, first u32,
//!                    count u32, hint u32
//! reply,   16 bytes: magic u32, errno u32 (0 = done), generation u64
//! ```

use crate::SegmentName;

const MAGIC: u32 = 0x5153_3653;
const REPLY_MAGIC: u32 = 0x5052_3653;

/// What a PostgreSQL process says to the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A server starts (rule R3). Answered: errno 0 lets it.
    Hello {
        /// Its process.
        pid: u32,
        /// Whether it is the server's first process.
        postmaster: bool,
    },
    /// Make these blocks present; answered when they are, or with an errno for the reader.
    Fetch {
        /// The segment file.
        name: SegmentName,
        /// First block, within the segment.
        first: u32,
        /// How many; the answer waits for all of them.
        count: u32,
        /// How many after those will probably be read soon.
        hint: u32,
    },
    /// These blocks will probably be read soon. Not answered.
    Prefetch {
        /// The segment file.
        name: SegmentName,
        /// First block, within the segment.
        first: u32,
        /// How many.
        count: u32,
    },
    /// The settings file that is about to replace the last one is whole: answered when the volume
    /// has it, or with an errno for whoever wants to replace it.
    Settings,
    /// A database's directory has been made in this tablespace, where none was: answered when the
    /// volume has forgotten what an attempt that failed has left there.
    NewDirectory {
        /// Tablespace oid.
        tablespace: u32,
        /// Database oid.
        database: u32,
    },
    /// The process that has made a database's directory has filled it: answered when the volume has
    /// the pages of the files that were copied there, or with an errno for whoever copied them.
    Directory {
        /// Tablespace oid.
        tablespace: u32,
        /// Database oid.
        database: u32,
        /// The process that made it.
        pid: u32,
    },
}

/// The driver's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Zero, or what the file call is to fail with.
    pub errno: i32,
    /// Which driver this is ([`crate::Board::generation`]).
    pub generation: u64,
}

impl Request {
    /// Bytes of a request.
    pub const SIZE: usize = 48;

    /// The request's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Request::SIZE] {
        let mut words = [0u32; Request::SIZE / 4];
        let (kind, pid, postmaster, name, first, count, hint) = match *self {
            Request::Hello { pid, postmaster } => {
                (1, pid, u32::from(postmaster), SegmentName::default(), 0, 0, 0)
            }
            Request::Fetch { name, first, count, hint } => (2, 0, 0, name, first, count, hint),
            Request::Prefetch { name, first, count } => (3, 0, 0, name, first, count, 0),
            Request::Settings => (4, 0, 0, SegmentName::default(), 0, 0, 0),
            Request::Directory { tablespace, database, pid } => {
                let name = SegmentName { tablespace, database, ..SegmentName::default() };
                (5, pid, 0, name, 0, 0, 0)
            }
            Request::NewDirectory { tablespace, database } => {
                let name = SegmentName { tablespace, database, ..SegmentName::default() };
                (6, 0, 0, name, 0, 0, 0)
            }
        };
        let SegmentName { tablespace, database, relation, fork, segment } = name;
        let values = [
            MAGIC, kind, pid, postmaster, tablespace, database, relation, fork, segment, first,
            count, hint,
        ];
        for (word, value) in words.iter_mut().zip(values) {
            *word = value;
        }
        let mut bytes = [0; Request::SIZE];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The request that these bytes are; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8; Request::SIZE]) -> Option<Request> {
        let mut words = [0u32; Request::SIZE / 4];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().ok()?);
        }
        let [
            magic,
            kind,
            pid,
            postmaster,
            tablespace,
            database,
            relation,
            fork,
            segment,
            first,
            count,
            hint,
        ] = words;
        let end = first.checked_add(count)?;
        if magic != MAGIC || fork > 3 || end > crate::BLOCKS_PER_SEGMENT {
            return None;
        }
        let name = SegmentName { tablespace, database, relation, fork, segment };
        match kind {
            1 => Some(Request::Hello { pid, postmaster: postmaster != 0 }),
            2 => Some(Request::Fetch { name, first, count, hint }),
            3 => Some(Request::Prefetch { name, first, count }),
            4 => Some(Request::Settings),
            5 => Some(Request::Directory { tablespace, database, pid }),
            6 => Some(Request::NewDirectory { tablespace, database }),
            _ => None,
        }
    }
}

impl Reply {
    /// Bytes of a reply.
    pub const SIZE: usize = 16;

    /// The reply's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Reply::SIZE] {
        let mut bytes = [0; Reply::SIZE];
        let (head, generation) = bytes.split_at_mut(8);
        let (magic, errno) = head.split_at_mut(4);
        magic.copy_from_slice(&REPLY_MAGIC.to_le_bytes());
        errno.copy_from_slice(&self.errno.to_le_bytes());
        generation.copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    /// The reply that these bytes are; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8; Reply::SIZE]) -> Option<Reply> {
        let (head, generation) = bytes.split_at(8);
        let (magic, errno) = head.split_at(4);
        if magic != REPLY_MAGIC.to_le_bytes() {
            return None;
        }
        let errno = i32::from_le_bytes(errno.try_into().ok()?);
        Some(Reply { errno, generation: u64::from_le_bytes(generation.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_socket() {
        let name = SegmentName { tablespace: 1663, database: 5, relation: 7, fork: 2, segment: 3 };
        for request in [
            Request::Hello { pid: 9, postmaster: true },
            Request::Fetch { name, first: 131_071, count: 1, hint: 9 },
            Request::Prefetch { name, first: 0, count: 64 },
            Request::Settings,
            Request::Directory { tablespace: 16400, database: 5, pid: 9 },
            Request::NewDirectory { tablespace: 16400, database: 5 },
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        let reply = Reply { errno: libc::EIO, generation: 3 };
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }

    #[test]
    fn a_range_past_the_segment_is_refused() {
        let name = SegmentName::default();
        for (first, count) in [(131_072, 1), (0, 131_073), (u32::MAX, 2)] {
            let bytes = Request::Fetch { name, first, count, hint: 0 }.encode();
            assert_eq!(Request::decode(&bytes), None);
        }
    }
}
