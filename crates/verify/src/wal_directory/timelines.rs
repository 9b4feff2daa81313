//! Which file holds each segment, where several timelines lie in one directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use types::{Lsn, Timeline};

use crate::error::VerifyError;

/// Chooses along the history of the newest timeline: a timeline's files count from the segment in
/// which it began, which its file holds from the beginning.
pub(super) fn choose(
    path: &Path,
    files: &BTreeMap<u64, Vec<Timeline>>,
    segment_size: u32,
) -> Result<BTreeMap<u64, Timeline>, VerifyError> {
    let newest = files.values().flatten().max().copied().unwrap_or(Timeline(1));
    let alone = files.values().flatten().all(|timeline| *timeline == newest);
    let eras = if alone {
        vec![Era { timeline: newest, began: Lsn::ZERO, ended: Lsn::MAX }]
    } else {
        history(path, newest)?
    };
    let mut chosen = BTreeMap::new();
    for (number, timelines) in files {
        let at = |number: u64| Lsn(number.saturating_mul(u64::from(segment_size)));
        let (start, end) = (at(*number), at(number.saturating_add(1)));
        let mut live = eras.iter().filter(|era| {
            era.began < end && start < era.ended && timelines.contains(&era.timeline)
        });
        if let Some(era) = live.next_back() {
            chosen.insert(*number, era.timeline);
        }
    }
    Ok(chosen)
}

/// The part of the log that a timeline is valid for.
struct Era {
    timeline: Timeline,
    began: Lsn,
    ended: Lsn,
}

/// The ancestors of a timeline and itself, oldest first.
fn history(path: &Path, newest: Timeline) -> Result<Vec<Era>, VerifyError> {
    let file = path.join(format!("{:08X}.history", newest.0));
    let wrong =
        |what: String| VerifyError::Timelines { path: file.clone(), timeline: newest.0, what };
    let text = fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
    let mut eras = Vec::new();
    let mut began = Lsn::ZERO;
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split_whitespace();
        let parent = words.next().and_then(|word| word.parse().ok());
        let ended = words.next().and_then(|word| word.parse::<Lsn>().ok());
        let (Some(parent), Some(ended)) = (parent, ended) else {
            return Err(wrong(format!("`{line}` is not a timeline and the position of its end")));
        };
        eras.push(Era { timeline: Timeline(parent), began, ended });
        began = ended;
    }
    eras.push(Era { timeline: newest, began, ended: Lsn::MAX });
    Ok(eras)
}
