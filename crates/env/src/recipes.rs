//! Every order of writes, syncs and renames that durability rests on. One place, so that it can be
//! read and tested as a whole.
//!
//! - *replace*: write aside, sync, rename over, sync the directory. A crash leaves the old or the new
//!   content under the name, and perhaps a leftover beside it.
//! - *create zeroed*: create, write zeros (so that later writes change no metadata), sync, sync the
//!   directory. A crash leaves no name, or a file that may be short or not yet zero: the caller must
//!   recognise a valid file by its content.
//! - *publish*: sync a file written under its final name, sync the directory. Until then nothing may
//!   refer to it.
//! - *remove*: remove, sync the directory. Whatever referred to the file was changed durably before.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskError, ErrorKind, File, Mode, Operation};

/// Ending of files written aside; whoever owns the directory may remove leftovers.
pub const ASIDE: &str = ".new";

/// The directory that holds `path`.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Replaces the content of `path`, whole or not at all.
///
/// # Errors
/// Any step's; the old content is still in place unless the last step failed, when it may be either.
pub fn replace(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(ASIDE);
    let aside = PathBuf::from(aside);
    remove_if_present(disk, &aside)?;
    let file = disk.open(&aside, Mode::Create)?;
    file.write_at(0, &[IoSlice::new(content)])?;
    file.sync()?;
    disk.rename(&aside, path)?;
    disk.sync_dir(parent(path))
}

/// Creates a file of `length` zeros, durably.
///
/// # Errors
/// Any step's; then a file of that name may exist and is not to be trusted.
pub fn create_zeroed(
    disk: &dyn Disk,
    path: &Path,
    length: u64,
) -> Result<Arc<dyn File>, DiskError> {
    const CHUNK: u64 = 1 << 20;
    let file = disk.open(path, Mode::Create)?;
    let zeros = vec![0; usize::try_from(length.min(CHUNK)).unwrap_or(0)];
    let mut offset = 0;
    while offset < length {
        let count = (length - offset).min(CHUNK);
        let part = zeros.get(..usize::try_from(count).unwrap_or(0)).unwrap_or(&zeros);
        file.write_at(offset, &[IoSlice::new(part)])?;
        offset += count;
    }
    file.sync()?;
    disk.sync_dir(parent(path))?;
    let (operation, kind) = (Operation::Write, ErrorKind::Failed);
    match file.len()? == length {
        true => Ok(file),
        false => {
            let detail = "it is shorter than what was written".to_owned();
            Err(DiskError { operation, path: path.to_owned(), offset: 0, kind, detail })
        }
    }
}

/// Makes a finished file and its name durable.
///
/// # Errors
/// Any step's.
pub fn publish(disk: &dyn Disk, path: &Path, file: &dyn File) -> Result<(), DiskError> {
    file.sync()?;
    disk.sync_dir(parent(path))
}

/// Removes files that nothing refers to any more, durably; names already gone are fine.
///
/// # Errors
/// Any step's.
pub fn remove_all(disk: &dyn Disk, directory: &Path, names: &[String]) -> Result<(), DiskError> {
    for name in names {
        remove_if_present(disk, &directory.join(name))?;
    }
    if names.is_empty() { Ok(()) } else { disk.sync_dir(directory) }
}

/// Creates a directory and makes its name durable in the one above.
///
/// # Errors
/// Any step's.
pub fn create_dir(disk: &dyn Disk, directory: &Path) -> Result<(), DiskError> {
    disk.create_dir(directory)?;
    disk.sync_dir(parent(directory))
}

/// The whole content of a file; `None` when there is none of that name.
///
/// # Errors
/// Any step's.
pub fn read_all(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match disk.open(path, Mode::Read) {
        Ok(file) => file,
        Err(error) if error.kind == ErrorKind::Missing => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.len()?;
    let mut content = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_at(0, &mut content)?;
    Ok(Some(content))
}

fn remove_if_present(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove(path) {
        Err(error) if error.kind != ErrorKind::Missing => Err(error),
        _ => Ok(()),
    }
}
