//! A directory of WAL segments, read as one log.
//!
//! - V4: the log may end anywhere, as after a crash: at zeros, at the end of a file, at pages left
//!   over from an earlier use, inside a record. It has not ended where a page that follows is of
//!   this log; then what cannot be read is damage, and an error names segment and position.
//! - V5: of several timelines the newest is read, along its history file.

mod timelines;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use pgwal::layout::{self, WAL_PAGE_SIZE, page, segment_name, segment_start};
use pgwal::page::PageHeader;
use pgwal::record::Record;
use pgwal::{Decoder, Waiting, WalError};
use types::{Lsn, Timeline};

use crate::error::VerifyError;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Which segments there are, and how they follow each other.
#[derive(Clone, Debug)]
pub struct WalDirectory {
    path: PathBuf,
    segment_size: u32,
    system_id: u64,
    /// Number of a segment, and the timeline of the file that holds it.
    segments: BTreeMap<u64, Timeline>,
}

impl WalDirectory {
    /// Looks at a directory of segments, or at the `pg_wal` of a data directory.
    ///
    /// # Errors
    /// [`VerifyError`] when there are none, or of timelines that do not follow from each other.
    pub fn open(path: &Path) -> Result<WalDirectory, VerifyError> {
        let inner = path.join("pg_wal");
        let path = if inner.is_dir() { inner } else { path.to_owned() };
        let names = list(&path)?;
        let size_free = |name: &String| {
            layout::parse_segment_name(name, layout::SEGMENT_SIZE_DEFAULT)
                .or_else(|| layout::parse_segment_name(name, 1 << 20))
                .is_some()
        };
        let Some(first) = names.iter().find(|name| size_free(name)) else {
            return Err(VerifyError::NoSegments { path });
        };
        let (system_id, segment_size, _) = long_header(&path.join(first))?;
        let mut files: BTreeMap<u64, Vec<Timeline>> = BTreeMap::new();
        for name in &names {
            if let Some((timeline, number)) = layout::parse_segment_name(name, segment_size) {
                files.entry(number).or_default().push(timeline);
            }
        }
        let segments = timelines::choose(&path, &files, segment_size)?;
        Ok(WalDirectory { path, segment_size, system_id, segments })
    }

    /// The cluster that wrote the log.
    #[must_use]
    pub fn system_id(&self) -> u64 {
        self.system_id
    }

    /// Where the first segment begins.
    #[must_use]
    pub fn first(&self) -> Lsn {
        let number = self.segments.keys().next().copied().unwrap_or(0);
        Lsn(number * u64::from(self.segment_size))
    }

    /// The directory of the segments.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that a position lies in.
    fn file_of(&self, at: Lsn) -> PathBuf {
        let number = at.0 / u64::from(self.segment_size);
        let before = self.segments.range(..=number).next_back();
        let timeline = before.map_or(Timeline(1), |(_, timeline)| *timeline);
        self.path.join(segment_name(timeline, number, self.segment_size))
    }

    /// Whether the segment after this position's is there.
    fn has(&self, at: Lsn) -> bool {
        self.segments.contains_key(&(at.0 / u64::from(self.segment_size)))
    }

    /// The log from a record's start on, or from the first whole record.
    #[must_use]
    pub fn records(&self, from: Option<Lsn>) -> Wal<'_> {
        let start = from.unwrap_or_else(|| self.first());
        let decoder = Decoder::new(start, None, self.segment_size, Some(self.system_id), None);
        Wal { directory: self, decoder, file: None, piece: vec![0; PIECE], end: None }
    }

    /// The first page after `at` that is of this log, if there is one.
    fn goes_on_after(&self, at: Lsn) -> Result<Option<Lsn>, VerifyError> {
        let mut address = layout::page_of(at).plus(WAL_PAGE_SIZE as u64);
        let mut file: Option<(u64, File, PathBuf)> = None;
        while let Some((&last, _)) = self.segments.iter().next_back() {
            let number = address.0 / u64::from(self.segment_size);
            if number > last {
                break;
            }
            if !self.segments.contains_key(&number) {
                address = Lsn((number + 1) * u64::from(self.segment_size));
                continue;
            }
            if file.as_ref().is_none_or(|(open, _, _)| *open != number) {
                let path = self.file_of(address);
                file = Some((number, open(&path)?, path));
            }
            let Some((_, open, path)) = &file else { break };
            let mut header = [0; page::LONG_SIZE];
            let size = layout::page_header_size(address, self.segment_size);
            let offset = address.bytes_since(segment_start(address, self.segment_size));
            let read = read_at(open, path, &mut header[..size], offset)?;
            let header = PageHeader::decode(&header[..size]);
            if read == size && header.magic == layout::PAGE_MAGIC && header.address == address {
                return Ok(Some(address));
            }
            address = address.plus(WAL_PAGE_SIZE as u64);
        }
        Ok(None)
    }
}

/// Reads a log record by record.
pub struct Wal<'a> {
    directory: &'a WalDirectory,
    decoder: Decoder,
    file: Option<(u64, File, PathBuf)>,
    piece: Vec<u8>,
    end: Option<String>,
}

