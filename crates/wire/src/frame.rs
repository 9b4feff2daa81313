//! Frames on a byte stream: a checked header, then a message or a handshake.
//!
//! ```text
//!  0 magic 4 | 4 version 2 | 6 kind 1 | 7 zero 1 | 8 request 8 | 16 length 4
//! 20 payload checksum 4 | 24 header checksum 4 (of bytes 0..24) | 28 payload
//! ```
//!
//! Invariants: no payload byte is waited for before the header's checksum has vouched for the
//! length, and no length above the decoder's limit is accepted. The payload checksum continues the
//! header's first 20 bytes, so that a payload cannot pass under another's header; for an `Append`
//! it is zero, since the batch carries its own.

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::{Reader, Wire};
use crate::error::WireError;
use crate::message::{Hello, Message, PROTOCOL_VERSION, Refusal, Welcome};
use crate::message_codec::KIND_APPEND;

/// Bytes of a frame's header.
pub const HEADER_SIZE: usize = 28;
/// Longest payload before the handshake is done: a stranger gets no more memory than this.
pub const HANDSHAKE_BYTES_MAX: usize = 8 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"6fF\n");
const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
const KIND_REFUSAL: u8 = 3;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame of the side that connected.
    Hello(Hello),
    /// The other side's consent.
    Welcome(Welcome),
    /// The other side's refusal; it closes the connection after it.
    Refusal(Refusal),
    /// A request, or the answer that repeats the request's number.
    Message {
        /// Chosen by the asker.
        request: u64,
        /// What is said.
        message: Message,
    },
}

fn header(kind: u8, request: u64, length: usize, payload_crc: impl Fn(u32) -> u32) -> [u8; 28] {
    let length = u32::try_from(length).expect("a payload is below 4 GiB");
    let mut header = [0; HEADER_SIZE];
    header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    header[6] = kind;
    header[8..16].copy_from_slice(&request.to_le_bytes());
    header[16..20].copy_from_slice(&length.to_le_bytes());
    let payload_crc = payload_crc(crc32c::crc32c(&header[..20]));
    header[20..24].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    header
}

fn finish(mut out: Vec<u8>, kind: u8, request: u64) -> Bytes {
    let payload = &out[HEADER_SIZE..];
    let header = header(kind, request, payload.len(), |seed| match kind {
        KIND_APPEND => 0,
        _ => crc32c::crc32c_append(seed, payload),
    });
    out[..HEADER_SIZE].copy_from_slice(&header);
    out.into()
}

/// A message as one frame.
#[must_use]
pub fn encode(request: u64, message: &Message) -> Bytes {
    let mut out = vec![0; HEADER_SIZE];
    message.put_payload(&mut out);
    finish(out, message.kind(), request)
}

/// The header to send before a batch that is encoded already; the batch itself is not copied.
#[must_use]
pub fn append_header(request: u64, batch: &Bytes) -> Bytes {
    Bytes::copy_from_slice(&header(KIND_APPEND, request, batch.len(), |_| 0))
}

/// A connection's first frame.
#[must_use]
pub fn encode_hello(hello: &Hello) -> Bytes {
    let mut out = vec![0; HEADER_SIZE];
    hello.put(&mut out);
    finish(out, KIND_HELLO, 0)
}

/// The consenting answer to it.
#[must_use]
pub fn encode_welcome(welcome: &Welcome) -> Bytes {
    let mut out = vec![0; HEADER_SIZE];
    welcome.put(&mut out);
    finish(out, KIND_WELCOME, 0)
}

/// The refusing answer to it.
#[must_use]
pub fn encode_refusal(refusal: &Refusal) -> Bytes {
    let mut out = vec![0; HEADER_SIZE];
    refusal.put(&mut out);
    finish(out, KIND_REFUSAL, 0)
}

struct Head {
    kind: u8,
    request: u64,
    length: usize,
    payload_crc: u32,
    payload_seed: u32,
}

