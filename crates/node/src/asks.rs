//! Who waits for which answer: the protocol's opaque asker numbers to lines and requests.
//!
//! Numbers count up and are never reused, so an answer cannot reach a later asker. The newest
//! [`REMEMBERED`] are remembered without being told when an answer was the last one; those that may
//! be answered much later (an `Adopt` is, when its segment is complete) are kept apart.

use std::collections::{BTreeMap, VecDeque};

use crate::mail::Asker;

/// Requests remembered: more than all writers' windows hold, in batches.
const REMEMBERED: usize = 1 << 17;
/// Requests that may be answered late.
const REMEMBERED_LATE: usize = 1 << 12;

/// The table.
#[derive(Default)]
pub(crate) struct Asks {
    first: u64,
    recent: VecDeque<Asker>,
    late: BTreeMap<u64, Asker>,
}

impl Asks {
    /// A number for this asker. `late`: it may be answered long after others.
    pub(crate) fn number(&mut self, asker: Asker, late: bool) -> protocol::Asker {
        let number = self.first + self.recent.len() as u64;
        self.recent.push_back(asker);
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
            self.first += 1;
        }
        if late {
            self.late.insert(number, asker);
            if self.late.len() > REMEMBERED_LATE {
                self.late.pop_first();
            }
        }
        number
    }

    /// Who it is; `None` when that is too long ago.
    pub(crate) fn find(&self, number: protocol::Asker) -> Option<Asker> {
        let recent = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let recent = recent.and_then(|index| self.recent.get(index));
        recent.or_else(|| self.late.get(&number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_finds_its_asker_and_no_other() {
        let mut asks = Asks::default();
        let asker = |request| Asker { at: 0, line: 1, request };
        let adopt = asks.number(asker(77), true);
        let append = asks.number(asker(78), false);
        for request in 0..REMEMBERED as u64 {
            asks.number(asker(1000 + request), false);
        }
        assert_eq!(asks.find(adopt), Some(asker(77)));
        assert_eq!(asks.find(append), None);
        assert_eq!(asks.find(append + 1), Some(asker(1000)));
        assert_eq!(asks.find(u64::MAX), None);
    }
}
