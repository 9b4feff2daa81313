//! The FIFO by which PostgreSQL's processes wake a sleeping driver (rule H4 of `seam`). It stays when
//! the daemon goes: they have it open.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags};

/// The reading end; kept open for writing too, so that it never reports an end.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    /// Makes the FIFO unless it is there, and opens it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(path: &Path) -> anyhow::Result<Bell> {
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .context("the instance's path has a zero byte")?;
        match rustix::fs::mknodat(CWD, name.as_c_str(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
        }
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Bell { fd })
    }

    /// What to wait on.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Waits for a ring, and for nothing else.
    #[must_use]
    pub fn rings_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut watched = [PollFd::new(&self.fd, PollFlags::IN)];
        matches!(poll(&mut watched, Some(&limit)), Ok(ready) if ready > 0)
    }

    /// Takes every ring so far.
    pub fn silence(&self) {
        let mut rings = [0u8; 256];
        while matches!(rustix::io::read(&self.fd, &mut rings), Ok(count) if count == rings.len()) {}
    }
}
