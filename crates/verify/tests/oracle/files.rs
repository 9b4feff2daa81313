//! The end of a replay against the files of the server that wrote the log, shut down cleanly.

use std::collections::HashMap;

use pgwal::keys::{Fork, Key};
use pgwal::layout::op::rm;
use redo::State;
use redo::mask::manager_of;
use verify::compare::{self, Page};
use verify::{DataDirectory, Images, Replay};

/// How many pages of each kind were compared, and what was wrong.
#[derive(Default)]
pub struct Files {
    pub blocks: u64,
    pub maps: u64,
    pub slrus: u64,
    pub problems: Vec<String>,
}

/// Compares everything that records changed. `last` is the manager that wrote a block last, images
/// logged for their own sake left out. What is equal confirms the records that made it.
pub fn compare<I: Images>(
    replay: &mut Replay<I>,
    data: &DataDirectory,
    last: &HashMap<Key, u8>,
) -> Files {
    let mut files = Files::default();
    let pages: Vec<_> = replay.pages().map(|(key, page)| (key, page.to_vec())).collect();
    for (key, page) in pages {
        let Some(theirs) = data.read(key).expect("readable") else { continue };
        match files.page(key, &page, &theirs, last.get(&key).copied()) {
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
            Key::Block(_, Fork::Main, block) => {
                let (Ok(ours), Ok(theirs)) = pages() else {
                    return Err(vec!["no page".to_owned()]);
                };
                let Some(rmid) = manager_of(ours) else {
                    return Err(vec!["is a page of no manager".to_owned()]);
                };
                let last = last.map(|last| if last == rm::HEAP2 { rm::HEAP } else { last });
                if last.is_some_and(|last| last != rmid) {
                    return Err(vec![format!("of manager {last:?} looks like {rmid}")]);
                }
                // Not logged: a sequence's current value, the page cache of SP-GiST's root.
                if rmid == rm::SEQ || rmid == rm::SPGIST && block == 0 {
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