/// Cuts a byte stream into frames. After an error it yields that error for ever.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limit: usize,
    failed: Option<WireError>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder for a fresh connection: frames up to [`HANDSHAKE_BYTES_MAX`] only.
    #[must_use]
    pub fn new() -> Decoder {
        Decoder { buffer: BytesMut::new(), limit: HANDSHAKE_BYTES_MAX, failed: None }
    }

    /// The peer has been welcomed: frames up to [`types::FRAME_BYTES_MAX`].
    pub fn established(&mut self) {
        self.limit = types::FRAME_BYTES_MAX;
    }

    /// Takes received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// How many bytes the frame in progress still needs, as far as is known: what to read at least.
    #[must_use]
    pub fn wanted(&self) -> usize {
        let whole = match self.buffer.first_chunk::<HEADER_SIZE>() {
            Some(header) => {
                let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
                HEADER_SIZE + (length as usize).min(self.limit)
            }
            None => HEADER_SIZE,
        };
        whole.saturating_sub(self.buffer.len())
    }

    /// The next whole frame, or `None` until more bytes have come.
    ///
    /// # Errors
    /// When the stream breaks the format; the connection is of no more use.
    #[expect(clippy::should_implement_trait, reason = "a fallible pull, not an iterator")]
    pub fn next(&mut self) -> Result<Option<Frame>, WireError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => self.cut().inspect_err(|error| {
                self.failed = Some(error.clone());
                self.buffer = BytesMut::new();
            }),
        }
    }

    fn cut(&mut self) -> Result<Option<Frame>, WireError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_SIZE>() else { return Ok(None) };
        let head = read_head(header, self.limit)?;
        if self.buffer.len() < HEADER_SIZE + head.length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_SIZE);
        let payload = self.buffer.split_to(head.length).freeze();
        let computed = match head.kind {
            KIND_APPEND => 0,
            _ => crc32c::crc32c_append(head.payload_seed, &payload),
        };
        if head.payload_crc != computed {
            let found = head.payload_crc;
            return Err(WireError::Checksum { what: "frame payload", found, computed });
        }
        read_payload(head.kind, head.request, payload).map(Some)
    }
}

fn read_head(header: &[u8; HEADER_SIZE], limit: usize) -> Result<Head, WireError> {
    let u32_at = |at: usize| {
        u32::from_le_bytes(*header[at..].first_chunk().expect("the header has a fixed size"))
    };
    if u32_at(0) != MAGIC {
        return Err(WireError::Magic { what: "frame", found: u32_at(0) });
    }
    // Before the checksum: another version may have another header beyond this field.
    let theirs = u16::from_le_bytes([header[4], header[5]]);
    if theirs != PROTOCOL_VERSION {
        return Err(WireError::Version { ours: PROTOCOL_VERSION, theirs });
    }
    let (found, computed) = (u32_at(24), crc32c::crc32c(&header[..24]));
    if found != computed {
        return Err(WireError::Checksum { what: "frame header", found, computed });
    }
    let length = u32_at(16) as usize;
    if length > limit {
        let (found, limit) = (length as u64, limit as u64);
        return Err(WireError::Limit { what: "frame length", found, limit });
    }
    if header[7] != 0 {
        return Err(WireError::Unknown { what: "frame flags", value: header[7].into() });
    }
    let request = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
    let payload_seed = crc32c::crc32c(&header[..20]);
    Ok(Head { kind: header[6], request, length, payload_crc: u32_at(20), payload_seed })
}

fn read_payload(kind: u8, request: u64, payload: Bytes) -> Result<Frame, WireError> {
    fn whole<T: Wire>(payload: Bytes) -> Result<T, WireError> {
        let mut from = Reader::new(payload);
        let value = T::get(&mut from)?;
        from.finish("handshake")?;
        Ok(value)
    }
    if matches!(kind, KIND_HELLO | KIND_WELCOME | KIND_REFUSAL) && request != 0 {
        return Err(WireError::Invalid { what: "a handshake with a request number" });
    }
    match kind {
        KIND_HELLO => whole(payload).map(Frame::Hello),
        KIND_WELCOME => whole(payload).map(Frame::Welcome),
        KIND_REFUSAL => whole(payload).map(Frame::Refusal),
        _ => Message::get_payload(kind, payload).map(|message| Frame::Message { request, message }),
    }
}
