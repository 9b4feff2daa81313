//! The pages in a cluster's files, by key.

use std::fs;
use std::path::Path;

use anyhow::Result;
use pgwal::keys::{Fork, Key, Rel, Slru};

const PAGE: usize = 8192;
/// Blocks in a relation's file.
const FILE_BLOCKS: u32 = 131_072;
const SLRU_FILE_PAGES: u32 = 32;

/// Pages and their keys, in no order.
pub type Pages = Vec<(Key, Vec<u8>)>;

/// All blocks of all relations.
///
/// # Errors
/// When a file cannot be read.
pub fn relation_pages(data: &Path) -> Result<Pages> {
    let mut pages = Pages::new();
    let mut directories = vec![(data.join("global"), 1664, 0)];
    for entry in fs::read_dir(data.join("base"))? {
        let entry = entry?;
        if let Ok(database) = entry.file_name().to_string_lossy().parse() {
            directories.push((entry.path(), 1663, database));
        }
    }
    for (directory, tablespace, database) in directories {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((relation, fork, file)) = parse_name(&name) else { continue };
            let rel = Rel { tablespace, database, relation };
            for (block, page) in (file * FILE_BLOCKS..).zip(fs::read(&path)?.chunks_exact(PAGE)) {
                pages.push((Key::Block(rel, fork, block), page.to_vec()));
            }
        }
    }
    Ok(pages)
}

/// Relation, fork and file number of `16384`, `16384_vm`, `16384.1` and the like.
fn parse_name(name: &str) -> Option<(u32, Fork, u32)> {
    let (name, file) = match name.split_once('.') {
        Some((name, file)) => (name, file.parse().ok()?),
        None => (name, 0),
    };
    let (relation, suffix) = name.split_at(name.find('_').unwrap_or(name.len()));
    let fork = (0..4).filter_map(Fork::from_number).find(|fork| fork.suffix() == suffix)?;
    Some((relation.parse().ok()?, fork, file))
}

/// All pages of all SLRU areas.
///
/// # Errors
/// When a file cannot be read.
pub fn slru_pages(data: &Path) -> Result<Pages> {
    let mut pages = Pages::new();
    for area in Slru::ALL {
        for entry in fs::read_dir(data.join(area.directory()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(file) = u32::from_str_radix(&name, 16) else { continue };
            let bytes = fs::read(&path)?;
            let numbered = (file * SLRU_FILE_PAGES..).zip(bytes.chunks_exact(PAGE));
            pages.extend(numbered.map(|(number, page)| (Key::Slru(area, number), page.to_vec())));
        }
    }
    Ok(pages)
}
