//! What happened: a hash always, lines on demand. Equal seeds must give equal hashes.

/// A run's trace.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    now: u64,
    /// Happenings so far.
    pub happenings: u64,
    printing: bool,
}

impl Trace {
    /// An empty trace, which prints its lines if told so.
    #[must_use]
    pub fn new(printing: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, now: 0, happenings: 0, printing }
    }

    /// The hash of all that happened.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    /// Time moved on.
    pub fn at(&mut self, now: u64) {
        self.now = now;
        self.happenings += 1;
        self.mix(now);
    }

    /// Something happened.
    pub fn note(&mut self, what: &str, numbers: &[u64], line: impl FnOnce() -> String) {
        what.bytes().for_each(|byte| self.mix(byte.into()));
        numbers.iter().for_each(|number| self.mix(*number));
        if self.printing {
            println!("{:>10} {what:<8} {}", self.now, line());
        }
    }
}
