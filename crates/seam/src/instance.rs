//! Where an instance's files are, as path text built without allocation.
//!
//! ```text
//! <instance>/pgdata/            PostgreSQL's data directory, a cache
//! <instance>/shm/board          the board (mapped by everybody)
//! <instance>/shm/maps/<name>    presence maps, one per relation segment file
//! <instance>/shm/driver.sock    requests to the driver
//! <instance>/shm/wake           FIFO by which a sleeping driver is woken
//! ```

use std::ffi::CStr;

/// Longest path that can be built.
const CAPACITY: usize = 512;

/// A path under construction on the stack. Text that does not fit makes the whole invalid.
#[derive(Clone, Copy)]
pub struct PathText {
    bytes: [u8; CAPACITY],
    length: usize,
    overflow: bool,
}

impl Default for PathText {
    fn default() -> PathText {
        PathText::new()
    }
}

impl std::fmt::Debug for PathText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

impl PathText {
    /// The empty text.
    #[must_use]
    pub const fn new() -> PathText {
        PathText { bytes: [0; CAPACITY], length: 0, overflow: false }
    }

    /// Appends text. A zero byte or too much of it spoils the path.
    pub fn push(&mut self, text: &[u8]) -> &mut PathText {
        let end = self.length.saturating_add(text.len());
        // One byte stays free for the terminator.
        match self.bytes.get_mut(self.length..end) {
            Some(place) if end < CAPACITY && !text.contains(&0) => {
                place.copy_from_slice(text);
                self.length = end;
            }
            _ => self.overflow = true,
        }
        self
    }

    /// Appends a decimal number.
    pub fn push_number(&mut self, number: u64) -> &mut PathText {
        let mut digits = [0u8; 20];
        let mut rest = number;
        let mut used = 0;
        for place in digits.iter_mut().rev() {
            *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            used += 1;
            if rest == 0 {
                break;
            }
        }
        let digits = digits.get(digits.len() - used..).unwrap_or(&[]);
        self.push(digits)
    }

    /// The text, without terminator.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    /// The text for system calls; `None` when something did not fit.
    #[must_use]
    pub fn as_c_str(&self) -> Option<&CStr> {
        if self.overflow {
            return None;
        }
        CStr::from_bytes_with_nul(self.bytes.get(..=self.length)?).ok()
    }

    /// The text as a string, for messages and standard library calls.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or("")
    }
}

/// One instance's directory.
#[derive(Clone, Copy, Debug)]
pub struct Instance {
    directory: PathText,
    pgdata: PathText,
}

impl Instance {
    /// The environment variable that names the instance's directory to the preload library.
    pub const VARIABLE: &'static str = "SIXFOLD_INSTANCE";
    /// The environment variable that names the data directory if it is not `<instance>/pgdata`.
    pub const PGDATA_VARIABLE: &'static str = "SIXFOLD_PGDATA";

    /// The instance in `directory` (absolute). `None` when the path is too long to work with.
    #[must_use]
    pub fn new(directory: &[u8], pgdata: Option<&[u8]>) -> Option<Instance> {
        let trim = |path: &[u8]| {
            let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
            let mut text = PathText::new();
            text.push(path.get(..end).unwrap_or(&[]));
            text
        };
        let directory = trim(directory);
        let mut default = directory;
        default.push(b"/pgdata");
        let pgdata = pgdata.map_or(default, trim);
        let roomy = |text: &PathText| text.as_c_str().is_some() && text.length + 100 < CAPACITY;
        (roomy(&directory) && roomy(&pgdata)).then_some(Instance { directory, pgdata })
    }

    /// PostgreSQL's data directory.
    #[must_use]
    pub fn pgdata(&self) -> PathText {
        self.pgdata
    }

    fn below(&self, name: &[u8]) -> PathText {
        let mut path = self.directory;
        path.push(name);
        path
    }

    /// Directory of everything shared.
    #[must_use]
    pub fn shm(&self) -> PathText {
        self.below(b"/shm")
    }

    /// Gives a file made below the instance to the owner of its shared directory
    /// ([`crate::sys::give_to_owner_of`]).
    ///
    /// # Errors
    /// The errno.
    pub fn adopt(&self, path: &CStr) -> Result<(), i32> {
        let shm = self.shm();
        crate::sys::give_to_owner_of(shm.as_c_str().ok_or(libc::ENAMETOOLONG)?, path)
    }

    /// The board's file.
    #[must_use]
    pub fn board(&self) -> PathText {
        self.below(b"/shm/board")
    }

    /// Directory of the presence maps.
    #[must_use]
    pub fn maps(&self) -> PathText {
        self.below(b"/shm/maps")
    }

    /// A segment's presence map.
    #[must_use]
    pub fn map(&self, name: &crate::SegmentName) -> PathText {
        let mut path = self.below(b"/shm/maps/");
        path.push(name.map_name().as_bytes());
        path
    }

    /// A segment's data file.
    #[must_use]
    pub fn data(&self, name: &crate::SegmentName) -> PathText {
        let mut path = self.pgdata;
        path.push(b"/").push(name.data_path().as_bytes());
        path
    }

    /// The driver's socket.
    #[must_use]
    pub fn socket(&self) -> PathText {
        self.below(b"/shm/driver.sock")
    }

    /// The FIFO that wakes the driver. Both sides open it for reading and writing, so that neither
    /// meets the other's end when it dies; what is written means nothing.
    #[must_use]
    pub fn wake(&self) -> PathText {
        self.below(b"/shm/wake")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_is_no_path() {
        let mut path = PathText::new();
        path.push(&[b'a'; CAPACITY - 1]);
        assert!(path.as_c_str().is_some());
        path.push(b"b");
        assert!(path.as_c_str().is_none());
        assert!(Instance::new(&[b'a'; 500], None).is_none());
    }

    #[test]
    fn numbers_are_decimal() {
        let mut path = PathText::new();
        path.push_number(0).push(b"/").push_number(u64::MAX);
        assert_eq!(path.as_str(), "0/18446744073709551615");
    }
}
