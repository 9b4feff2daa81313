//! The stream decoder: WAL bytes in, records out.
//!
//! Bytes are copied once, when they are fed, with the page headers taken off into a list of marks;
//! so every record is one contiguous piece of the buffer and is handed out as a view of it. Page
//! headers are judged when the record that runs through them is read.
//!
//! Invariants: `payload` holds what was fed after `payload_at` (a count of payload bytes since the
//! decoder was made) and not handed out yet; `marks` are the page headers at or after it, in order;
//! nothing is consumed by a call of `next` that does not return a record, so that it can be
//! repeated, and [`Decoder::rewind`] can always go back to the end of the last record. A record that
//! was lent ([`Decoder::next_borrowed`]) counts as returned; it leaves the buffer with the next call.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use types::{Lsn, Span, Timeline};

use crate::error::{PageProblem, RecordProblem, WalError};
use crate::layout::{self, WAL_PAGE_SIZE, op, record as header};
use crate::page::{Expected, PageHeader};
use crate::record::Record;

/// Smallest piece of memory asked for at a time.
const BUFFER_MIN: usize = 64 << 10;
/// No log comes this far; below it, positions cannot overflow.
const LSN_MAX: Lsn = Lsn(u64::MAX >> 1);

/// A page header that was taken off the stream.
#[derive(Debug)]
struct Mark {
    /// The page.
    page: Lsn,
    /// Payload bytes before it.
    at: u64,
    header: PageHeader,
}

/// Why [`Decoder::next`] has no record yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// Nothing was fed beyond the last record (or a few bytes that do not say anything yet).
    Empty,
    /// Zeros where a record or a page header should be: nothing is written there yet.
    Zeros,
    /// A record has begun and is not complete.
    Record {
        /// Where it begins.
        start: Lsn,
        /// Its length as claimed.
        length: u32,
        /// Bytes of it at hand.
        held: u32,
    },
}

/// Turns the bytes of one WAL stream into records.
///
/// A driver that tails a file whose last page is still being filled does, for each flush: feed from
/// [`Decoder::position`] to the end of what is written, take records until `None` or an error, and
/// [`Decoder::rewind`]; an error is fatal only if the server says that it has written beyond it.
#[derive(Debug)]
pub struct Decoder {
    expected: Expected,
    /// End of the last record (or the start position): where the next record's bytes or the page
    /// header before it begin.
    position: Lsn,
    /// Start of the last record, if known.
    prev: Option<Lsn>,
    /// Next byte that `feed` takes.
    fed: Lsn,
    /// Bytes before this are passed over (the rest of a segment after a switch).
    skip_until: Lsn,
    /// A page header that has been fed in part.
    partial: ([u8; layout::page::LONG_SIZE], usize),
    payload: BytesMut,
    payload_at: u64,
    marks: VecDeque<Mark>,
    /// Marks at the front that belong to the record being read and are already checked.
    checked: usize,
    /// Alignment bytes after the last record that are still to be dropped.
    padding: usize,
    /// Bytes of a record begun before the start position, still to be dropped.
    foreign: u32,
    /// Record that a page header abandoned; the next record must say so.
    abandoned: Option<Lsn>,
    /// Record that was lent out of the buffer and is taken off it by the next call.
    lent: Option<Found>,
    waiting: Waiting,
}

/// A whole and checked record at the front of the buffer.
#[derive(Clone, Copy, Debug)]
struct Found {
    span: Span,
    length: usize,
    /// The rest of its segment is empty.
    is_switch: bool,
}

impl Decoder {
    /// A decoder for the bytes from `start` on: the start of a record, the end of one, or a page's
    /// first byte. `prev` is the start of the record before, if known; without it, a page that
    /// begins inside a record is entered at its first whole record.
    ///
    /// # Panics
    /// When `segment_size` is not a possible one.
    #[must_use]
    pub fn new(
        start: Lsn,
        prev: Option<Lsn>,
        segment_size: u32,
        system_id: Option<u64>,
        timeline: Option<Timeline>,
    ) -> Decoder {
        assert!(layout::is_segment_size(segment_size), "segment size {segment_size}");
        let timeline_seen = Timeline(0);
        Decoder {
            expected: Expected { system_id, segment_size, timeline, timeline_seen },
            position: start,
            prev,
            fed: start,
            skip_until: start,
            partial: ([0; layout::page::LONG_SIZE], 0),
            payload: BytesMut::new(),
            payload_at: 0,
            marks: VecDeque::new(),
            checked: 0,
            padding: 0,
            foreign: 0,
            abandoned: None,
            lent: None,
            waiting: Waiting::Empty,
        }
    }

