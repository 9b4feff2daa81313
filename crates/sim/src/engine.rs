//! The simulator's engine: a page is a digest of everything that was done to it, in order, so that a
//! part lost, repeated or out of place shows in every later version.

use types::{Engine, EngineError, PageKey, Span};

/// First byte of a body that leaves nothing of the page's earlier content.
pub const REPLACES: u8 = 1;

/// The engine.
pub struct Digest;

fn mix(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(hash, step)
}

impl Engine for Digest {
    fn apply(
        &self,
        key: &PageKey,
        page: &mut Vec<u8>,
        span: Span,
        body: &[u8],
    ) -> Result<(), EngineError> {
        if self.replaces(key, body) {
            page.clear();
        }
        let mut hash = mix(0xcbf2_9ce4_8422_2325, page);
        hash = mix(hash, &span.start.0.to_le_bytes());
        hash = mix(hash, &span.end.0.to_le_bytes());
        hash = mix(hash, body);
        page.clear();
        page.extend_from_slice(&hash.to_le_bytes());
        page.extend_from_slice(&span.end.0.to_le_bytes());
        Ok(())
    }

    fn replaces(&self, _: &PageKey, body: &[u8]) -> bool {
        body.first() == Some(&REPLACES)
    }

    fn describe(&self, key: &PageKey) -> String {
        key.to_string()
    }
}