impl Wal<'_> {
    /// The next record; `None` at the end of the log.
    ///
    /// # Errors
    /// [`VerifyError`] when a file cannot be read, or the log is damaged before its end.
    #[expect(clippy::should_implement_trait, reason = "an error ends the log")]
    pub fn next(&mut self) -> Result<Option<Record>, VerifyError> {
        if self.end.is_some() {
            return Ok(None);
        }
        loop {
            let why = match self.decoder.next() {
                Ok(Some(record)) => return Ok(Some(record)),
                Ok(None) if self.decoder.waiting() == Waiting::Zeros => None,
                Ok(None) if self.feed()? => continue,
                Ok(None) => None,
                Err(error) => Some(error),
            };
            self.finish(why)?;
            return Ok(None);
        }
    }

    /// End of the last record.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// Why the log ended where it did.
    #[must_use]
    pub fn end(&self) -> &str {
        self.end.as_deref().unwrap_or("not read to its end")
    }

    /// The error for a record that cannot be interpreted.
    #[must_use]
    pub fn refuse(&self, record: &Record, source: WalError) -> VerifyError {
        let at = record.span.start;
        VerifyError::Record { path: self.directory.file_of(at), at, source }
    }

    /// Reads more; whether there was more.
    fn feed(&mut self) -> Result<bool, VerifyError> {
        let at = self.decoder.wants();
        let size = u64::from(self.directory.segment_size);
        let number = at.0 / size;
        if !self.directory.has(at) {
            return Ok(false);
        }
        if self.file.as_ref().is_none_or(|(open, _, _)| *open != number) {
            let path = self.directory.file_of(at);
            self.file = Some((number, open(&path)?, path));
        }
        let Some((_, file, path)) = &self.file else { return Ok(false) };
        let offset = at.0 % size;
        let room = usize::try_from(size - offset).unwrap_or(PIECE).min(PIECE);
        let read = read_at(file, path, &mut self.piece[..room], offset)?;
        if read > 0 && self.decoder.feed(at, &self.piece[..read]).is_err() {
            // The decoder asked for exactly these bytes; it refuses only positions no log reaches.
            return Ok(false);
        }
        Ok(read > 0)
    }

    /// Decides whether the log ends here, and says why.
    fn finish(&mut self, error: Option<WalError>) -> Result<(), VerifyError> {
        let position = self.decoder.position();
        let waits_at = self.decoder.wants();
        let (stopped, read) = match (&error, self.decoder.waiting()) {
            (Some(error), _) => (place_of(error).max(position), place_of(error).max(position)),
            (None, Waiting::Zeros) => (position, position),
            // All bytes before the one wanted were read.
            (None, _) => (position, Lsn(waits_at.0.saturating_sub(1))),
        };
        if let Some(next) = self.directory.goes_on_after(read)? {
            let missing = error.is_none() && !self.directory.has(waits_at);
            if missing {
                let path = self.directory.file_of(waits_at);
                return Err(VerifyError::MissingSegment { path, at: position });
            }
            let path = self.directory.file_of(stopped);
            let source = error.unwrap_or(WalError::Gap { at: next, expected: waits_at });
            return Err(VerifyError::Damaged { path, at: stopped, source });
        }
        self.end = Some(match (error, self.decoder.waiting()) {
            (Some(error), _) => error.to_string(),
            (None, Waiting::Zeros) => "zeros follow".to_owned(),
            (None, Waiting::Empty) => "the last file ends".to_owned(),
            (None, Waiting::Record { start, length, held }) => {
                format!("of the record at {start}, {held} of {length} bytes are there")
            }
        });
        Ok(())
    }
}

/// Where in the log an error was found.
fn place_of(error: &WalError) -> Lsn {
    match error {
        WalError::Gap { at, .. } | WalError::Page { at, .. } => *at,
        WalError::Record { start, .. }
        | WalError::Malformed { start, .. }
        | WalError::Unknown { start, .. }
        | WalError::CustomManager { start, .. } => *start,
    }
}

fn list(path: &Path) -> Result<Vec<String>, VerifyError> {
    let io = |source| VerifyError::io(path, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        names.push(entry.map_err(io)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn open(path: &Path) -> Result<File, VerifyError> {
    File::open(path).map_err(|source| VerifyError::io(path, source))
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, path: &Path, buffer: &mut [u8], at: u64) -> Result<usize, VerifyError> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(VerifyError::io(path, error)),
        }
    }
    Ok(read)
}

/// System identifier, segment size and page size of a segment.
fn long_header(path: &Path) -> Result<(u64, u32, u32), VerifyError> {
    let wrong = |what: String| VerifyError::NotASegment { path: path.to_owned(), what };
    let mut bytes = [0; page::LONG_SIZE];
    let read = read_at(&open(path)?, path, &mut bytes, 0)?;
    let header = PageHeader::decode(&bytes);
    if read < bytes.len() || header.magic != layout::PAGE_MAGIC {
        let (magic, expected) = (header.magic, layout::PAGE_MAGIC);
        return Err(wrong(format!("its first page has magic {magic:#06x}, not {expected:#06x}")));
    }
    match header.long {
        Some(long) if header.info & page::LONG_HEADER != 0 && layout::is_segment_size(long.1) => {
            Ok(long)
        }
        _ => Err(wrong("its first page's header is not that of a segment".to_owned())),
    }
}

#[cfg(test)]
mod tests;
