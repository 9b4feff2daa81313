//! The machine's own file system.
//!
//! A durable write is one `pwritev2(RWF_DSYNC)`, past the page cache where position and length are
//! whole sectors and the file system lets it (half the processor time of a write-back that is waited
//! for); on systems without it, a write and `fdatasync`.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Advice, OFlags};
use rustix::io::{Errno, ReadWriteFlags, pread, pwritev2};

use crate::disk::{Disk, DiskError, ErrorKind, File, Mode, Operation};

/// Slices handed to one system call (Linux: `IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Position and length of a write past the page cache are multiples.
const SECTOR: u64 = 512;
/// Where its memory begins.
const DIRECT_ALIGNMENT: usize = 4096;
/// Longer writes gain nothing from going past the cache.
const DIRECT_BYTES_MAX: usize = 1 << 20;
/// Memory for such writes that a file keeps for the next.
const DIRECT_BYTES_KEPT: usize = 64 << 10;

/// The machine's own file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

struct RealFile {
    file: fs::File,
    path: PathBuf,
    /// Cleared once the system has said that it does not know `RWF_DSYNC`.
    durable_flag: AtomicBool,
    /// The same file for writes past the page cache, once there was one; `None` where it cannot be
    /// opened so.
    direct: OnceLock<Option<fs::File>>,
    /// Cleared in a file opened to read, and once the system has refused such a write.
    direct_flag: AtomicBool,
    /// Memory for such writes, used again and again.
    memory: Mutex<Vec<u8>>,
}

