//! In what two pages differ, in the words of PostgreSQL's page layouts: header fields, line pointers,
//! tuples, an access method's own fields; where none fits, ranges of bytes.
//!
//! Invariant: pages that differ after masking give at least one difference.

mod fields;

use std::fmt;

use pgwal::layout::op::rm;

use crate::fault::Res;
use crate::mask::mask_page;
use crate::page::{HEADER_SIZE, ItemId, PAGE_SIZE, Page};
use crate::tuple::Tid;
use fields::{Content, Field, Form, Kind};

/// One thing in which two pages differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is, for example `tuple at item 3: t_xmax`.
    pub place: String,
    /// Its value on the page that was made.
    pub ours: String,
    /// Its value on PostgreSQL's page.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} instead of {}", self.place, self.ours, self.theirs)
    }
}

/// Most bytes of a range that are shown.
const SHOWN: usize = 16;

/// In what two pages of manager `rmid` differ after masking, in the order of the page; empty when
/// they are equal. `block` is the page's number.
///
/// # Errors
/// When one of the pages is too corrupt to be masked.
pub fn differences(
    rmid: u8,
    ours: &[u8; PAGE_SIZE],
    theirs: &[u8; PAGE_SIZE],
    block: u32,
) -> Res<Vec<Difference>> {
    let (mut ours, mut theirs) = (Box::new(*ours), Box::new(*theirs));
    mask_page(rmid, &mut ours, block)?;
    mask_page(rmid, &mut theirs, block)?;
    let mut found = Found { list: Vec::new(), explained: [false; PAGE_SIZE] };
    if ours != theirs {
        found.pages(rmid, &Page::new(&mut ours), &Page::new(&mut theirs));
    }
    Ok(found.list)
}

/// What was found so far, and which bytes need no further explanation.
struct Found {
    list: Vec<Difference>,
    explained: [bool; PAGE_SIZE],
}

/// A place and a piece of it, for a message: `tuple at item 3: t_xmax`.
fn name(outer: &str, inner: &str) -> String {
    if outer.is_empty() { inner.to_owned() } else { format!("{outer}: {inner}") }
}

impl Found {
    fn push(&mut self, place: String, ours: impl fmt::Display, theirs: impl fmt::Display) {
        let (ours, theirs) = (ours.to_string(), theirs.to_string());
        self.list.push(Difference { place, ours, theirs });
    }

    /// Bytes from `at` on are dealt with.
    fn explain(&mut self, at: usize, length: usize) {
        let end = at.saturating_add(length).min(PAGE_SIZE);
        if let Some(range) = self.explained.get_mut(at..end) {
            range.fill(true);
        }
    }

    fn pages(&mut self, rmid: u8, ours: &Page<'_>, theirs: &Page<'_>) {
        if ours.is_new() != theirs.is_new() {
            let say = |page: &Page<'_>| if page.is_new() { "empty" } else { "initialised" };
            self.push("the page".to_owned(), say(ours), say(theirs));
        }
        self.fields("page header", fields::HEADER, ours.bytes(), theirs.bytes(), Some(0));
        let (our_kind, their_kind) = (fields::kind(rmid, ours), fields::kind(rmid, theirs));
        if our_kind.0 != their_kind.0 {
            self.push("kind of page".to_owned(), our_kind.0, their_kind.0);
        }
        let same_shape = ours.special() == theirs.special();
        if same_shape {
            self.special(their_kind, ours, theirs);
        }
        let places_agree = match their_kind.2 {
            Content::Items(fields) => self.items(rmid, fields, ours, theirs),
            Content::Struct(fields) => {
                self.structure("", fields, ours, theirs, HEADER_SIZE);
                true
            }
            Content::Entries(what, from, size, fields) => {
                self.entries((what, from, size), fields, ours, theirs);
                true
            }
            Content::Bytes(fields, what, from) => {
                self.structure("", fields, ours, theirs, HEADER_SIZE);
                self.ranges(what, ours.bytes(), theirs.bytes(), from..theirs.special(), from);
                true
            }
        };
        if same_shape && places_agree || self.list.is_empty() {
            self.rest(ours, theirs);
        }
    }

    fn special(&mut self, kind: Kind, ours: &Page<'_>, theirs: &Page<'_>) {
        let place = format!("special space of the {}", kind.0);
        self.structure(&place, kind.1, ours, theirs, theirs.special());
    }

    /// Fields of a structure that lies at the same place on both pages.
    fn structure(
        &mut self,
        place: &str,
        fields: &[Field],
        ours: &Page<'_>,
        theirs: &Page<'_>,
        at: usize,
    ) {
        let tail = |page: &Page<'_>| page.bytes().get(at..).unwrap_or(&[]).to_vec();
        self.fields(place, fields, &tail(ours), &tail(theirs), Some(at));
    }

    /// Fields of two structures; `at` is where both lie on their pages, if at the same place.
    fn fields(
        &mut self,
        place: &str,
        fields: &[Field],
        ours: &[u8],
        theirs: &[u8],
        at: Option<usize>,
    ) {
        for (field, offset, form) in fields {
            let get = |bytes: &[u8]| bytes.get(*offset..*offset + form.size()).map(<[u8]>::to_vec);
            let (ours, theirs) = (get(ours), get(theirs));
            if ours != theirs {
                self.push(name(place, field), value(*form, ours), value(*form, theirs));
            }
            if let Some(at) = at {
                self.explain(at + offset, form.size());
            }
        }
    }

