//! Messages: every sentence that the processes say to each other.
//!
//! A connection opens with [`Hello`] and [`Welcome`] (or [`Refusal`]); after that each frame carries
//! one [`Message`] and a request number chosen by the asker, which the answer repeats.

use bytes::Bytes;
use types::{
    ClusterId, Epoch, GroupId, History, Holder, Incarnation, Lsn, MembershipEpoch, NodeId, PageKey,
    SegmentId, Span, VolumeId,
};

use crate::batch::{Batch, PartMeta};

/// Version of everything on the wire; a peer with another is refused by name.
pub const PROTOCOL_VERSION: u16 = 2;

/// First frame of a connection, from the side that connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the speaker.
    pub version: u16,
    /// The installation it belongs to.
    pub cluster: ClusterId,
    /// Who speaks.
    pub from: Speaker,
    /// Availability zone letter of the speaker, for `--az-latency`; zero when it has none.
    pub az: u8,
}

/// Who opens a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A storage node, for gossip and repair.
    Node {
        /// Its name.
        node: NodeId,
        /// This life of its disk.
        incarnation: Incarnation,
    },
    /// A database instance's driver.
    Instance {
        /// Its name.
        name: NodeId,
        /// The volume it works on.
        volume: VolumeId,
    },
    /// The control plane or an operator's command.
    Control,
}

/// Answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The node that answers.
    pub node: NodeId,
    /// This life of its disk.
    pub incarnation: Incarnation,
    /// Availability zone letter of the node, as in [`Hello::az`].
    pub az: u8,
}

/// Why a request was not done. Each variant tells the asker what to do now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another protocol version: upgrade one side.
    #[error("protocol version {theirs} is not ours ({ours})")]
    Version {
        /// The answerer's.
        ours: u16,
        /// The asker's.
        theirs: u16,
    },
    /// Another installation: the address is wrong.
    #[error("belongs to cluster {ours}, not {theirs}")]
    Cluster {
        /// The answerer's.
        ours: ClusterId,
        /// The asker's.
        theirs: ClusterId,
    },
    /// A newer writer exists: a writer must stop, anyone else asks again with `current`.
    #[error("epoch {asked} is fenced; the current one is {current}")]
    Fenced {
        /// The epoch presented.
        asked: Epoch,
        /// The newest epoch sealed here.
        current: Epoch,
    },
    /// A writer of the right epoch that has not been adopted here yet: send the history first.
    #[error("epoch {epoch} has not announced its history here")]
    NotAdopted {
        /// The epoch presented.
        epoch: Epoch,
    },
    /// This node holds no such segment.
    #[error("segment {0} is not held here")]
    NoSegment(SegmentId),
    /// The segment is being rebuilt and neither votes nor serves: ask another.
    #[error("segment {0} is being rebuilt from its peers")]
    Hydrating(SegmentId),
    /// The read point is above what is held here: ask another.
    #[error("complete only to {scl}, asked for {asked}")]
    Behind {
        /// What is held.
        scl: Lsn,
        /// What was asked.
        asked: Lsn,
    },
    /// The read point is below what is kept as versions.
    #[error("versions below {horizon} are gone, asked for {asked}")]
    Forgotten {
        /// Oldest read point that can be answered.
        horizon: Lsn,
        /// What was asked.
        asked: Lsn,
    },
    /// The store stopped after an I/O error and is to be rebuilt: ask another, replace this one.
    #[error("the segment store is stopped: {0}")]
    Poisoned(String),
    /// Stored bytes failed their check: ask another, this one will be repaired.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The volume was deleted, for ever: its writer must stop.
    #[error("volume {0} was deleted")]
    Deleted(VolumeId),
    /// A well-framed request that makes no sense.
    #[error("malformed request: {0}")]
    Malformed(String),
}

/// What a segment tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Every part of the group up to here is held (SCL).
    pub scl: Lsn,
    /// Newest epoch sealed here.
    pub sealed: Epoch,
    /// The epoch history it follows.
    pub history: History,
    /// The highest durable point it has been told.
    pub vdl: Span,
    /// Highest low-water mark it has been told.
    pub low_water: Lsn,
    /// Highest engine watermark it has been told (rule R6).
    pub watermark: u64,
    /// Newest member set it has been told.
    pub membership: MembershipEpoch,
    /// The member set that gave the node its place: names this copy ([`types::Holder`]).
    pub since: MembershipEpoch,
    /// Whether it votes and serves (not while being rebuilt).
    pub full: bool,
}

