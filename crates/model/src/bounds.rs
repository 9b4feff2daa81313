//! How much of the world is explored, and what is done wrongly on purpose.

/// How much happens at most. Every bound is a number of events that nothing else limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bounds {
    /// Epochs: the first is open and writing, each further one is opened by a recovery.
    pub epochs: u8,
    /// Positions of the log; each may be written once in every epoch.
    pub positions: u8,
    /// Disks lost. Three full members are always left.
    pub wipes: u8,
    /// Members that join, by a joint place or in place of a silent one.
    pub joins: u8,
    /// What is done wrongly.
    pub bug: Option<Bug>,
}

/// A decision made wrongly: exploring must find what it breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Three places are taken for a write quorum.
    ThreeForAQuorum,
    /// Members take batches of epochs that are sealed off.
    NoFence,
    /// Recovery lets members decide that are still being rebuilt.
    RebuildingDecides,
    /// A wiped member takes part before it has heard three full ones.
    WipedForgetsSeals,
    /// A wiped member is full as soon as it follows the newest history.
    FullTooEarly,
    /// What a sleeper holds is measured by its own history.
    OwnHistory,
    /// A new member replaces the present one at once, and is taken for a true copy.
    NoOverlap,
    /// A joint place counts for writing by its joining holder alone.
    JoiningCountsAlone,
    /// A joining member gets its place on the word of a writer that a newer epoch has overtaken.
    OvertakenWord,
}