fn failed(operation: Operation, path: &Path, offset: u64, error: &io::Error) -> DiskError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::Missing,
        io::ErrorKind::AlreadyExists => ErrorKind::Exists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        io::ErrorKind::UnexpectedEof => ErrorKind::Eof,
        _ => ErrorKind::Failed,
    };
    DiskError { operation, path: path.to_owned(), offset, kind, detail: error.to_string() }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>, DiskError> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            Mode::Read => {}
            Mode::Write => {
                options.write(true);
            }
            Mode::Create => {
                options.write(true).create_new(true);
            }
        }
        let file = options.open(path).map_err(|e| failed(Operation::Open, path, 0, &e))?;
        Ok(Arc::new(RealFile {
            file,
            path: path.to_owned(),
            durable_flag: AtomicBool::new(true),
            direct: OnceLock::new(),
            direct_flag: AtomicBool::new(!matches!(mode, Mode::Read)),
            memory: Mutex::default(),
        }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>, DiskError> {
        let fail = |e: io::Error| failed(Operation::List, directory, 0, &e);
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(fail)? {
            // Names that are not text are not ours.
            if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        fs::rename(from, to).map_err(|e| failed(Operation::Rename, from, 0, &e))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        fs::remove_file(path).map_err(|e| failed(Operation::Remove, path, 0, &e))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), DiskError> {
        fs::remove_dir(path).map_err(|e| failed(Operation::Remove, path, 0, &e))
    }

    fn sync_dir(&self, directory: &Path) -> Result<(), DiskError> {
        let place = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        fs::File::open(place)
            .and_then(|handle| handle.sync_all())
            .map_err(|e| failed(Operation::SyncDir, directory, 0, &e))
    }

    fn create_dir(&self, directory: &Path) -> Result<(), DiskError> {
        fs::create_dir_all(directory).map_err(|e| failed(Operation::CreateDir, directory, 0, &e))
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError> {
        let stat = rustix::fs::statvfs(path)
            .map_err(|e| failed(Operation::FreeBytes, path, 0, &io::Error::from(e)))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl RealFile {
    /// Writes durably past the page cache; false when that is not possible here, and then whatever
    /// was written is to be written again.
    fn write_direct(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<bool, (u64, Errno)> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let whole = offset.is_multiple_of(SECTOR) && (bytes as u64).is_multiple_of(SECTOR);
        if !whole || bytes > DIRECT_BYTES_MAX || !self.direct_flag.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(file) = self.direct.get_or_init(|| self.reopen_direct()) else {
            return Ok(false);
        };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.clear();
        memory.reserve(bytes + DIRECT_ALIGNMENT);
        let skip = memory.as_ptr().align_offset(DIRECT_ALIGNMENT);
        memory.resize(skip, 0); // within the capacity: it stays where it is
        slices.iter().for_each(|slice| memory.extend_from_slice(slice));
        let aligned = [IoSlice::new(&memory[skip..])];
        let written = write_all(file, offset, &aligned, ReadWriteFlags::DSYNC);
        if memory.capacity() > DIRECT_BYTES_KEPT {
            *memory = Vec::new();
        }
        match written {
            Ok(()) => Ok(true),
            // Not possible here, or no longer after a short write: the plain way begins anew.
            Err((_, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)) => {
                self.direct_flag.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn reopen_direct(&self) -> Option<fs::File> {
        // By its descriptor: the name may be another file's by now.
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::DIRECT.bits().cast_signed();
        fs::OpenOptions::new().write(true).custom_flags(flags).open(own).ok()
    }

    fn error(&self, operation: Operation, offset: u64, error: Errno) -> DiskError {
        failed(operation, &self.path, offset, &io::Error::from(error))
    }
}

/// Writes all slices, going on after short writes.
fn write_all(
    file: &fs::File,
    offset: u64,
    slices: &[IoSlice<'_>],
    flags: ReadWriteFlags,
) -> Result<(), (u64, Errno)> {
    let mut owned: Vec<IoSlice<'_>> = slices.to_vec();
    let mut rest: &mut [IoSlice<'_>] = &mut owned;
    IoSlice::advance_slices(&mut rest, 0);
    let mut at = offset;
    while !rest.is_empty() {
        let now = rest.len().min(SLICES_MAX);
        match pwritev2(file, &rest[..now], at, flags) {
            Ok(0) => return Err((at, Errno::IO)),
            Ok(count) => {
                at += count as u64;
                IoSlice::advance_slices(&mut rest, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err((at, error)),
        }
    }
    Ok(())
}

impl File for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while done < buffer.len() {
            match pread(&self.file, &mut buffer[done..], offset + done as u64) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                    let at = offset + done as u64;
                    return Err(failed(Operation::Read, &self.path, at, &error));
                }
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(self.error(Operation::Read, offset + done as u64, error));
                }
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        write_all(&self.file, offset, slices, ReadWriteFlags::empty())
            .map_err(|(at, e)| self.error(Operation::Write, at, e))
    }

    fn write_at_durable(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        let direct = self.write_direct(offset, slices);
        if direct.map_err(|(at, e)| self.error(Operation::Write, at, e))? {
            return Ok(());
        }
        if self.durable_flag.load(Ordering::Relaxed) {
            match write_all(&self.file, offset, slices, ReadWriteFlags::DSYNC) {
                Ok(()) => return Ok(()),
                // Not known here: nothing was written, so the plain way is not a retry.
                Err((at, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)) if at == offset => {
                    self.durable_flag.store(false, Ordering::Relaxed);
                }
                Err((at, error)) => return Err(self.error(Operation::Write, at, error)),
            }
        }
        self.write_at(offset, slices)?;
        rustix::fs::fdatasync(&self.file).map_err(|e| self.error(Operation::Sync, offset, e))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_all().map_err(|e| failed(Operation::Sync, &self.path, 0, &e))
    }

    fn uncache(&self, offset: u64, length: u64) {
        let length = std::num::NonZeroU64::new(length);
        // Advice only: where it is not taken, what is read next comes from the cache.
        rustix::fs::fadvise(&self.file, offset, length, Advice::DontNeed).unwrap_or_default();
    }

    fn len(&self) -> Result<u64, DiskError> {
        let meta =
            self.file.metadata().map_err(|e| failed(Operation::Length, &self.path, 0, &e))?;
        Ok(meta.len())
    }

    fn set_len(&self, length: u64) -> Result<(), DiskError> {
        self.file.set_len(length).map_err(|e| failed(Operation::Length, &self.path, length, &e))
    }
}
