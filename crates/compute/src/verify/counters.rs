//! The server's counters as storage keeps them against the server's own `pg_control`. Pure.
//!
//! Rule Q6: storage's are those of a position between two checkpoints of the server, so none may be
//! before what the first one recorded or after what the second did. When nothing runs the two are the
//! same, and all three must be. Not told apart are the databases that hold back the oldest ids: VACUUM
//! moves them without a record.

use pgwal::CheckPoint;
use pgwal::slru::{circular_precedes, xid_precedes};
use redo::State;

/// A counter, and whether one value of it is before another.
type Counter = (&'static str, fn(&CheckPoint) -> u64, fn(u64, u64) -> bool);

fn linear(a: u64, b: u64) -> bool {
    a < b
}

fn circular(a: u64, b: u64) -> bool {
    circular_precedes(a as u32, b as u32)
}

fn xid(a: u64, b: u64) -> bool {
    xid_precedes(a as u32, b as u32)
}

const COUNTERS: [Counter; 10] = [
    ("timeline", |c| c.timeline.0.into(), linear),
    ("previous timeline", |c| c.prev_timeline.0.into(), linear),
    ("next transaction", |c| c.next_xid, linear),
    ("next oid", |c| c.next_oid.into(), circular),
    ("next multixact", |c| c.next_multi.into(), circular),
    ("next multixact member", |c| c.next_multi_offset.into(), circular),
    ("oldest transaction", |c| c.oldest_xid.into(), xid),
    ("oldest multixact", |c| c.oldest_multi.into(), circular),
    ("oldest commit timestamp", |c| c.oldest_commit_ts_xid.into(), xid),
    ("newest commit timestamp", |c| c.newest_commit_ts_xid.into(), xid),
];

/// How storage's counters differ from what the server wrote into `pg_control` before and after; `None`
/// when they do not.
#[must_use]
pub fn difference(before: &State, stored: &State, after: &State) -> Option<String> {
    let mut told = Vec::new();
    for (name, of, precedes) in COUNTERS {
        let [from, found, to] = [before, stored, after].map(|state| of(&state.checkpoint));
        if precedes(found, from) || precedes(to, found) {
            told.push(format!("{name}: {from} to {to} locally, {found} in storage"));
        }
    }
    let (first, last) = (before.last_checkpoint, after.last_checkpoint);
    let at = stored.last_checkpoint;
    if at < first || at > last {
        told.push(format!("last checkpoint: {first} to {last} locally, {at} in storage"));
    }
    let of_the_record = |state: &State| {
        let CheckPoint { redo, time, full_page_writes, oldest_active_xid, .. } = state.checkpoint;
        (redo, time, full_page_writes, oldest_active_xid)
    };
    if at == first && of_the_record(stored) != of_the_record(before) {
        let (ours, theirs) = (of_the_record(before), of_the_record(stored));
        told.push(format!(
            "checkpoint at {at} (redo position, time, full_page_writes, oldest running transaction): \
             {ours:?} locally, {theirs:?} in storage"
        ));
    }
    if ![before.parameters, after.parameters].contains(&stored.parameters) {
        let (ours, theirs) = (before.parameters, stored.parameters);
        told.push(format!("parameters: {ours:?} locally, {theirs:?} in storage"));
    }
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use redo::state::Parameters;
    use types::Lsn;

    use super::*;

    fn state(at: u64, next_xid: u64, next_oid: u32) -> State {
        let checkpoint = CheckPoint {
            redo: Lsn(at - 8),
            next_xid,
            next_oid,
            oldest_xid: 4_294_967_000,
            ..CheckPoint::default()
        };
        let parameters = Parameters { max_connections: 100, ..Parameters::default() };
        State { last_checkpoint: Lsn(at), checkpoint, parameters }
    }

    #[test]
    fn counters_lie_between_those_of_two_checkpoints() {
        let (before, after) = (state(100, 700, 20_000), state(200, 705, 20_000));
        let told = |stored: &State| difference(&before, stored, &after).unwrap_or_default();
        assert_eq!(told(&before), "");
        assert_eq!(told(&state(100, 705, 20_000)).as_str(), "", "moved on since the checkpoint");
        assert!(
            told(&state(100, 699, 20_000)).contains("next transaction: 700 to 705 locally, 699")
        );
        assert!(told(&state(100, 706, 20_000)).contains("706 in storage"));
        assert!(told(&state(100, 700, 28_192)).starts_with("next oid"));
        assert!(told(&state(90, 700, 20_000)).starts_with("last checkpoint"));
        assert!(told(&state(201, 700, 20_000)).starts_with("last checkpoint"));
        let mut other = before;
        other.checkpoint.time = 5;
        assert!(told(&other).starts_with("checkpoint at 0/64"), "{}", told(&other));
        let mut other = before;
        other.parameters.max_connections = 99;
        assert!(told(&other).starts_with("parameters"));
        let mut other = before;
        other.checkpoint.oldest_xid = 7; // behind the wraparound, so later
        assert!(told(&other).starts_with("oldest transaction"));
    }
}