/// One page as a node holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageAnswer {
    /// No version at or below the read point.
    Absent,
    /// Content, and the end of the last record that changed it.
    Page {
        /// End of the last record applied.
        version: Lsn,
        /// The page.
        bytes: Bytes,
    },
    /// Could not be served here; others of the same request may be fine.
    Failed(Refusal),
}

/// Every sentence after the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    // The log: driver -> node
    /// Persist this batch; answered by `Ack` (or `Refused`). `Ack`s may be coalesced: each tells
    /// the segment's current SCL, which covers every earlier batch.
    Append(Batch),
    /// The segment is complete and durable to `scl` in `epoch`.
    Ack {
        /// The segment.
        segment: SegmentId,
        /// The epoch in force.
        epoch: Epoch,
        /// Its SCL, durable.
        scl: Lsn,
        /// The member set that gave the node its place: which copy says so.
        since: MembershipEpoch,
        /// Whether it votes and serves.
        full: bool,
    },

    // Opening a volume: driver -> node
    /// Refuse older epochs from now on; answered by `Report`.
    Seal {
        /// The segment.
        segment: SegmentId,
        /// The new epoch.
        epoch: Epoch,
    },
    /// What is held; answer to `Seal`, `Adopt` and `AskReport`.
    Report {
        /// The segment.
        segment: SegmentId,
        /// Its account.
        report: SegmentReport,
    },
    /// Which parts of the group that are live under `history` end above `after`? Answered by
    /// `Tail`, or by `Refused(Forgotten)` when some of them are known durable here and no longer
    /// listed: seal again to learn the newer durable point.
    AskTail {
        /// The segment.
        segment: SegmentId,
        /// The asking epoch, sealed here before.
        epoch: Epoch,
        /// The newest history the asker has found, which may be newer than the segment's own.
        history: History,
        /// Exclusive lower bound of part ends.
        after: Lsn,
    },
    /// The parts' metas in log order, without a gap, as far as the segment holds them.
    Tail {
        /// The segment.
        segment: SegmentId,
        /// Last epoch of the history asked with.
        history: Epoch,
        /// The bound asked with.
        after: Lsn,
        /// End of the group's last live part at or below `after`.
        base: Lsn,
        /// Metas of the live parts that end above `after`.
        parts: Vec<PartMeta>,
    },
    /// Follow this history (dropping what it voids), and fill up to `until` from `peer` where
    /// needed; answered by `Report` once durable, and again whenever the SCL has reached `until`.
    Adopt {
        /// The segment.
        segment: SegmentId,
        /// The new epoch's history, its last entry the new epoch's.
        history: History,
        /// The durable point the epoch was opened at.
        vdl: Span,
        /// End of this group's last part at or below the durable point.
        until: Lsn,
        /// Who holds everything up to `until`.
        peer: NodeId,
    },
    /// What do you hold? Answered by `Report`.
    AskReport {
        /// The segment.
        segment: SegmentId,
    },

    // Gossip and repair: node -> node
    /// Send the live parts after `after` (the asker's SCL), up to about `bytes_max`; answered by
    /// `Fill`, or by `Refused(Forgotten)` when they have left the log: copy the segment then.
    Pull {
        /// The segment.
        segment: SegmentId,
        /// The asker's history, so that both agree on what is live.
        history: History,
        /// Exclusive lower bound.
        after: Lsn,
        /// About how much to send, bytes.
        bytes_max: u32,
    },
    /// Runs of the group's chain, and what the sender holds altogether.
    Fill {
        /// The segment.
        segment: SegmentId,
        /// The sender's account (its SCL tells whether to ask on).
        report: SegmentReport,
        /// Batches in chain order.
        batches: Vec<Batch>,
    },
    /// Send the segment's manifest, to copy it file by file; answered by `Manifest`.
    AskManifest {
        /// The segment.
        segment: SegmentId,
    },
    /// The segment's immutable files. They stay readable while the connection lives.
    Manifest {
        /// The segment.
        segment: SegmentId,
        /// Account of the segment.
        report: SegmentReport,
        /// The manifest's own encoding (`segstore`).
        manifest: Bytes,
    },
    /// Send bytes of an immutable file; answered by `Chunk`.
    AskFile {
        /// The segment.
        segment: SegmentId,
        /// The file's number in the manifest.
        file: u64,
        /// First byte.
        offset: u64,
        /// How many at most.
        length: u32,
    },
    /// Bytes of an immutable file; short only at its end.
    Chunk(Bytes),

    // Pages: driver -> node
    /// The newest version at or below `read_point` of each page; answered by `Pages`.
    ReadPages {
        /// The segment.
        segment: SegmentId,
        /// Read point.
        read_point: Lsn,
        /// The group's parts must be held up to here: the end of its last part at or below the
        /// read point, as the driver knows it.
        complete_to: Lsn,
        /// The pages.
        keys: Vec<PageKey>,
    },
    /// Answers in the order of the keys.
    Pages(Vec<PageAnswer>),
    /// End of the newest record that changed each page, without building it; answered by `Versions`.
    ReadVersions {
        /// The segment.
        segment: SegmentId,
        /// Read point.
        read_point: Lsn,
        /// As in `ReadPages`.
        complete_to: Lsn,
        /// The pages.
        keys: Vec<PageKey>,
    },
    /// In the order of the keys; `None` where no version exists.
    Versions(Vec<Option<Lsn>>),
    /// Pages that exist in `from..to` at the read point, in key order, up to about `bytes_max`;
    /// answered by `Entries`.
    Scan {
        /// The segment.
        segment: SegmentId,
        /// Read point.
        read_point: Lsn,
        /// As in `ReadPages`.
        complete_to: Lsn,
        /// First key.
        from: PageKey,
        /// First key past the range.
        to: PageKey,
        /// About how much to send, bytes.
        bytes_max: u32,
    },
    /// Pages found, and where to go on (`None` at the end of the range).
    Entries {
        /// Key, version and content.
        entries: Vec<(PageKey, Lsn, Bytes)>,
        /// First key not looked at.
        next: Option<PageKey>,
    },

    // Administration: control -> node
    /// Hold this segment from now on; answered by `Done`.
    CreateSegment(SegmentSpec),
    /// Forget a segment whose place was given to another node; answered by `Done`. One that was
    /// assigned anew, by this member set or a later one, is kept.
    DropSegment {
        /// The segment.
        segment: SegmentId,
        /// The member set that took the place away.
        membership: MembershipEpoch,
    },
    /// Which segments are held? Answered by `Segments`.
    ListSegments,
    /// The segments of this node.
    Segments(Vec<(SegmentId, SegmentReport)>),
    /// Done, durably.
    Done,
    /// Not done.
    Refused(Refusal),
}

/// A holder of a group, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node and the member set that gave it its place.
    pub holder: Holder,
    /// `host:port`.
    pub address: String,
}

/// A segment that a node is to hold, with the group's members. A node that holds an older copy of it
/// (by [`Holder::since`]) forgets that one and begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSpec {
    /// The segment.
    pub segment: SegmentId,
    /// Generation of the member set.
    pub membership: MembershipEpoch,
    /// The six present holders, by place.
    pub members: Vec<Peer>,
    /// Nodes that are to replace some of them.
    pub joining: Vec<Peer>,
    /// Whether the group is new, so that an empty copy is a true copy. Otherwise the segment is
    /// rebuilt from its peers before it votes or serves.
    pub fresh: bool,
}

impl SegmentSpec {
    /// The group's number.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.segment.group
    }

    /// All holders, present and joining.
    pub fn holders(&self) -> impl Iterator<Item = &Peer> {
        self.members.iter().chain(&self.joining)
    }

    /// The member set that gave this node its place; zero when it has none.
    #[must_use]
    pub fn since(&self, node: NodeId) -> MembershipEpoch {
        let own = self.holders().find(|peer| peer.holder.node == node);
        own.map_or(MembershipEpoch(0), |peer| peer.holder.since)
    }
}