    /// Line pointers and tuples. Returns whether every line pointer agrees, so that bytes outside
    /// of items may be compared place by place.
    fn items(&mut self, rmid: u8, fields: &[Field], ours: &Page<'_>, theirs: &Page<'_>) -> bool {
        let mut agree = true;
        for number in 1..=ours.item_count().max(theirs.item_count()) {
            let (our_line, their_line) = (ours.line(number).ok(), theirs.line(number).ok());
            if our_line != their_line {
                agree = false;
                self.push(format!("line pointer {number}"), line(our_line), line(their_line));
            }
            self.explain(HEADER_SIZE + 4 * (usize::from(number) - 1), 4);
            let (Ok(our_item), Ok(their_item)) = (ours.item(number), theirs.item(number)) else {
                continue;
            };
            let at = our_line.filter(|line| Some(*line) == their_line).map(|line| line.offset);
            let place = format!("tuple at item {number}");
            self.fields(&place, fields, our_item, their_item, at);
            let header = fields.iter().map(|(_, at, form)| at + form.size()).max().unwrap_or(0);
            let mut data = header.min(their_item.len());
            if matches!(rmid, rm::HEAP | rm::HEAP2 | rm::SEQ)
                && let Some(hoff) = their_item.get(22).map(|hoff| usize::from(*hoff))
                && (data..=their_item.len()).contains(&hoff)
            {
                self.ranges(&name(&place, "null bitmap"), our_item, their_item, data..hoff, data);
                data = hoff;
            }
            let end = our_item.len().min(their_item.len());
            self.ranges(&name(&place, "data"), our_item, their_item, data..end, data);
            if let Some(at) = at {
                self.explain(at, their_item.len());
            }
        }
        agree
    }

    fn entries(
        &mut self,
        (what, from, size): (&str, usize, usize),
        fields: &[Field],
        ours: &Page<'_>,
        theirs: &Page<'_>,
    ) {
        let mut at = from;
        for number in 1usize.. {
            if at + size > theirs.special().min(PAGE_SIZE) {
                break;
            }
            self.structure(&format!("{what} {number}"), fields, ours, theirs, at);
            at += size;
        }
    }

    /// Ranges of bytes within `within` in which two structures differ; offsets are told from `origin`.
    fn ranges(
        &mut self,
        what: &str,
        ours: &[u8],
        theirs: &[u8],
        within: std::ops::Range<usize>,
        origin: usize,
    ) {
        let differs = |at: usize| ours.get(at) != theirs.get(at);
        let mut at = within.start;
        while at < within.end {
            let start = at;
            while at < within.end && differs(at) {
                at += 1;
            }
            if start == at {
                at += 1;
                continue;
            }
            let place = format!("{what} offset {}..{}", start - origin, at - origin);
            self.push(place, bytes(ours.get(start..at)), bytes(theirs.get(start..at)));
        }
        // Only content that lies at the same place on both pages comes here with a page's offsets.
        if ours.len() == PAGE_SIZE {
            self.explain(within.start, within.len());
        }
    }

    /// Bytes that nothing above speaks of.
    fn rest(&mut self, ours: &Page<'_>, theirs: &Page<'_>) {
        let mut theirs = *theirs.bytes();
        for (at, byte) in theirs.iter_mut().enumerate() {
            if self.explained[at] {
                *byte = ours.bytes()[at];
            }
        }
        self.ranges("bytes of no item", ours.bytes(), &theirs, HEADER_SIZE..PAGE_SIZE, 0);
    }
}

fn value(form: Form, bytes: Option<Vec<u8>>) -> String {
    let Some(bytes) = bytes else { return "absent".to_owned() };
    let mut number = [0; 8];
    number[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    let number = u64::from_le_bytes(number);
    match form {
        Form::Number(_) => number.to_string(),
        Form::Bits(size) => format!("{number:#0width$x}", width = 2 + 2 * size),
        Form::Float => f64::from_bits(number).to_string(),
        Form::Position => match Tid::at(&bytes, 0) {
            Ok(tid) => format!("({},{})", tid.block, tid.item),
            Err(_) => "absent".to_owned(),
        },
    }
}

fn line(line: Option<ItemId>) -> String {
    const STATES: [&str; 4] = ["unused", "normal", "redirect", "dead"];
    let Some(line) = line else { return "absent".to_owned() };
    let state = STATES[usize::from(line.flags & 3)];
    match line.flags {
        2 => format!("redirect to {}", line.offset),
        _ if line.length == 0 => state.to_owned(),
        _ => format!("{state}, {} bytes at {}", line.length, line.offset),
    }
}

fn bytes(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "absent".to_owned() };
    let shown: Vec<_> = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > SHOWN { " ..." } else { "" };
    format!("{}{more}", shown.join(" "))
}

#[cfg(test)]
mod tests;
