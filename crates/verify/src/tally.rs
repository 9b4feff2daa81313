//! What is counted of each kind of record, and what was found to be wrong.

use std::collections::BTreeMap;

use pgwal::keys::Slru;
use pgwal::layout::op;
use types::Span;

/// What a record changed: one of the blocks that it references, or something that it implies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The block under this reference id.
    Block(u8),
    /// A page of a visibility or free space map that the record does not reference.
    Map,
    /// A page of an SLRU.
    Slru(Slru),
}

/// Counts of pages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Pages that records were to be applied to.
    pub pages: u64,
    /// Compared with an image in the record.
    pub compared: u64,
    /// Of these, not equal; and pages that the record could not be applied to.
    pub different: u64,
    /// Replaced by the record's image, as recovery does.
    pub restored: u64,
    /// Restored pages, and pages that records hold no images of, found equal by a later comparison.
    pub confirmed: u64,
    /// Not compared: the page's content before the record is not known.
    pub unknown: u64,
    /// Not compared: the page that replay began with is newer than the record.
    pub ahead: u64,
    /// Not compared: the record holds no image.
    pub without_image: u64,
}

impl Tally {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Tally) -> Tally {
        Tally {
            pages: self.pages + other.pages,
            compared: self.compared + other.compared,
            different: self.different + other.different,
            restored: self.restored + other.restored,
            confirmed: self.confirmed + other.confirmed,
            unknown: self.unknown + other.unknown,
            ahead: self.ahead + other.ahead,
            without_image: self.without_image + other.without_image,
        }
    }
}

/// A kind of record: resource manager and type.
pub type Kind = (u8, u8);

/// Name of a kind, for example `Heap/INSERT`.
#[must_use]
pub fn kind_name((rmid, kind): Kind) -> String {
    format!("{}/{}", op::name(rmid), op::kind_name(rmid, kind))
}

/// All counts.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tallies {
    /// Records seen.
    pub records: BTreeMap<Kind, u64>,
    /// Pages, by kind of record and what of it.
    pub pages: BTreeMap<(Kind, Place), Tally>,
}

impl Tallies {
    /// The counts of one place of a kind.
    pub(crate) fn at(&mut self, kind: Kind, place: Place) -> &mut Tally {
        self.pages.entry((kind, place)).or_default()
    }

    /// The counts of a kind over all its places.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Tally {
        let places = self.pages.iter().filter(|((of, _), _)| *of == kind);
        places.fold(Tally::default(), |sum, (_, tally)| sum.plus(*tally))
    }

    /// The counts over all kinds.
    #[must_use]
    pub fn total(&self) -> (u64, Tally) {
        let pages = self.pages.values().fold(Tally::default(), |sum, tally| sum.plus(*tally));
        (self.records.values().sum(), pages)
    }
}

/// A page that is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The record.
    pub span: Span,
    /// Its kind.
    pub kind: Kind,
    /// The page, for example `1663/5/16384 block 7 (block reference 0)`.
    pub page: String,
    /// What is wrong with it, one line each.
    pub lines: Vec<String>,
}
