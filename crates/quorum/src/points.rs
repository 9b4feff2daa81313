//! From the SCLs of a group's holders to its GCL.

use types::{COPIES, Lsn, Members, WRITE_QUORUM};

/// What each place is known to hold without a gap, by place.
pub type Scls = [Lsn; COPIES];

/// The SCL of each place: of a joint place only what both its holders have counts (rule Q6). `scl`
/// gives each holder's, in the order of [`Members::holders`].
#[must_use]
pub fn by_place(members: &Members, scl: impl IntoIterator<Item = Lsn>) -> Scls {
    let mut places = [Lsn::MAX; COPIES];
    for ((place, _), scl) in members.holders().zip(scl) {
        places[place] = places[place].min(scl);
    }
    places
}

/// The group complete LSN: the largest position that a write quorum of places have reached, which
/// is the fourth largest of six SCLs (rule Q2).
#[must_use]
pub fn gcl(scls: &Scls) -> Lsn {
    reached_by(WRITE_QUORUM, scls)
}

/// The largest position that `count` places (1 to 6) have reached.
#[must_use]
pub fn reached_by(count: usize, scls: &Scls) -> Lsn {
    let mut sorted = *scls;
    sorted.sort_unstable();
    sorted[COPIES - count.clamp(1, COPIES)]
}