    /// End of the last record returned; the start position before the first.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.lent.map_or(self.position, |found| found.span.end)
    }

    /// Start of the last record returned.
    #[must_use]
    pub fn prev(&self) -> Option<Lsn> {
        self.lent.map(|found| found.span.start).or(self.prev)
    }

    /// The position that the next [`Decoder::feed`] must begin at.
    #[must_use]
    pub fn wants(&self) -> Lsn {
        let switched = self.lent.filter(|found| found.is_switch).map(|found| found.span.end);
        self.fed.max(self.skip_until).max(switched.unwrap_or(Lsn::ZERO))
    }

    /// Why the last [`Decoder::next`] returned `None`.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Pages from here on belong to this timeline.
    pub fn set_timeline(&mut self, timeline: Option<Timeline>) {
        self.expected.timeline = timeline;
    }

    /// Takes the bytes at `at`, which must be [`Decoder::wants`] (after a switch record: or the
    /// rest of its segment).
    ///
    /// # Errors
    /// [`WalError::Gap`]; then nothing is taken.
    pub fn feed(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        self.settle();
        if at < self.fed || at > self.wants() || at > LSN_MAX {
            return Err(WalError::Gap { at, expected: self.wants() });
        }
        self.fed = at;
        let mut rest = bytes;
        self.reserve(rest.len());
        while !rest.is_empty() {
            let taken = self.take(rest);
            self.fed = self.fed.plus(taken as u64);
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Forgets everything that was fed after the last record. Feeding goes on at
    /// [`Decoder::position`], which is returned.
    pub fn rewind(&mut self) -> Lsn {
        self.settle();
        self.payload.clear();
        self.marks.clear();
        self.partial.1 = 0;
        self.checked = 0;
        self.padding = 0;
        self.foreign = 0;
        self.fed = self.position;
        self.skip_until = self.position;
        self.waiting = Waiting::Empty;
        self.position
    }

    fn reserve(&mut self, more: usize) {
        if self.payload.capacity() - self.payload.len() < more {
            self.payload.reserve(more.max(BUFFER_MIN));
        }
    }

    /// Takes the front of `bytes`, up to a border of some kind; returns how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if self.fed < self.skip_until {
            let skipped = self.skip_until.bytes_since(self.fed);
            return usize::try_from(skipped).unwrap_or(usize::MAX).min(bytes.len());
        }
        let offset = (self.fed.0 % WAL_PAGE_SIZE as u64) as usize;
        let page = layout::page_of(self.fed);
        let (buffer, held) = &mut self.partial;
        if offset != *held {
            let count = bytes.len().min(WAL_PAGE_SIZE - offset);
            self.payload.extend_from_slice(&bytes[..count]);
            return count;
        }
        // Inside a page header: `held` bytes of it are here, and it began where the page does.
        let size = layout::page_header_size(page, self.expected.segment_size);
        let count = bytes.len().min(size - *held);
        buffer[*held..*held + count].copy_from_slice(&bytes[..count]);
        *held += count;
        if *held == size {
            let header = PageHeader::decode(&buffer[..size]);
            *held = 0;
            let at = self.payload_at + self.payload.len() as u64;
            self.marks.push_back(Mark { page, at, header });
        }
        count
    }

    /// The next record; `None` when more bytes are needed, see [`Decoder::waiting`].
    ///
    /// # Errors
    /// [`WalError::Page`] or [`WalError::Record`]. Nothing is consumed: the same call fails again
    /// until the decoder is rewound and fed other bytes.
    #[expect(clippy::should_implement_trait, reason = "an error does not end the stream")]
    pub fn next(&mut self) -> Result<Option<Record>, WalError> {
        let Some(found) = self.find()? else { return Ok(None) };
        let whole = self.payload.split_to(found.length).freeze();
        match Record::parse(found.span, whole.clone()) {
            Ok(record) => {
                self.payload_at += found.length as u64;
                self.pass(found);
                Ok(Some(record))
            }
            Err(error) => {
                // Only a good record is consumed.
                let rest = std::mem::take(&mut self.payload);
                self.payload = BytesMut::from(&whole[..]);
                self.payload.extend_from_slice(&rest);
                Err(error)
            }
        }
    }

    /// As [`Decoder::next`], for whoever is done with a record before asking for the next one: nothing
    /// is shared, so nothing is counted.
    ///
    /// # Errors
    /// As [`Decoder::next`].
    pub fn next_borrowed(&mut self) -> Result<Option<Record<&[u8]>>, WalError> {
        let Some(found) = self.find()? else { return Ok(None) };
        let record = Record::parse(found.span, &self.payload[..found.length])?;
        self.lent = Some(found);
        Ok(Some(record))
    }

    /// The next record, if it is all there.
    fn find(&mut self) -> Result<Option<Found>, WalError> {
        self.settle();
        loop {
            let Some(start) = self.enter()? else { return Ok(None) };
            let Some(length) = self.claimed_length(start)? else { return Ok(None) };
            match self.cross_pages(start, length)? {
                Crossing::Whole => return self.judge(start, length).map(Some),
                Crossing::Incomplete => {
                    let held = self.payload.len().min(length as usize) as u32;
                    self.waiting = Waiting::Record { start, length, held };
                    return Ok(None);
                }
                Crossing::Blank => {
                    self.waiting = Waiting::Zeros;
                    return Ok(None);
                }
                Crossing::Abandoned(index) => self.abandon(start, index),
            }
        }
    }

    /// Drops what lies between the last record and the next; the next one's start.
    fn enter(&mut self) -> Result<Option<Lsn>, WalError> {
        self.waiting = Waiting::Empty;
        let padding = self.padding.min(self.payload.len());
        self.advance(padding);
        self.padding -= padding;
        if self.padding > 0 {
            return Ok(None);
        }
        loop {
            if !self.position.0.is_multiple_of(WAL_PAGE_SIZE as u64) {
                return self.check_position(self.position).map(Some);
            }
            let Some(mark) = self.marks.front() else { return Ok(None) };
            let (page, header) = (mark.page, mark.header);
            if header.is_blank() {
                self.waiting = Waiting::Zeros;
                return Ok(None);
            }
            self.check_page(page, &header)?;
            let first = page.plus(layout::page_header_size(page, self.segment_size()) as u64);
            if header.abandons() || (!header.continues() && self.foreign == 0) {
                self.foreign = 0;
                self.expected.timeline_seen = header.timeline;
                return Ok(Some(first));
            }
            let remaining = if header.continues() { header.remaining } else { 0 };
            if self.prev.is_some()
                || remaining == 0
                || (self.foreign != 0 && self.foreign != remaining)
            {
                let problem = PageProblem::Remaining { found: remaining, expected: self.foreign };
                return Err(WalError::Page { at: page, record: self.position, problem });
            }
            // The start position lies inside a record: pass over what this page holds of it.
            let room = WAL_PAGE_SIZE as u64 - first.bytes_since(page);
            let here = u64::from(remaining).next_multiple_of(8).min(room);
            if (self.payload.len() as u64) < here {
                return Ok(None);
            }
            self.expected.timeline_seen = header.timeline;
            self.marks.pop_front();
            self.advance(here as usize);
            self.foreign = remaining.saturating_sub(here as u32);
            self.position = first.plus(here);
        }
    }

    fn segment_size(&self) -> u32 {
        self.expected.segment_size
    }

    fn advance(&mut self, count: usize) {
        self.payload.advance(count);
        self.payload_at += count as u64;
    }

    fn check_position(&self, start: Lsn) -> Result<Lsn, WalError> {
        let page = layout::page_of(start);
        let size = layout::page_header_size(page, self.segment_size()) as u64;
        if start.0.is_multiple_of(8) && start.bytes_since(page) >= size && start <= LSN_MAX {
            return Ok(start);
        }
        Err(WalError::Record { start, length: 0, problem: RecordProblem::Position })
    }

    fn check_page(&self, page: Lsn, header: &PageHeader) -> Result<(), WalError> {
        let wrong = |problem| WalError::Page { at: page, record: self.position, problem };
        header.check(page, &self.expected).map_err(wrong)
    }

    /// Reads as much of the record's header as is there; the length once it is believable.
    fn claimed_length(&mut self, start: Lsn) -> Result<Option<u32>, WalError> {
        let Some(word) = self.payload.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*word);
        if length == 0 {
            self.waiting = Waiting::Zeros;
            return Ok(None);
        }
        let wrong = |problem| WalError::Record { start, length, problem };
        if length < header::SIZE as u32 || length > header::LENGTH_MAX {
            return Err(wrong(RecordProblem::Length));
        }
        if let Some(bytes) = self.payload.get(header::PREV..).and_then(|rest| rest.first_chunk()) {
            let found = Lsn(u64::from_le_bytes(*bytes));
            match self.prev {
                Some(expected) if found != expected => {
                    return Err(wrong(RecordProblem::Prev { found, expected }));
                }
                None if found >= start => {
                    return Err(wrong(RecordProblem::Prev { found, expected: Lsn::ZERO }));
                }
                _ => {}
            }
        }
        Ok(Some(length))
    }

    /// Checks the headers of the pages that the record runs into.
    fn cross_pages(&mut self, start: Lsn, length: u32) -> Result<Crossing, WalError> {
        let end = self.payload_at + u64::from(length);
        while let Some(mark) = self.marks.get(self.checked) {
            if mark.at >= end {
                break;
            }
            let (page, at, header) = (mark.page, mark.at, mark.header);
            if page <= start {
                self.checked += 1;
                continue;
            }
            if header.is_blank() {
                return Ok(Crossing::Blank);
            }
            self.check_page(page, &header)?;
            if header.abandons() {
                return Ok(Crossing::Abandoned(self.checked));
            }
            let expected = (end - at) as u32;
            let found = if header.continues() { header.remaining } else { 0 };
            if found != expected {
                let problem = PageProblem::Remaining { found, expected };
                return Err(WalError::Page { at: page, record: self.position, problem });
            }
            self.expected.timeline_seen = header.timeline;
            self.checked += 1;
        }
        let whole = self.payload.len() >= length as usize;
        Ok(if whole { Crossing::Whole } else { Crossing::Incomplete })
    }

    /// Gives up the record at `start`: a crash lost its end, and the page of this mark begins afresh.
    fn abandon(&mut self, start: Lsn, index: usize) {
        let Some(mark) = self.marks.get(index) else { return };
        let (page, at) = (mark.page, mark.at);
        self.marks.drain(..index);
        self.advance((at - self.payload_at) as usize);
        self.checked = 0;
        self.position = page;
        self.abandoned = Some(start);
    }

    /// Checks the whole record.
    fn judge(&self, start: Lsn, length: u32) -> Result<Found, WalError> {
        let wrong = |problem| WalError::Record { start, length, problem };
        let bytes = &self.payload[..length as usize];
        let stored = bytes[header::CRC..].first_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
        let computed = Record::checksum(bytes);
        if computed != stored {
            return Err(wrong(RecordProblem::Checksum { computed, stored }));
        }
        let is = |rmid, info| bytes[header::RMID] == rmid && bytes[header::INFO] & 0xf0 == info;
        let is_switch = is(op::rm::XLOG, op::xlog::SWITCH);
        if let Some(lost) = self.abandoned {
            // Its main data, behind a two-byte header, begins with the lost record's position.
            let named = bytes.get(header::SIZE + 2..).and_then(|main| main.first_chunk());
            let names_it = named.is_some_and(|lsn| u64::from_le_bytes(*lsn) == lost.0);
            if !is(op::rm::XLOG, op::xlog::OVERWRITE_CONTRECORD) || !names_it {
                let what = "it follows a lost record and does not say so";
                return Err(wrong(RecordProblem::Content(what)));
            }
        }
        // The last page that the record lies on, and how far into the record it begins.
        let last = self.checked.checked_sub(1).and_then(|index| self.marks.get(index));
        let end = match last {
            Some(mark) if mark.page > start => {
                let size = layout::page_header_size(mark.page, self.segment_size()) as u64;
                let rest = self.payload_at + u64::from(length) - mark.at;
                mark.page.plus(size + rest).aligned()
            }
            _ => start.plus(u64::from(length)).aligned(),
        };
        let segment = u64::from(self.segment_size());
        let switched = Lsn(end.0.next_multiple_of(segment));
        let span = Span { start, end: if is_switch { switched } else { end } };
        Ok(Found { span, length: length as usize, is_switch })
    }

    /// Takes a lent record off the buffer.
    fn settle(&mut self) {
        if let Some(found) = self.lent.take() {
            self.advance(found.length);
            self.pass(found);
        }
    }

    /// Goes on behind a record that is off the buffer.
    fn pass(&mut self, found: Found) {
        self.padding = found.length.next_multiple_of(8) - found.length;
        if self.checked > 0 {
            self.marks.drain(..self.checked);
            self.checked = 0;
        }
        self.abandoned = None;
        self.prev = Some(found.span.start);
        self.position = found.span.end;
        if found.is_switch {
            self.skip_to(found.span.end);
        }
    }

    /// Passes over everything before `until`, fed or not.
    fn skip_to(&mut self, until: Lsn) {
        while self.marks.front().is_some_and(|mark| mark.page < until) {
            self.marks.pop_front();
        }
        self.padding = 0;
        if self.fed < until {
            self.partial.1 = 0;
        }
        let dropped = match self.marks.front() {
            Some(mark) => (mark.at - self.payload_at) as usize,
            None => self.payload.len(),
        };
        self.advance(dropped);
        self.skip_until = until;
    }
}

/// How a record lies over the pages that were fed.
enum Crossing {
    /// All of it is here and every page header agrees.
    Whole,
    /// More is needed.
    Incomplete,
    /// A page that it runs into is not written yet.
    Blank,
    /// The page of this mark begins afresh.
    Abandoned(usize),
}
