//! Random moments that a failed test can be given again: the seed is printed, and
//! `SIXFOLD_TEST_SEED` sets it.

use std::time::Duration;

/// A small generator.
#[derive(Debug)]
pub struct Moments(u64);

impl Default for Moments {
    fn default() -> Moments {
        let seed = std::env::var("SIXFOLD_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("SIXFOLD_TEST_SEED={seed}");
        Moments(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}

impl Moments {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Sleeps for less than `most_ms` milliseconds.
    pub fn pause(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.below(most_ms)));
    }
}
