//! What a restarted daemon must know of the server it finds running.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use types::{Epoch, Timeline, VolumeId};

const FILE: &str = "attachment.json";

/// The epoch that a running server belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch that the daemon last opened it in.
    pub epoch: Epoch,
    /// The timeline that the server writes.
    pub timeline: Timeline,
    /// Identifies the cluster in its WAL.
    pub system_id: u64,
    /// `wal_segment_size`.
    pub segment_size: u32,
}

#[derive(Serialize, Deserialize)]
struct Text {
    volume: String,
    epoch: u64,
    timeline: u32,
    system_id: u64,
    segment_size: u32,
}

impl Attachment {
    /// Writes it into the instance's directory.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, instance: &Path) -> anyhow::Result<()> {
        let text = Text {
            volume: self.volume.to_string(),
            epoch: self.epoch.0,
            timeline: self.timeline.0,
            system_id: self.system_id,
            segment_size: self.segment_size,
        };
        let (path, draft) = (instance.join(FILE), instance.join("attachment.json.new"));
        std::fs::write(&draft, serde_json::to_vec(&text)?)
            .and_then(|()| std::fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn load(instance: &Path) -> anyhow::Result<Attachment> {
        let path = instance.join(FILE);
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text: Text = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Attachment {
            volume: text.volume.parse()?,
            epoch: Epoch(text.epoch),
            timeline: Timeline(text.timeline),
            system_id: text.system_id,
            segment_size: text.segment_size,
        })
    }
}
