//! What every [`Disk`] must do, as code that any implementation's tests can call.

use std::io::IoSlice;
use std::path::Path;

use crate::disk::{Disk, DiskError, ErrorKind, Mode};
use crate::recipes;

/// Runs every check inside `root`, an empty directory that exists.
///
/// # Panics
/// When the disk breaks the contract.
pub fn check_disk(disk: &dyn Disk, root: &Path) {
    files_hold_what_was_written(disk, root).expect("files");
    whole_sectors_and_other_writes_mix(disk, root).expect("sectors");
    names_follow_renames_and_removals(disk, root).expect("names");
    errors_say_what_they_are(disk, root);
    recipes_leave_what_they_promise(disk, root).expect("recipes");
}

fn files_hold_what_was_written(disk: &dyn Disk, root: &Path) -> Result<(), DiskError> {
    let path = root.join("file");
    let file = disk.open(&path, Mode::Create)?;
    assert!(file.is_empty()?);
    file.write_at(3, &[IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"def")])?;
    assert_eq!(file.len()?, 9, "a write past the end leaves zeros before it");
    file.write_at_durable(9, &[IoSlice::new(b"ghi")])?;
    let mut all = [1; 12];
    file.read_at(0, &mut all)?;
    assert_eq!(&all, b"\0\0\0abcdefghi");
    file.set_len(4)?;
    file.set_len(6)?;
    let mut all = [1; 6];
    file.read_at(0, &mut all)?;
    assert_eq!(&all, b"\0\0\0a\0\0", "what was cut off comes back as zeros");
    let many = vec![b'x'; 3000];
    let slices: Vec<IoSlice<'_>> = many.chunks(1).map(IoSlice::new).collect();
    file.write_at_durable(0, &slices)?;
    assert_eq!(file.len()?, 3000, "more slices than one system call takes");
    file.uncache(0, 3000);
    file.sync()?;
    file.uncache(5, 1 << 40);
    let again = disk.open(&path, Mode::Read)?;
    let mut last = [0];
    again.read_at(2999, &mut last)?;
    assert_eq!(last, [b'x']);
    assert!(again.write_at(0, &[IoSlice::new(b"no")]).is_err(), "opened to read");
    Ok(())
}

/// Durable writes of whole sectors may take another way to the disk: reads see them all the same.
fn whole_sectors_and_other_writes_mix(disk: &dyn Disk, root: &Path) -> Result<(), DiskError> {
    let path = root.join("sectors");
    let file = recipes::create_zeroed(disk, &path, 16384)?;
    let mut expected = vec![0; 16384];
    let mut write = |at: usize, bytes: &[u8], durable: bool| {
        expected[at..at + bytes.len()].copy_from_slice(bytes);
        let (head, tail) = bytes.split_at(bytes.len() / 3);
        let slices = [IoSlice::new(head), IoSlice::new(tail)];
        match durable {
            true => file.write_at_durable(at as u64, &slices)?,
            false => file.write_at(at as u64, &slices)?,
        }
        let mut found = vec![1; 16384];
        file.read_at(0, &mut found)?;
        assert!(found == expected, "after {} bytes at {at}", bytes.len());
        Ok::<(), DiskError>(())
    };
    write(512, &[1; 512], true)?;
    write(700, &[2; 100], false)?;
    write(1024, &[3; 4096], true)?;
    write(1000, &[4; 700], true)?;
    write(512, &[5; 1536], true)?;
    write(15872, &[6; 512], true)?;
    let read_only = disk.open(&path, Mode::Read)?;
    assert!(read_only.write_at_durable(0, &[IoSlice::new(&[7; 512])]).is_err(), "opened to read");
    disk.remove(&path)
}

fn names_follow_renames_and_removals(disk: &dyn Disk, root: &Path) -> Result<(), DiskError> {
    let place = root.join("deep").join("names");
    disk.create_dir(&place)?;
    disk.create_dir(&place)?;
    for name in ["b", "a", "c"] {
        let file = disk.open(&place.join(name), Mode::Create)?;
        file.write_at(0, &[IoSlice::new(name.as_bytes())])?;
    }
    assert_eq!(disk.list(&place)?, ["a", "b", "c"]);
    let held = disk.open(&place.join("b"), Mode::Read)?;
    disk.rename(&place.join("a"), &place.join("b"))?;
    disk.remove(&place.join("c"))?;
    disk.sync_dir(&place)?;
    assert_eq!(disk.list(&place)?, ["b"]);
    let mut byte = [0];
    held.read_at(0, &mut byte)?;
    assert_eq!(&byte, b"b", "an open file outlives its name");
    disk.open(&place.join("b"), Mode::Read)?.read_at(0, &mut byte)?;
    assert_eq!(&byte, b"a");
    assert!(disk.remove_dir(&place).is_err(), "not empty");
    disk.remove(&place.join("b"))?;
    disk.remove_dir(&place)?;
    assert_eq!(disk.list(&root.join("deep"))?, Vec::<String>::new());
    assert!(disk.free_bytes(root)? > 0);
    Ok(())
}

fn errors_say_what_they_are(disk: &dyn Disk, root: &Path) {
    let kind = |result: Result<(), DiskError>| result.err().map(|error| error.kind);
    let absent = root.join("absent");
    assert_eq!(kind(disk.open(&absent, Mode::Read).map(drop)), Some(ErrorKind::Missing));
    assert_eq!(kind(disk.open(&absent, Mode::Write).map(drop)), Some(ErrorKind::Missing));
    assert_eq!(kind(disk.list(&absent).map(drop)), Some(ErrorKind::Missing));
    assert_eq!(kind(disk.remove(&absent)), Some(ErrorKind::Missing));
    assert_eq!(kind(disk.rename(&absent, &root.join("x"))), Some(ErrorKind::Missing));
    let file = disk.open(&root.join("short"), Mode::Create).expect("creates");
    assert_eq!(
        kind(disk.open(&root.join("short"), Mode::Create).map(drop)),
        Some(ErrorKind::Exists)
    );
    assert_eq!(kind(file.read_at(0, &mut [0])), Some(ErrorKind::Eof));
}

fn recipes_leave_what_they_promise(disk: &dyn Disk, root: &Path) -> Result<(), DiskError> {
    let place = root.join("recipes");
    recipes::create_dir(disk, &place)?;
    let path = place.join("content");
    assert_eq!(recipes::read_all(disk, &path)?, None);
    recipes::replace(disk, &path, b"first")?;
    recipes::replace(disk, &path, b"second")?;
    assert_eq!(recipes::read_all(disk, &path)?.as_deref(), Some(b"second".as_slice()));
    let zeroed = recipes::create_zeroed(disk, &place.join("zeros"), (1 << 20) + 5)?;
    assert_eq!(zeroed.len()?, (1 << 20) + 5);
    assert_eq!(disk.list(&place)?, ["content", "zeros"], "nothing is left aside");
    recipes::remove_all(disk, &place, &["zeros".to_owned(), "gone".to_owned()])?;
    assert_eq!(disk.list(&place)?, ["content"]);
    Ok(())
}
