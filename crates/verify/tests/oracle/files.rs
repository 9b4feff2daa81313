//! The end of a replay against the files of the server that wrote the log, shut down cleanly: what
//! records changed, and what none did.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use pgwal::keys::{Fork, Key, Rel, Slru};
use pgwal::layout::op::rm;
use redo::State;
use redo::mask::manager_of;
use seam::name::{FileKind, classify};
use verify::compare::{self, Page};
use verify::replay::Before;
use verify::{DataDirectory, Images, Replay};

const BLOCKS_PER_SEGMENT: u32 = 131_072;
const PAGES_PER_SLRU_SEGMENT: u32 = 32;

/// How many pages of each kind were compared, and what was wrong.
#[derive(Default)]
pub struct Files {
    pub blocks: u64,
    pub maps: u64,
    pub slrus: u64,
    /// Of these, pages that no record changed.
    pub untouched: u64,
    pub problems: Vec<String>,
}

/// Compares everything that records changed or the server has. `last` is the manager that wrote a
/// block last, images logged for their own sake left out. What is equal confirms the records that
/// made it.
pub fn compare<I: Images>(
    replay: &mut Replay<I>,
    data: &DataDirectory,
    last: &HashMap<Key, u8>,
) -> Files {
    let mut files = Files::default();
    let made: BTreeSet<Key> = replay.pages().map(|(key, _)| key).collect();
    for key in made.iter().copied().chain(server_s(data.path()).difference(&made).copied()) {
        let theirs = data.read(key).expect("readable");
        let outcome = match (replay.page(key).expect("readable"), theirs) {
            (Before::Known(ours), Some(theirs)) => {
                files.untouched += u64::from(!made.contains(&key));
                files.page(key, &ours, &theirs, last.get(&key).copied())
            }
            // Files were grown before anything was logged of their new pages.
            (_, Some(theirs)) if theirs[24..].iter().all(|byte| *byte == 0) => Ok(false),
            (_, Some(_)) => Err(vec!["only the server has it".to_owned()]),
            // Transaction status and the like of the past is removed by whole files.
            (_, None) if matches!(key, Key::Slru(..) | Key::Block(_, Fork::Fsm, _)) => Ok(false),
            (_, None) => Err(vec!["the server has no such page".to_owned()]),
        };
        match outcome {
            Ok(true) => replay.confirm(key),
            Ok(false) => {}
            Err(lines) => files.problems.push(format!("{key:?}: {lines:?}")),
        }
    }
    let theirs = State::of_control_file(data.control());
    if replay.state() != Some(&theirs) {
        files.problems.push(format!("state {:?} instead of {theirs:?}", replay.state()));
    }
    files
}

/// All pages in the server's files, but for unlogged relations and free space maps.
fn server_s(data: &Path) -> BTreeSet<Key> {
    let names = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut directories = vec!["global".to_owned()];
    directories.extend(names(&data.join("base")).iter().map(|name| format!("base/{name}")));
    let (mut keys, mut unlogged) = (BTreeSet::new(), BTreeSet::new());
    let pages = |file: &Path| (fs::metadata(file).expect("there").len() / 8192) as u32;
    for directory in directories {
        for name in names(&data.join(&directory)) {
            let path = format!("{directory}/{name}");
            let FileKind::Relation(file) = classify(path.as_bytes()) else { continue };
            let (tablespace, database, relation) = (file.tablespace, file.database, file.relation);
            let rel = Rel { tablespace, database, relation };
            let fork = Fork::from_number(file.fork as u8).expect("a fork");
            let first = file.segment * BLOCKS_PER_SEGMENT;
            keys.extend((0..pages(&data.join(path))).map(|n| Key::Block(rel, fork, first + n)));
            unlogged.extend((fork == Fork::Init).then_some(rel));
        }
    }
    for area in Slru::ALL {
        for name in names(&data.join(area.directory())) {
            let first = u32::from_str_radix(&name, 16).expect("digits") * PAGES_PER_SLRU_SEGMENT;
            let pages = pages(&data.join(area.directory()).join(name));
            keys.extend((0..pages).map(|n| Key::Slru(area, first + n)));
        }
    }
    keys.retain(|key| match key {
        Key::Block(rel, fork, _) => {
            *fork == Fork::Init || *fork != Fork::Fsm && !unlogged.contains(rel)
        }
        _ => true,
    });
    keys
}

impl Files {
    /// Whether the page was compared at all; or what differs.
    fn page(
        &mut self,
        key: Key,
        ours: &[u8],
        theirs: &[u8],
        last: Option<u8>,
    ) -> Result<bool, Vec<String>> {
        let pages = || (<&Page>::try_from(ours), <&Page>::try_from(theirs));
        match key {
            Key::Slru(..) => {
                self.slrus += 1;
                if ours == theirs { Ok(true) } else { Err(vec!["differs".to_owned()]) }
            }
            Key::Block(_, Fork::Vm, _) => {
                self.maps += 1;
                // CREATE DATABASE logs copied map pages without what lies in their "hole":
                // then fewer bits are set after recovery than on the server, never more.
                let fewer = || ours.iter().zip(theirs).skip(24).all(|(a, b)| a & !b == 0);
                let equal = ours[8..] == theirs[8..] || last.is_none() && fewer();
                if equal { Ok(true) } else { Err(vec!["the map differs".to_owned()]) }
            }
            Key::Block(_, Fork::Main | Fork::Init, block) => {
                let (Ok(ours), Ok(theirs)) = pages() else {
                    return Err(vec!["no page".to_owned()]);
                };
                if ours == theirs {
                    self.blocks += 1;
                    return Ok(true);
                }
                let Some(rmid) = manager_of(ours) else {
                    return Err(vec!["is a page of no manager".to_owned()]);
                };
                let last = last.map(|last| if last == rm::HEAP2 { rm::HEAP } else { last });
                if last.is_some_and(|last| last != rmid) {
                    return Err(vec![format!("of manager {last:?} looks like {rmid}")]);
                }
                // Not logged: a sequence's current value.
                if rmid == rm::SEQ {
                    return Ok(false);
                }
                self.blocks += 1;
                let lines = compare::pages(rmid, ours, theirs, block);
                if lines.is_empty() { Ok(true) } else { Err(lines) }
            }
            _ => Ok(false),
        }
    }
}
