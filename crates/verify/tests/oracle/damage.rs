//! Real records and pages with bytes changed: an error or some page, but never a panic.

use bytes::Bytes;
use pgwal::keys::Key;
use pgwal::record::Record;
use redo::Postgres;
use redo::mask::mask_page;
use types::Engine;

/// Times that each record is damaged anew.
const TIMES: u64 = 60;

/// A small generator of numbers (xorshift), seeded by position.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        [0, 1, 2, 0x7f, 0x80, 0xff][self.below(6)] ^ (self.below(256) * self.below(2)) as u8
    }
}

/// Applies damaged versions of the record to the page, and the record to damaged pages; returns
/// how many were tried.
pub fn try_all(key: Key, page: &[u8], record: &Record, seed: u64) -> u64 {
    let mut random = Random(record.span.start.0 ^ seed << 32 | 1);
    let key = key.encode();
    // The places of main data and of block data; headers are damaged less often.
    let main = record.bytes.len().saturating_sub(record.main.len());
    for _ in 0..TIMES {
        let mut body = record.bytes.to_vec();
        let mut page = page.to_vec();
        if random.below(2) == 0 {
            for _ in 0..=random.below(3) {
                let at = match random.below(4) {
                    0 => random.below(body.len()),
                    1 => 24 + random.below(main.saturating_sub(24)),
                    _ => main + random.below(record.main.len()),
                };
                let length = body.len();
                body[at.min(length - 1)] = random.byte();
            }
        } else if !page.is_empty() {
            for _ in 0..=random.below(3) {
                let at = match random.below(4) {
                    0 => random.below(8192),
                    1 => 8 + random.below(16),
                    2 => 24 + random.below(120),
                    _ => 8192 - 1 - random.below(40),
                };
                page[at] = random.byte();
            }
        } else {
            page = vec![random.byte(); 8192];
        }
        let outcome = Postgres.apply(&key, &mut page, record.span, &body);
        Postgres.replaces(&key, &body);
        if outcome.is_ok()
            && let Ok(page) = page.as_mut_slice().try_into()
        {
            mask_page(record.rmid, page, 0).ok();
        }
        if let Ok(damaged) = Record::parse(record.span, Bytes::from(body)) {
            pgwal::effects(&damaged).ok();
        }
    }
    TIMES
}
